"""Runs a load: starts the processes that make it, begins them together, hears them out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from subprocess import PIPE
from typing import Final

import attrs
import msgspec
import trio

from ._load_record import Report
from ._load_result import LoadResult
from ._load_server import sample_server
from ._load_settings import LoadSettings
from ._load_worker import TICK_SECONDS

__all__ = ["LoadError", "run_load"]

#: For all to hear when they begin.
_LEAD_SECONDS: Final = 0.2
#: Beside what the settings give: a process that is not over by then hangs.
_PATIENCE_SECONDS: Final = 30.0
_END_SECONDS: Final = 5.0

_reports: Final = msgspec.json.Decoder(Report)


class LoadError(Exception):
    """There is nothing to measure; ``is_unreachable``: for want of a connection."""

    def __init__(self, why: str, *, is_unreachable: bool = False) -> None:
        super().__init__(why)
        self.is_unreachable = is_unreachable


async def run_load(
    settings: LoadSettings,
    *,
    stop: trio.Event,
    pids: Sequence[int] = (),
    on_change: Callable[[LoadResult], None] = lambda _: None,
) -> LoadResult:
    """Put a server under load.

    Args:
        settings: What load.
        stop: Set, it ends early, with what was measured so far.
        pids: The server's processes, if they can be read.
        on_change: Called now and then with what is known.

    Raises:
        LoadError: It could not begin, or one of its processes broke.
    """
    run = _Run(settings, pids, on_change)
    bound = (
        2 * settings.connect_seconds
        + settings.duration_seconds
        + 2 * settings.settle_seconds
        + _PATIENCE_SECONDS
    )
    with trio.move_on_after(bound) as scope:
        async with _open_workers(settings) as workers, trio.open_nursery() as nursery:
            for number, worker in enumerate(workers):
                nursery.start_soon(run.hear, number, worker)
            nursery.start_soon(run.direct, workers, stop, nursery.cancel_scope)
    if run.failure is not None:
        raise run.failure
    if scope.cancelled_caught:
        raise LoadError("a generating process hangs")
    return run.result


@asynccontextmanager
async def _open_workers(settings: LoadSettings) -> AsyncGenerator[list[trio.Process]]:
    command = [sys.executable, "-m", "trialogue.benchmarks._load_worker"]
    workers: list[trio.Process] = []
    try:
        for number in range(min(settings.processes, settings.sessions)):
            # In a group of its own: Ctrl-C is for whoever started it, who then tells it.
            worker = await trio.lowlevel.open_process(
                command, stdin=PIPE, stdout=PIPE, process_group=0
            )
            workers.append(worker)
            share = attrs.asdict(settings.share(number))
            told = json.dumps({"settings": share, "number": number})
            assert worker.stdin is not None
            await worker.stdin.send_all(told.encode() + b"\n")
        yield workers
    finally:
        with trio.move_on_after(_END_SECONDS, shield=True):
            for worker in workers:
                if worker.returncode is None:
                    worker.kill()
                await worker.wait()


class _Run:
    def __init__(
        self, settings: LoadSettings, pids: Sequence[int], on_change: Callable[[LoadResult], None]
    ) -> None:
        self._settings, self._pids, self._on_change = settings, pids, on_change
        self.result = LoadResult(settings, TICK_SECONDS)
        self.failure: LoadError | None = None
        self._left_to_be_ready = min(settings.processes, settings.sessions)
        self._left = self._left_to_be_ready
        self._changed = trio.Event()

    async def hear(self, number: int, worker: trio.Process) -> None:
        """Take what a process tells, to its end."""
        assert worker.stdout is not None
        rest = b""
        kind = ""
        async for some in worker.stdout:
            *lines, rest = (rest + some).split(b"\n")
            for line in lines:
                report = _reports.decode(line)
                kind = report.kind
                if kind == "failed":
                    self._fail(LoadError(report.why, is_unreachable=report.is_unreachable))
                    return
                self._left_to_be_ready -= kind == "ready"
                self.result.add(number, report)
                self._on_change(self.result)
                self._wake()
        if kind != "end" and not self.result.is_stopped:
            self._fail(LoadError(f"a generating process ended with exit code {worker.returncode}"))
        self._left -= 1
        self._wake()

    def _fail(self, failure: LoadError) -> None:
        self.failure = self.failure or failure
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def direct(
        self, workers: Sequence[trio.Process], stop: trio.Event, everything: trio.CancelScope
    ) -> None:
        """Begin when all are ready; end all when one fails; pass on a stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on_stop, workers, stop)
            while self._left_to_be_ready and self._left and self.failure is None:
                await self._changed.wait()
            if self.failure is None and not self.result.is_stopped:
                begin_at = time.monotonic() + _LEAD_SECONDS
                await self._tell(workers, f"go {begin_at!r}\n".encode())
                nursery.start_soon(self._sample, begin_at)
            while self._left and self.failure is None:
                await self._changed.wait()
            if self.failure is not None:
                everything.cancel(reason=str(self.failure))
            nursery.cancel_scope.cancel(reason="the load is over")

    async def _pass_on_stop(self, workers: Sequence[trio.Process], stop: trio.Event) -> None:
        await stop.wait()
        self.result.is_stopped = True
        await self._tell(workers, b"stop\n")

    @staticmethod
    async def _tell(workers: Sequence[trio.Process], line: bytes) -> None:
        for worker in workers:
            assert worker.stdin is not None
            try:
                await worker.stdin.send_all(line)
            except trio.BrokenResourceError:
                continue  # whoever hears it will say why it ended

    async def _sample(self, begin_at: float) -> None:
        """Read what the server uses, from the beginning to the end of the load."""
        at = 0.0
        while self._pids and at <= self._settings.duration_seconds and not self.result.is_stopped:
            await trio.sleep(max(0, begin_at + at - time.monotonic()))
            sample = sample_server(self._pids, time.monotonic() - begin_at)
            if sample is None:
                return
            self.result.samples.append(sample)
            at += TICK_SECONDS
