"""Checks of ends that nobody asked for: a process killed, and calls that fail."""

from __future__ import annotations

import random
from functools import partial

import pytest
import trio

from ..core.errors import SessionNotFoundError, StoreError
from ._store_checks import Promise, StoreHarness, check
from ._store_writer import SessionWriter
from .failing_store import FailingStore


@check(Promise.SURVIVES_KILL)
async def acknowledged_entries_outlive_a_kill(harness: StoreHarness) -> None:
    """At rest, and in the midst of appends: everything acknowledged, and then a beginning."""
    choose = random.Random(1)
    async with harness.open() as store:
        writers = [SessionWriter(store, f"ses_{number}") for number in range(6)]

        async def write(writer: SessionWriter) -> None:
            while True:
                await writer.append(choose.randint(1, 3), text="x" * choose.randint(0, 400))

        for _ in range(5):
            async with trio.open_nursery() as nursery:
                for writer in writers:
                    nursery.start_soon(write, writer)
                await trio.sleep(0.02 + choose.random() * 0.02)
                known = {writer.id: list(writer.entries) for writer in writers}
                dead = await harness.after_kill()
                nursery.cancel_scope.cancel(reason="killed")
            async with dead.open() as store_after:
                for writer in writers:
                    heir = SessionWriter(store_after, writer.id)
                    heir.entries = known[writer.id]
                    # What came between the count and the copy was attempted at least.
                    heir.attempted = [*writer.entries[len(heir.entries) :], *writer.attempted]
                    if not heir.entries:
                        continue
                    await heir.reopen()
                    assert heir.log.term == writer.log.term + 1
                    await heir.append(2)
                    await heir.check()
            async with dead.open() as store_after:
                for summary in (await store_after.list()).summaries:
                    await store_after.open(summary.session.id)
            for writer in writers:
                await _reopen(writer)


@check(Promise.SURVIVES_KILL)
async def deleted_sessions_stay_deleted_after_a_kill(harness: StoreHarness) -> None:
    """And so do pruned ones; an id used again has its new log alone."""
    async with harness.open() as store:
        for number in range(6):
            await SessionWriter(store, f"ses_{number}").append(4, text="old", activity=number)
        assert await store.delete("ses_4")
        assert await store.delete("ses_5")
        assert sorted(await store.prune(keep=2)) == ["ses_0", "ses_1"]
        again = SessionWriter(store, "ses_5")
        await again.append(2, text="new", activity=9)
        dead = await harness.after_kill()
    async with dead.open() as store:
        listed = [summary.session.id for summary in (await store.list()).summaries]
        assert listed == ["ses_5", "ses_3", "ses_2"]
        for gone in ("ses_0", "ses_1", "ses_4"):
            assert await store.summary(gone) is None
            with pytest.raises(SessionNotFoundError):
                await store.read(gone, 0, 10)
        await again.reopen(store)
        await again.append()
        await again.check()


@check(Promise.SURVIVES_KILL)
async def summaries_outlive_a_kill(harness: StoreHarness) -> None:
    """The listing after a kill is the listing of the moment before."""
    async with harness.open() as store:
        writers = [SessionWriter(store, f"ses_{number}") for number in range(6)]
        for activity, writer in enumerate(writers):
            await writer.append(2, activity=activity)
        for number in (0, 3, 4):
            await writers[number].append(activity=10 + number, has_open_work=number == 0)
        before = list((await store.list()).summaries)
        dead = await harness.after_kill()
    async with dead.open() as store:
        assert list((await store.list()).summaries) == before


@check()
async def writer_goes_on_after_any_failed_call(harness: StoreHarness) -> None:
    """One call fails, before its effect or after it: open, read, go on; nothing lost or double."""
    async with harness.open() as store:
        failures = 0
        for number in range(1, 12):
            for effect in (False, True):
                session_id = f"ses_{number}{effect}"
                failing = FailingStore(store, fails=partial(_is_call, number), effect=effect)
                writer = SessionWriter(failing, session_id)
                while len(writer.entries) < 8:
                    try:
                        await writer.append(2, text=session_id)
                    except StoreError:
                        failures += 1
                        await _take_again(writer, store)
                writer.store = store
                await writer.check()
        assert failures >= 8


def _is_call(which: int, number: int, _: str) -> bool:
    return number == which


async def _take_again(writer: SessionWriter, store: object) -> None:
    """Open and read until neither fails, as a session's host does with the next request."""
    for _ in range(3):
        try:
            await _reopen(writer)
        except StoreError:
            continue
        return
    raise AssertionError(f"{store} fails for good")


async def _reopen(writer: SessionWriter) -> None:
    """Take the log again; one of which nothing was acknowledged may not be there at all."""
    try:
        await writer.reopen()
    except SessionNotFoundError:
        assert not writer.entries
        writer.log = writer.store.create(writer.id)
