"""What goes on whatever becomes of the request or the turn that began it.

Appends to the store, and tasks that read it or write to it. The server waits for all of it at its
end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from .abc import Done, SessionLog
from .log import Entry, Summary

__all__ = ["Writers"]


class Writers:
    """Runs and counts what is on its way to or from the store.

    Args:
        nursery: Of its tasks. Once it is cancelled, nobody is told anything more.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._count = 0
        self._all_done: trio.Event | None = None

    def spawn(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run something."""
        self._count += 1
        self._nursery.start_soon(self._run, task)

    async def _run(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        finally:
            self._end()

    def _end(self) -> None:
        self._count -= 1
        if not self._count and self._all_done is not None:
            self._all_done.set()

    def append(
        self, session_log: SessionLog, batch: Sequence[Entry], summary: Summary, done: Done
    ) -> None:
        """Append to a session's log.

        ``done`` is called as `SessionLog.append_soon` does it, also for a log that only has
        `SessionLog.append`.
        """
        self._count += 1

        def over(failure: Exception | None) -> None:
            if not self._nursery.cancel_scope.cancel_called:
                done(failure)
            self._end()

        async def append() -> None:
            failure: Exception | None = None
            try:
                await session_log.append(batch, summary)
            except Exception as exc:  # noqa: BLE001 - ends that session
                failure = exc
            except trio.Cancelled:
                self._end()
                raise
            over(failure)

        try:
            is_taken = session_log.append_soon(batch, summary, over)
        except Exception as exc:  # noqa: BLE001 - ends that session
            over(exc)
        else:
            if not is_taken:
                self._nursery.start_soon(append)

    async def wait_done(self) -> None:
        """Wait until nothing is on its way to or from the store."""
        while self._count:
            self._all_done = trio.Event()
            await self._all_done.wait()
