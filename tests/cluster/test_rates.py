"""PROTOCOL §11: a principal's rate holds on all nodes together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue import RateLimit, Settings, Turn
from trialogue.core._cluster.rates import Rates
from trialogue.testing import ProtocolPeer
from trialogue.testing.shared_store import SharedEngine

from ..telemetry._scraping import read, scrape
from ._nodes import Nodes, open_nodes
from ._rates import as_token, say_hello, spend

#: One a second, ten at once.
SLOW = RateLimit(max_requests=60, window_seconds=60, burst=10)
#: As docs/scaling.md has it: what a node lets in before it knows of the others, beside the burst.
BLIND_SECONDS = 2.0
#: A node was told by then.
TOLD_SECONDS = 1.25


async def for_ever(turn: Turn) -> None:
    """Be an agent that has to be stopped."""
    await trio.sleep_forever()


@asynccontextmanager
async def open_pair(
    limit: RateLimit = SLOW, **options: Any
) -> AsyncGenerator[tuple[Nodes, ProtocolPeer, ProtocolPeer]]:
    """Run two nodes, with one principal at both."""
    settings = Settings(rate_limit=limit)
    async with (
        open_nodes(for_ever, settings=settings, authenticate=as_token, **options) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        await say_hello(a, b)
        yield nodes, a, b


async def test_rate_of_a_principal_holds_on_two_nodes_together(autojump_clock: MockClock) -> None:
    """docs/scaling.md: what both let in is what one would, and a bounded excess."""
    limit = RateLimit(max_requests=5, window_seconds=1, burst=5)
    seconds, let_in = 40, 0
    async with open_pair(limit) as (nodes, a, b):
        for _ in range(4 * seconds):
            for peer in (a, b):
                let_in += (await spend(peer))[0]
            await trio.sleep(0.25)
        assert 5 * seconds <= let_in <= 5 * seconds + 2 * (5 + 5 * BLIND_SECONDS)
        async with nodes.connect("b") as other:
            await say_hello(other, name="bob")
            assert (await spend(other))[0] == 5, "nobody pays for another"


async def test_who_is_refused_for_what_was_used_elsewhere_is_told_how_long_to_wait(
    autojump_clock: MockClock,
) -> None:
    """§11: who waits `retryAfterMs` is let in, and not sooner."""
    async with open_pair() as (_, a, b):
        assert (await spend(a))[0] == 10
        assert (await b.call("server.health"))["status"] == "ok"
        await trio.sleep(TOLD_SECONDS)
        _, retry_after_ms = await spend(b)
        await trio.sleep(retry_after_ms / 1000 - 0.001)
        assert await spend(b) == (0, 1)
        await trio.sleep(0.001)
        assert (await spend(b))[0] == 1


async def test_work_is_stopped_at_a_node_whatever_was_used_elsewhere(
    autojump_clock: MockClock,
) -> None:
    """§11: the reserve is each node's own."""
    async with open_pair() as (_, a, b):
        sid = (await b.call("session.create"))["id"]
        await b.call("message.stream", sessionId=sid, content="hi")
        await spend(b)
        await spend(a)
        await trio.sleep(TOLD_SECONDS)
        await b.refused("RATE_LIMITED", "server.health")
        assert (await b.call("turn.cancel", sessionId=sid))["cancelled"] is True
        for _ in range(10):
            await b.ping()
            await b.call("request.cancel", id="none")
            await trio.sleep(1)


async def test_without_the_engine_each_node_limits_by_itself_and_tells_later(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """docs/scaling.md: nobody waits for the engine, and it goes on by itself."""
    async with open_pair(lease_seconds=10.0) as (nodes, a, b):
        nodes.stores["b"].cut()
        before = trio.current_time()
        assert ((await spend(a))[0], (await spend(b))[0]) == (10, 10)
        assert trio.current_time() == before, "nobody waits for the engine"
        let_in = 0
        for _ in range(60):
            await trio.sleep(1)
            let_in += (await spend(b))[0]
        assert let_in == 60, "its own rate, and nothing of the other's"
        said = "each node limits rates by itself"
        assert [record.message for record in caplog.records].count(said) == 1
        nodes.stores["b"].mend()
        await trio.sleep(TOLD_SECONDS)
        let_in = 0
        for _ in range(60):
            await trio.sleep(1)
            let_in += (await spend(a))[0] + (await spend(b))[0]
        # What both had left when it was mended, a burst above the rate, and the excess.
        assert let_in <= 60 + 2 * (10 + BLIND_SECONDS)


async def test_rates_are_told_only_while_they_are_used(autojump_clock: MockClock) -> None:
    """docs/operations.md: the metric says how many principals they are."""
    async with open_pair() as (nodes, a, b):
        assert nodes.stats("a")["principals"] == 0
        await spend(a)
        assert nodes.stats("a")["principals"] == 1
        found = read(scrape(nodes.servers["a"]))
        assert found["trialogue_cluster_principals", ()] == 1
        assert nodes.stats("b")["principals"] == 0
        await trio.sleep(10 + TOLD_SECONDS)
        assert nodes.stats("a")["principals"] == 0
        await b.call("server.health")
        assert nodes.stats("b")["principals"] == 1


async def test_rates_of_anonymous_connections_stay_their_own(autojump_clock: MockClock) -> None:
    """§11: for anonymous, per connection; there is nobody that others could know."""
    settings = Settings(rate_limit=SLOW)
    async with (
        open_nodes(for_ever, settings=settings) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        assert (await spend(a))[0] == 10
        await trio.sleep(TOLD_SECONDS)
        assert (nodes.stats("a")["principals"], (await spend(b))[0]) == (0, 10)


class CountingEngine(SharedEngine):
    """Keeps how many principals each report was of."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[int] = []

    def charge(self, used: Mapping[str, float], most: float) -> list[float]:
        self.reports.append(len(used))
        return super().charge(used, most)


async def test_engine_is_asked_once_in_a_while_of_many_together(autojump_clock: MockClock) -> None:
    """docs/scaling.md: two commands a second of a node, each of 256 principals at most."""
    engine = CountingEngine()
    rates = Rates(engine.open_store("a").cluster, SLOW)
    limiters = [rates.make_limiter(f"u{number}", SLOW) for number in range(600)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rates.run)
        await trio.sleep(60)
        assert engine.reports == [], "nobody has used anything"
        for limiter in limiters:
            assert limiter.ordinary.take(trio.current_time()) == 0.0
        assert rates.make_limiter("u0", SLOW).ordinary is limiters[0].ordinary, "it counts on"
        await trio.sleep(0.1)
        assert engine.reports == [256, 256, 88]
        await trio.sleep(60)
        assert sum(engine.reports) <= 600 * 4, "each until what it has used is given back"
        del engine.reports[:]
        for _ in range(100):
            limiters[0].ordinary.take(trio.current_time())
            await trio.sleep(0.1)
        assert 10 / 0.6 <= len(engine.reports) <= 10 / 0.4 + 1
        nursery.cancel_scope.cancel(reason="the test is over")
