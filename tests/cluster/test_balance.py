"""Sessions move to nodes that have less to do, and nobody notices."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from trialogue import Settings, Turn
from trialogue.core._cluster.host import ClusterHost
from trialogue.core.abc import Agent
from trialogue.testing import ProtocolPeer

from ..recovery.test_children import Parent, answer, child_of
from ..telemetry._scraping import read, scrape
from ._nodes import Nodes, open_nodes
from .test_nodes import LEASE_SECONDS, TAKEOVER_SECONDS, WHOLE, counting, text_of

SETTINGS = Settings(rate_limit=None)
#: In which a node gets forty sessions of others: after a lease, 24 within each.
WHILE_SECONDS = 6 * LEASE_SECONDS


class Clients:
    """Connections to some nodes, and the sessions that each follows."""

    def __init__(self, nodes: Nodes, peers: dict[str, ProtocolPeer]) -> None:
        self.nodes = nodes
        self.peers = peers
        self.sessions: dict[str, ProtocolPeer] = {}

    async def begin(self, name: str, *, at: str | None = None) -> str:
        """Create a session at a node, and follow it there, or at another one."""
        sid: str = (await self.peers[name].call("session.create"))["id"]
        peer = self.peers[at or name]
        await peer.call("session.subscribe", sessionId=sid, after="0-0")
        self.sessions[sid] = peer
        return sid

    async def talk(self, sid: str) -> None:
        """Have a turn in a session, whole."""
        peer = self.sessions[sid]
        done = await peer.call("message.send", sessionId=sid, content="go", params={"wait": True})
        assert (done["outcome"], done["message"]["content"]) == ("completed", WHOLE)

    def check(self) -> None:
        """Check that each client has seen each entry of its sessions once, and all of each text."""
        for sid, peer in self.sessions.items():
            assert [e["position"] for e in peer.durable_events(sid)] == self.nodes.positions(sid)
            events = peer.events(sid)
            for resumed in (event for event in events if event["type"] == "session.resumed"):
                assert "interruptedTurnId" not in resumed["data"]
            started = [i for i, event in enumerate(events) if event["type"] == "turn.started"]
            for begin, end in pairwise([*started, len(events)]):
                assert text_of(events[begin:end]) == WHOLE

    def count(self, what: str) -> list[int]:
        """Say what each node has counted."""
        return [self.nodes.stats(name)[what] for name in self.nodes.servers]


@asynccontextmanager
async def open_clients(nodes: Nodes, first: str = "a", other: str = "b") -> AsyncGenerator[Clients]:
    """Connect a client to each of two nodes, and check in the end what they have seen."""
    async with nodes.connect(first) as one, nodes.connect(other) as two:
        clients = Clients(nodes, {first: one, other: two})
        yield clients
        clients.check()


def _was_long_ago(_: str) -> float:
    return 25.0


def host_of(nodes: Nodes, name: str) -> ClusterHost:
    return cast("ClusterHost", nodes.servers[name].host)


async def test_node_that_joins_gets_its_share_and_nobody_notices(
    autojump_clock: MockClock,
) -> None:
    """Issue 7: with turns going on, no event is lost or doubled, and no turn is cut."""
    async with (
        open_nodes(counting, settings=SETTINGS) as nodes,
        open_clients(nodes) as clients,
        trio.open_nursery() as nursery,
    ):
        for _ in range(60):
            for name in ("a", "b"):
                await clients.begin(name)
        over, choice = trio.Event(), random.Random(1)
        locks = {sid: trio.Lock() for sid in clients.sessions}

        async def go_on() -> None:
            while not over.is_set():
                sid = choice.choice([*locks])
                async with locks[sid]:
                    await clients.talk(sid)

        for _ in range(6):
            nursery.start_soon(go_on)
        await trio.sleep(WHILE_SECONDS)
        assert (clients.count("owned"), clients.count("given")) == ([60, 60], [0, 0])
        await nodes.start("c", counting, SETTINGS)
        await trio.sleep(WHILE_SECONDS)
        assert sum(clients.count("owned")) == 120
        assert all(38 <= owned <= 42 for owned in clients.count("owned"))
        given = clients.count("given")
        assert nodes.stats("c")["takeovers"] == sum(given) <= 44
        await trio.sleep(WHILE_SECONDS)
        assert clients.count("given") == given, "nothing moves when all is balanced"
        over.set()


async def test_those_go_whose_clients_are_there(autojump_clock: MockClock) -> None:
    """Our choice: each that moves is followed at one node less. And what is given is counted."""
    async with open_nodes(counting, settings=SETTINGS) as nodes, open_clients(nodes) as clients:
        here = [await clients.begin("a") for _ in range(10)]
        there = [await clients.begin("a", at="b") for _ in range(10)]
        await trio.sleep(WHILE_SECONDS)
        assert host_of(nodes, "a").owned == {*here}
        assert host_of(nodes, "b").owned == {*there}
        assert clients.count("followed") == [0, 0]
        assert clients.count("given") == [10, 0]
        found = read(scrape(nodes.servers["a"]))
        assert found["trialogue_cluster_given_total", ()] == 10
        for sid in there:
            await clients.talk(sid)
        assert clients.count("forwarded") == [0, 0]


async def test_session_is_at_rest_when_it_moves(autojump_clock: MockClock) -> None:
    """Our choice: one with a turn at work stays until that is over; the most are given else."""
    async with open_nodes(counting, settings=SETTINGS) as nodes, open_clients(nodes) as clients:
        sids = [await clients.begin("a") for _ in range(4)]
        async with trio.open_nursery() as nursery:
            for sid in sids[:3]:
                nursery.start_soon(clients.talk, sid)
            await trio.sleep(0.5)
            await host_of(nodes, "a").balancer.give("b", 4)
            await trio.sleep(0.4)
            assert host_of(nodes, "b").owned == {sids[3]}
        await host_of(nodes, "a").balancer.give("b", 2)
        await trio.sleep(0.4)
        assert clients.count("owned") == [1, 3]


async def test_sessions_given_to_a_node_that_dies_come_back(autojump_clock: MockClock) -> None:
    """Our choice: what is asked of them is done within the lease and 1.5 s, as after any death."""
    async with open_nodes(counting, settings=SETTINGS) as nodes, open_clients(nodes) as clients:
        sids = [await clients.begin("a") for _ in range(20)]
        sids += [await clients.begin("b") for _ in range(20)]
        given: list[float] = []
        has_begun = trio.Event()

        def die(what: str, _: bytes) -> bool:
            if what == "give":
                nodes.stores["c"].pause()
                given.append(trio.current_time())
                has_begun.set()
            return False

        nodes.engine.loses = die
        await nodes.start("c", counting, SETTINGS)
        await has_begun.wait()
        async with trio.open_nursery() as nursery:
            for sid in sids:
                nursery.start_soon(clients.talk, sid)
        turn_seconds = 1.0
        spent = trio.current_time() - given[0] - turn_seconds
        assert spent <= LEASE_SECONDS / 3 + LEASE_SECONDS + TAKEOVER_SECONDS
        await trio.sleep(3 * LEASE_SECONDS)
        # Which of the two has one again is a matter of who asks first.
        assert sum(clients.count("owned")[:2]) == 40
        nodes.stores["c"].resume()
        await trio.sleep(WHILE_SECONDS)
        assert sum(clients.count("owned")) == 40
        assert len(given) == sum(clients.count("given"))


async def test_sessions_that_nobody_took_are_had_again(autojump_clock: MockClock) -> None:
    """Our choice: who follows them at other nodes is still known, so that they are in use."""
    settings = attrs.evolve(SETTINGS, idle_timeout_seconds=5)
    async with open_nodes(counting, settings=settings) as nodes, open_clients(nodes) as clients:
        sids = {await clients.begin("a", at="b") for _ in range(3)}
        await trio.sleep(0.1)
        nodes.engine.loses = lambda what, _: what == "give"
        await host_of(nodes, "a").balancer.give("b", 3)
        assert clients.count("owned") == [0, 0]
        await trio.sleep(3 * LEASE_SECONDS)
        assert host_of(nodes, "a").owned == sids
        assert {*host_of(nodes, "a").needed_ids()} == sids
        await trio.sleep(10)
        for sid in sids:
            await clients.talk(sid)
            assert nodes.positions(sid)[-1].startswith("1-"), "nobody else has had it"


async def test_node_that_drains_is_given_nothing(autojump_clock: MockClock) -> None:
    """Our choice: what was on its way to it comes back, before the lease is over."""
    async with (
        open_nodes(counting, settings=SETTINGS) as nodes,
        open_clients(nodes) as clients,
        trio.open_nursery() as nursery,
    ):
        sids = {await clients.begin("a") for _ in range(20)}
        b = clients.peers["b"]
        busy = (await b.call("session.create"))["id"]
        await b.call("message.send", sessionId=busy, content="go")
        nursery.start_soon(nodes.servers["b"].drain, 60)
        await trio.sleep(0.2)
        await host_of(nodes, "a").balancer.give("b", 3)
        assert clients.count("given") == [3, 0]
        await trio.sleep(0.5 * LEASE_SECONDS)
        assert host_of(nodes, "a").owned == sids
        assert nodes.engine.holder(busy) == "b", "it drains still"
        await host_of(nodes, "b").balancer.give("a", 1)
        await trio.sleep(WHILE_SECONDS)
        assert host_of(nodes, "a").owned >= sids
        assert clients.count("given") == [3, 0]


async def test_no_session_moves_where_that_is_switched_off(autojump_clock: MockClock) -> None:
    """`Settings.max_moved_sessions`: neither from such a node nor to it."""
    off = attrs.evolve(SETTINGS, max_moved_sessions=0)
    async with open_nodes(counting, ("a",), settings=SETTINGS) as nodes:
        await nodes.start("b", counting, off)
        async with open_clients(nodes) as clients:
            for _ in range(20):
                await clients.begin("a")
            await trio.sleep(WHILE_SECONDS)
            assert clients.count("owned") == [20, 0]
            await nodes.start("c", counting, attrs.evolve(SETTINGS, max_moved_sessions=1))
            await trio.sleep(WHILE_SECONDS)
            assert clients.count("owned") == [10, 0, 10]
            await nodes.start("d", counting, off)
            await trio.sleep(WHILE_SECONDS)
            assert clients.count("owned") == [10, 0, 10, 0]


async def test_node_that_is_given_a_session_knows_who_follows_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROTOCOL §9.3 and §11: their tools are offered at once, and it does not expire meanwhile."""
    offered: list[list[str]] = []

    async def listing(turn: Turn) -> None:
        offered.append(sorted(tool.name for tool in turn.client_tools))

    settings = attrs.evolve(SETTINGS, idle_timeout_seconds=10)
    async with (
        open_nodes(listing, ("a", "b", "c"), settings=settings) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
        nodes.connect("c") as c,
    ):
        sid = (await a.call("session.create"))["id"]
        for peer, name in ((a, "here"), (b, "there")):
            await peer.call("session.subscribe", sessionId=sid, tools=[{"name": name}])
        await trio.sleep(25)
        # What its log says of it is by the wall clock.
        monkeypatch.setattr("trialogue.core._housekeeping.seconds_since", _was_long_ago)
        for name in ("a", "b"):
            nodes.stores[name].delay_seconds = 0.05
        await host_of(nodes, "a").balancer.give("c", 1)
        await c.call("message.send", sessionId=sid, content="which?", wait=True)
        assert nodes.stats("c")["owned"] == 1
        for name in ("a", "b"):
            nodes.stores[name].delay_seconds = 0
        await trio.sleep(25)
        await c.call("message.send", sessionId=sid, content="which?", wait=True)
        assert offered == [["here", "there"], ["here", "there"]]
        for peer in (a, b):
            await peer.call("session.unsubscribe", sessionId=sid)
        await trio.sleep(9)
        assert (await c.call("session.get", sessionId=sid))["status"] == "idle"
        await trio.sleep(9)
        assert (await c.call("session.get", sessionId=sid))["status"] == "expired"


async def test_turn_that_waits_moves_with_its_session(autojump_clock: MockClock) -> None:
    """PROTOCOL §9.4: one whose agent does not run; with one that does, it stays."""

    async def asking(turn: Turn) -> None:
        answer = await turn.ask("Well?")
        await turn.write(f"{answer.value}!")

    async with open_nodes(asking) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid, after="0-0")
        await a.call("message.send", sessionId=sid, content="ask")
        ask = await b.expect_event(sid, "ask.opened")
        await host_of(nodes, "a").balancer.give("b", 1)
        assert nodes.stats("a")["given"] == 0
        await nodes.servers["a"].drain(60)
        await b.expect_event(sid, "session.resumed", term=2)
        await nodes.start("c", asking, None)
        await host_of(nodes, "b").balancer.give("c", 1)
        await b.expect_event(sid, "session.resumed", term=3)
        await b.call("ask.answer", sessionId=sid, askId=ask["data"]["askId"], answer="yes")
        await b.expect_event(sid, "turn.resumed", attempt=2)
        await b.expect_event(sid, "turn.ended", outcome="completed")
        listed = (await b.call("message.list", sessionId=sid))["messages"]
        assert listed[-1]["content"] == "yes!"
        assert nodes.stats("c")["owned"] == 1


async def test_child_stays_with_its_parent_that_waits_for_it(autojump_clock: MockClock) -> None:
    """PROTOCOL §5.7: when their server stops, it leaves them waiting only where it has both."""

    async def asking(turn: Turn) -> None:
        await turn.write(f"{(await turn.ask('Which?')).value}")

    agents: dict[str, Agent] = {"parent": Parent(), "worker": asking}
    async with open_nodes(agents) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid, after="0-0")
        await a.call("message.send", sessionId=sid, content="go")
        child = await child_of(b, sid)
        await b.call("session.subscribe", sessionId=child, after="0-0")
        await nodes.servers["a"].drain(60)
        for name in (sid, child):
            await b.expect_event(name, "session.resumed", term=2)
        await nodes.start("c", agents, None)
        await host_of(nodes, "b").balancer.give("c", 2)
        await answer(b, child, "this one")
        await answer(b, sid, "yes")
        ended = await b.expect_event(sid, "turn.ended")
        assert ended["data"]["outcome"] == "completed"
        assert nodes.stats("b")["given"] == 0
        await host_of(nodes, "b").balancer.give("c", 2)
        assert nodes.stats("b")["given"] == 2
