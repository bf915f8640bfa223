"""Wall-clock times as the wire writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["utc_before", "utc_now"]

_FOREVER_SECONDS: Final = 100 * 365 * 24 * 3600.0


def utc_now() -> str:
    """Now, as RFC 3339 in UTC with milliseconds (PROTOCOL §1.3)."""
    return _format(datetime.now(UTC))


def utc_before(seconds: float) -> str:
    """The time so many seconds ago; before all times if that is for ever."""
    if seconds > _FOREVER_SECONDS:
        return ""
    return _format(datetime.now(UTC) - timedelta(seconds=seconds))


def _format(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z"
