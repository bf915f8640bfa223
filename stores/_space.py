"""How much room a store has on its disk: below a limit no new work is taken, and it says so."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ..core.errors import OverloadedError

__all__ = ["MIN_FREE_BYTES", "Space"]

log = logging.getLogger("trialogue.store")

#: Unless told otherwise.
MIN_FREE_BYTES: Final = 64 * 1024 * 1024
#: How long what was found out about the free space is believed.
SPACE_SECONDS: Final = 0.25
#: What a refused client should wait.
FULL_RETRY_MS: Final = 5000


class Space:
    """What is known of a disk.

    Args:
        measure: Says how many bytes are free. It may take as long as the disk does.
        min_free: With fewer no new work should begin, with a quarter of it nothing is written.

    Attributes:
        is_full: The disk is nearly full: no new work should begin.
    """

    def __init__(self, measure: Callable[[], int], min_free: int) -> None:
        self.is_full = False
        self._measure = measure
        self._min_free = min_free
        self._free = 0
        self._checked = -float("inf")
        self._bytes_since = 0
        self._got_full = trio.Event()

    # -- where it may block ------------------------------------------------------------------

    def took(self, size: int) -> None:
        """So much is being written."""
        self._bytes_since += size
        self._free -= size

    def fits(self, size: int) -> bool:
        """Whether so much more may be written, by what was seen at the last look."""
        return self._free - size >= self._min_free // 4

    def look(self) -> bool:
        """Say whether there is so little room that nothing may be written."""
        now = time.monotonic()
        if now - self._checked >= SPACE_SECONDS or self._bytes_since > self._min_free // 8:
            self._checked, self._bytes_since = now, 0
            self._note(self._measure())
        return self._free < self._min_free // 4

    def surprise(self) -> None:
        """A write found no room, whatever was measured. The next `look` may find that there is."""
        self._checked, self._bytes_since = time.monotonic(), 0
        self._note(0)

    def _note(self, free: int) -> None:
        self._free = free
        is_full = free < self._min_free
        if is_full != self.is_full:
            log.log(
                logging.ERROR if is_full else logging.WARNING,
                "the disk is %s",
                "nearly full: no new work is taken" if is_full else "no longer full",
                extra={"free_bytes": free},
            )
        self.is_full = is_full

    # -- on the event loop -------------------------------------------------------------------

    def make_error(self) -> OverloadedError:
        """Make what is raised where nothing can be written."""
        return OverloadedError("The disk is nearly full", data={"retryAfterMs": FULL_RETRY_MS})

    def check(self) -> None:
        """Refuse new work if the disk is nearly full.

        Raises:
            OverloadedError: It is.
        """
        if self.is_full:
            raise self.make_error()

    def tell(self) -> None:
        """Something was written or refused: if the disk is full, `watch` has to know."""
        if self.is_full:
            self._got_full.set()

    async def watch(self, look: Callable[[], Awaitable[object]]) -> None:
        """While the disk is full and nothing is written: find out when it no longer is.

        Args:
            look: Does `look` in a worker thread, when nothing else does.
        """
        while True:
            await self._got_full.wait()
            self._got_full = trio.Event()
            while self.is_full:
                await trio.sleep(SPACE_SECONDS)
                await look()
