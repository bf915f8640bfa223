"""`trialogue store copy`: everything, checked. Issue: it moves everything."""

from pathlib import Path

import pytest
import trio

from trialogue.core.errors import StoreError
from trialogue.core.log import Recollection
from trialogue.stores.copying import copy_sessions
from trialogue.stores.memory import MemoryStore
from trialogue.stores.sqlite import open_sqlite_store
from trialogue.testing.store_kit import FailingStore, SessionWriter, read_all, same_entry


async def test_everything_moves(tmp_path: Path) -> None:
    """Logs of several terms, notes, summaries; and the next writer is of a later term."""
    seen: list[tuple[int, int]] = []
    with trio.fail_after(30):
        async with open_sqlite_store(str(tmp_path / "a.db")) as source:
            writers = [
                SessionWriter(source, f"ses_{number}", owner=("ann", None)[number % 2])
                for number in range(12)
            ]
            for number, each in enumerate(writers):
                await each.append(
                    700 if number == 5 else 3,
                    text=str(number),
                    has_open_work=number == 3,
                    created_key=f"k{number}",
                )
        async with open_sqlite_store(str(tmp_path / "a.db")) as source:
            writer = writers[-1]
            await writer.reopen(source)
            await writer.append(2)
            snapshot = writer.note("snapshot", {"n": 1})
            partial = writer.note("partial", {"n": 2})
        async with (
            open_sqlite_store(str(tmp_path / "a.db")) as source,
            open_sqlite_store(str(tmp_path / "b.db")) as target,
        ):
            report = await copy_sessions(
                source, target, on_progress=lambda done, of: seen.append((done, of))
            )
            assert len(report.copied) == 12
            assert not report.present
            assert not report.conflicts
            assert seen[0] == (0, 12)
            assert seen[-1] == (12, 12)
            for owner in ("ann", None):
                assert await target.list(owner=owner) == await source.list(owner=owner)
            for session_id in report.copied:
                found = await read_all(target, session_id)
                wanted = await read_all(source, session_id)
                assert all(map(same_entry, found, wanted))
                assert len(found) == len(wanted)
            assert list(await target.list_open_work()) == ["ses_3"]
            assert await target.find_created("ann", "k4") == "ses_4"
            recollection = await target.recall("ses_11")
            assert recollection.snapshot == snapshot
            assert list(recollection.partials) == [partial]
            again = await copy_sessions(source, target)
            assert len(again.present) == 12
            assert not again.copied
        async with open_sqlite_store(str(tmp_path / "b.db")) as target:
            await writer.reopen(target)
            assert writer.log.term == 3
            await writer.append()
            await writer.check()


async def test_copy_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    with trio.fail_after(30):
        source = MemoryStore()
        for number in range(4):
            await SessionWriter(source, f"ses_{number}").append(1200, text="x")
        async with open_sqlite_store(str(tmp_path / "b.db")) as target:
            failing = FailingStore(target, fails=lambda n, name: name == "append" and n > 15)
            with pytest.raises(StoreError):
                await copy_sessions(source, failing)
            begun = len(await target.list_ids())
            assert 1 <= begun < 4
            report = await copy_sessions(source, target)
            assert len(report.copied) + len(report.present) == 4
            for number in range(4):
                assert len(await read_all(target, f"ses_{number}")) == 1200


async def test_copy_that_was_cut_short_before_the_notes_is_finished(tmp_path: Path) -> None:
    """Once seen after a SIGKILL: all entries were there, and what was just being said was not."""

    class WithoutNotes(FailingStore):
        async def recall(self, session_id: str) -> Recollection:
            await super().recall(session_id)
            return Recollection()

    def never(*_: object) -> bool:
        return False

    with trio.fail_after(30):
        async with (
            open_sqlite_store(str(tmp_path / "a.db")) as source,
            open_sqlite_store(str(tmp_path / "b.db")) as target,
        ):
            writer = SessionWriter(source, "ses_1")
            await writer.append(3)
            partial = writer.note("partial", {"text": "so far"})
            while not (await source.recall("ses_1")).partials:  # noqa: ASYNC110
                await trio.sleep(0.01)
            await copy_sessions(WithoutNotes(source, fails=never), target)
            assert not (await target.recall("ses_1")).partials
            report = await copy_sessions(source, target)
            assert list(report.copied) == ["ses_1"]
            assert list((await target.recall("ses_1")).partials) == [partial]
            assert len((await copy_sessions(source, target)).present) == 1


async def test_other_session_of_the_same_id_is_left_alone() -> None:
    source, target = MemoryStore(), MemoryStore()
    await SessionWriter(source, "ses_1").append(3, text="one")
    await SessionWriter(source, "ses_2").append(3, text="one")
    longer = SessionWriter(target, "ses_1")
    await longer.append(3, text="one")
    await longer.append(1, text="went on")
    other = SessionWriter(target, "ses_2")
    await other.append(1, text="other")
    report = await copy_sessions(source, target)
    assert list(report.conflicts) == ["ses_1", "ses_2"]
    await longer.check()
    await other.check()


async def test_copy_that_reads_back_differently_is_an_error() -> None:
    """The control: a target that loses what it acknowledged is found out."""

    class Forgetful(MemoryStore):
        async def read(self, session_id: str, after: int, limit: int):  # type: ignore[no-untyped-def]
            return (await super().read(session_id, after, limit))[:-1]

    source = MemoryStore()
    await SessionWriter(source, "ses_1").append(3)
    with pytest.raises(StoreError, match="is not what was copied"):
        await copy_sessions(source, Forgetful())
