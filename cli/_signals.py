"""SIGINT and SIGTERM: the first asks, the second insists.

Caught from before Trio starts to after it has ended. The second starts a timer in a thread, which
ends the process even when an agent keeps the event loop to itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import trio

__all__ = ["StopSignals", "catch_stop_signals"]

#: After the second signal, for turns to be marked as interrupted and for clients to be told. Who
#: insists does not wait; what is cut short is as after a kill, and recovered like it.
FORCE_SECONDS: Final = 0.15
_STOPPING: Final = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """What was received so far.

    Args:
        force_seconds: After the second, the process is ended by force.
    """

    def __init__(self, force_seconds: float = FORCE_SECONDS) -> None:
        self._force_seconds = force_seconds
        self._own: list[signal.Signals] = []
        self._heard: list[signal.Signals] = []
        self._token: trio.lowlevel.TrioToken | None = None
        self._lot: trio.lowlevel.ParkingLot | None = None

    @property
    def received(self) -> list[signal.Signals]:
        """Each of them, the first first.

        What this process has got and what it was told of are not added up: a service manager's
        signal comes in both ways.
        """
        return max(self._own, self._heard, key=len)

    @property
    def exit_code(self) -> int:
        """As shells say it: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.received[-1]

    async def wait(self, count: int) -> signal.Signals:
        """Wait for the ``count``-th signal, and give it. One that came before counts."""
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
            self._token = trio.lowlevel.current_trio_token()
        await trio.lowlevel.checkpoint()
        while len(self.received) < count:
            await self._lot.park()
        return self.received[count - 1]

    def receive(self, number: int, _: FrameType | None) -> None:
        """Take note of one. A signal handler."""
        self._own.append(signal.Signals(number))
        self._notice(len(self._own))

    def hear(self, number: signal.Signals) -> None:
        """Take note of one that another process has got, and has told this one of. Thread-safe."""
        self._heard.append(number)
        self._notice(len(self._heard))

    def _notice(self, count: int) -> None:
        if count == 2:
            timer = threading.Timer(self._force_seconds, self._end)
            timer.daemon = True
            timer.start()
        if self._token is not None and self._lot is not None:
            try:
                self._token.run_sync_soon(self._lot.unpark_all, idempotent=True)
            except trio.RunFinishedError:
                pass

    def _end(self) -> None:
        print("ended by force", file=sys.stderr, flush=True)
        os._exit(self.exit_code)


@contextmanager
def catch_stop_signals(force_seconds: float = FORCE_SECONDS) -> Generator[StopSignals]:
    """Catch both, in the main thread, as long as the block lasts."""
    signals = StopSignals(force_seconds)
    before = [signal.signal(number, signals.receive) for number in _STOPPING]
    try:
        yield signals
    finally:
        for number, handler in zip(_STOPPING, before, strict=True):
            signal.signal(number, handler)
