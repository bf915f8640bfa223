"""``python -m benchmarks storage``: acknowledged appends of each store, and what they stall.

Each session appends one entry and waits for it, again and again, as a session's journal does; all
sessions at a time. Beside them plain SQLite, in WAL with ``synchronous=FULL`` and a transaction an
entry, in the same run. The stall probe is a task that sleeps a millisecond: how late it wakes is
how long the event loop was held.
"""

from __future__ import annotations

import argparse
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import attrs
import trio

from trialogue.core.abc import SessionLog, SessionStore
from trialogue.core.codec import encode_json
from trialogue.core.errors import SettingsError
from trialogue.core.log import Entry, Summary
from trialogue.core.models import Session, SessionConfig
from trialogue.core.plugins import STORES, load_object, load_plugin

from . import _storage_many
from ._measure import quantile, spread
from ._process import describe_machine, write_result
from ._scratch import check_engine, scratch_store

__all__ = ["add_arguments", "run"]

_RESULTS: Final = Path(__file__).resolve().parent / "results" / "storage.json"
_SESSIONS: Final = (1, 64, 1000)
_SECONDS: Final = 1.5
_ROUNDS: Final = 3
#: The probe: 5,000 readings a round are five beyond the 99.9th percentile.
_PROBE_SECONDS: Final = 5.0
_PROBE_EVERY: Final = 0.001
#: What runs beside the probe: some 3,000 appends a second.
_PROBE_SESSIONS: Final = 64
_PROBE_PAUSE: Final = 0.02
#: An entry's event is about 300 bytes with this.
_TEXT: Final = "x" * 200
_TIME: Final = "2026-01-01T00:00:00.000Z"

#: The targets: see README.md.
_MUST_TIMES_SQLITE: Final = 3.0
_MUST_STALL_MS: Final = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what may be asked for."""
    parser.add_argument("--dir", type=Path, help="where to write: the disk that is measured")
    parser.add_argument("--redis", metavar="URL", help="an engine to measure as well, and use up")
    parser.add_argument("--only", default="", metavar="TEXT", help="stores whose name has this")
    parser.add_argument("--many", type=int, metavar="N", help="a start with N sessions, instead")
    parser.add_argument("--quick", action="store_true", help="short rounds, one of them")
    parser.add_argument("--out", type=Path, help="where the results go [benchmarks/results/]")


@attrs.frozen
class _Kind:
    """A store with a policy. ``open_store`` opens one in a folder that is new."""

    name: str
    open_store: Callable[[str], AbstractAsyncContextManager[SessionStore]]


@asynccontextmanager
async def _open_memory(_: str) -> AsyncGenerator[SessionStore]:
    yield load_plugin(STORES, "memory")()


def _jsonl(fsync: str) -> _Kind:
    def open_store(folder: str) -> AbstractAsyncContextManager[SessionStore]:
        settings = load_object("trialogue.stores.jsonl:JsonlSettings")(fsync=fsync)
        opened: AbstractAsyncContextManager[SessionStore] = load_plugin(STORES, "jsonl")(
            folder, settings=settings
        )
        return opened

    return _Kind(f"jsonl {fsync}", open_store)


def _sqlite(synchronous: str) -> _Kind:
    def open_store(folder: str) -> AbstractAsyncContextManager[SessionStore]:
        opened: AbstractAsyncContextManager[SessionStore] = load_plugin(STORES, "sqlite")(
            f"{folder}/sessions.db", synchronous=synchronous
        )
        return opened

    return _Kind(f"sqlite {synchronous}", open_store)


def _redis(url: str) -> _Kind:
    @asynccontextmanager
    async def open_store(_: str) -> AsyncGenerator[SessionStore]:
        async with scratch_store(url) as own, load_plugin(STORES, "redis")(own) as store:
            yield store

    return _Kind("redis", open_store)


_KINDS: Final = (
    _Kind("memory", _open_memory),
    _jsonl("always"),
    _jsonl("interval"),
    _jsonl("never"),
    _sqlite("full"),
    _sqlite("normal"),
)
_PLAIN: Final = "plain SQLite"


def run(arguments: argparse.Namespace) -> int:
    """Measure the stores; print two tables, and keep the figures."""
    if arguments.redis:
        trio.run(check_engine, arguments.redis)
    _show_logs()
    rounds = 1 if arguments.quick else _ROUNDS
    shorter = 0.1 if arguments.quick else 1.0
    kinds = [*_KINDS, *([_redis(arguments.redis)] if arguments.redis else [])]
    kinds = [kind for kind in kinds if arguments.only in kind.name]
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        results: dict[str, Any] = {"filesystem": _filesystem(folder)}
        if arguments.many:
            results["many"] = _storage_many.measure(folder, arguments.many)
            if arguments.out is not None:
                write_result(arguments.out, "storage", describe_machine(), results)
            return 0
        appends = _Appends(folder, kinds, rounds, _SECONDS * shorter)
        results["appends"] = appends.measure()
        probe = _Probe(folder, kinds, rounds, _PROBE_SECONDS * shorter)
        results["stall"] = trio.run(probe.measure)
    out = arguments.out or (None if arguments.quick or arguments.only else _RESULTS)
    if out is not None:
        write_result(out, "storage", describe_machine(), results)
        print(f"\nkept in {out}")
    return 0


def _show_logs() -> None:
    """Show a store's warnings with their cause: one that has stopped gives no figure."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s: %(error)s", defaults={"error": ""}))
    logging.getLogger("trialogue").addHandler(handler)


def _filesystem(folder: str) -> str:
    """Name the file system that is measured; in memory, nothing waits for a disk."""
    best = ("", "unknown")
    with open("/proc/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, where, kind, *_ = line.split()
            inside = os.path.commonpath([where, os.path.realpath(folder)]) == where
            if inside and len(where) > len(best[0]):
                best = (where, kind)
    return best[1]


# -- one session -----------------------------------------------------------------------------


class _Writer:
    """Appends to one session, as its journal does."""

    def __init__(self, store: SessionStore, number: int) -> None:
        self._id = f"ses_{number:032}"
        self._log: SessionLog = store.create(self._id)
        self._seq = 0
        self._told = trio.Event()
        self._failure: Exception | None = None

    async def append(self) -> None:
        """Append one entry; it is acknowledged when this returns."""
        self._seq += 1
        seq = self._seq
        entry = Entry(
            session_id=self._id,
            term=1,
            seq=seq,
            timestamp=_TIME,
            event="_bench.step",
            log_class="metadata",
            data=encode_json({"seq": seq, "text": _TEXT}),
        )
        session = Session(
            id=self._id,
            status="idle",
            config=SessionConfig(),
            created_at=_TIME,
            last_activity_at=_TIME,
            message_count=seq,
            position=f"1-{seq}",
        )
        summary = Summary(session=session)
        # As a server's host: a store that calls back needs no task, and one that has at once
        # need not be waited for.
        self._told = trio.Event()
        if not self._log.append_soon([entry], summary, self._done):
            await self._log.append([entry], summary)
        elif not self._told.is_set():
            await self._told.wait()
        if self._failure is not None:
            raise self._failure

    def _done(self, failure: Exception | None) -> None:
        self._failure = failure
        self._told.set()


# -- appends a second ------------------------------------------------------------------------


class _Appends:
    """Acknowledged appends a second, and how long each waited."""

    def __init__(self, folder: str, kinds: Sequence[_Kind], rounds: int, seconds: float) -> None:
        self._folder, self._kinds, self._rounds, self._seconds = folder, kinds, rounds, seconds
        self._sessions = _SESSIONS if rounds > 1 else _SESSIONS[:2]
        self._opened = 0

    def measure(self) -> list[dict[str, Any]]:
        """Measure all kinds with each number of sessions, their rounds interleaved."""
        print(
            f"{'store':16} {'sessions':>8} {'appends/s':>24} {'p99 ms':>20} {'× plain SQLite':>18}"
        )
        results: list[dict[str, Any]] = []
        for sessions in self._sessions:
            rounds: dict[str, list[_Rate]] = {}
            for _ in range(self._rounds):
                # One connection and no tasks: more sessions make no difference to it.
                rounds.setdefault(_PLAIN, []).append(self._run_plain())
                for kind in self._kinds:
                    try:
                        rate = trio.run(self._run, kind, sessions)
                    except SettingsError as exc:
                        print(f"{kind.name} is left out: {exc}")
                        continue
                    rounds.setdefault(kind.name, []).append(rate)
            plain = rounds[_PLAIN]
            for name, rates in rounds.items():
                result = _summarize(name, sessions, rates, plain)
                results.append(result)
                print(_format(result), flush=True)
        return results

    def _new_folder(self) -> str:
        self._opened += 1
        folder = f"{self._folder}/{self._opened}"
        os.mkdir(folder, 0o700)
        return folder

    async def _run(self, kind: _Kind, sessions: int) -> _Rate:
        latencies: list[float] = []

        async def write(writer: _Writer) -> None:
            start = time.perf_counter()
            while True:
                await writer.append()
                done = time.perf_counter()
                latencies.append(done - start)
                if is_immediate:
                    await trio.lowlevel.checkpoint()
                    done = time.perf_counter()
                if done >= end:
                    return
                start = done

        is_immediate = kind.name == "memory"
        async with kind.open_store(self._new_folder()) as store:
            writers = [_Writer(store, number) for number in range(sessions)]
            async with trio.open_nursery() as nursery:
                for writer in writers:
                    nursery.start_soon(writer.append)
            started = time.perf_counter()
            end = started + self._seconds
            async with trio.open_nursery() as nursery:
                for writer in writers:
                    nursery.start_soon(write, writer)
            took = time.perf_counter() - started
        return _Rate(len(latencies) / took, quantile(latencies, 0.99))

    def _run_plain(self) -> _Rate:
        database = sqlite3.connect(f"{self._new_folder()}/plain.db", isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE entries (session TEXT, seq INTEGER, data BLOB)")
        insert = "INSERT INTO entries VALUES (?, ?, ?)"
        latencies: list[float] = []
        started = time.perf_counter()
        end = started + self._seconds
        while (start := time.perf_counter()) < end:
            seq = len(latencies) + 1
            data = encode_json({"seq": seq, "text": _TEXT})
            database.execute(insert, ("ses_1", seq, data))
            latencies.append(time.perf_counter() - start)
        took = time.perf_counter() - started
        database.close()
        return _Rate(len(latencies) / took, quantile(latencies, 0.99))


@attrs.frozen
class _Rate:
    per_second: float
    p99_seconds: float


def _summarize(
    name: str, sessions: int, rates: Sequence[_Rate], plain: Sequence[_Rate]
) -> dict[str, Any]:
    ratios = [a.per_second / b.per_second for a, b in zip(rates, plain, strict=False)]
    result: dict[str, Any] = {
        "store": name,
        "sessions": sessions,
        "appendsPerSecond": spread([rate.per_second for rate in rates], 0),
        "p99Ms": spread([1000 * rate.p99_seconds for rate in rates]),
        "timesPlainSqlite": spread(ratios, 2),
    }
    if name == "jsonl always" and sessions == 64:
        result["must"] = _MUST_TIMES_SQLITE
    return result


def _format(result: Mapping[str, Any]) -> str:
    rate, p99, times = (result[key] for key in ("appendsPerSecond", "p99Ms", "timesPlainSqlite"))
    line = (
        f"{result['store']:16} {result['sessions']:8,} "
        f"{rate['median']:10,.0f} {rate['min']:,.0f}–{rate['max']:,.0f}".ljust(51)
        + f"{p99['median']:8.2f} {p99['min']:.2f}–{p99['max']:.2f}".ljust(22)
        + f"{times['median']:8.2f}"
    )
    if "must" in result:
        met = "met" if times["median"] >= result["must"] else "missed"
        line += f"  must be ≥ {result['must']:g}: {met}"
    return line


# -- the stall probe -------------------------------------------------------------------------


class _Probe:
    """How late a task wakes that sleeps a millisecond, while sessions append beside it."""

    def __init__(self, folder: str, kinds: Sequence[_Kind], rounds: int, seconds: float) -> None:
        self._folder, self._kinds, self._rounds, self._seconds = folder, kinds, rounds, seconds

    async def measure(self) -> list[dict[str, Any]]:
        """Measure each kind, memory before it in each round."""
        print(f"\n{'store':16} {'stall p99.9 ms':>24} {'over memory ms':>24}")
        memory = _KINDS[0]
        lags: dict[str, list[float]] = {}
        added: dict[str, list[float]] = {}
        for _ in range(self._rounds):
            base = 1000 * await self._run(memory)
            lags.setdefault(memory.name, []).append(base)
            for kind in self._kinds:
                if kind is memory:
                    continue
                try:
                    lag = 1000 * await self._run(kind)
                except SettingsError:
                    continue  # said above
                lags.setdefault(kind.name, []).append(lag)
                added.setdefault(kind.name, []).append(lag - base)
        results: list[dict[str, Any]] = []
        for name, values in lags.items():
            result: dict[str, Any] = {"store": name, "p999Ms": spread(values)}
            over = ""
            if name in added:
                result["overMemoryMs"] = spread(added[name])
                result["must"] = _MUST_STALL_MS
                met = "met" if median(added[name]) <= _MUST_STALL_MS else "missed"
                over = f"{median(added[name]):24.2f}  must be ≤ {_MUST_STALL_MS:g}: {met}"
            print(f"{name:16} {median(values):24.2f} {over}", flush=True)
            results.append(result)
        return results

    async def _run(self, kind: _Kind) -> float:
        lags: list[float] = []

        async def write(writer: _Writer, offset: float) -> None:
            await trio.sleep(offset)
            while True:
                await writer.append()
                await trio.sleep(_PROBE_PAUSE)

        async with AsyncExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=self._folder))
            store = await stack.enter_async_context(kind.open_store(folder))
            async with trio.open_nursery() as nursery:
                for number in range(_PROBE_SESSIONS):
                    offset = _PROBE_PAUSE * number / _PROBE_SESSIONS
                    nursery.start_soon(write, _Writer(store, number), offset)
                end = time.perf_counter() + self._seconds
                while (start := time.perf_counter()) < end:
                    await trio.sleep(_PROBE_EVERY)
                    lags.append(time.perf_counter() - start - _PROBE_EVERY)
                nursery.cancel_scope.cancel(reason="measured")
        return quantile(lags, 0.999)
