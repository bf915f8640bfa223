"""What fails again and again, such as all that an engine is asked while it is away, in the log."""

from __future__ import annotations

import logging
from typing import Final

import trio

__all__ = ["Trouble"]

#: Reasons that are remembered, so that each is said once; more of them begin anew.
MOST_REASONS: Final = 100


class Trouble:
    """Says in the log when something begins to fail, each new reason, and when it is over.

    Args:
        log: Whose it is.
        begun: What is said of a failure.
        over: What is said when it is over.
        level: Of a failure.
    """

    def __init__(
        self, log: logging.Logger, begun: str, over: str, *, level: int = logging.WARNING
    ) -> None:
        self._log = log
        self._begun = begun
        self._over = over
        self._level = level
        self._reasons: set[str] = set()
        self._times = 0
        self._since = 0.0
        self._last = 0.0

    @property
    def is_on(self) -> bool:
        """Whether it has failed, and is not over."""
        return self._times > 0

    def note(self, reason: str, times: int = 1) -> None:
        """It has failed, or so many of it have."""
        self._last = trio.current_time()
        if not self._times:
            self._since = self._last
        self._times += times
        if reason not in self._reasons:
            if len(self._reasons) >= MOST_REASONS:
                self._reasons.clear()
            self._reasons.add(reason)
            self._log.log(self._level, self._begun, extra={"error": reason})

    def end(self, *, unless_since: float | None = None) -> None:
        """It works again.

        Args:
            unless_since: It does not, if it has failed since that time.
        """
        if not self._times or (unless_since is not None and self._last >= unless_since):
            return
        seconds = round(trio.current_time() - self._since, 1)
        self._log.warning(self._over, extra={"failures": self._times, "seconds": seconds})
        self._times = 0
        self._reasons.clear()
