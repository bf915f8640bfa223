"""``python -m benchmarks micro``: what each part costs by itself, in this process, without sockets.

Nanoseconds of this thread's CPU time an operation, the median of the rounds with their spread,
and instructions where there is a counter for them.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from trialogue.core import RateLimit, Server, Settings, codec, open_server
from trialogue.core._feed import make_event
from trialogue.core._frame import Frame
from trialogue.core._protocol import RequestEnvelope, decode_envelope, make_response
from trialogue.core.abc import CloseReason, Connection, Link, PeerInfo, Turn
from trialogue.core.events import MessageDelta
from trialogue.core.methods import SessionGet

from ._measure import spread
from ._measure_sockets import make_request
from ._micro_counter import open_counter
from ._process import describe_machine, pin_apart, write_result

__all__ = ["add_arguments", "run"]

_RESULTS: Final = Path(__file__).resolve().parent / "results" / "micro.json"
#: Of a round; what one operation costs is from 0.1 to 10,000 µs.
_ROUND_SECONDS: Final = 0.1
_ROUNDS: Final = 7
_CURSORS: Final = (1, 100, 1000)
_TOKEN: Final = "token "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what may be asked for."""
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose name has this")
    parser.add_argument("--quick", action="store_true", help="short rounds, three of them")
    parser.add_argument("--out", type=Path, help="where the results go [benchmarks/results/]")


def run(arguments: argparse.Namespace) -> int:
    """Measure the parts; print a table, and keep the figures."""
    pin_apart()
    bench = Bench(
        seconds=_ROUND_SECONDS / (10 if arguments.quick else 1),
        rounds=3 if arguments.quick else _ROUNDS,
        only=arguments.only,
    )
    if not bench.has_counter:
        print("no instruction counts: this machine or its kernel has no counter for us")
    print(f"{'what':44} {'ns':>10} {'least':>10} {'most':>10} {'instructions':>14}")
    _measure_codec(bench)
    trio.run(_measure_server, bench)
    out = arguments.out or (None if arguments.quick or arguments.only else _RESULTS)
    if out is not None:
        write_result(out, "micro", describe_machine(), bench.results)
        print(f"\nkept in {out}")
    return 0


class Bench:
    """Times operations, prints and keeps what they cost."""

    def __init__(self, *, seconds: float, rounds: int, only: str = "") -> None:
        self._seconds, self._rounds, self._only = seconds, rounds, only
        self._counter = open_counter()
        self.results: dict[str, Any] = {}

    @property
    def has_counter(self) -> bool:
        """Whether instructions can be counted."""
        return self._counter is not None

    def measure(self, name: str, operation: Callable[[], object], *, each: int = 1) -> None:
        """Time an operation that is complete when it returns; ``each`` counts as one."""
        if self._only not in name:
            return

        def loop(count: int) -> None:
            for _ in range(count):
                operation()

        self.measure_loop(name, loop, each=each)

    def measure_loop(self, name: str, loop: Callable[[int], object], *, each: int = 1) -> None:
        """Time something that is told how often to do it."""
        if self._only not in name:
            return
        loop(10)
        start = time.perf_counter()
        loop(10)
        count = max(10, round(10 * self._seconds / (time.perf_counter() - start)))
        nanoseconds: list[float] = []
        instructions: list[float] = []
        for _ in range(self._rounds):
            gc.collect()
            counted = self._counter.read() if self._counter is not None else 0
            start_ns = time.thread_time_ns()
            loop(count)
            nanoseconds.append((time.thread_time_ns() - start_ns) / count / each)
            if self._counter is not None:
                instructions.append((self._counter.read() - counted) / count / each)
        result: dict[str, Any] = {"ns": spread(nanoseconds, 1)}
        if instructions:
            result["instructions"] = spread(instructions, 0)
        self.results[name] = result
        ns = result["ns"]
        said = f"{result['instructions']['median']:14,.0f}" if instructions else f"{'–':>14}"
        print(
            f"{name:44} {ns['median']:10,.0f} {ns['min']:10,.0f} {ns['max']:10,.0f} {said}",
            flush=True,
        )


# -- codec -----------------------------------------------------------------------------------


def _measure_codec(bench: Bench) -> None:
    request = make_request("r1", "session.get", {"sessionId": "ses_" + 32 * "0"})
    envelope = decode_envelope(request)
    assert isinstance(envelope, RequestEnvelope)
    params, read_params = envelope.params, codec.make_reader(SessionGet)
    bench.measure("decode: envelope of session.get", lambda: decode_envelope(request))
    bench.measure("decode: its params", lambda: read_params(params))
    delta = MessageDelta(
        message_id="msg_" + 32 * "0", turn_id="trn_" + 32 * "0", offset=120, delta=_TOKEN
    )
    session_id = "ses_" + 32 * "0"
    bench.measure("encode: event of message.delta", lambda: make_event(session_id, delta))


# -- the whole core, without a transport -----------------------------------------------------


class NullConnection(Connection):
    """Takes everything, and does nothing with it."""

    def __init__(self) -> None:
        self.posted = 0
        self.answer = b""

    @property
    def peer(self) -> PeerInfo:
        return PeerInfo(transport="null", address="")

    @property
    def outbound_bytes(self) -> int:
        return 0

    def post(self, frame: Frame) -> None:
        self.posted += 1
        if frame.event is None:
            self.answer = frame.payload

    def call_when_drained(self, callback: Callable[[], None]) -> None:
        callback()

    async def wait_drained(self) -> None:
        await trio.lowlevel.checkpoint()

    def close_soon(self, reason: CloseReason) -> None:
        """There is nothing to wait for; whoever made it closes its link."""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class _Agent:
    """Hands its turn out, to be measured from outside, and ends when told."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.end = trio.Event()

    async def __call__(self, turn: Turn) -> None:
        self.turns.append(turn)
        await self.end.wait()


async def _measure_server(bench: Bench) -> None:
    # On, and above what a loop in memory can do.
    settings = Settings(
        rate_limit=RateLimit(max_requests=1e12, window_seconds=1, burst=1e12, reserve=1e12),
        max_message_bytes=2**40,
        max_send_frame_bytes=2**41,
        max_queued_inputs=10,
    )
    agent = _Agent()
    async with open_server(agent, settings=settings) as server:
        _measure_dispatch(bench, server)
        for count in _CURSORS:
            await _measure_turn(bench, server, agent, count)
        agent.end.set()
        for link in list(server.links):
            link.close()
            server.release()


@attrs.define
class _Attached:
    connection: NullConnection
    link: Link

    @classmethod
    def to(cls, server: Server) -> _Attached:
        connection = NullConnection()
        server.reserve()
        return cls(connection, server.link(connection))

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        self.link.feed(make_request("r1", method, params))
        answer = codec.decode_json(self.connection.answer)["payload"]
        if not answer.get("success"):
            raise RuntimeError(f"{method}: {answer}")
        return answer["data"]


def _measure_dispatch(bench: Bench, server: Server) -> None:
    client = _Attached.to(server)
    session_id = client.ask("session.create", {})["id"]
    get = make_request("r1", "session.get", {"sessionId": session_id})
    ping = b'{"version":"1.0","type":"ping","payload":{"nonce":"png_1"}}'
    session = server.host.sessions[session_id].feed.state.session()
    encode, unstructure = codec.encode_json, codec.unstructure
    bench.measure(
        "encode: response of session.get",
        lambda: make_response("r1", encode(unstructure(session))),
    )
    bench.measure("dispatch: session.get, frame to frame", lambda: client.link.feed(get))
    bench.measure("dispatch: ping, frame to frame", lambda: client.link.feed(ping))
    before = client.connection.posted
    client.link.feed(get)
    if client.connection.posted != before + 1 or b'"success":true' not in client.connection.answer:
        raise RuntimeError(f"not answered: {client.connection.answer!r}")


async def _measure_turn(bench: Bench, server: Server, agent: _Agent, cursors: int) -> None:
    """Measure what an agent's writing costs, with so many who follow."""
    clients = [_Attached.to(server) for _ in range(cursors)]
    session_id = clients[0].ask("session.create", {})["id"]
    for client in clients:
        client.ask("session.subscribe", {"sessionId": session_id})
    clients[0].link.feed(
        make_request("r2", "message.send", {"sessionId": session_id, "content": "go"})
    )
    with trio.fail_after(5):
        while not agent.turns:  # noqa: ASYNC110 - the agent is not ours to be told by
            await trio.sleep(0.001)
    turn = agent.turns.pop()
    flush = server.flusher.flush
    frame = make_event(session_id, MessageDelta(message_id="m", turn_id="t", offset=0, delta=""))
    journal = server.host.sessions[session_id].journal
    last = clients[-1].connection
    before = last.posted
    bench.measure(
        f"fan-out: an event to {cursors:,} cursors, each",
        lambda: journal.publish_transient(frame),
        each=cursors,
    )
    if cursors == 1:

        def write() -> None:
            turn.write_nowait(_TOKEN)

        def write_and_flush() -> None:
            turn.write_nowait(_TOKEN)
            flush()

        bench.measure("delta: write, flushed to 1 cursor", write_and_flush)
        bench.measure("delta: write, one of many", write)
        flush()
        turn.complete_message()
        bench.measure(
            "log: stage, append and publish an event",
            lambda: turn.emit("_tick", {"number": 1}, durable=True),
        )
    flush()
    journal.publish_transient(frame)
    if last.posted <= before:
        raise RuntimeError("nothing came to the last of those who follow")
