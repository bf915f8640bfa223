"""A principal's rate at one node of a cluster, where others use it up as well. Pure arithmetic.

What all nodes count together is a **debt**: the seconds until what was used counts no more. Each
request adds the time in which the rate gives one back, and each second takes one away. A node tells
now and then what was used at it, and is told the debt; no request waits for that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from .._ratelimit import RateLimit, TokenBucket

__all__ = ["SharedBucket", "find_most_debt"]

#: What was used counts in the debt when it was told, so that is ahead of a node's own bucket by so
#: much at most. Were that held against it, a principal at a single node would be refused what it
#: may. Twice what two reports are apart, for the way to the engine.
_LATE_SECONDS: Final = 1.0
#: What a node lets in before it knows of the others is a burst, and what the rate gives so long.
_BLIND_SECONDS: Final = 2.0
#: So many nodes can do so at once; what more of them did is forgotten. It bounds how long anybody
#: is refused, whatever was told.
_MOST_NODES: Final = 64
#: Debts are whole milliseconds: what is left over is told with what comes next.
_STEP_SECONDS: Final = 0.001


def find_most_debt(limit: RateLimit) -> float:
    """Give the debt that none grows beyond, in seconds."""
    return _MOST_NODES * (limit.burst / limit.per_second + _BLIND_SECONDS)


class SharedBucket(TokenBucket):
    """One node's bucket of a principal; see `TokenBucket`.

    Args:
        on_use: Called with it when something was used and it is not watched.

    Attributes:
        is_watched: Something of it may still count, so somebody goes on to report and to settle it.
    """

    __slots__ = ("_on_use", "_used", "is_watched")

    def __init__(self, limit: RateLimit, on_use: Callable[[SharedBucket], object]) -> None:
        super().__init__(limit.per_second, limit.burst)
        self._on_use = on_use
        self._used = 0.0
        self.is_watched = False

    def take(self, now: float, cost: float = 1.0) -> float:
        wait = super().take(now, cost)
        if not wait:
            self._used += cost
            if not self.is_watched:
                self.is_watched = True
                self._on_use(self)
        return wait

    def report(self, now: float) -> float:
        """Give by how much the debt grows for what was used since the last report.

        It is told once. After a time without an engine it is no more than what still counts here.
        """
        counts = self._burst - self.level(now) + _LATE_SECONDS * self._rate
        used = min(self._used, counts)
        debt = math.floor(used / self._rate / _STEP_SECONDS) * _STEP_SECONDS
        self._used = used - debt * self._rate
        return debt

    def settle(self, now: float, reported_at: float, debt: float) -> None:
        """Hold what is let in here against what was used at all nodes.

        Args:
            now: When that is known here.
            reported_at: When the last report was made.
            debt: As it was at some time since, with that report.
        """
        level = self.level(now)
        room = self._burst + (_LATE_SECONDS - debt) * self._rate - self._used
        # Not for less than it may be old: an engine that is slow would have those refused who may.
        old = now - reported_at + _STEP_SECONDS
        if room < level - old * self._rate:
            self._level, self._at = room, now
        else:
            self.is_watched = level < self._burst
