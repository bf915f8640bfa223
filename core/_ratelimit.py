"""Rate limits as pure arithmetic: no clock, no task. Time is an argument, in seconds."""

from __future__ import annotations

import math
import re
from typing import Final

import attrs

__all__ = ["RateLimit", "RateLimiter", "TokenBucket"]

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


#: A bucket lends what it will have so soon, or who comes just when told would find it a hair short:
#: the clock's time and the level are rounded.
_LENT_SECONDS: Final = 1e-6


def _positive(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{attribute.name} must be a positive number, not {value!r}")


def _one_at_least(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not (value >= 1 and math.isfinite(value)):
        raise ValueError(
            f"{attribute.name} must be at least 1, not {value!r}: none would be let in"
        )


@attrs.frozen(kw_only=True)
class RateLimit:
    """How many requests a principal may send (PROTOCOL §11).

    Attributes:
        max_requests: Allowed on average in each window.
        window_seconds: The window's length.
        burst: How many at once after a pause, 1 or more.
        reserve: A bucket apart, 1 or more, refilled at the same rate, for what stops work: ``turn.cancel``,
            ``request.cancel``, ``ask.answer`` and ``ping``.
    """

    max_requests: float = attrs.field(default=1200.0, validator=_positive)
    window_seconds: float = attrs.field(default=60.0, validator=_positive)
    burst: float = attrs.field(default=100.0, validator=_one_at_least)
    reserve: float = attrs.field(default=20.0, validator=_one_at_least)

    @classmethod
    def parse(cls, text: str) -> RateLimit | None:
        """Read ``"1200/60s"``, ``"100/1m"``, ``"20/s"``, with ``" burst 50"`` if wanted, or ``"off"``.

        Raises:
            ValueError: The text has another form; the message shows the right one.
        """
        if text.strip().lower() == "off":
            return None
        match = re.fullmatch(
            r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)?\s*(ms|s|m|h)(?:\s+burst\s+(\d+))?\s*", text
        )
        if match is None:
            raise ValueError(
                f"{text!r} is not a rate such as 1200/60s, 20/s, 1200/60s burst 50, or off"
            )
        count, length, unit, burst = match.groups()
        rate = cls(
            max_requests=float(count),
            window_seconds=float(length or 1) * _UNITS[unit],
            **({"burst": float(burst)} if burst else {}),
        )
        return (
            rate
            if burst
            else attrs.evolve(rate, burst=min(rate.burst, max(1.0, rate.max_requests)))
        )

    @property
    def per_second(self) -> float:
        """The average rate."""
        return self.max_requests / self.window_seconds


class TokenBucket:
    """Allow ``rate`` (> 0) per second on average and ``burst`` at once."""

    __slots__ = ("_at", "_burst", "_lent", "_level", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._lent = min(rate * _LENT_SECONDS, 0.001)
        self._level, self._at = burst, -math.inf

    def take(self, now: float, cost: float = 1.0) -> float:
        """Return 0.0 and charge ``cost``, or the seconds to wait and charge nothing.

        Time that runs backwards refills nothing. A ``cost`` above the burst can never be met:
        the answer is then ``inf``.
        """
        level = self._level
        if now > self._at:
            level += (now - self._at) * self._rate
            if level > self._burst:
                level = self._burst
            self._at = now
        if level >= cost - self._lent:
            self._level = level - cost
            return 0.0
        self._level = level
        return (cost - level) / self._rate if cost <= self._burst else math.inf

    def level(self, now: float) -> float:
        """Give what could be taken at once."""
        return min(self._burst, self._level + max(0.0, now - self._at) * self._rate)

    def is_full(self, now: float) -> bool:
        """Whether a fresh bucket would behave the same: it can be forgotten."""
        return self.level(now) >= self._burst


def whole_ms(wait: float) -> int:
    """Give the whole milliseconds, 1 or more, after which what had to wait so long is let in."""
    # Less by half of what the bucket lends: 50.0000001 ms are 50.
    return max(1, math.ceil((wait - _LENT_SECONDS / 2) * 1000))


class RateLimiter:
    """One principal's two buckets.

    Args:
        limit: Of both.
        ordinary: Its bucket for ordinary requests, where it has one.

    Attributes:
        ordinary: For ordinary requests.
        reserve: For what stops work, and for answers.
    """

    __slots__ = ("ordinary", "reserve")

    def __init__(self, limit: RateLimit, *, ordinary: TokenBucket | None = None) -> None:
        self.ordinary = ordinary or TokenBucket(limit.per_second, limit.burst)
        self.reserve = TokenBucket(limit.per_second, limit.reserve)

    def is_idle(self, now: float) -> bool:
        """Whether it can be forgotten, since nothing of its past still counts."""
        return self.ordinary.is_full(now) and self.reserve.is_full(now)
