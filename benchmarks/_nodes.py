"""``python -m benchmarks nodes URL``: several servers on one engine: what they bear, what a way between costs.

How many turns a second the workers of ``trialogue serve --workers`` carry out, when each client asks
again as soon as it is answered; and, of two servers, what it costs to attach to a session, and to
give a command to it, at the one that has it and at the other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Final

import attrs
import trio

import trialogue
from trialogue.client import Client
from trialogue.core.events import Sync

from ._engine import keep, serve_arguments
from ._load_server import find_pids
from ._measure import quantile
from ._process import cpu_seconds, open_server
from ._scratch import Account, open_account, run_in_engine

__all__ = ["add_arguments", "run"]

_RESULTS: Final = Path(__file__).resolve().parent / "results" / "nodes.json"
_WORKERS: Final = (1, 2, 4)
#: Each has a connection of its own, which the kernel gives to one worker or another.
_CLIENTS: Final = 64
_WARM_SECONDS: Final = 2.0
_SECONDS: Final = 10.0
_ROUNDS: Final = 3
#: Of the two servers.
_SESSIONS: Final = 100
_TURNS: Final = 10
_COMMANDS: Final = 300
#: What a turn says: it costs what every turn costs, and hardly any text.
_INPUT: Final = "burst 1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what may be asked for."""
    parser.add_argument("url", help="the engine, e.g. redis://127.0.0.1:6379/0")
    parser.add_argument(
        "--workers",
        type=lambda text: tuple(map(int, text.split(","))),
        default=_WORKERS,
        help=f"how many, in turn [{','.join(map(str, _WORKERS))}]",
    )
    parser.add_argument("--quick", action="store_true", help="a short round; nothing is kept")
    parser.add_argument("--out", type=Path, help="where the results go [benchmarks/results/]")


def run(arguments: argparse.Namespace) -> int:
    """Measure; print the figures, and keep them."""
    rounds, shorter = (1, 10) if arguments.quick else (_ROUNDS, 1)

    async def measure(store: str) -> dict[str, dict[str, float]]:
        return await _measure(store, arguments.workers, rounds, shorter)

    results = run_in_engine(arguments.url, measure)
    keep("nodes", results, arguments.out or (None if arguments.quick else _RESULTS))
    return 0


async def _measure(
    store: str, workers: Sequence[int], rounds: int, shorter: int
) -> dict[str, dict[str, float]]:
    found: dict[str, list[dict[str, float]]] = {}
    async with open_account(store) as account:
        for _ in range(rounds):
            for count in workers:
                figures = await _Crowd(store, account, count).measure(_SECONDS / shorter)
                found.setdefault(f"{count} workers" if count > 1 else "1 worker", []).append(
                    figures
                )
            for name, figures in (await _Pair(store, account, shorter).measure()).items():
                found.setdefault(name, []).append(figures)
    return {
        name: {what: median(each[what] for each in figures) for what in figures[0]}
        for name, figures in found.items()
    }


@attrs.frozen
class _Used:
    """CPU time until now, in microseconds."""

    servers: tuple[float, ...]
    engine: float
    client: float

    @classmethod
    async def read(cls, account: Account, servers: Sequence[Sequence[int]]) -> _Used:
        """Read that of the engine, of servers by their processes, and of this process."""
        engine = (await account())["main_thread_us"]
        used = tuple(1e6 * sum(map(cpu_seconds, pids)) for pids in servers)
        return cls(used, engine, 1e6 * time.process_time())


class _Crowd:
    """Clients that ask again as soon as they are answered, of so many workers."""

    def __init__(self, store: str, account: Account, workers: int) -> None:
        self._store, self._account, self._workers = store, account, workers
        self._took: list[float] = []

    async def measure(self, seconds: float) -> dict[str, float]:
        """Give what was done in so many seconds, after some in which nothing is counted."""
        command = (*serve_arguments(self._store), "--workers", str(self._workers))
        with open_server(*command) as server:
            pids = find_pids(server.endpoints[0])
            async with trio.open_nursery() as nursery:
                for _ in range(_CLIENTS):
                    nursery.start_soon(self._ask, server.endpoints[0])
                await self._wait_answers(_CLIENTS)
                await trio.sleep(min(seconds, _WARM_SECONDS))
                before = await _Used.read(self._account, [pids])
                self._took.clear()
                began = time.perf_counter()
                await trio.sleep(seconds)
                await self._wait_answers(1)
                took, lasted = [*self._took], time.perf_counter() - began
                after = await _Used.read(self._account, [pids])
                nursery.cancel_scope.cancel(reason="it was measured")
        turns = len(took)
        return {
            "turns_per_second": turns / lasted,
            "p50_ms": 1e3 * quantile(took, 0.5),
            "p99_ms": 1e3 * quantile(took, 0.99),
            "workers_us": (after.servers[0] - before.servers[0]) / turns,
            "engine_us": (after.engine - before.engine) / turns,
            "clients_us": (after.client - before.client) / turns,
        }

    async def _wait_answers(self, count: int) -> None:
        while len(self._took) < count:  # noqa: ASYNC110 - a counter
            await trio.sleep(0.01)

    async def _ask(self, url: str) -> None:
        async with trialogue.connect(url) as client:
            session = await client.create_session()
            while True:
                began = time.perf_counter()
                await client.send_message(session.id, _INPUT)
                self._took.append(time.perf_counter() - began)


class _Pair:
    """Two servers. The first has all sessions."""

    def __init__(self, store: str, account: Account, shorter: int) -> None:
        self._store, self._account = store, account
        self._count = max(4, _SESSIONS // shorter)
        self._commands = max(20, _COMMANDS // shorter)
        self._pids: list[list[int]] = []

    async def measure(self) -> dict[str, dict[str, float]]:
        """Give what each costs, one at a time."""
        async with self._serving() as (first, second):
            sessions = [(await first.create_session()).id for _ in range(self._count)]
            for session_id in sessions:
                for _ in range(_TURNS):
                    await first.send_message(session_id, _INPUT)
            rows: dict[str, tuple[Client, Callable[[Client, str], Awaitable[None]], int]] = {
                "attach where it is": (first, _attach, 1),
                "attach elsewhere, the first to do so": (second, _attach, 1),
                "attach elsewhere, again": (second, _attach, 1),
                "a command where it is": (first, _command, self._commands // self._count + 1),
                "a command elsewhere": (second, _command, self._commands // self._count + 1),
            }
            found: dict[str, dict[str, float]] = {}
            for name, (client, do, times) in rows.items():
                found[name] = await self._time(client, do, sessions * times)
            for session_id in sessions:
                await first.delete_session(session_id)
        return found

    @asynccontextmanager
    async def _serving(self) -> AsyncGenerator[tuple[Client, Client]]:
        async with AsyncExitStack() as stack:
            clients: list[Client] = []
            for _ in range(2):
                server = stack.enter_context(open_server(*serve_arguments(self._store)))
                self._pids.append([server.pid])
                url = server.endpoints[0]
                clients.append(await stack.enter_async_context(trialogue.connect(url)))
            first, second = clients
            yield first, second

    async def _time(
        self,
        client: Client,
        do: Callable[[Client, str], Awaitable[None]],
        session_ids: Sequence[str],
    ) -> dict[str, float]:
        before = await _Used.read(self._account, self._pids)
        took: list[float] = []
        for session_id in session_ids:
            began = time.perf_counter()
            await do(client, session_id)
            took.append(time.perf_counter() - began)
        after = await _Used.read(self._account, self._pids)
        count = len(session_ids)
        has_it, other = (b - a for a, b in zip(before.servers, after.servers, strict=True))
        return {
            "p50_ms": 1e3 * quantile(took, 0.5),
            "p99_ms": 1e3 * quantile(took, 0.99),
            "its_server_us": has_it / count,
            "other_server_us": other / count,
            "engine_us": (after.engine - before.engine) / count,
        }


async def _attach(client: Client, session_id: str) -> None:
    """Follow a session from its first event on, until what comes is live."""
    async with client.events(session_id, after="0-0") as events:
        async for event in events:
            if isinstance(event.body, Sync):
                return


async def _command(client: Client, session_id: str) -> None:
    await client.add_message(session_id, "user", "A line.")
