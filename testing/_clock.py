"""On a clock that jumps when nothing happens, lets a thread do its work before it jumps."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import trio
from trio.testing import MockClock, active_thread_count

__all__ = ["threads_take_no_time"]

#: Of real time. A thread that hangs costs so much for each jump, and its timeout comes still.
_THREAD_SECONDS: Final = 1.0


class _ThreadWatch(trio.abc.Instrument):
    """Sets how long nothing happens before the clock jumps, each time that a task has run.

    Attributes:
        usual: That, while no thread is waited for.
    """

    def __init__(self, clock: MockClock) -> None:
        self._clock = clock
        self.usual = clock.autojump_threshold
        self._is_waiting = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if bool(active_thread_count()) is not self._is_waiting:
            self._is_waiting = not self._is_waiting
            self._clock.autojump_threshold = _THREAD_SECONDS if self._is_waiting else self.usual


@contextmanager
def threads_take_no_time() -> Generator[None]:
    """Keep an autojump clock from jumping while a thread is waited for.

    Trio takes it for idle when all tasks wait, though one waits for a thread: it would jump to the
    timeout of that very call, unless the thread was faster.
    """
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock) or clock.autojump_threshold >= _THREAD_SECONDS:
        yield
        return
    watch = _ThreadWatch(clock)
    trio.lowlevel.add_instrument(watch)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(watch)
        clock.autojump_threshold = watch.usual
