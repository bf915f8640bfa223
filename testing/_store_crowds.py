"""Checks with many at once: writers of many sessions, and readers of what they write."""

from __future__ import annotations

import itertools
import random
from functools import partial

import trio

from ..core.errors import SessionNotFoundError
from ._store_checks import StoreHarness, check
from ._store_writer import SessionWriter, read_all

SESSIONS = 60
ROUNDS = 12


@check()
async def many_sessions_are_written_at_once(harness: StoreHarness) -> None:
    """Each log holds its own entries, all that were acknowledged, in their order."""
    async with harness.open() as store:
        writers = [SessionWriter(store, f"ses_{number}") for number in range(SESSIONS)]

        async def write(number: int) -> None:
            choose = random.Random(number)
            for _ in range(ROUNDS):
                await writers[number].append(
                    choose.randint(1, 4), text=f"{number} " + "x" * choose.randint(0, 500)
                )

        async with trio.open_nursery() as nursery:
            for number in range(SESSIONS):
                nursery.start_soon(write, number)
        for writer in writers:
            await writer.check()


@check()
async def readers_see_what_was_acknowledged_before(harness: StoreHarness) -> None:
    """During writes a reader gets a beginning of the log: no gap, and no acknowledged one less."""
    reads = 0
    async with harness.open() as store:
        writers = [SessionWriter(store, f"ses_{number}") for number in range(8)]

        async def write(writer: SessionWriter) -> None:
            for number in itertools.count():
                # Where reading takes as long as writing, a reader may not come to the end soon.
                if number >= 40 and reads:
                    break
                await writer.append(1 + number % 3, text="x" * 200)

        async def read(writer: SessionWriter) -> None:
            nonlocal reads
            while True:
                known = len(writer.entries)
                try:
                    found = await read_all(store, writer.id)
                except SessionNotFoundError:
                    assert not known
                    continue
                assert len(found) >= known
                summary = await store.summary(writer.id)
                assert summary is not None
                assert summary.session.message_count >= known
                page = await store.list(limit=3)
                assert len(page.summaries) <= 3
                reads += 1

        async with trio.open_nursery() as readers:
            for writer in writers:
                readers.start_soon(read, writer)
            async with trio.open_nursery() as nursery:
                for writer in writers:
                    nursery.start_soon(write, writer)
            readers.cancel_scope.cancel(reason="all is written")
        for writer in writers:
            await writer.check()


@check()
async def deleting_does_not_disturb_the_others(harness: StoreHarness) -> None:
    """Sessions are made, deleted and made again beside ones that are written."""
    async with harness.open() as store:
        stays = [SessionWriter(store, f"stays_{number}") for number in range(6)]

        async def write(writer: SessionWriter) -> None:
            for _ in range(40):
                await writer.append(2, text=writer.id)

        async def come_and_go(name: str) -> None:
            for number in range(12):
                writer = SessionWriter(store, name)
                await writer.append(3, text=str(number))
                await writer.append(1 + number % 4, text=str(number))
                await writer.check()
                assert await store.delete(name)
                assert await store.summary(name) is None

        async with trio.open_nursery() as nursery:
            for writer in stays:
                nursery.start_soon(write, writer)
            for number in range(6):
                nursery.start_soon(partial(come_and_go, f"goes_{number}"))
        for writer in stays:
            await writer.check()
        assert len((await store.list()).summaries) == len(stays)
