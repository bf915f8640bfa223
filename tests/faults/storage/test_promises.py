"""What clients of a server see of its store's disk: damaged, or nearly full. Issue 3."""

from __future__ import annotations

import logging

import pytest
import trio

from trialogue.agents.echo import echo
from trialogue.stores import _jsonl_committer
from trialogue.stores.jsonl import JsonlSettings
from trialogue.testing import open_test_server
from trialogue.testing._server import ServerInTest

from ._faulty_files import Disk, MemoryFiles
from ._jsonl import open_on, quick

#: More than the store asks for.
PLENTY = 1 << 40


class SmallDisk(MemoryFiles):
    """One of which a test says how much is free."""

    free = PLENTY

    def free_bytes(self) -> int:
        return self.free


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
                    "SERVER_ERROR", "message.send", sessionId=damaged, content="more"
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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``OVERLOADED``, while what is under way is still written; no write is needed to notice."""
    monkeypatch.setattr(_jsonl_committer, "SPACE_SECONDS", 0.02)
    files = SmallDisk(Disk())
    with trio.fail_after(60):
        async with (
            open_test_server(echo, store=open_on(files, quick())) as test,
            test.open_peer() as peer,
        ):
            session_id = (await peer.call("session.create"))["id"]
            files.free = quick().min_free_bytes - 1
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
            assert (await peer.call("event.list", sessionId=session_id))["events"]
            files.free = PLENTY
            while (await peer.call("server.stats"))["store"]["isFull"]:  # noqa: ASYNC110
                await trio.sleep(0.02)
            await send(test, session_id)


async def send(test: ServerInTest, session_id: str) -> None:
    async with test.open_peer() as peer:
        done = await peer.call("message.send", sessionId=session_id, content="yes", wait=True)
        assert done["outcome"] == "completed"


async def test_full_disk_says_when_to_try_again_to_whom_it_surprises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PROTOCOL §10. The write that finds the disk full is refused as those after it are."""
    monkeypatch.setattr(_jsonl_committer, "SPACE_SECONDS", 0.02)
    files = SmallDisk(Disk())
    with trio.fail_after(60):
        async with (
            open_test_server(echo, store=open_on(files, quick())) as test,
            test.open_peer() as peer,
        ):
            await peer.call("session.create")
            files.free = 0
            await trio.sleep(0.05)
            error = await peer.refused("OVERLOADED", "session.create")
            assert error["data"]["retryAfterMs"] > 0
