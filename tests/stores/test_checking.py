"""Checking a store finds what is wrong in it, and nothing in one that is whole."""

from collections.abc import Mapping
from pathlib import Path

import attrs
import trio

from trialogue.core.log import Damage
from trialogue.stores.checking import check_sessions
from trialogue.stores.copying import copy_sessions
from trialogue.stores.jsonl import open_jsonl_store
from trialogue.stores.memory import MemoryStore
from trialogue.stores.sqlite import open_sqlite_store
from trialogue.stores.writing import open_session_writer
from trialogue.testing.store_kit import read_all


async def write_talk(store: MemoryStore, *texts: str) -> str:
    session = await open_session_writer(store)
    for text in texts:
        await session.append_message("user", text)
    return session.session.id


async def test_whole_store_has_no_problems() -> None:
    store = MemoryStore()
    for number in range(3):
        await write_talk(store, *"abc"[:number])
    seen: list[tuple[int, int]] = []
    report = await check_sessions(store, on_progress=lambda done, of: seen.append((done, of)))
    assert (report.sessions, report.entries, report.problems) == (3, 6, {})
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


async def test_damage_is_found_and_not_copied(tmp_path: Path) -> None:
    """Issue 3: damage is never silently skipped. Not by a copy, which would make it look whole."""
    async with open_jsonl_store(tmp_path / "a") as store:
        bad = await write_talk(store, "one", "two", "three")  # type: ignore[arg-type]
        good = await write_talk(store, "one")  # type: ignore[arg-type]
    file = tmp_path / "a" / f"{bad}.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"two"', b'"owt"'))
    with trio.fail_after(30):
        async with open_jsonl_store(tmp_path / "a") as store:
            report = await check_sessions(store)
            assert report.problems == {bad: "only the first 2 of 4 entries can be read"}
            assert report.entries == 4
            async with open_jsonl_store(tmp_path / "b") as target:
                copied = await copy_sessions(store, target)
                assert (copied.copied, copied.damaged) == ([good], [bad])
                assert list(await target.list_ids()) == [good]


async def test_damaged_session_keeps_no_other_from_being_checked_or_copied(
    tmp_path: Path,
) -> None:
    """A bug once seen: one bad line in a database ended the whole command."""
    file = tmp_path / "a.db"
    async with open_sqlite_store(str(file)) as store:
        ids = [await write_talk(store, text, "x") for text in ("one", "bad", "two")]  # type: ignore[arg-type]
    data = file.read_bytes()
    assert data.count(b'"content":"bad"') == 1
    file.write_bytes(data.replace(b'"content":"bad"', b'"content":"dab"'))
    with trio.fail_after(30):
        async with open_sqlite_store(str(file)) as store:
            report = await check_sessions(store)
            assert list(report.problems) == [ids[1]]
            assert report.sessions == 3
        target = MemoryStore()
        async with open_sqlite_store(str(file)) as store:
            copied = await copy_sessions(store, target)
            assert (copied.copied, copied.damaged) == ([ids[0], ids[2]], [ids[1]])
            assert sorted(await target.list_ids()) == sorted([ids[0], ids[2]])


class QuarantiningStore(MemoryStore):
    """Says of every session that entries of it are lost, though it ends where lists say."""

    @property
    def damaged(self) -> Mapping[str, Damage]:
        damage = Damage(seq=9, reason="records of the commit log are damaged")
        return dict.fromkeys(self._summaries, damage)


async def test_session_known_to_have_lost_its_end_is_no_whole_one() -> None:
    """A bug once seen: a copy of a quarantined session was a whole one that ended earlier."""
    store, target = QuarantiningStore(), MemoryStore()
    session_id = await write_talk(store, "one")
    report = await check_sessions(store)
    assert report.problems == {session_id: "records of the commit log are damaged"}
    assert (await copy_sessions(store, target)).damaged == [session_id]
    assert list(await target.list_ids()) == []


async def test_lists_that_say_something_else_are_found() -> None:
    store = MemoryStore()
    session_id = await write_talk(store, "one")
    (*_, last) = await read_all(store, session_id)
    summary = await store.summary(session_id)
    assert summary is not None
    renamed = attrs.evolve(summary, session=attrs.evolve(summary.session, name="another"))
    store._summaries[session_id] = renamed  # pyright: ignore[reportPrivateUsage]
    report = await check_sessions(store)
    assert report.problems == {session_id: "lists say something else of it than its entries"}
    assert last.seq == report.entries
