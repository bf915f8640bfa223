"""Nodes whose engine went back, as one does whose place a replica took that lagged.

PROTOCOL §6.5: a history that was lost is answered with a resync, never with silence, whatever has
been written in its place by then.
"""

from __future__ import annotations

from typing import Any

import trio
from msgspec import structs
from trio.testing import MockClock

from trialogue import Turn
from trialogue.testing import ProtocolPeer

from ._nodes import Nodes, open_nodes

LEASE_SECONDS = 1.0


async def idle(turn: Turn) -> None:
    """Say nothing."""
    await trio.lowlevel.checkpoint()


async def add(peer: ProtocolPeer, session_id: str, *texts: str) -> None:
    """Put messages into a session's history."""
    for text in texts:
        await peer.call("message.add", sessionId=session_id, role="user", content=text)


async def come_back(nodes: Nodes, name: str, session_id: str, after: str) -> dict[str, Any]:
    """Subscribe behind a position that is lost, and give what there is in its place."""
    async with nodes.connect(name) as peer:
        await peer.call("session.subscribe", sessionId=session_id, after=after)
        resync = await peer.expect_event(session_id, "resync")
        await peer.expect_event(session_id, "sync", position=resync["data"]["position"])
        return resync


def contents(resync: dict[str, Any]) -> list[str]:
    """Give what the messages of a resync say."""
    return [message["content"] for message in resync["data"]["messages"]]


async def rewind_and_overtake(nodes: Nodes, session_id: str) -> None:
    """Lose two messages that all nodes know of, and have node c write three others meanwhile."""
    nodes.stores["a"].pause()
    nodes.stores["b"].pause()
    nodes.engine.rewind(session_id, 2)
    await trio.sleep(2 * LEASE_SECONDS)
    async with nodes.connect("c") as c:
        await add(c, session_id, "three", "four", "five")
    nodes.stores["a"].resume()
    nodes.stores["b"].resume()


async def test_readers_of_what_was_lost_are_sent_away_though_others_wrote_as_much_since(
    autojump_clock: MockClock,
) -> None:
    """Those at the node that had the session, and those at one that followed it."""
    async with open_nodes(idle, ("a", "b", "c")) as nodes:
        async with nodes.connect("a") as a, nodes.connect("b") as b:
            sid = (await a.call("session.create"))["id"]
            await add(a, sid, "one", "lost", "lost, too")
            for peer in (a, b):
                await peer.call("session.subscribe", sessionId=sid, after="0-0")
                await peer.expect_event(sid, "sync", position="1-4")
            await rewind_and_overtake(nodes, sid)
            # What it writes next is refused, and so it finds out.
            await a.send_request("message.add", sessionId=sid, role="user", content="six")
            for peer in (a, b):
                await peer.expect_end()
                assert [e["position"] for e in peer.durable_events(sid)] == [
                    f"1-{seq}" for seq in range(1, 5)
                ]
        for name in ("a", "b", "c"):
            resync = await come_back(nodes, name, sid, "1-4")
            assert contents(resync)[:4] == ["one", "three", "four", "five"]


async def test_readers_hear_of_a_loss_that_nobody_has_written_behind(
    autojump_clock: MockClock,
) -> None:
    """Their node looks for itself, and need not be refused first."""
    async with open_nodes(idle) as nodes, nodes.connect("a") as a:
        sid = (await a.call("session.create"))["id"]
        await add(a, sid, "one", "lost")
        await a.call("session.subscribe", sessionId=sid, after="0-0")
        await a.expect_event(sid, "sync", position="1-3")
        nodes.engine.rewind(sid, 2)
        lost_at = trio.current_time()
        await a.expect_end()
        assert trio.current_time() - lost_at <= LEASE_SECONDS
        assert contents(await come_back(nodes, "a", sid, "1-3")) == ["one"]
        async with nodes.connect("b") as b:
            await add(b, sid, "two")
        assert nodes.positions(sid)[:2] == ["1-1", "1-2"]
        assert "1-3" not in nodes.positions(sid)


async def test_node_that_takes_a_session_finds_out_that_it_knew_another_history(
    autojump_clock: MockClock,
) -> None:
    """Before it has heard of a loss: what it is asked is done on what the log has."""
    async with open_nodes(idle) as nodes:
        async with nodes.connect("a") as a:
            sid = (await a.call("session.create"))["id"]
            await add(a, sid, "one", "two", "three")
        async with nodes.connect("b") as b, nodes.connect("b") as other:
            await b.call("session.subscribe", sessionId=sid, after="0-0")
            await b.expect_event(sid, "sync", position="1-4")
            await nodes.stop("a")
            entries = nodes.engine.entries(sid) or []
            entries[2:] = [structs.replace(entry, term=2) for entry in entries[2:]]
            await add(other, sid, "four")
            await b.expect_end()
            assert b.durable_events(sid)[-1]["position"] == "1-4"
            listed = (await other.call("message.list", sessionId=sid))["messages"]
            assert [message["content"] for message in listed] == ["one", "two", "three", "four"]
        assert contents(await come_back(nodes, "b", sid, "1-4"))[-1] == "four"
