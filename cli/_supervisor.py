"""Keeps a number of worker processes running, passes orders to end on, and ends with them.

What a process is, it is told: see `Worker`.
"""

from __future__ import annotations

import logging
import signal
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs
import trio

from ._exits import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from ._signals import FORCE_SECONDS, StopSignals

__all__ = ["Supervisor", "Worker"]

log = logging.getLogger("trialogue.serve")

#: One that has served for so long was not started in vain.
STABLE_SECONDS: Final = 30.0
#: So many starts in vain, one after another, and there is no use in another.
MAX_FAILURES: Final = 6
#: Before the second start; before each further one twice as long, so that what is away for a
#: moment, such as an engine that is restarted, has some 8 s to come back.
FIRST_DELAY_SECONDS: Final = 0.5
#: After the second signal: a worker ends by itself at `FORCE_SECONDS`, if it can.
KILL_SECONDS: Final = FORCE_SECONDS + 0.35


class Worker(ABC):
    """A process that serves.

    Attributes:
        number: From 0 on. One that takes the place of another has its number.
    """

    number: int

    @abstractmethod
    async def wait_ready(self) -> Sequence[str] | None:
        """Wait until it listens, and give where. None if it has ended before."""

    @abstractmethod
    async def wait(self) -> int:
        """Wait for its end, and give its exit code; minus the number of a signal that ended it."""

    @abstractmethod
    def order(self, number: signal.Signals) -> None:
        """Have it do what a server does that gets a signal. Nothing, if it has ended."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once."""


class Supervisor:
    """Runs workers until it is told to end, or one of them cannot be kept running.

    Args:
        count: How many.
        start: Starts the one of a number. An OSError counts as its end.
        signals: What this process receives is passed on to every worker.
        tell: Is told where they listen, once all of them do.
        release: Lets go of the addresses, as soon as nobody is to be let in any more.
    """

    def __init__(
        self,
        count: int,
        start: Callable[[int], Awaitable[Worker]],
        signals: StopSignals,
        *,
        tell: Callable[[Sequence[str]], object],
        release: Callable[[], Awaitable[object]],
    ) -> None:
        self._count = count
        self._start = start
        self._signals = signals
        self._tell = tell
        self._release = release
        #: Each with how many of the orders it has.
        self._alive: dict[Worker, int] = {}
        self._orders: list[signal.Signals] = []
        #: The numbers of those that have been ready once.
        self._known: set[int] = set()
        self._endpoints: Sequence[str] = ()
        self._changed = trio.Event()
        self._code = EXIT_OK

    async def run(self) -> int:
        """Run them to their end, and give the exit code.

        The first is started by itself: what is wrong with the settings it says once. Cancelling
        leaves them running.
        """
        async with trio.open_nursery() as hearing:
            hearing.start_soon(self._hear)
            async with trio.open_nursery() as keepers:
                keepers.start_soon(self._keep, 0)
                await self._wait_known(1)
                for number in range(1, self._count):
                    keepers.start_soon(self._keep, number)
                await self._wait_known(self._count)
                if not self._orders:
                    self._tell(self._endpoints)
                    log.info(
                        "serving with %d workers; Ctrl-C drains, a second one ends at once",
                        self._count,
                    )
                await self._wait_known(self._count + 1)
                await self._release()
            hearing.cancel_scope.cancel(reason="all workers have ended")
        return self._signals.exit_code if len(self._signals.received) > 1 else self._code

    async def _wait_known(self, count: int) -> None:
        """Wait until so many have been ready, or until they are to end."""
        await trio.lowlevel.checkpoint()
        while len(self._known) < count and not self._orders:
            await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- the end -----------------------------------------------------------------------------

    async def _hear(self) -> None:
        first = await self._signals.wait(1)
        log.info("got %s: draining", first.name)
        self._order(first)
        second = await self._signals.wait(2)
        log.warning("got %s: ended at once", second.name)
        self._order(second)
        await trio.sleep(KILL_SECONDS)
        for worker in self._alive:
            log.warning("worker %d does not end: killed", worker.number)
            worker.kill()

    def _order(self, number: signal.Signals) -> None:
        self._orders.append(number)
        self._pass_on()
        self._change()

    def _pass_on(self) -> None:
        for worker, count in self._alive.items():
            for number in self._orders[count:]:
                worker.order(number)
            self._alive[worker] = len(self._orders)

    def _give_up(self, code: int) -> None:
        self._code = code
        if not self._orders:
            self._order(signal.SIGTERM)

    # -- one worker --------------------------------------------------------------------------

    async def _keep(self, number: int) -> None:
        """Run the worker of a number, and another when it has ended, until they are to end."""
        failures = 0
        while not self._orders:
            end = await self._run_worker(number)
            if self._orders:
                if end.served_seconds is not None and end.code != EXIT_OK and self._is_draining:
                    log.error("worker %d %s in the drain", number, end)
                    self._code = self._code or EXIT_FAILED
                return
            if number not in self._known:
                if end.code != EXIT_USAGE:  # of that it has said itself what it is
                    log.error("worker %d cannot be started: it %s", number, end)
                self._give_up(EXIT_USAGE if end.code == EXIT_USAGE else EXIT_FAILED)
                return
            failures = 1 if (end.served_seconds or 0.0) >= STABLE_SECONDS else failures + 1
            if failures == MAX_FAILURES:
                log.error(
                    "worker %d %s, the %dth in a row that was started in vain: given up",
                    number,
                    end,
                    failures,
                )
                self._give_up(EXIT_FAILED)
                return
            seconds = FIRST_DELAY_SECONDS * 2 ** (failures - 2) if failures > 1 else 0.0
            log.error("worker %d %s: another is started in %g s", number, end, seconds)
            with trio.move_on_after(seconds):
                await self._wait_known(self._count + 1)

    @property
    def _is_draining(self) -> bool:
        return len(self._orders) == 1

    async def _run_worker(self, number: int) -> _End:
        try:
            worker = await self._start(number)
        except OSError as exc:
            return _End(EXIT_FAILED, trouble=exc.strerror or str(exc))
        self._alive[worker] = 0
        self._pass_on()
        ready_at: float | None = None
        endpoints = await worker.wait_ready()
        if endpoints is not None:
            ready_at = trio.current_time()
            if number not in self._known:
                self._known.add(number)
                self._endpoints = endpoints
                self._change()
        code = await worker.wait()
        del self._alive[worker]
        return _End(code, None if ready_at is None else trio.current_time() - ready_at)


@attrs.frozen
class _End:
    """How a worker has ended; ``served_seconds`` is None of one that never listened."""

    code: int
    served_seconds: float | None = None
    trouble: str | None = None

    def __str__(self) -> str:
        if self.trouble is not None:
            return f"was not started ({self.trouble})"
        if self.code >= 0:
            return f"has ended with {self.code}"
        return f"was killed by {_name(-self.code)}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
