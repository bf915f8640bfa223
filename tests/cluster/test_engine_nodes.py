"""What `test_nodes.py` says of several servers, of those that share a real engine."""

from __future__ import annotations

from typing import cast

import pytest
import trio

from trialogue import RateLimit, Settings, Turn
from trialogue.core._cluster.host import ClusterHost
from trialogue.core.errors import StoreError
from trialogue.testing import ProtocolPeer

from ..engines import LACKS_ENGINE
from ..stores._engine_place import until
from ._engine_nodes import EngineNodes, open_engine_nodes
from ._rates import as_token, say_hello, spend
from .test_nodes import WHOLE, counting, seqs, text_of

pytestmark = pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))

#: As in `test_nodes.py`.
TAKEOVER_SECONDS = 1.5


async def test_other_node_serves_a_session_of_an_engine() -> None:
    """Our choice: whatever a session is asked for, it can be asked of any node."""
    with trio.fail_after(60):
        async with (
            open_engine_nodes(counting) as nodes,
            nodes.connect("a") as a,
            nodes.connect("b") as b,
        ):
            sid = (await a.call("session.create"))["id"]
            await b.call("session.subscribe", sessionId=sid, after="0-0")
            await b.call("message.send", sessionId=sid, content="count")
            events = await b.read_until(sid, "turn.ended")
            listed = await a.call("message.list", sessionId=sid)
            assert text_of(events) == listed["messages"][-1]["content"] == WHOLE
            assert sum(event["type"] == "message.delta" for event in events) >= 5, "as they came"
            assert (nodes.stats("a")["owned"], nodes.stats("b")["followed"]) == (1, 1)
            assert nodes.stats("b")["forwarded"] == 1
            assert (
                await nodes.ask("GET", nodes.key(sid, "lease")) == nodes.stats("a")["node"].encode()
            )


class Gate:
    """An agent that says one number after another, each when it is let."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[int](100)

    def let(self, count: int = 1) -> None:
        """Let it say some more."""
        for _ in range(count):
            self._send.send_nowait(0)

    async def __call__(self, turn: Turn) -> None:
        """Say ten."""
        for number in range(10):
            await self._receive.receive()
            await turn.write(f"{number} ")


async def read_numbers(peer: ProtocolPeer, sid: str, last: int) -> None:
    """Read until a number was said."""
    await peer.expect_event(sid, "message.delta", delta=f"{last} ")


async def test_who_attaches_in_the_middle_gets_all_of_a_message_from_the_engine() -> None:
    """PROTOCOL §6.3, on a node that has not seen its beginning."""
    gate = Gate()
    with trio.fail_after(60):
        async with (
            open_engine_nodes(gate) as nodes,
            nodes.connect("a") as a,
            nodes.connect("b") as b,
        ):
            sid = (await a.call("session.create"))["id"]
            await a.call("message.stream", sessionId=sid, content="count")
            for number in range(5):
                gate.let()
                await read_numbers(a, sid, number)
            await until(lambda: _has_text(nodes, sid, "4 "), True)
            await b.call("session.subscribe", sessionId=sid)
            before = await b.read_until(sid, "sync")
            assert text_of(before) == "0 1 2 3 4 "
            gate.let(5)
            assert text_of(before + await b.read_until(sid, "message.completed")) == WHOLE


async def _has_text(nodes: EngineNodes, sid: str, text: str) -> bool:
    """Whether what was published of a session ends so."""
    (store, *_) = nodes.stores.values()
    found = await store._ask(b"XREVRANGE", nodes.key(sid, "texts"), "+", "-", b"COUNT", 1)  # pyright: ignore[reportPrivateUsage]
    return bool(found) and text.encode() in found[0][1][1]


async def _can_read(nodes: EngineNodes, name: str, sid: str) -> bool:
    """Whether a node reaches its engine again."""
    try:
        return bool(await nodes.stores[name].read(sid, 0, 1))
    except StoreError:
        return False


@pytest.mark.slow
async def test_sessions_of_a_node_that_is_cut_off_are_taken_over() -> None:
    """Issue 7: within the lease and 1.5 s. What it still writes is refused, and nobody sees it."""
    gate = Gate()
    with trio.fail_after(60):
        async with (
            open_engine_nodes(gate, lease_seconds=1.0) as nodes,
            nodes.connect("a") as a,
            nodes.connect("b") as b,
        ):
            sid = (await a.call("session.create"))["id"]
            await a.call("session.subscribe", sessionId=sid, after="0-0")
            await b.call("session.subscribe", sessionId=sid, after="0-0")
            await a.call("message.send", sessionId=sid, content="one")
            for number in range(2):
                gate.let()
                await read_numbers(b, sid, number)
            await b.call("message.send", sessionId=sid, content="two")
            nodes.proxies["a"].hold()
            cut_at = trio.current_time()
            gate.let(1)
            resumed = await b.expect_event(sid, "session.resumed")
            took = trio.current_time() - cut_at
            assert resumed["data"]["term"] == 2
            await b.expect_event(sid, "turn.ended", outcome="interrupted")
            nodes.proxies["a"].let_pass()
            gate.let(10)
            await b.expect_event(sid, "turn.ended", outcome="completed")
            whole = [*range(1, len(await nodes.positions(sid)) + 1)]
            assert seqs(b, sid) == whole
            # Cut off for long, its node may have sent it away: it comes back with its cursor.
            assert seqs(a, sid) == whole[: len(seqs(a, sid))]
            # It looks for its engine once a second, and until then says that it cannot read.
            await until(lambda: _can_read(nodes, "a", sid), True)
            async with nodes.connect("a") as again:
                await again.call("session.subscribe", sessionId=sid, after="0-0")
                await again.expect_event(sid, "turn.ended", outcome="completed")
                assert seqs(again, sid) == whole
            assert took <= 1.0 + TAKEOVER_SECONDS
            assert nodes.stats("b")["takeovers"] == 1


async def test_node_that_ends_leaves_its_sessions_to_others_at_once() -> None:
    """Our choice: what `release` leaves is there for others, long before the lease is over."""
    with trio.fail_after(60):
        async with (
            open_engine_nodes(counting, lease_seconds=3600) as nodes,
            nodes.connect("a") as a,
            nodes.connect("b") as b,
        ):
            sid = (await a.call("session.create"))["id"]
            await nodes.servers["a"].drain(10)
            await b.call("message.add", sessionId=sid, role="user", content="hello")
            assert await nodes.positions(sid) == ["1-1", "2-2", "2-3"]


async def test_session_moves_to_a_node_with_less_to_do_and_nobody_notices() -> None:
    """Issue 7: as in `test_balance.py`, where it is also said when one does."""
    with trio.fail_after(60):
        async with (
            open_engine_nodes(counting) as nodes,
            nodes.connect("a") as a,
            nodes.connect("b") as b,
        ):
            sid = (await a.call("session.create"))["id"]
            for peer in (a, b):
                await peer.call("session.subscribe", sessionId=sid, after="0-0")
            for peer, giver, taker in ((a, "a", "b"), (b, "b", "a")):
                balancer = cast("ClusterHost", nodes.servers[giver].host).balancer
                await balancer.give(nodes.stores[taker].cluster.node, 1)
                done = await peer.call("message.send", sessionId=sid, content="go", wait=True)
                assert (done["outcome"], done["message"]["content"]) == ("completed", WHOLE)
                assert (nodes.stats(giver)["given"], nodes.stats(taker)["owned"]) == (1, 1)
            whole = await nodes.positions(sid)
            assert {position[0] for position in whole} == {"1", "2", "3"}
            for peer in (a, b):
                await peer.read_until(sid, "turn.ended")
                await peer.read_until(sid, "turn.ended")
                assert [event["position"] for event in peer.durable_events(sid)] == whole


async def test_deadline_of_a_command_holds_while_the_engine_is_away() -> None:
    """PROTOCOL §2.3; and what was asked has its effect once, when the engine is back."""
    with trio.fail_after(60):
        async with (
            open_engine_nodes(counting, lease_seconds=1.0) as nodes,
            nodes.connect("a") as a,
            nodes.connect("b") as b,
        ):
            sid = (await a.call("session.create"))["id"]
            await b.call("session.subscribe", sessionId=sid, after="0-0")
            nodes.proxies["b"].hold()
            said = {"sessionId": sid, "role": "user", "content": "late"}
            await b.refused(
                "TIMEOUT", "message.add", params=said, timeout_ms=2500, idempotency_key="late"
            )
            nodes.proxies["b"].let_pass()
            await b.call("message.add", params=said, idempotency_key="late")
            await a.call("message.add", sessionId=sid, role="user", content="after")
            listed = await a.call("message.list", sessionId=sid)
            assert [each["content"] for each in listed["messages"]] == ["late", "after"]


async def test_who_follows_a_deleted_session_is_told_all_of_it() -> None:
    """PROTOCOL §3: each subscriber gets `session.deleted`, on any node, behind the last entry."""
    with trio.fail_after(60):
        async with (
            open_engine_nodes(counting) as nodes,
            nodes.connect("a") as a,
            nodes.connect("b") as b,
        ):
            sid = (await a.call("session.create"))["id"]
            await b.call("session.subscribe", sessionId=sid, after="0-0")
            await a.call("message.add", sessionId=sid, role="user", content="hello")
            await a.call("session.delete", sessionId=sid)
            events = await b.read_until(sid, "session.deleted")
            assert "message.created" in [event["type"] for event in events]
            await b.refused("SESSION_NOT_FOUND", "session.get", sessionId=sid)
            left = await nodes.ask("PTTL", nodes.key(sid, "log"))
            assert 0 < int(left[1:]) <= 10_000
            assert await nodes.ask("EXISTS", nodes.key(sid, "lease")) == b":0"


async def test_pruning_spares_what_another_node_has() -> None:
    """`Cluster`: whoever has a session decides that it goes."""
    with trio.fail_after(60):
        async with open_engine_nodes(counting) as nodes, nodes.connect("a") as a:
            sid = (await a.call("session.create"))["id"]
            assert await nodes.stores["b"].prune(keep=0) == []
            await nodes.servers["a"].drain(10)
            await until(lambda: nodes.stores["b"].prune(keep=0), [sid])


async def test_rate_of_a_principal_holds_on_nodes_of_an_engine() -> None:
    """PROTOCOL §11: what was used at one node is gone at the other, too, and for as long."""
    limit = RateLimit(max_requests=60, window_seconds=3600, burst=10)
    settings = Settings(rate_limit=limit)
    with trio.fail_after(60):
        async with (
            open_engine_nodes(counting, settings=settings, authenticate=as_token) as nodes,
            nodes.connect("a") as a,
            nodes.connect("b") as b,
        ):
            await say_hello(a, b)
            assert (await spend(a))[0] == 10
            key = f"{nodes.prefix}:debt:=ada"
            await until(lambda: nodes.ask("EXISTS", key), b":1")
            assert (await b.call("server.health"))["status"] == "ok", "nobody waits for the engine"
            here = nodes.servers["b"].limiter("ada")
            assert here is not None
            while here.ordinary.level(trio.current_time()) > 5:  # noqa: ASYNC110
                await trio.sleep(0.005)
            let_in, retry_after_ms = await spend(b)
            # One more than the burst, and who comes next has to have its minute.
            assert (let_in, 60_000 < retry_after_ms <= 120_000) == (0, True)
            assert 10 * 60_000 < int((await nodes.ask("PTTL", key))[1:]) <= 11 * 60_000
