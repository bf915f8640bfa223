"""What a server counts for those who watch it (docs/protocol.md, server.stats)."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue import RateLimit
from trialogue.core._histogram import BOUNDS
from trialogue.core._stats import MAX_MODEL, MAX_MODELS, Stats
from trialogue.core.abc import Excerpt, SessionLog, Turn
from trialogue.core.log import Entry, Summary
from trialogue.core.models import TokenUsage
from trialogue.stores.memory import MemoryStore
from trialogue.testing import open_test_server


def histogram(*milliseconds: float) -> dict[str, Any]:
    """Make the histogram that has seen these, as the wire has it."""
    buckets: dict[float, int] = {}
    for ms in sorted(milliseconds):
        bound = next(bound for bound in BOUNDS if ms <= bound * 1000) * 1000
        buckets[bound] = buckets.get(bound, 0) + 1
    return {
        "count": len(milliseconds),
        "sumMs": pytest.approx(sum(milliseconds)),
        "buckets": [list(bucket) for bucket in buckets.items()],
    }


async def talk(turn: Turn) -> None:
    """Think for 2 s, then say three words in 0.3 s, and a second message."""
    await trio.sleep(2)
    for _ in range(3):
        await turn.write("word ")
        await trio.sleep(0.15)
    turn.complete_message()
    await trio.sleep(4)
    await turn.write("more")


async def for_ever(turn: Turn) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.7)


async def test_times_of_a_turn_are_counted(autojump_clock: MockClock) -> None:
    """The first text, the gaps between pieces of one message but not those between two, the whole."""
    async with open_test_server(talk) as test:
        session = await test.client.create_session()
        await test.client.send_message(session.id, "hi")
        stats = await test.client.stats()
        assert stats["firstTokenTimes"] == histogram(2000)
        assert stats["tokenGapTimes"] == histogram(150, 150)
        assert stats["turnTimes"] == histogram(6450)
        assert stats["cancelTimes"] == histogram()


async def test_request_is_timed_until_its_answer(autojump_clock: MockClock) -> None:
    """Those that wait with the wait, those answered at once with next to nothing."""
    async with open_test_server(talk) as test:
        session = await test.client.create_session()
        await test.client.send_message(session.id, "hi")
        times = (await test.client.stats())["requestTimes"]
        assert times["session.create"] == histogram(0)
        assert times["message.send"] == histogram(6450)
        assert times["server.stats"] == histogram(), "this one is not answered yet"


async def test_failures_are_counted_by_method_and_code(autojump_clock: MockClock) -> None:
    """Also of methods that there are not, all together: a peer makes no series of its own."""
    async with open_test_server(talk) as test, test.open_peer() as peer:
        await peer.refused("SESSION_NOT_FOUND", "session.get", sessionId="ses_none")
        await peer.refused("INVALID_REQUEST", "session.get")
        for name in ("nonsense", "more.nonsense"):
            await peer.refused("METHOD_NOT_FOUND", name)
        methods = test.server.counters.methods
        assert methods["session.get"].failed == {"SESSION_NOT_FOUND": 1, "INVALID_REQUEST": 1}
        assert methods["unknown"].failed == {"METHOD_NOT_FOUND": 2}
        assert {"nonsense", "more.nonsense"}.isdisjoint(methods)
        for name in ("session.get", "unknown"):
            assert methods[name].seconds.count == methods[name].received == 2


async def test_rate_limit_hits_are_counted(autojump_clock: MockClock) -> None:
    limit = RateLimit(max_requests=1, window_seconds=60, burst=2)
    async with open_test_server(talk, rate_limit=limit) as test, test.open_peer() as peer:
        for _ in range(2):
            await peer.call("server.health")
        await peer.refused("RATE_LIMITED", "server.health")
        assert test.server.counters.methods["server.health"].failed == {"RATE_LIMITED": 1}
        assert (await test.client.stats())["rateLimited"] == 1


async def test_cancel_is_timed_until_the_turn_has_ended(autojump_clock: MockClock) -> None:
    async with open_test_server(for_ever) as test:
        session = await test.client.create_session()
        async with test.client.stream_message(session.id, "hi"):
            await trio.sleep(1)
            await test.client.cancel_turn(session.id)
        assert (await test.client.stats())["cancelTimes"] == histogram(700)


class _PausingLog(SessionLog):
    term = 1

    def __init__(self, inner: SessionLog) -> None:
        self._inner = inner

    async def append(self, batch: Sequence[Entry], summary: Summary) -> None:
        await trio.sleep(0.02)
        await self._inner.append(batch, summary)


class PausingStore(MemoryStore):
    """Its appends take 20 ms."""

    def create(self, session_id: str) -> SessionLog:
        return _PausingLog(super().create(session_id))


async def test_appends_are_timed_where_the_store_waits(autojump_clock: MockClock) -> None:
    async with open_test_server(talk, store=PausingStore()) as test:
        await test.client.create_session()
        assert (await test.client.stats())["appendTimes"] == histogram(20)
    async with open_test_server(talk) as test:
        await test.client.create_session()
        assert (await test.client.stats())["appendTimes"] == histogram(), "memory never waits"


async def test_lag_of_the_event_loop_is_seen_by_what_is_due(mock_clock: MockClock) -> None:
    """A callback that was due 0.4 s ago, since nothing else ran, was 0.4 s late."""
    async with open_test_server(talk) as test:
        lag = test.server.counters.loop_lag_seconds
        counted = lag.count
        called = trio.Event()
        test.server.timers.at(trio.current_time() + 0.1, called.set)
        mock_clock.jump(0.5)
        await called.wait()
        assert lag.count == counted + 1
        assert lag.sum == pytest.approx(0.4)


async def test_what_waits_is_counted_now(autojump_clock: MockClock) -> None:
    """Gauges: inputs and asks that are open, subscriptions that are behind, unsent bytes."""

    async def ask(turn: Turn) -> None:
        await turn.write("text " * 50_000)
        await turn.ask("Well?")

    async with (
        open_test_server(ask) as test,
        test.open_peer() as reader,
        test.open_peer() as sender,
    ):
        sid = (await reader.call("session.create"))["id"]
        await reader.call("session.subscribe", sessionId=sid)
        gauges = test.server.gauges()
        assert (gauges["subscriptions"], gauges["subscriptionsBehind"]) == (1, 0)
        with reader.not_reading():
            for content in ("first", "second"):
                await sender.call("message.send", sessionId=sid, content=content)
            await trio.sleep(1)
            stats = await test.client.stats()
            assert stats["subscriptionsBehind"] == 1
            assert stats["outboxBytes"] > 64 * 1024
            assert (stats["queuedInputs"], stats["openAsks"]) == (1, 1)
        await reader.expect_event(sid, "ask.opened")
        stats = await test.client.stats()
        assert (stats["subscriptionsBehind"], stats["subscriptions"]) == (0, 1)


def test_models_are_counted_apart_up_to_a_number() -> None:
    """Whoever names models may name any number: the last one apart, and the first that is not."""
    stats, usage = Stats(), TokenUsage(input_tokens=3, output_tokens=2)
    for number in range(MAX_MODELS + 2):
        stats.count_tokens(f"model-{number}", usage)
    stats.count_tokens("model-0", usage)
    counted = stats.to_wire()["tokensByModel"]
    assert len(counted) == MAX_MODELS + 1
    assert counted["model-0"] == {"inputTokens": 6, "outputTokens": 4}
    assert f"model-{MAX_MODELS - 1}" in counted
    assert f"model-{MAX_MODELS}" not in counted
    assert counted["other"] == {"inputTokens": 6, "outputTokens": 4}


@pytest.mark.parametrize("name", ["", "m" * (MAX_MODEL + 1), "line\nfeed", "half\ud800"])
def test_model_whose_name_is_none_is_counted_as_other(name: str) -> None:
    stats = Stats()
    stats.count_tokens("m" * MAX_MODEL, TokenUsage())
    stats.count_tokens(name, TokenUsage(input_tokens=1))
    assert set(stats.tokens_by_model) == {"m" * MAX_MODEL, "other"}


async def test_tokens_are_counted_by_the_model_that_an_agent_names(
    autojump_clock: MockClock,
) -> None:
    async def spend(turn: Turn) -> None:
        await turn.write("hi")
        turn.report_usage(input_tokens=10, output_tokens=1, model="large")
        turn.report_usage(input_tokens=20, output_tokens=2, model="small")
        turn.report_usage(input_tokens=30, output_tokens=3, model="large")
        turn.report_usage(input_tokens=40)

    async with open_test_server(spend) as test:
        session = await test.client.create_session()
        await test.client.send_message(session.id, "hi")
        assert (await test.client.stats())["tokensByModel"] == {
            "large": {"inputTokens": 40, "outputTokens": 4},
            "small": {"inputTokens": 20, "outputTokens": 2},
        }


async def test_tokens_of_a_summary_are_its_models(autojump_clock: MockClock) -> None:
    """One that a client asks for, between two turns."""

    class Summarizing:
        async def __call__(self, turn: Turn) -> None:
            await turn.write("hi")

        async def summarize(self, messages: Excerpt) -> str:
            await trio.lowlevel.checkpoint()
            messages.report_usage(input_tokens=7, output_tokens=2, model="small")
            return "short"

    async with open_test_server(Summarizing()) as test:
        session = await test.client.create_session()
        await test.client.send_message(session.id, "hi")
        await test.client.compact_session(session.id, keep_last=0)
        stats = await test.client.stats()
    assert stats["tokensByModel"] == {"small": {"inputTokens": 7, "outputTokens": 2}}
    assert stats["inputTokens"] == 7


async def test_lag_of_a_quiet_server_is_known_by_its_probe(autojump_clock: MockClock) -> None:
    async with open_test_server(talk) as test:
        test.server.probe_lag(2)
        lag = test.server.counters.loop_lag_seconds
        counted = lag.count
        await trio.sleep(9)
        assert lag.count >= counted + 4
        assert lag.sum == pytest.approx(0)
