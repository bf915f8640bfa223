"""Checks of terms: who may write, and that nobody else does."""

from __future__ import annotations

import pytest
import trio

from ..core.errors import FencedError, SettingsError, StoreError, TrialogueError
from ..core.log import Entry
from ._store_checks import Promise, StoreHarness, check
from ._store_writer import SessionWriter, make_entry, read_all


@check()
async def process_keeps_its_term(harness: StoreHarness) -> None:
    """DESIGN §2: the term is kept through eviction and reload."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        assert writer.log.term == 1
        for _ in range(3):
            await writer.append(2)
            await writer.reopen()
            assert writer.log.term == 1
        await writer.check()


@check()
async def two_tasks_open_a_session_in_one_term(harness: StoreHarness) -> None:
    """Of one process, so neither fences off the other."""
    terms: list[int] = []

    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append()

        async def take() -> None:
            terms.append((await store.open("ses_1")).term)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(take)
        assert terms == [1] * 5
        await writer.append()


@check(Promise.SURVIVES)
async def next_process_writes_in_a_new_term(harness: StoreHarness) -> None:
    """PROTOCOL §6.1: seq counts on, and the term grows by one."""
    writer: SessionWriter | None = None
    for term in (1, 2, 3):
        async with harness.open() as store:
            if writer is None:
                writer = SessionWriter(store, "ses_1")
            else:
                await writer.reopen(store)
            assert writer.log.term == term
            await writer.append(2)
            await writer.reopen()
            assert writer.log.term == term
            await writer.append(1)
    assert writer is not None
    async with harness.open() as store:
        writer.store = store
        await writer.check()
        assert [entry.term for entry in writer.entries] == [1] * 3 + [2] * 3 + [3] * 3


@check(Promise.SURVIVES)
async def readers_take_no_term(harness: StoreHarness) -> None:
    """DESIGN §2: all but `create` and `open` need no ownership and write nothing."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append(3)
    async with harness.open() as store:
        writer.store = store
        await writer.check()
        assert await store.summary("ses_1") == writer.summary
        assert len((await store.list()).summaries) == 1
        await store.recall("ses_1")
        await store.list_open_work()
    async with harness.open() as store:
        await writer.reopen(store)
        assert writer.log.term == 2


@check(Promise.SURVIVES)
async def term_that_wrote_nothing_is_not_given_again(harness: StoreHarness) -> None:
    """Two processes never write in one term, even if the first had nothing to say."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append()
    async with harness.open() as store:
        assert (await store.open("ses_1")).term == 2
    async with harness.open() as store:
        await writer.reopen(store)
        assert writer.log.term >= 2
        await writer.append()
        await writer.check()


@check(Promise.SURVIVES)
async def entries_from_elsewhere_keep_their_terms(harness: StoreHarness) -> None:
    """A log that is copied or imported has several; the next term is above all of them."""
    terms = (1, 1, 2, 5, 5)
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append(
            batch=[make_entry("ses_1", seq, term=term) for seq, term in enumerate(terms, 1)]
        )
        await writer.check()
    async with harness.open() as store:
        await writer.reopen(store)
        assert writer.log.term == 6
        await writer.append()
        await writer.check()


@check(Promise.EXCLUDES)
async def second_process_is_refused(harness: StoreHarness) -> None:
    """A clear error, and the first one notices nothing."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append()
        with pytest.raises((StoreError, SettingsError)):
            async with harness.open_rival():
                pass
        await writer.append()
        await writer.check()
    async with harness.open() as store:
        await writer.reopen(store)
        await writer.append()


@check(Promise.FENCES)
async def process_that_lost_the_session_is_fenced_off(harness: StoreHarness) -> None:
    """`FencedError`, and nothing of the batch is in the log."""
    async with harness.open() as store, harness.open_rival() as other:
        writer = SessionWriter(store, "ses_1")
        await writer.append(2)
        rival = SessionWriter(other, "ses_1")
        rival.entries = list(writer.entries)
        for term in (2, 3, 4, 5):
            winner, loser = (rival, writer) if term % 2 == 0 else (writer, rival)
            await winner.reopen()
            assert winner.log.term == term
            for _ in range(2):
                with pytest.raises(FencedError):
                    await loser.append(3, text="from the one fenced off")
            await winner.append(2)
            with pytest.raises(FencedError):
                await loser.append()
            loser.attempted = ()
            loser.entries = list(winner.entries)
            await winner.check()
            await loser.check()


@check(Promise.FENCES)
async def fence_stands_between_two_appends(harness: StoreHarness) -> None:
    """Two processes that append as fast as they can: each entry is there once, in one order."""
    async with harness.open() as store, harness.open_rival() as other:
        writer = SessionWriter(store, "ses_1")
        await writer.append()
        acknowledged: list[Entry] = list(writer.entries)
        fenced = 0

        async def write(name: str, mine: SessionWriter) -> None:
            nonlocal fenced
            for number in range(40):
                try:
                    if number % 5 == 0:
                        mine.entries = []
                        mine.log = await mine.store.open("ses_1")
                        mine.entries = await read_all(mine.store, "ses_1")
                    batch = mine.make_batch(2, text=name)
                    await mine.append(batch=batch)
                    acknowledged.extend(batch)
                except (FencedError, StoreError):
                    fenced += 1

        rival = SessionWriter(other, "ses_1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, "first", writer)
            nursery.start_soon(write, "second", rival)
        found = await read_all(store, "ses_1")
        places = {entry.position: entry.data for entry in found}
        assert len(acknowledged) == len(found)
        for entry in acknowledged:
            assert places[entry.position] == entry.data


@check(Promise.FENCES)
async def one_of_two_creators_wins(harness: StoreHarness) -> None:
    """Two processes create the same id: the second append finds that the session is there."""
    async with harness.open() as store, harness.open_rival() as other:
        writer, rival = SessionWriter(store, "ses_1"), SessionWriter(other, "ses_1")
        await writer.append(2)
        with pytest.raises((StoreError, FencedError)):
            await rival.append(1)
        await writer.append(1)
        await writer.check()


@check(Promise.FENCES)
async def readers_elsewhere_see_what_was_acknowledged(harness: StoreHarness) -> None:
    async with harness.open() as store, harness.open_rival() as other:
        writer = SessionWriter(store, "ses_1", owner="me")
        for _ in range(20):
            await writer.append(2)
            assert len(await read_all(other, "ses_1")) == len(writer.entries)
            assert await other.summary("ses_1") == writer.summary
            assert [s.session.id for s in (await other.list(owner="me")).summaries] == ["ses_1"]


@check(Promise.FENCES)
async def session_deleted_elsewhere_takes_no_more(harness: StoreHarness) -> None:
    async with harness.open() as store, harness.open_rival() as other:
        writer = SessionWriter(store, "ses_1")
        await writer.append(2)
        assert await other.delete("ses_1")
        with pytest.raises(TrialogueError):
            await writer.append()
        assert await store.summary("ses_1") is None
        again = SessionWriter(other, "ses_1")
        await again.append(1)
        with pytest.raises(TrialogueError):
            await writer.append()
        await again.check()


@check(Promise.FENCES, Promise.NOTES)
async def note_of_the_one_fenced_off_is_dropped(harness: StoreHarness) -> None:
    async with harness.open() as store, harness.open_rival() as other:
        writer = SessionWriter(store, "ses_1")
        await writer.append(2)
        rival = SessionWriter(other, "ses_1")
        rival.entries = list(writer.entries)
        await rival.reopen()
        writer.note("partial", {"text": "too late"})
        with pytest.raises(FencedError):
            await writer.append()
        await trio.sleep(0.3)
        assert not (await other.recall("ses_1")).partials
