"""``trialogue bench``: a load finds what a server does wrong, and what it takes too long for."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from trialogue.benchmarks._load_record import Recorder, Report
from trialogue.benchmarks._load_result import LoadResult
from trialogue.benchmarks._load_run import LoadError, run_load
from trialogue.benchmarks._load_server import (
    DEFAULT_AGENT,
    find_pids,
    open_own_server,
    sample_server,
)
from trialogue.benchmarks._load_settings import SCENARIOS, LoadSettings, ScenarioName
from trialogue.benchmarks._load_watch import Watch

# -- what was lost, what came twice --------------------------------------------------------------


@pytest.mark.parametrize(
    ("seqs", "counts"),
    [
        ((6, 7, 8), {}),
        ((6, 8), {"eventsLost": 1}),
        ((9,), {"eventsLost": 3}),
        ((6, 6, 7), {"eventsDoubled": 1}),
        ((5,), {"eventsDoubled": 1}),
    ],
)
def test_event_is_lost_or_doubled_by_its_number(
    seqs: tuple[int, ...], counts: dict[str, int]
) -> None:
    noted: Counter[str] = Counter()
    watch = Watch("1-5", noted)
    for seq in seqs:
        watch.on_durable(f"2-{seq}")
    assert noted == counts


@pytest.mark.parametrize(
    ("pieces", "content", "counts"),
    [
        (((0, "añb"), (3, "c")), "añbc", {}),
        (((0, "a"), (1, "bc")), "abcdef", {}),  # the rest came with the whole, as it may
        (((0, "a"), (3, "d")), "abcd", {"textLost": 2}),
        (((0, "abc"), (1, "bcd")), "abcd", {"textDoubled": 2}),
        (((0, "abc"),), "ab", {"textDoubled": 1}),
    ],
)
def test_text_is_lost_or_doubled_by_its_offset(
    pieces: tuple[tuple[int, str], ...], content: str, counts: dict[str, int]
) -> None:
    noted: Counter[str] = Counter()
    watch = Watch("1-1", noted)
    for offset, delta in pieces:
        watch.on_delta("m", offset, delta)
    watch.on_completed("m", content)
    assert noted == counts


def test_what_never_came_is_seen_at_the_end_and_counted_once() -> None:
    noted: Counter[str] = Counter()
    watch = Watch("1-5", noted)
    watch.on_position("1-5")
    assert not noted
    watch.on_position("1-7")
    watch.on_position("1-7")
    assert noted == {"eventsLost": 2}


# -- a server that is not ours, and not good -----------------------------------------------------

Fault = Callable[[int, list[dict[str, Any]]], list[dict[str, Any]]]


class FakeServer:
    """Speaks the protocol over TCP as far as a load needs it, with a fault."""

    def __init__(self, fault: Fault, stall_at: float, refuses: str, delete_seconds: float) -> None:
        self._fault, self._refuses = fault, refuses
        self._delete_seconds = delete_seconds
        self._stall_at = stall_at
        self._began_at: float | None = None
        self._seqs: dict[str, int] = {}
        self._turns = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        rest = b""
        # Broken, if the load is over and has not waited for what is slow.
        with suppress(trio.BrokenResourceError):
            async for some in stream:
                *lines, rest = (rest + some).split(b"\n")
                for line in lines:
                    envelope = json.loads(line)
                    for answer in self._answer(envelope["type"], envelope["payload"]):
                        await stream.send_all(json.dumps(answer).encode() + b"\n")

    def _answer(self, kind: str, payload: dict[str, Any]) -> list[dict[str, Any]]:
        if kind != "request":
            return [{"version": "1.0", "type": "pong", "payload": payload}]
        params = payload["params"]
        session_id = params.get("sessionId", f"s{len(self._seqs)}")
        self._seqs.setdefault(session_id, 1)
        events: list[dict[str, Any]] = []
        data: dict[str, Any] = {"id": session_id}
        match payload["method"]:
            case "session.subscribe":
                events = [self._event(session_id, "sync", position=self._position(session_id))]
            case "message.stream":
                self._stall()
                if self._refuses:
                    error = {"code": self._refuses, "message": "no", "retryable": True}
                    return [self._response(payload["id"], success=False, error=error)]
                events, data = self._play_turn(session_id)
            case "session.delete":
                time.sleep(self._delete_seconds)
            case _:
                pass
        data["position"] = self._position(session_id)
        return [self._response(payload["id"], success=True, data=data), *events]

    def _play_turn(self, session_id: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        self._turns += 1
        ids = {"turnId": f"t{self._turns}", "messageId": f"m{self._turns}"}
        message = {"id": ids["messageId"], "content": "one two"}
        events = [
            self._durable(session_id, "turn.started", ids),
            self._durable(session_id, "message.started", ids),
            self._event(session_id, "message.delta", **ids, offset=0, delta="one"),
            self._event(session_id, "message.delta", **ids, offset=3, delta=" two"),
            self._durable(session_id, "message.completed", {"message": message}),
            self._durable(session_id, "turn.ended", {**ids, "outcome": "completed"}),
        ]
        return self._fault(self._turns, events), ids

    def _stall(self) -> None:
        """Hold up everything, once, as a bug or a collection of garbage would."""
        self._began_at = self._began_at or time.monotonic()
        if self._stall_at and time.monotonic() > self._began_at + self._stall_at:
            self._stall_at = 0
            time.sleep(0.3)

    def _position(self, session_id: str) -> str:
        return f"1-{self._seqs[session_id]}"

    def _durable(self, session_id: str, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        self._seqs[session_id] += 1
        event = self._event(session_id, kind, **data)
        event["payload"]["position"] = self._position(session_id)
        return event

    @staticmethod
    def _event(session_id: str, kind: str, **data: Any) -> dict[str, Any]:
        payload = {"sessionId": session_id, "type": kind, "data": data}
        return {"version": "1.0", "type": "event", "payload": payload}

    @staticmethod
    def _response(request_id: int, **said: Any) -> dict[str, Any]:
        return {"version": "1.0", "type": "response", "payload": {"id": request_id, **said}}


@asynccontextmanager
async def open_fake_server(
    fault: Fault = lambda _, events: events,
    *,
    stall_at: float = 0,
    refuses: str = "",
    delete_seconds: float = 0,
) -> AsyncGenerator[str]:
    server = FakeServer(fault, stall_at, refuses, delete_seconds)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        yield f"tcp://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def load(url: str, **settings: Any) -> LoadResult:
    told: dict[str, Any] = {"sessions": 4, "rate": 100.0, "duration_seconds": 1.0, **settings}
    with trio.fail_after(30):
        return await run_load(LoadSettings(url=url, **told), stop=trio.Event())


async def test_server_without_fault_has_none_found() -> None:
    async with open_fake_server() as url:
        result = await load(url)
    assert result.problems(0) == []
    assert result.counts["sent"] == result.counts["done"] > 50
    assert result.counts["deltas"] == 2 * result.counts["done"]


async def test_stall_shows_in_the_latencies_of_all_who_were_due_meanwhile() -> None:
    """A generator that waits for answers asks once during a stall, and finds a good p99."""
    async with open_fake_server(stall_at=0.3) as url:
        result = await load(url)
    found = result.metric("latency")
    assert found is not None
    assert found["p99"] > 250
    # As many as were due in those 300 ms, each less late than the one before: not one of them.
    assert found["p90"] > 100
    assert result.counts["sent"] == result.counts["done"]


def without(kind: str) -> Fault:
    def drop(turn: int, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [each for each in events if turn != 3 or each["payload"]["type"] != kind]

    return drop


def twice(kind: str) -> Fault:
    def double(turn: int, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        doubled = [each for each in events if turn == 3 and each["payload"]["type"] == kind]
        at = events.index(doubled[-1]) + 1 if doubled else 0
        return [*events[:at], *doubled[-1:], *events[at:]]

    return double


def without_first_piece(turn: int, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*events[:2], *events[3:]] if turn == 3 else events


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (without("message.started"), "1 events lost"),
        (twice("message.completed"), "1 events doubled"),
        (without_first_piece, "3 characters lost"),
        (twice("message.delta"), "4 characters doubled"),
    ],
)
async def test_what_a_faulty_server_loses_or_doubles_is_found(fault: Fault, problem: str) -> None:
    async with open_fake_server(fault) as url:
        result = await load(url, duration_seconds=0.5)
    assert result.problems(1) == [problem]


async def test_turn_that_does_not_end_has_failed_and_its_event_is_lost() -> None:
    async with open_fake_server(without("turn.ended")) as url:
        result = await load(url, sessions=1, rate=20.0, duration_seconds=0.5, settle_seconds=0.5)
    assert result.counts["eventsLost"] == 1
    assert result.errors == {"unanswered": 1}
    assert result.counts["failed"] == 1


async def test_refusal_is_counted_by_its_code_and_a_rate_limit_is_named() -> None:
    async with open_fake_server(refuses="RATE_LIMITED") as url:
        result = await load(url, duration_seconds=0.5)
    assert result.errors["RATE_LIMITED"] == result.counts["failed"] == result.counts["sent"] > 0
    assert result.problems(0.5) == ["100.0% of what was sent failed"]
    assert "rate limit" in result.notes()[0]


async def test_sessions_that_are_slow_to_delete_do_not_spoil_what_was_measured() -> None:
    """It takes longer than from one report to the next."""
    async with open_fake_server(delete_seconds=0.7) as url:
        result = await load(url, sessions=2, duration_seconds=0.2)
    assert result.problems(0) == []


async def test_no_server_is_an_error_of_its_own() -> None:
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(LoadError, match="no connection") as caught:
            await load(f"tcp://127.0.0.1:{sock.getsockname()[1]}")
    assert caught.value.is_unreachable


async def test_stopped_load_gives_what_was_measured_so_far() -> None:
    stop = trio.Event()

    def on_change(result: LoadResult) -> None:
        if result.counts["done"]:
            stop.set()

    async with open_fake_server() as url:
        settings = LoadSettings(url=url, sessions=2, duration_seconds=600)
        with trio.fail_after(20):
            result = await run_load(settings, stop=stop, on_change=on_change)
    assert result.is_stopped
    assert result.metric("latency") is not None
    assert result.problems(0) == []


# -- our own server ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours() -> Generator[tuple[str, list[int]]]:
    opening = open_own_server("ws", agent=DEFAULT_AGENT, store="memory", sessions=50)
    with opening as (url, pids):
        yield url, pids


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_each_scenario_finds_nothing_wrong_with_our_server(
    ours: tuple[str, list[int]], scenario: ScenarioName
) -> None:
    url, _ = ours
    said = {"chat": "speak 5 10", "echo": "burst 2"}
    result = await load(url, scenario=scenario, sessions=10, rate=30.0, processes=2, **said)
    assert result.problems(0) == []
    assert result.counts["sent"] == result.counts["done"] > 5
    assert (result.counts["cuts"] > 0) == (scenario in {"reconnect-storm", "mixed"})
    assert result.counts["cuts"] == result.counts["reconnections"]
    latency = result.metric("latency")
    assert latency is not None
    if scenario == "fanout":
        # Everybody has every message of its process's session, once.
        assert result.counts["delivered"] == latency["count"] == 5 * result.counts["done"]
    else:
        assert latency["count"] == result.counts["done"]
    if scenario in {"chat", "reconnect-storm", "slow-readers"}:
        first = result.metric("first")
        assert first is not None
        assert first["count"] == result.counts["done"]
        assert latency["p50"] >= 50
    assert result.metric("loop") is not None


@pytest.mark.slow
def test_local_server_is_found_by_its_socket_and_read(ours: tuple[str, list[int]]) -> None:
    url, pids = ours
    assert find_pids(url) == pids
    sample = sample_server(pids, 0)
    assert sample is not None
    assert sample.cpu_seconds > 0
    assert sample.resident_bytes > 10_000_000
    port = url.rpartition(":")[2]
    assert find_pids(f"ws://127.0.0.2:{port}") == []
    assert find_pids("ws://127.0.0.1:1") == []


# -- what is told --------------------------------------------------------------------------------


def test_processes_share_a_load_and_leave_nothing() -> None:
    whole = LoadSettings(url="ws://x", sessions=10, rate=70.0, processes=3)
    shares = [whole.share(number) for number in range(3)]
    assert [share.sessions for share in shares] == [4, 3, 3]
    assert sum(share.rate for share in shares) == pytest.approx(70)
    assert len({share.seed for share in shares}) == 3


def test_values_are_told_to_a_thousandth_and_merged() -> None:
    result = LoadResult(LoadSettings(url="ws://x", duration_seconds=1), 0.5)
    for number, seconds in enumerate((0.001, 0.123456, 2.0)):
        recorder = Recorder()
        recorder.values["latency"] += [seconds] * 10
        result.add(number, recorder.take(at=0.5, cpu_seconds=0.1))
    found = result.metric("latency")
    assert found is not None
    assert found["count"] == 30
    assert found["p50"] == pytest.approx(123.456, rel=0.002)
    assert found["max"] == pytest.approx(2000, rel=0.002)
    assert result.slices[0.5].quantile("latency", 0.99) == pytest.approx(2e6, rel=0.002)


@pytest.mark.parametrize(("cpu", "is_bound"), [(0.89, False), (0.9, True)])
def test_generator_that_is_the_bottleneck_says_so(cpu: float, is_bound: bool) -> None:
    result = LoadResult(LoadSettings(url="ws://x", duration_seconds=1), 0.5)
    result.add(0, Report(kind="ready", cpu_seconds=5.0))
    result.add(0, Report(at=1.0, cpu_seconds=5.0 + cpu))
    assert any("bottleneck" in note for note in result.notes()) == is_bound


@pytest.mark.parametrize(("failed", "is_bad"), [(10, False), (11, True)])
def test_share_that_may_fail_is_allowed_and_no_more(failed: int, is_bad: bool) -> None:
    result = LoadResult(LoadSettings(url="ws://x"), 0.5)
    result.add(0, Report(at=1.0, counts={"sent": 1000, "failed": failed}))
    assert bool(result.problems(0.01)) == is_bad


def test_settings_are_bounded() -> None:
    settings = LoadSettings(url="ws://x")
    for wrong in ({"sessions": 0}, {"rate": 0.0}, {"duration_seconds": float("inf")}):
        with pytest.raises(ValueError, match="must be"):
            attrs.evolve(settings, **wrong)
