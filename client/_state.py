"""The states of a client's connection (PROTOCOL §3.5), and how long it waits to come back.

The table below is the whole of it; a test compares it with the protocol's line.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import trio

from ..core.errors import ForbiddenError, UnauthorizedError, UnsupportedVersionError

__all__ = [
    "FINAL_ERRORS",
    "TRANSITIONS",
    "Backoff",
    "ConnectionState",
    "StateChanges",
    "StateMachine",
    "Trigger",
]


class ConnectionState(enum.StrEnum):
    """Where a client stands. Equal to its name: ``client.state == "connected"``."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"


class Trigger(enum.Enum):
    """What moves a client from one state to the next."""

    DIAL = "dial"  # we begin
    WELCOMED = "welcomed"  # the server answered our hello
    LOST = "lost"  # the connection broke, or was left for another after a goaway
    FAILED = "failed"  # an attempt came to nothing
    REFUSED = "refused"  # with an error that no new attempt would mend
    LEFT = "left"  # we are done, or were told not to reconnect


_S, _T = ConnectionState, Trigger

TRANSITIONS: Final[dict[tuple[ConnectionState, Trigger], ConnectionState]] = {
    (_S.DISCONNECTED, _T.DIAL): _S.CONNECTING,
    (_S.CONNECTING, _T.WELCOMED): _S.CONNECTED,
    (_S.CONNECTING, _T.FAILED): _S.DISCONNECTED,
    (_S.CONNECTING, _T.REFUSED): _S.DISCONNECTED,
    (_S.CONNECTING, _T.LEFT): _S.DISCONNECTED,
    (_S.CONNECTED, _T.LOST): _S.RECONNECTING,
    (_S.CONNECTED, _T.LEFT): _S.DISCONNECTED,
    (_S.RECONNECTING, _T.WELCOMED): _S.CONNECTED,
    (_S.RECONNECTING, _T.FAILED): _S.RECONNECTING,
    (_S.RECONNECTING, _T.REFUSED): _S.DISCONNECTED,
    (_S.RECONNECTING, _T.LEFT): _S.DISCONNECTED,
}

#: The same answer would come again: they end reconnection.
FINAL_ERRORS: Final = (UnauthorizedError, UnsupportedVersionError, ForbiddenError)

#: Changes that a watcher who does not watch may miss.
HISTORY: Final = 64


class StateMachine:
    """The state, and whoever waits for it to change."""

    def __init__(self) -> None:
        self.state = ConnectionState.DISCONNECTED
        #: No change will follow.
        self.is_over = False
        self._changed = trio.Event()
        self._history: deque[ConnectionState] = deque([self.state], maxlen=HISTORY)
        self._count = 1

    def move(self, trigger: Trigger) -> None:
        """Take the step that the table gives. One that it does not give is a bug of ours."""
        state = TRANSITIONS[self.state, trigger]
        if state is not self.state:
            self.state = state
            self._history.append(state)
            self._count += 1
            self.notify()

    def end(self) -> None:
        """Let watchers end: this was the last change."""
        self.is_over = True
        self.notify()

    def notify(self) -> None:
        """Wake whoever waits, to look again."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait_changed(self) -> None:
        """Wait until something may have changed."""
        await self._changed.wait()

    def since(self, count: int) -> tuple[int, list[ConnectionState]]:
        """Give what the state became after the first ``count`` times, and the new count."""
        new = self._count - count
        return self._count, list(self._history)[-new:] if new > 0 else []

    def changes(self) -> StateChanges:
        """See `StateChanges`."""
        return StateChanges(self, self._count - 1)


class StateChanges(AsyncIterator[ConnectionState]):
    """Gives the state as it is now, then each one that follows, until the client is done.

    It needs no closing. Who falls behind by more than 64 changes misses the oldest.
    """

    def __init__(self, machine: StateMachine, seen: int) -> None:
        self._machine = machine
        self._seen = seen
        self._waiting: deque[ConnectionState] = deque()

    def __aiter__(self) -> StateChanges:
        return self

    async def __anext__(self) -> ConnectionState:
        await trio.lowlevel.checkpoint()
        while True:
            self._seen, new = self._machine.since(self._seen)
            self._waiting.extend(new)
            if self._waiting:
                return self._waiting.popleft()
            if self._machine.is_over:
                raise StopAsyncIteration
            await self._machine.wait_changed()


class Backoff:
    """How long to wait before the next attempt: ``min(30 s, 0.5 s · 2^n)`` with full jitter.

    Args:
        rng: Draws the jitter.
    """

    LONGEST_SECONDS: Final = 30.0
    FIRST_SECONDS: Final = 0.5

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self.failures = 0

    def reset(self) -> None:
        """An attempt succeeded."""
        self.failures = 0

    def next_delay(self, retry_after_seconds: float | None = None) -> float:
        """Give the seconds to wait, and count the attempt; what the server asked for counts."""
        ceiling = min(self.LONGEST_SECONDS, self.FIRST_SECONDS * 2.0 ** min(self.failures, 16))
        self.failures += 1
        if retry_after_seconds is not None:
            return max(0.0, retry_after_seconds)
        return self._rng.uniform(0.0, ceiling)
