"""``python -m benchmarks engine URL``: what turns cost a server and the engine that its sessions are in.

One server, as ``trialogue serve`` starts it, and clients that follow what is said. Its CPU time is
the operating system's, the engine's is its own account of the thread that carries out commands,
since that one thread is what an engine can run out of. `_model.py` reckons with the results.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

import attrs
import trio

import trialogue
from trialogue.client import Client

from ._process import MeasuredProcess, describe_machine, open_server, write_result
from ._scratch import Account, open_account, run_in_engine

__all__ = ["add_arguments", "keep", "run", "serve_arguments"]

_RESULTS: Final = Path(__file__).resolve().parent / "results" / "engine.json"
_SESSIONS: Final = 200
#: Of a server, and of its engine.
_CPU: Final = ("server_us", "engine_us")
_CONNECTIONS: Final = 8
_ROUNDS: Final = 3
_SEED: Final = 7


@attrs.frozen
class _Mix:
    """Turns that begin at random times, as those of independent people do.

    Turns in step cost two thirds of that: what comes together is written and sent together.
    """

    text: str
    text_seconds: float
    rate: float
    turns: int

    @classmethod
    def speaking(cls, seconds: int, rate: float, turns: int) -> _Mix:
        """Say 20 tokens a second, as a model does."""
        return cls(f"speak 50 {20 * seconds}", seconds, rate, turns)


#: One word: what every turn costs.
_SHORT: Final = _Mix("burst 1", 0.0, 20.0, 200)
#: What a second of text costs beside that.
_LONG: Final = _Mix.speaking(5, 10.0, 150)
#: Loads of sessions a second, each with a turn: they cost more than that.
_LOADS: Final = 8.0
#: Others, which the two have to foretell.
_CHECK: Final = _Mix.speaking(2, 15.0, 150)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what may be asked for."""
    parser.add_argument("url", help="the engine, e.g. redis://127.0.0.1:6379/0")
    parser.add_argument("--sessions", type=int, default=_SESSIONS, help=f"[{_SESSIONS}]")
    parser.add_argument("--quick", action="store_true", help="one round; nothing is kept")
    parser.add_argument("--out", type=Path, help="where the results go [benchmarks/results/]")


def run(arguments: argparse.Namespace) -> int:
    """Measure; print the figures, and keep them."""
    rounds = 1 if arguments.quick else _ROUNDS

    async def measure(store: str) -> dict[str, dict[str, float]]:
        return await _Bench(store, arguments.sessions, rounds).measure()

    results = run_in_engine(arguments.url, measure)
    keep("engine", results, arguments.out or (None if arguments.quick else _RESULTS))
    return 0


def keep(kind: str, results: Mapping[str, Mapping[str, float]], out: Path | None) -> None:
    """Print figures by what they are of, and keep them, where there is a place for them."""
    for name, figures in results.items():
        print(name)
        for what, value in figures.items():
            print(f"  {what:28} {value:12,.1f}")
    if out is not None:
        write_result(out, kind, describe_machine(["coredis"]), results)
        print(f"\nkept in {out}")


@attrs.frozen
class _Reading:
    """What has been used until now."""

    server_us: float
    engine_us: float
    engine_calls: float
    engine_bytes: float
    resident_bytes: float

    def until(self, later: _Reading, count: int) -> dict[str, float]:
        """Say what was used in between, for each of so many."""
        before, after = attrs.asdict(self), attrs.asdict(later)
        return {name: (after[name] - before[name]) / count for name in before}


class _Bench:
    def __init__(self, store: str, sessions: int, rounds: int) -> None:
        self._store = store
        self._count = sessions
        self._rounds = rounds
        self._account: Account
        self._server: MeasuredProcess
        self._clients: list[Client] = []
        self._sessions: list[str] = []

    async def measure(self) -> dict[str, dict[str, float]]:
        """Give what each thing costs: a session, a turn, a second of text, a load."""
        async with open_account(self._store) as self._account:
            async with self._serving():
                worker = {"resident_bytes": float(self._server.resident_bytes())}
                session = await self._measure_creation()
                await self._run(attrs.evolve(_SHORT, turns=self._count))  # which warms up
                fresh_bytes = self._server.resident_bytes()
                rounds = [
                    [await self._run(mix) for mix in (_SHORT, _LONG, _CHECK)]
                    for _ in range(self._rounds)
                ]
                grown = (self._server.resident_bytes() - fresh_bytes) / self._count
            async with self._serving():
                # Nobody has them in memory now.
                first = await self._run(attrs.evolve(_SHORT, turns=self._count, rate=_LOADS))
                for session_id in self._sessions:
                    await self._clients[0].delete_session(session_id)
        turn, long, check = (_median(list(figures)) for figures in zip(*rounds, strict=True))
        text = {name: (long[name] - turn[name]) / _LONG.text_seconds for name in _CPU}
        had = 1 + self._rounds * sum(mix.turns for mix in (_SHORT, _LONG, _CHECK)) / self._count
        return {
            "a worker": worker,
            "a session": session,
            "a turn": turn,
            "a second of text": text,
            # The tail of its log, and its messages.
            "its history": {"resident_bytes": grown, "turns": had},
            "a load": {name: first[name] - turn[name] for name in _CPU} | {"turns": had},
            "a turn of 2 s": {name: check[name] for name in _CPU}
            | {f"{name}_foretold": turn[name] + _CHECK.text_seconds * text[name] for name in _CPU},
        }

    @asynccontextmanager
    async def _serving(self) -> AsyncGenerator[None]:
        """Run a server, and have clients connected to it."""
        with open_server(*serve_arguments(self._store)) as self._server:
            async with AsyncExitStack() as stack:
                self._clients = [
                    await stack.enter_async_context(trialogue.connect(self._server.endpoints[0]))
                    for _ in range(_CONNECTIONS)
                ]
                yield

    async def _read(self) -> _Reading:
        info = await self._account()
        return _Reading(
            server_us=1e6 * self._server.cpu_seconds(),
            engine_us=info["main_thread_us"],
            engine_calls=info["total_commands_processed"],
            engine_bytes=info["used_memory"],
            resident_bytes=self._server.resident_bytes(),
        )

    async def _measure_creation(self) -> dict[str, float]:
        before = await self._read()

        async def create(client: Client, count: int) -> None:
            for _ in range(count):
                self._sessions.append((await client.create_session()).id)

        async with trio.open_nursery() as nursery:
            for number, client in enumerate(self._clients):
                share = len(range(number, self._count, len(self._clients)))
                nursery.start_soon(create, client, share)
        return before.until(await self._read(), self._count)

    async def _run(self, mix: _Mix) -> dict[str, float]:
        """Run a mix, spread over the sessions, and give what one of its turns has cost."""
        random = Random(_SEED)
        before = await self._read()
        async with trio.open_nursery() as nursery:
            for number in range(mix.turns):
                client = self._clients[number % len(self._clients)]
                session_id = self._sessions[number % len(self._sessions)]
                nursery.start_soon(_talk, client, session_id, mix.text)
                await trio.sleep(random.expovariate(mix.rate))
        return before.until(await self._read(), mix.turns)


def serve_arguments(store: str) -> tuple[str, ...]:
    """Give what ``trialogue serve`` is told, with limits that stop nobody."""
    return (
        *("bench=trialogue.benchmarks._agents:agent", "--store", store),
        *("--transport", "tcp://127.0.0.1:0", "--rate-limit", "off", "--log-level", "error"),
    )


async def _talk(client: Client, session_id: str, text: str) -> None:
    async with client.stream_message(session_id, text) as chunks:
        async for _ in chunks:
            pass


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(figures[name] for figures in rounds) for name in rounds[0]}
