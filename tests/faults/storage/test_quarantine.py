"""A damaged session is read up to the damage, says so, and can be deleted. Issue 3.

Whoever reads it is told where it ends, with ``SESSION_DAMAGED`` or a ``resync``; nobody else
notices.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from trialogue.agents.echo import echo
from trialogue.core.errors import DamagedError, SessionDamagedError
from trialogue.stores.checking import check_sessions
from trialogue.stores.copying import copy_sessions
from trialogue.stores.jsonl import JsonlSettings
from trialogue.stores.memory import MemoryStore
from trialogue.testing import ProtocolPeer, ServerInTest, open_test_server
from trialogue.testing.failing_store import FailingStore

from ._faulty_files import Disk, MemoryFiles
from ._jsonl import open_on, quick

START = "0-0"


@asynccontextmanager
async def serve(
    disk: Disk, settings: JsonlSettings | None = None
) -> AsyncGenerator[tuple[ServerInTest, ProtocolPeer]]:
    """Run a server on a disk, with somebody at it. Every test ends by that."""
    store = open_on(MemoryFiles(disk), settings or JsonlSettings())
    with trio.fail_after(30):
        async with open_test_server(echo, store=store) as test, test.open_peer() as peer:
            yield test, peer


async def make_sessions(disk: Disk, *, turns: int = 1, count: int = 2) -> list[str]:
    """Make sessions of so many turns, in a few files each if there are many."""
    ids: list[str] = []
    async with serve(disk, quick() if turns > 1 else None) as (_, peer):
        for _ in range(count):
            ids.append((await peer.call("session.create"))["id"])
            for turn in range(turns):
                await peer.call(
                    "message.send",
                    sessionId=ids[-1],
                    content=f"turn {turn} of {ids[-1]}",
                    wait=True,
                )
                await trio.sleep(0.01)  # flushed, so that files are rolled
    return ids


def spoil(disk: Disk, name: str, line: int) -> None:
    """Flip a bit of a line of a file, counted from 0."""
    data = disk.files[disk.names[name]]
    starts = [0, *(index + 1 for index, byte in enumerate(data) if byte == ord("\n"))]
    data[starts[line] + 20] ^= 4


def line_of(disk: Disk, name: str, event: str) -> int:
    """Find the first line of an event."""
    lines = disk.contents()[name].splitlines()
    return next(
        index for index, line in enumerate(lines) if b'"event":"%b"' % event.encode() in line
    )


async def damaged_at(peer: ProtocolPeer, session_id: str, method: str, **members: Any) -> Any:
    """Give the seq that a refusal names."""
    error = await peer.refused("SESSION_DAMAGED", method, sessionId=session_id, **members)
    assert error["data"]["sessionId"] == session_id
    return error["data"]["seq"]


async def test_session_under_the_name_of_another_is_not_served() -> None:
    """Each line of it is as it was written: the first says whose log it is."""
    disk = Disk()
    one, other, whole = await make_sessions(disk, count=3)
    names = disk.names
    first, second = f"{one}.jsonl", f"{other}.jsonl"
    names[first], names[second] = names[second], names[first]
    async with serve(disk) as (_, peer):
        for session_id in (one, other):
            assert await damaged_at(peer, session_id, "event.list") == 1
            assert await damaged_at(peer, session_id, "message.send", content="x") == 1
            assert await damaged_at(peer, session_id, "session.get") == 1
        assert (await peer.call("server.stats"))["store"]["damaged"] == 2
        done = await peer.call("message.send", sessionId=whole, content="x", wait=True)
        assert done["outcome"] == "completed"


async def test_damage_inside_of_a_running_turn_leaves_what_came_before_readable() -> None:
    """A bug once seen: to read it, the server wanted to end that turn first."""
    disk = Disk()
    session_id, whole = await make_sessions(disk)
    name = f"{session_id}.jsonl"
    line = line_of(disk, name, "turn.started") + 1
    spoil(disk, name, line)
    for _ in range(2):
        async with serve(disk) as (_, peer):
            session = await peer.call("session.get", sessionId=session_id)
            assert session["damagedAt"] == line + 1
            assert session["status"] == "running"
            page = await peer.call("event.list", sessionId=session_id)
            assert [event["type"] for event in page["events"]][-1] == "turn.started"
            assert page["hasMore"]
            after = page["events"][-1]["position"]
            assert await damaged_at(peer, session_id, "event.list", after=after) == line + 1
            assert (await peer.call("message.list", sessionId=session_id))["messages"] == []
            assert await damaged_at(peer, session_id, "message.send", content="x") == line + 1
            seen = await peer.call("session.subscribe", sessionId=session_id, after=START)
            assert seen["session"]["damagedAt"] == line + 1
            await peer.read_until(session_id, "sync")
            assert len(peer.durable_events(session_id)) == line
            await peer.call("message.send", sessionId=whole, content="x", wait=True)


@pytest.fixture
async def long_log() -> tuple[Disk, str, str, int]:
    """A session of several files, the oldest of them damaged, beside a whole one; and where."""
    disk = Disk()
    session_id, whole = await make_sessions(disk, turns=6)
    assert f"{session_id}.1.jsonl" in disk.names
    spoil(disk, f"{session_id}.1.jsonl", 2)
    return disk, session_id, whole, 3


async def test_damage_in_an_old_file_ends_every_list_with_an_error(
    long_log: tuple[Disk, str, str, int],
) -> None:
    """A bug once seen: ``[]``, and ``hasMore``, for ever."""
    disk, session_id, _, seq = long_log
    async with serve(disk) as (test, peer):
        for method, key in (("event.list", "events"), ("session.export", "entries")):
            page = await peer.call(method, sessionId=session_id, limit=1000)
            assert len(page[key]) == seq - 1
            assert page["hasMore"]
            after = page[key][-1]["position"]
            assert await damaged_at(peer, session_id, method, after=after) == seq
        for found in (
            await peer.call("session.get", sessionId=session_id),
            *(await peer.call("session.list"))["sessions"],
        ):
            assert found.get("damagedAt") == (seq if found["id"] == session_id else None)
        read: list[int] = []
        async with test.connect() as client:

            async def read_all() -> None:
                async for entry in client.iter_entries(session_id):
                    read.append(entry.seq)  # noqa: PERF401 - those before an error

            with pytest.raises(SessionDamagedError) as caught:
                await read_all()
        assert read == [1, 2]
        assert caught.value.data == {"sessionId": session_id, "seq": seq}


async def test_subscriber_is_carried_over_damage_by_a_resync(
    long_log: tuple[Disk, str, str, int],
) -> None:
    """A bug once seen: its connection was closed each time, with all that went on there."""
    disk, session_id, whole, seq = long_log
    async with serve(disk) as (_, peer):
        await peer.call("session.subscribe", sessionId=whole)
        await peer.call("session.subscribe", sessionId=session_id, after=START)
        resync = await peer.expect_event(session_id, "resync")
        assert [event["position"] for event in peer.durable_events(session_id)] == ["1-1", "1-2"]
        assert resync["data"]["reason"] == "the log is damaged"
        assert resync["data"]["session"]["damagedAt"] == seq
        await peer.expect_event(session_id, "sync", position=resync["data"]["position"])
        done = await peer.call("message.send", sessionId=whole, content="x", wait=True)
        assert done["outcome"] == "completed"


async def test_damage_that_is_found_under_a_subscriber_costs_it_no_connection() -> None:
    """The next write is refused, and who follows is told that nothing more will come."""
    disk = Disk()
    session_id, whole = await make_sessions(disk, turns=6)
    async with serve(disk) as (test, peer):
        await peer.call("message.send", sessionId=session_id, content="x", wait=True)
        await peer.call("session.subscribe", sessionId=session_id)
        spoil(disk, f"{session_id}.1.jsonl", 2)
        async with test.open_peer() as reader:
            assert len((await reader.call("event.list", sessionId=session_id))["events"]) == 2
        assert await damaged_at(peer, session_id, "message.send", content="x") == 3
        resync = await peer.expect_event(session_id, "resync")
        assert resync["data"]["session"]["damagedAt"] == 3
        await peer.call("message.send", sessionId=whole, content="x", wait=True)
        assert (await peer.call("session.get", sessionId=session_id))["damagedAt"] == 3
        await peer.call("session.delete", sessionId=session_id)


async def test_damage_costs_no_connection_though_its_reader_is_behind() -> None:
    """A bug once seen: it was closed, with all that went on there, as it lacked what came before."""
    disk = Disk()
    session_id, whole = await make_sessions(disk, turns=6)
    async with serve(disk) as (test, peer), test.open_peer() as slow:
        await slow.call("session.subscribe", sessionId=session_id)
        with slow.not_reading():
            for _ in range(40):
                await peer.call("message.send", sessionId=session_id, content="x" * 4000, wait=True)
            position = (await peer.call("session.get", sessionId=session_id))["position"]
            spoil(disk, f"{session_id}.1.jsonl", 2)
            await peer.call("event.list", sessionId=session_id)
            assert await damaged_at(peer, session_id, "message.send", content="x") == 3
        resync = await slow.expect_event(session_id, "resync")
        assert resync["data"]["position"] == position
        seen = [event["position"] for event in slow.durable_events(session_id)]
        assert seen, "it was told of the turns' beginning"
        assert position not in seen, "and it was behind"
        await slow.call("message.send", sessionId=whole, content="x", wait=True)


def forget_index(disk: Disk, _: str) -> None:
    del disk.names["index.jsonl"]


def keep_index(disk: Disk, _: str) -> None:
    pass


@pytest.mark.parametrize("line", [0, 2], ids=["first entry", "later entry"])
@pytest.mark.parametrize("prepare", [keep_index, forget_index])
async def test_damaged_session_can_be_deleted(
    line: int, prepare: Callable[[Disk, str], None]
) -> None:
    """That is how an operator gets rid of it; a bug once seen: ``SESSION_NOT_FOUND``."""
    disk = Disk()
    session_id, whole = await make_sessions(disk)
    spoil(disk, f"{session_id}.jsonl", line)
    prepare(disk, session_id)
    async with serve(disk) as (_, peer):
        assert await damaged_at(peer, session_id, "message.send", content="x") == line + 1
        if line:
            await peer.call("session.subscribe", sessionId=session_id)
        await peer.call("session.delete", sessionId=session_id)
        if line:
            await peer.expect_event(session_id, "session.deleted")
        await peer.refused("SESSION_NOT_FOUND", "session.get", sessionId=session_id)
        assert (await peer.call("server.stats"))["store"]["damaged"] == 0
        assert [found["id"] for found in (await peer.call("session.list"))["sessions"]] == [whole]
    assert not [name for name in disk.names if session_id in name or name.startswith("damaged")]
    async with open_on(MemoryFiles(disk), JsonlSettings()) as store:
        assert list(await store.list_ids()) == [whole]


async def test_quarantine_is_known_at_every_start_until_the_damage_is_gone() -> None:
    """Without reading every session; a bug once seen: the second start had forgotten it."""
    disk = Disk()
    session_id, whole = await make_sessions(disk)
    name = f"{session_id}.jsonl"
    before = disk.contents()[name]
    spoil(disk, name, 2)
    async with open_on(MemoryFiles(disk), JsonlSettings()) as store:
        assert store.statistics()["damaged"] == 0  # nobody has read it
        await store.read(session_id, 0, 9)
    for _ in range(2):
        async with open_on(MemoryFiles(disk), JsonlSettings()) as store:
            assert store.statistics()["damaged"] == 1
            assert store.damaged[session_id].seq == 3
            assert list((await check_sessions(store)).problems) == [session_id]
            copied = await copy_sessions(store, MemoryStore())
            assert (copied.copied, copied.damaged) == ([whole], [session_id])
    # Somebody puts the file back as it was.
    disk.files[disk.names[name]][:] = before
    async with open_on(MemoryFiles(disk), JsonlSettings()) as store:
        assert store.statistics()["damaged"] == 0
        await store.open(session_id)
    assert "damaged.jsonl" not in disk.names


async def test_quarantine_is_noted_while_the_server_runs() -> None:
    """What finds it may be killed at any time."""
    disk = Disk()
    session_id, _ = await make_sessions(disk)
    spoil(disk, f"{session_id}.jsonl", 2)
    async with open_on(MemoryFiles(disk), JsonlSettings()) as store:
        await store.read(session_id, 0, 9)
        await trio.sleep(0.1)
        killed = disk.after_kill()
    async with open_on(MemoryFiles(killed), JsonlSettings()) as store:
        assert store.statistics()["damaged"] == 1


async def test_store_around_a_store_says_of_it_what_is_damaged() -> None:
    """`SessionStore.damaged` is what a host asks, whatever stands between."""
    disk = Disk()
    session_id, _ = await make_sessions(disk)
    spoil(disk, f"{session_id}.jsonl", 2)
    async with open_on(MemoryFiles(disk), JsonlSettings()) as store:
        around = FailingStore(store, fails=lambda _number, _name: False)
        assert len(await around.read(session_id, 0, 9)) == 2
        with pytest.raises(DamagedError):
            await around.read(session_id, 2, 9)
        assert around.damaged[session_id].seq == 3
