"""Two servers that share one store: any client on any node."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock

from trialogue import Server, Turn, open_server
from trialogue.testing import open_peer
from trialogue.testing.shared_store import SharedEngine


async def counting(turn: Turn) -> None:
    """Say ten numbers, slowly."""
    for number in range(10):
        await turn.write(f"{number} ")
        await trio.sleep(0.1)


@asynccontextmanager
async def open_two(engine: SharedEngine) -> AsyncGenerator[tuple[Server, Server]]:
    async with (
        open_server(counting, store=engine.open_store("a"), transports=["loopback://"]) as a,
        open_server(counting, store=engine.open_store("b"), transports=["loopback://"]) as b,
    ):
        yield a, b


async def test_other_node_serves_a_session(autojump_clock: MockClock) -> None:
    """Our choice: whatever a session is asked for, it can be asked of any node."""
    engine = SharedEngine(lease_seconds=1)
    async with (
        open_two(engine) as (a, b),
        open_peer(a.endpoints[0], patience=30) as first,
        open_peer(b.endpoints[0], patience=30) as second,
    ):
        session = await first.call("session.create")
        session_id = session["id"]
        await second.call("session.subscribe", sessionId=session_id, after="0-0")
        sent = await second.call("message.send", sessionId=session_id, content="count")
        events = await second.read_until(session_id, "turn.ended")
        listed = await first.call("message.list", sessionId=session_id)
        print([e["type"] for e in events], sent)
        assert listed["messages"][-1]["content"] == "".join(f"{n} " for n in range(10))
        print(a.stats()["cluster"], b.stats()["cluster"])
