"""One task for every deadline that no task of its own waits for.

A timer of trio's costs its task some 25 µs; a connection's heartbeat, a request's deadline or a
session's idle time need only a callback.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Callable
from typing import Final, NoReturn

import trio

from ._histogram import Histogram

__all__ = ["Timer", "Timers"]

log = logging.getLogger("trialogue.server")

#: Cancelled timers are dropped when they are this many and more than half.
_DROP_AT: Final = 1024


class Timer:
    """A callback that is due at a time. Falsy once it was called or cancelled."""

    __slots__ = ("_callback", "_timers")

    def __init__(self, timers: Timers, callback: Callable[[], None]) -> None:
        self._timers = timers
        self._callback: Callable[[], None] | None = callback

    def __bool__(self) -> bool:
        return self._callback is not None

    def cancel(self) -> None:
        """Do not call it. Idempotent."""
        if self._callback is not None:
            self._callback = None
            self._timers.note_cancelled()

    def fire(self) -> None:
        """Call it, once."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Timers:
    """A heap of deadlines, and the task that waits for the first."""

    def __init__(self) -> None:
        #: How late callbacks were.
        self.lateness = Histogram()
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._scope: trio.CancelScope | None = None
        self._cancelled = 0

    def at(self, deadline: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` once `trio.current_time` has reached ``deadline``.

        It is called synchronously, by the timers' task; what it raises is logged.
        """
        timer = Timer(self, callback)
        heapq.heappush(self._heap, (deadline, next(self._order), timer))
        if self._scope is not None and deadline < self._scope.deadline:
            self._scope.deadline = deadline
        return timer

    def note_cancelled(self) -> None:
        """One of the heap's timers will not be called."""
        self._cancelled += 1
        if self._cancelled >= _DROP_AT and self._cancelled * 2 > len(self._heap):
            self._heap = [item for item in self._heap if item[2]]
            heapq.heapify(self._heap)
            self._cancelled = 0

    async def run(self) -> NoReturn:
        """Call what is due, until cancelled."""
        while True:
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                deadline, _, timer = heapq.heappop(self._heap)
                if not timer:
                    self._cancelled = max(0, self._cancelled - 1)
                    continue
                self.lateness.observe(now - deadline)
                try:
                    timer.fire()
                except Exception:
                    log.exception("a timer's callback failed")
            with trio.CancelScope() as self._scope:
                if self._heap:
                    self._scope.deadline = self._heap[0][0]
                await trio.sleep_forever()
            self._scope = None
