"""Checks of one session's log: what is appended is read back, in order, from any position."""

from __future__ import annotations

from typing import get_args

import pytest
import trio

from ..core.codec import encode_json
from ..core.errors import FencedError, SessionNotFoundError, StoreError
from ..core.events import LogClass
from ..core.log import Entry, KeyRecord, Position
from ._store_checks import Promise, StoreHarness, check
from ._store_writer import SessionWriter, make_entry, make_summary, read_all, same_entry

#: What a client may send where an id is asked for. None of them names a session.
ODD_IDS = ("", ".", "..", "../ses_1", "a/b", "/etc/passwd", "x\0y", "s" * 400, "ses_1\n", "ö")


@check()
async def created_session_begins_with_its_first_append(harness: StoreHarness) -> None:
    """`SessionStore.create` does no I/O: until the first append there is nothing to be seen."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        assert await store.summary("ses_1") is None
        assert not (await store.list()).summaries
        with pytest.raises(SessionNotFoundError):
            await store.read("ses_1", 0, 10)
        with pytest.raises(SessionNotFoundError):
            await store.open("ses_1")
        with pytest.raises(SessionNotFoundError):
            await store.recall("ses_1")
        await writer.append()
        assert await store.summary("ses_1") == writer.summary
        await writer.check()


@check()
async def entries_come_back_as_they_were(harness: StoreHarness) -> None:
    """Every class, keys, the characters that line formats and databases trip over, a MiB."""
    texts = ("", "\n\r\t\x7f\u2028", "ö €😀", '","crc":"00000000"}\n{"', "\\u0000 \\", "x" * 2**20)
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        classes: list[LogClass] = list(get_args(LogClass))
        batch: list[Entry] = []
        for text in texts:
            for log_class in classes:
                seq = len(batch) + 1
                key = KeyRecord(
                    key=f"k {seq} “é”",
                    method="message.send",
                    fingerprint="f" * 64,
                    result={"messageId": "msg_1", "n": seq, "nested": [None, True, 1.5, text[:9]]},
                )
                batch.append(
                    Entry(
                        session_id="ses_1",
                        term=1,
                        seq=seq,
                        timestamp="2026-01-01T00:00:00.001Z",
                        event="_kit.a-b_c" if seq % 2 else "message.created",
                        log_class=log_class,
                        data=encode_json({"text": text, "n": [seq, -1, 0.25, None, {}]}),
                        keys=(key, key) if seq % 3 == 0 else (key,) if seq % 3 == 1 else (),
                    )
                )
        await writer.append(batch=batch)
        await writer.check()


@check()
async def log_is_read_from_any_position(harness: StoreHarness) -> None:
    """`SessionStore.read`: up to ``limit`` entries whose seq is greater than ``after``."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        for count in (1, 7, 1, 20):
            await writer.append(count)
        last = len(writer.entries)
        for after in (0, 1, 7, 8, 9, last - 1, last, last + 1, last + 1000):
            for limit in (1, 2, 8, 1000):
                found = await store.read("ses_1", after, limit)
                expected = writer.entries[after : after + limit]
                assert len(found) == len(expected), (after, limit)
                assert all(map(same_entry, found, expected)), (after, limit)


@check()
async def large_batches_are_one_append(harness: StoreHarness) -> None:
    """A fork copies a whole conversation in one batch."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append(2_000, text="x" * 100)
        await writer.append(1)
        await writer.check()


@check()
async def append_without_a_task_is_told_once_or_refused(harness: StoreHarness) -> None:
    """`SessionLog.append_soon`: it calls back once, when it is durable; or did nothing."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        for count in (1, 3, 2):
            batch = writer.make_batch(count)
            summary = make_summary("ses_1", batch[-1].position)
            told: list[Exception | None] = []
            over = trio.Event()

            def done(
                failure: Exception | None,
                told: list[Exception | None] = told,
                over: trio.Event = over,
            ) -> None:
                told.append(failure)
                over.set()

            if writer.log.append_soon(batch, summary, done):
                await over.wait()
                writer.entries.extend(batch)
            else:
                if writer.entries:
                    await writer.check()
                await writer.append(batch=batch)
                assert not told
            await writer.check()
            assert told in ([None], [])
        assert await store.summary("ses_1") is not None


@check()
async def appends_without_a_task_may_follow_each_other_at_once(harness: StoreHarness) -> None:
    """As a journal does: the next batch is given from within what is told of the one before."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append()
        rest = 20
        over = trio.Event()
        failures: list[Exception] = []

        def go_on(failure: Exception | None) -> None:
            nonlocal rest
            if failure is not None:
                failures.append(failure)
            else:
                writer.entries.extend(writer.attempted)
                rest -= 1
                if rest and append():
                    return
            over.set()

        def append() -> bool:
            writer.attempted = writer.make_batch(2)
            summary = make_summary("ses_1", writer.attempted[-1].position)
            return writer.log.append_soon(writer.attempted, summary, go_on)

        if append():
            await over.wait()
            assert not failures
            assert not rest
        writer.attempted = ()
        await writer.append()
        await writer.check()


@check()
async def sessions_are_kept_apart(harness: StoreHarness) -> None:
    """Ids that differ in case, or begin with another's, name other sessions."""
    async with harness.open() as store:
        ids = ("ses_1", "ses_10", "ses_1a", "ses_1A", "tes_1")
        writers = [SessionWriter(store, session_id) for session_id in ids]
        for count, writer in enumerate(writers, 1):
            await writer.append(count, text=writer.id)
        for writer in writers:
            await writer.check()


@check()
async def summary_is_the_last_one_given(harness: StoreHarness) -> None:
    """`SessionStore.summary`, after every append."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1", owner="somebody")
        for number, status in enumerate(("idle", "running", "waiting", "closed", "expired")):
            await writer.append(
                status=status,  # type: ignore[arg-type]  # the words of SessionStatus
                has_open_work=bool(number % 2),
                name=None if number else "näme",
            )
            assert await store.summary("ses_1") == writer.summary
        assert await store.summary("ses_2") is None


@check()
async def odd_ids_name_no_session(harness: StoreHarness) -> None:
    """What a client sends as an id is looked up, and no more: no error, and no file elsewhere."""
    async with harness.open() as store:
        await SessionWriter(store, "ses_1").append()
        for odd in ODD_IDS:
            assert await store.summary(odd) is None, odd
            assert not await store.delete(odd), odd
            for ask in (store.open(odd), store.recall(odd), store.read(odd, 0, 10)):
                with pytest.raises(SessionNotFoundError):
                    await ask
        assert len(await read_all(store, "ses_1")) == 1


@check()
async def existing_session_is_not_created_again(harness: StoreHarness) -> None:
    """A second `create` of an id fails, or its first append; and the log is as it was."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append(2)
        with pytest.raises((StoreError, FencedError)):
            await SessionWriter(store, "ses_1").append(5)
        await writer.check()
        assert await store.summary("ses_1") == writer.summary


@check()
async def batch_that_does_not_follow_is_refused(harness: StoreHarness) -> None:
    """A gap or a repeat would make positions lie: a `StoreError`, and nothing is written."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append(2)
        for seq in (2, 4):
            log = await store.open("ses_1")
            with pytest.raises(StoreError):
                await log.append(
                    [make_entry("ses_1", seq, term=log.term)],
                    make_summary("ses_1", Position(log.term, seq)),
                )
        await writer.check()
        await writer.reopen()
        await writer.append()
        await writer.check()


@check(Promise.NOTES)
async def notes_are_recalled_in_order(harness: StoreHarness) -> None:
    """`SessionStore.recall`: the newest snapshot, and the partial texts after it."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append(2)
        recollection = await store.recall("ses_1")
        assert recollection.snapshot is None
        assert not recollection.partials
        old = [writer.note("partial", {"messageId": "m", "offset": n}) for n in range(3)]
        await writer.append()
        recollection = await store.recall("ses_1")
        assert list(recollection.partials) == old
        writer.note("snapshot", {"state": "first"})
        snapshot = writer.note("snapshot", {"state": "sécond"})
        partials = [writer.note("partial", {"messageId": "m", "offset": n}) for n in range(3, 6)]
        await writer.append()
        recollection = await store.recall("ses_1")
        assert recollection.snapshot == snapshot
        assert list(recollection.partials) == partials
        await writer.check()


@check(Promise.NOTES)
async def note_is_written_without_an_append(harness: StoreHarness) -> None:
    """`SessionLog.note`: within 100 ms. Much more here, for a busy machine."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append()
        note = writer.note("partial", {"text": "so far"})
        with trio.fail_after(10):
            while not (await store.recall("ses_1")).partials:  # noqa: ASYNC110 - a store tells nobody
                await trio.sleep(0.02)
        assert list((await store.recall("ses_1")).partials) == [note]
        await writer.append()
        await writer.check()


@check()
async def closing_twice_is_closing_once(harness: StoreHarness) -> None:
    """`SessionStore.aclose` is idempotent, and flushes."""
    async with harness.open() as store:
        await SessionWriter(store, "ses_1").append()
        await store.aclose()
        await store.aclose()
