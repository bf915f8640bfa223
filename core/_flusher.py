"""One task a server that turns what was written during a tick into few events and few sends.

Whoever has something to send marks itself dirty; in the next pass the flusher first asks each
dirty session feed for its text, which becomes one delta a message, and then each dirty outbox to
send. That is one wake-up and one system call for everything that a tick produced.
"""

from __future__ import annotations

from typing import NoReturn, Protocol

import trio

__all__ = ["Flushable", "Flusher"]


class Flushable(Protocol):
    """Something that can be marked dirty. It must not raise."""

    def flush(self) -> None:
        """Pass on what has gathered. Called once for each time it was marked."""


class Flusher:
    """Collects what is dirty, and flushes it once a scheduler tick.

    Attributes:
        now: When the pass began that feeds are being flushed in.
    """

    __slots__ = ("_feeds", "_held", "_left", "_outboxes", "_parked", "_time", "now")

    def __init__(self) -> None:
        self._time = trio.lowlevel.current_clock().current_time
        self.now = self._time()
        self._feeds: list[Flushable] = []
        self._outboxes: list[Flushable] = []
        self._parked: trio.lowlevel.Task | None = None
        self._held = False
        #: Feeds that were dirty before `hold`.
        self._left = 0

    def mark_feed(self, feed: Flushable) -> None:
        """Have ``feed`` flushed in the next pass, before any outbox. Mark once until flushed."""
        self._feeds.append(feed)
        if self._parked is not None:
            self._wake()

    def mark_outbox(self, outbox: Flushable) -> None:
        """Have ``outbox`` flushed in the next pass. Mark once until it was flushed."""
        self._outboxes.append(outbox)
        if self._parked is not None:
            self._wake()

    def hold(self) -> None:
        """Wake nobody for what is marked from now on: the caller flushes before it waits.

        Whoever feeds many links in one step saves the task switch for each of those steps. Text
        that was written before is left to the next pass, for which the task is awake already: what
        agents write in one tick is one delta, however often links are fed in it.
        """
        self._held = True
        self._left = len(self._feeds)

    def _wake(self) -> None:
        if self._held:
            return
        task, self._parked = self._parked, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def flush(self) -> None:
        """Flush until nothing is dirty, or since `hold` was, and end that.

        A send that drains an outbox may let a lagging cursor post more, which is sent in the same
        pass. What ends it is that sockets fill, or that the next page must come from the store.
        """
        left, self._left = self._left, 0
        while len(self._feeds) > left or self._outboxes:
            feeds = self._feeds[left:]
            if feeds:
                del self._feeds[left:]
                # Once for all of them: each feed that asked would pay for it.
                self.now = self._time()
                for feed in feeds:
                    feed.flush()
            outboxes, self._outboxes = self._outboxes, []
            for outbox in outboxes:
                outbox.flush()
        self._held = False

    async def run(self) -> NoReturn:
        """Flush whenever something is dirty, until cancelled."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._parked = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            if self._feeds or self._outboxes:
                await trio.lowlevel.checkpoint()
            else:
                self._parked = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)
            self.flush()
