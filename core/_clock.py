"""Wall-clock times as the wire writes them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = [
    "seconds_since",
    "seconds_until",
    "seconds_until_epoch",
    "utc_after",
    "utc_at",
    "utc_before",
    "utc_now",
]

_FOREVER_SECONDS: Final = 100 * 365 * 24 * 3600.0


class _Clock:
    """Writes the time now, of which only the milliseconds change most of the time.

    Every entry has its time, and formatting a whole one is ten times as slow.
    """

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def now(self) -> str:
        second, rest = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._text = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
            self._second = second
        return f"{self._text}.{rest // 1_000_000:03d}Z"


#: Now, as RFC 3339 in UTC with milliseconds (PROTOCOL §1.3).
utc_now: Final = _Clock().now


def utc_before(seconds: float) -> str:
    """The time so many seconds ago; before all times if that is for ever."""
    if seconds > _FOREVER_SECONDS:
        return ""
    return _write(datetime.now(UTC) - timedelta(seconds=seconds))


def utc_after(seconds: float) -> str | None:
    """The time in so many seconds; None if that is for ever."""
    return (
        None
        if seconds > _FOREVER_SECONDS
        else _write(datetime.now(UTC) + timedelta(seconds=seconds))
    )


def utc_at(epoch_seconds: float) -> str | None:
    """The time that is so many seconds after 1970; None if no wire time is so late."""
    try:
        return _write(datetime.fromtimestamp(epoch_seconds, UTC))
    except (ValueError, OverflowError, OSError):
        return None


def _write(then: datetime) -> str:
    return f"{then:%Y-%m-%dT%H:%M:%S}.{then.microsecond // 1000:03d}Z"


def seconds_since(time: str) -> float:
    """Say how long ago a time of the wire was, 0 if it is still to come."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())


def seconds_until_epoch(epoch_seconds: float) -> float:
    """Say how long it is until so many seconds after 1970, 0 if it is past."""
    return max(0.0, epoch_seconds - time.time())


def seconds_until(time: str) -> float:
    """Say how long it is until a time of the wire, 0 if it is past."""
    return max(0.0, (datetime.fromisoformat(time) - datetime.now(UTC)).total_seconds())
