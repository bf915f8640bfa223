"""What clients of a server see of its store's disk: damaged, or nearly full. Issue 3."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from trialogue.agents.echo import echo
from trialogue.core.abc import SessionStore
from trialogue.stores import _space
from trialogue.stores._space import MIN_FREE_BYTES
from trialogue.stores._sqlite.database import Database
from trialogue.stores.jsonl import JsonlSettings
from trialogue.stores.sqlite import SqliteStore, open_sqlite_store
from trialogue.testing import open_test_server
from trialogue.testing._server import ServerInTest

from ._faulty_files import Disk, Fault, MemoryFiles
from ._jsonl import open_on, quick

#: More than the store asks for.
PLENTY = 1 << 40


class SmallDisk(MemoryFiles):
    """One of which a test says how much is free."""

    free = PLENTY

    def free_bytes(self) -> int:
        return self.free


@attrs.define
class Small:
    """A store on a disk of which a test says how much is free."""

    store: AbstractAsyncContextManager[SessionStore]
    set_free: Callable[[int], None]


@pytest.fixture(params=["jsonl", "sqlite"])
def small(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    monkeypatch.setattr(_space, "SPACE_SECONDS", 0.02)
    if request.param == "jsonl":
        files = SmallDisk(Disk())
        return Small(open_on(files, quick()), lambda free: setattr(files, "free", free))
    free = [PLENTY]

    def free_bytes(_: Database) -> int:
        return free[0]

    monkeypatch.setattr(Database, "free_bytes", free_bytes)
    return Small(open_sqlite_store(str(tmp_path / "a.db")), lambda now: free.__setitem__(0, now))


async def make_sessions(disk: Disk, count: int) -> list[str]:
    """Make sessions with a message each."""
    names: list[str] = []
    async with open_test_server(echo, store=open_on(MemoryFiles(disk), JsonlSettings())) as test:
        for number in range(count):
            async with test.open_peer() as peer:
                session = await peer.call("session.create")
                names.append(session["id"])
                await peer.call(
                    "message.send", sessionId=session["id"], content=f"hello {number}", wait=True
                )
    return names


def spoil(disk: Disk, session_id: str) -> None:
    """Flip a bit in the third line of a log."""
    data = disk.files[disk.names[f"{session_id}.jsonl"]]
    place = data.index(b"\n", data.index(b"\n") + 1) + 20
    data[place] ^= 4


async def test_damaged_session_is_read_only_and_everybody_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the log, in ``server.stats``, and who writes to it; the others go on. Restarts, too."""
    disk = Disk()
    with trio.fail_after(60):
        damaged, whole = await make_sessions(disk, 2)
        spoil(disk, damaged)
        before = disk.contents()[f"{damaged}.jsonl"]
        for _ in range(2):
            caplog.clear()
            async with (
                open_test_server(echo, store=open_on(MemoryFiles(disk), JsonlSettings())) as test,
                test.open_peer() as peer,
            ):
                error = await peer.refused(
                    "SESSION_DAMAGED", "message.send", sessionId=damaged, content="more"
                )
                assert error["message"] == "The session is read-only: its log is damaged"
                stats = await peer.call("server.stats")
                assert stats["store"]["damaged"] == 1
                found = await peer.call("event.list", sessionId=damaged)
                assert len(found["events"]) == 2
                done = await peer.call("message.send", sessionId=whole, content="more", wait=True)
                assert done["outcome"] == "completed"
            told = [
                record
                for record in caplog.records
                if record.levelno == logging.ERROR and "damaged" in record.getMessage()
            ]
            # Where it is damaged is for the log alone.
            assert any("is damaged at byte" in str(vars(record)) for record in told)
            assert disk.contents()[f"{damaged}.jsonl"] == before


async def test_nearly_full_disk_refuses_new_work_and_takes_it_again_by_itself(
    small: Small,
) -> None:
    """``OVERLOADED``, while what is under way is still written; no write is needed to notice."""
    with trio.fail_after(60):
        async with open_test_server(echo, store=small.store) as test, test.open_peer() as peer:
            session_id = (await peer.call("session.create"))["id"]
            small.set_free(MIN_FREE_BYTES - 1)
            await trio.sleep(0.05)
            # Nobody has looked yet: this is still taken, and shows how it is.
            await send(test, session_id)
            error = await peer.refused(
                "OVERLOADED", "message.send", sessionId=session_id, content="no"
            )
            assert error["retryable"]
            assert error["data"]["retryAfterMs"] > 0
            await peer.refused("OVERLOADED", "session.create")
            assert (await peer.call("server.stats"))["store"]["isFull"]
            assert (await peer.call("server.health"))["status"] == "degraded"
            assert (await peer.call("event.list", sessionId=session_id))["events"]
            small.set_free(PLENTY)
            while (await peer.call("server.stats"))["store"]["isFull"]:  # noqa: ASYNC110
                await trio.sleep(0.02)
            assert (await peer.call("server.health"))["status"] == "ok"
            await send(test, session_id)


async def send(test: ServerInTest, session_id: str) -> None:
    async with test.open_peer() as peer:
        done = await peer.call("message.send", sessionId=session_id, content="yes", wait=True)
        assert done["outcome"] == "completed"


async def test_full_disk_says_when_to_try_again_to_whom_it_surprises(small: Small) -> None:
    """PROTOCOL §10. The write that finds the disk full is refused as those after it are."""
    with trio.fail_after(60):
        async with open_test_server(echo, store=small.store) as test, test.open_peer() as peer:
            session_id = (await peer.call("session.create"))["id"]
            small.set_free(0)
            await trio.sleep(0.05)
            error = await peer.refused("OVERLOADED", "session.create")
            assert error["data"]["retryAfterMs"] > 0
            # What makes room is done.
            await peer.call("session.delete", sessionId=session_id)


@asynccontextmanager
async def open_shown(folder: Path, opened: list[SqliteStore]) -> AsyncGenerator[SqliteStore]:
    """Open a database, and put it where a test can reach into it."""
    async with open_sqlite_store(str(folder / "a.db")) as store:
        opened.append(store)
        yield store


async def test_database_that_finds_no_room_itself_goes_on_once_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota say, of which the system's count of free bytes knows nothing."""
    monkeypatch.setattr(_space, "SPACE_SECONDS", 0.02)
    opened: list[SqliteStore] = []

    with trio.fail_after(60):
        async with (
            open_test_server(echo, store=open_shown(tmp_path, opened)) as test,
            test.open_peer() as peer,
        ):
            session_id = (await peer.call("session.create"))["id"]
            ((pages,),) = opened[0].writer.rows("PRAGMA page_count")
            opened[0].writer.run(f"PRAGMA max_page_count = {pages}")
            error = await peer.refused(
                "OVERLOADED", "message.send", sessionId=session_id, content="x" * 100_000
            )
            assert error["data"]["retryAfterMs"] > 0
            assert (await peer.call("event.list", sessionId=session_id))["events"]
            opened[0].writer.run("PRAGMA max_page_count = 100000")
            while (await peer.call("server.stats"))["store"]["isFull"]:  # noqa: ASYNC110
                await trio.sleep(0.02)
            await send(test, session_id)


async def test_health_says_that_the_store_has_stopped(tmp_path: Path) -> None:
    """PROTOCOL §4. After a failed sync nothing is acknowledged any more: no server to be sent to."""
    fault = Fault(0)
    opened: list[SqliteStore] = []

    with trio.fail_after(60):
        for store in (
            open_on(MemoryFiles(Disk(), fault), JsonlSettings()),
            open_shown(tmp_path, opened),
        ):
            async with open_test_server(echo, store=store) as test, test.open_peer() as peer:
                await peer.call("session.create")
                assert (await peer.call("server.health"))["status"] == "ok"
                fault.at, fault.for_good = fault.calls + 1, True
                if opened:
                    opened[0].writer.close()
                await peer.refused("SERVER_ERROR", "session.create")
                assert (await peer.call("server.health"))["status"] == "degraded"
                assert (await peer.call("server.stats"))["store"]["failure"]
