"""A process that makes load: ``python -m trialogue.benchmarks._load_worker``.

It reads the settings as a line of JSON, connects everybody, and says ``ready``. At ``go TIME`` it
begins, and tells each half second what happened. What is due does not wait for what was due
before. ``stop``, or the end of its input, ends it early.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from ._load_client import BROKEN, LoadClient
from ._load_connection import Address, LoadConnection, Loop
from ._load_record import Recorder, Report, write_line
from ._load_settings import SCENARIOS, LoadSettings
from ._load_wire import decode
from ._process import raise_file_limit

__all__ = ["TICK_SECONDS", "main"]

#: Between two reports.
TICK_SECONDS: Final = 0.5
#: Who may be connecting at once, at the beginning: a server is not to be stormed unasked.
_CONNECTING: Final = 64
#: Between two pings that see whether the server's event loop keeps up.
_PROBE_SECONDS: Final = 0.05
#: What a slow reader takes, and how often: 20 KiB/s.
_SLOW_READ_BYTES: Final = 2048
_SLOW_READ_SECONDS: Final = 0.1
#: Sessions that one slow reader follows: with few it would keep up.
_SLOW_SESSIONS: Final = 32
#: Between two looks at whether everybody is ready.
_ASK_SECONDS: Final = 0.02
#: For those that were told to stop.
_STOP_SECONDS: Final = 1.0
#: For the sessions to be deleted: nothing depends on it.
_DELETE_SECONDS: Final = 5.0


class _Failure(Exception):  # noqa: N818 - told as a report
    """It cannot begin."""

    def __init__(self, why: str, *, is_unreachable: bool = False) -> None:
        super().__init__(why)
        self.is_unreachable = is_unreachable


class _Probe:
    """Pings on a connection of its own; each says when it was due."""

    def __init__(
        self, loop: Loop, address: Address, settings: LoadSettings, recorder: Recorder
    ) -> None:
        self._loop, self._address, self._settings = loop, address, settings
        self._recorder = recorder
        self._connection: LoadConnection | None = None
        self._is_open = False
        self._due = 0.0

    def start(self, at: float) -> None:
        self._due = at
        self._loop.call_at(at, self._ping)
        self._connect()

    def _connect(self) -> None:
        self._connection = LoadConnection(self._loop, self._address, self)
        self._connection.start()

    def _ping(self) -> None:
        due = self._due
        if self._is_open and self._connection is not None:
            self._connection.send(b'{"version":"1.0","type":"ping","payload":{"nonce":"%r"}}' % due)
        self._due += _PROBE_SECONDS
        self._loop.call_at(self._due, self._ping)

    def on_open(self) -> None:
        self._is_open = True

    def on_frames(self, payloads: list[bytes]) -> None:
        now = time.monotonic()
        for frame in payloads:
            kind, payload = decode(frame)
            if kind == "pong":
                self._recorder.values["loop"].append(now - float(payload.nonce))

    def on_lost(self, _why: str, /) -> None:
        self._is_open = False
        self._loop.call_at(time.monotonic() + 10 * _PROBE_SECONDS, self._connect)


class _Worker:
    def __init__(self, settings: LoadSettings, number: int) -> None:
        self._settings, self._number = settings, number
        self._scenario = SCENARIOS[settings.scenario]
        self._random = random.Random(settings.seed)
        self._loop = Loop()
        self._recorder = Recorder()
        self._clients: list[LoadClient] = []
        self._slow: list[LoadClient] = []
        self._begin_at: float | None = None
        self._is_stopped = False
        #: Something will be due before the end.
        self._is_arriving = False
        #: What was measured is told: what is still done, such as deleting, does not belong to it.
        self._is_told = False
        self._turn = 0
        self._heard = b""

    def run(self) -> None:
        self._loop.watch_file(0, self._on_command)
        address = self._find()
        self._connect(address)
        tell(Report(kind="ready", cpu_seconds=_cpu_seconds()))
        # Nothing below makes cycles; a collection in the middle of it would be our stall.
        gc.collect()
        gc.freeze()
        gc.disable()
        self._loop.run(lambda: self._begin_at is not None or self._is_stopped)
        if self._begin_at is not None:
            self._make_load(address, self._begin_at)
        for client in (*self._clients, *self._slow):
            client.delete_session()
        self._wait(_STOP_SECONDS if self._is_stopped else _DELETE_SECONDS, self._awaits)
        self._loop.close()

    def _find(self) -> Address:
        try:
            return Address(self._settings.url, self._settings.tls_ca)
        except OSError as exc:
            why = exc.strerror or str(exc)
            raise _Failure(f"{self._settings.url}: {why}", is_unreachable=True) from exc

    # -- everybody ---------------------------------------------------------------------------

    def _connect(self, address: Address) -> None:
        settings, scenario = self._settings, self._scenario
        # Sessions outlive a run, and so do their keys.
        run = os.urandom(6).hex()

        def make(name: str, *, is_slow: bool = False) -> LoadClient:
            return LoadClient(
                self._loop,
                address,
                settings,
                self._recorder,
                name=f"{run}-{name}",
                is_slow=is_slow,
            )

        self._clients = [make(str(number)) for number in range(settings.sessions)]
        if scenario.is_shared:
            # The first one creates what the others subscribe to.
            self._open(self._clients[:1])
            self._open(self._clients[1:], [self._clients[0].session_id])
        else:
            self._open(self._clients)
        if scenario.slow_share:
            count = max(1, round(settings.sessions * scenario.slow_share))
            self._slow = [make(f"slow-{number}", is_slow=True) for number in range(count)]
            followed = [client.session_id for client in self._clients]
            for client in self._slow:
                some = self._random.sample(followed, min(len(followed), _SLOW_SESSIONS))
                client.open(*some)
            self._read_slowly()
            self._wait_ready(self._slow)

    def _open(self, clients: Sequence[LoadClient], session_ids: Sequence[str] = ()) -> None:
        """Connect them, so many at a time."""
        left = iter(clients)
        opening: list[LoadClient] = []
        deadline = time.monotonic() + self._settings.connect_seconds

        def go_on() -> bool:
            self._check(opening)
            opening[:] = [client for client in opening if not client.is_ready]
            for client in left:
                client.open(*session_ids)
                opening.append(client)
                if len(opening) >= _CONNECTING:
                    break
            return not opening or self._is_stopped or time.monotonic() > deadline

        while not go_on():
            self._loop.run_once()
        self._check_ready(clients)

    def _wait_ready(self, clients: Sequence[LoadClient]) -> None:
        def is_wanted() -> bool:
            self._check(clients)
            return not self._is_stopped and not all(client.is_ready for client in clients)

        self._wait(self._settings.connect_seconds, is_wanted)
        self._check_ready(clients)

    def _check(self, clients: Sequence[LoadClient]) -> None:
        """See that nobody was refused, and that there is a server at all."""
        for client in clients:
            if client.refused is not None:
                raise _Failure(str(client.refused))
        if self._recorder.errors[BROKEN] and not self._recorder.values["connect"]:
            raise _Failure(f"{self._settings.url}: no connection", is_unreachable=True)

    def _check_ready(self, clients: Sequence[LoadClient]) -> None:
        ready = sum(client.is_ready for client in clients)
        if ready < len(clients) and not self._is_stopped:
            codes = ", ".join(f"{code} {n}" for code, n in self._recorder.errors.items()) or "none"
            raise _Failure(
                f"only {ready:,} of {len(clients):,} were connected within "
                f"{self._settings.connect_seconds:g} s (errors: {codes})",
                is_unreachable=not ready,
            )

    # -- the load ----------------------------------------------------------------------------

    def _make_load(self, address: Address, begin_at: float) -> None:
        settings = self._settings
        end_at = begin_at + settings.duration_seconds
        # What setting up took is in the histogram of connections; its errors were waited out.
        self._recorder.errors.clear()
        self._recorder.counts.clear()
        weights = self._scenario.weights
        kinds, shares = list(weights), list(weights.values())
        usual = kinds[0] if len(kinds) == 1 else None
        pick = self._random
        due = begin_at

        def arrive() -> None:
            nonlocal due
            self._is_arriving = False
            if self._is_stopped:
                return
            client = self._next_client()
            late = time.monotonic() - due
            self._recorder.values["late"].append(late)
            client.begin(usual or pick.choices(kinds, shares)[0], due)
            plan()

        def plan() -> None:
            nonlocal due
            due += pick.expovariate(settings.rate)
            if due < end_at:
                self._is_arriving = True
                self._loop.call_at(due, arrive)

        plan()
        for share in self._scenario.storms:
            self._loop.call_at(begin_at + share * settings.duration_seconds, self._cut_all)
        if self._number == 0:
            _Probe(self._loop, address, settings, self._recorder).start(begin_at)
        self._loop.call_at(begin_at + TICK_SECONDS, lambda: self._tick(begin_at + TICK_SECONDS))
        self._loop.run(lambda: time.monotonic() >= end_at or self._is_stopped)
        self._settle()
        tell(self._take("end"))
        self._is_told = True

    def _next_client(self) -> LoadClient:
        if self._scenario.is_shared:
            return self._clients[0]
        self._turn = (self._turn + 1) % len(self._clients)
        return self._clients[self._turn]

    def _cut_all(self) -> None:
        for client in self._clients:
            client.cut()

    def _read_slowly(self) -> None:
        for client in self._slow:
            client.read_slowly(_SLOW_READ_BYTES)
        self._loop.call_at(time.monotonic() + _SLOW_READ_SECONDS, self._read_slowly)

    def _settle(self) -> None:
        """Wait for what is under way, and see that everybody has seen everything."""
        everybody = (*self._clients, *self._slow)
        for client in self._slow:
            client.hurry()
        settle = _STOP_SECONDS if self._is_stopped else self._settings.settle_seconds
        self._wait(settle, lambda: self._is_busy() or not all(c.is_ready for c in everybody))
        if unanswered := self._unfinished():
            self._recorder.counts["failed"] += unanswered
            self._recorder.errors["unanswered"] += unanswered
        for client in everybody:
            client.ask_ends()
        self._wait(settle, lambda: not all(client.is_at_end for client in everybody))
        for client in everybody:
            client.note_end()
        if away := sum(not client.is_ready for client in everybody):
            self._recorder.errors["not back"] += away
            self._recorder.counts["away"] += away

    def _awaits(self) -> bool:
        return any(client.awaits for client in self._clients)

    def _is_busy(self) -> bool:
        # What was due before the end and comes late, on a busy machine, is waited for as well.
        return (self._is_arriving and not self._is_stopped) or self._unfinished() > 0

    def _unfinished(self) -> int:
        return sum(client.unfinished for client in self._clients)

    def _wait(self, seconds: float, is_wanted: Callable[[], object]) -> None:
        deadline = time.monotonic() + seconds
        asked_at = 0.0

        def is_over() -> bool:
            # To ask thousands after each frame would be most of the work.
            nonlocal asked_at
            now = time.monotonic()
            if now < asked_at + _ASK_SECONDS:
                return False
            asked_at = now
            return not is_wanted() or now > deadline

        self._loop.run(is_over)

    # -- what is told ------------------------------------------------------------------------

    def _tick(self, at: float) -> None:
        if self._is_told:
            return
        tell(self._take("tick"))
        next_at = max(at, time.monotonic() - TICK_SECONDS) + TICK_SECONDS
        self._loop.call_at(next_at, lambda: self._tick(next_at))

    def _take(self, kind: str) -> Report:
        assert self._begin_at is not None
        report = self._recorder.take(time.monotonic() - self._begin_at, _cpu_seconds())
        if kind == "end":
            report.kind = "end"
        return report

    def _on_command(self) -> None:
        some = os.read(0, 4096)
        if not some:
            self._is_stopped = True
            self._loop.forget_file(0)
            return
        *lines, self._heard = (self._heard + some).split(b"\n")
        for line in lines:
            match line.split():
                case [b"go", at]:
                    self._begin_at = float(at)
                case _:
                    self._is_stopped = True


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def tell(report: Report) -> None:
    """Write a report to whoever started this."""
    os.write(1, write_line(report))


def main() -> int:
    """Do as the first line of standard input says; returns the exit code."""
    head = b""
    while not head.endswith(b"\n"):
        one = os.read(0, 1)
        if not one:
            return 2
        head += one
    told = json.loads(head)
    raise_file_limit()
    try:
        _Worker(LoadSettings(**told["settings"]), told["number"]).run()
    except _Failure as exc:
        tell(Report(kind="failed", why=str(exc), is_unreachable=exc.is_unreachable))
        return 1
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
