"""One transaction for all that waits: many sessions' batches, one sync, one answer each."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from ...core.errors import StoreError, TrialogueError
from .._committing import GroupCommitter, Waiting
from .._space import MIN_FREE_BYTES, Space
from .jobs import Job

if TYPE_CHECKING:
    from .database import Database

__all__ = ["Committer"]

log = logging.getLogger("trialogue.stores.sqlite")


class Committer(GroupCommitter[Job]):
    """Owns the one connection that writes.

    Attributes:
        space: How much room there is.
        limiter: Of the threads that use the connection: one at a time.
    """

    def __init__(self, database: Database, *, min_free_bytes: int = MIN_FREE_BYTES) -> None:
        super().__init__()
        self._database = database
        self.limiter = trio.CapacityLimiter(1)
        self.space = Space(database.free_bytes, min_free_bytes)

    async def commit(self, group: Sequence[Waiting[Job]]) -> None:
        try:
            # Not abandoned by a cancel: two threads would then use one connection.
            await trio.to_thread.run_sync(self._write, group, limiter=self.limiter)
        except StoreError as exc:
            if _is_final(exc):
                self._stop(exc)
            self._give_up(group, exc)
            self.space.tell()
            return
        except Exception as exc:
            # A bug of ours. Nothing of it was committed.
            log.exception("a commit failed")
            self._give_up(group, StoreError("the store failed"), exc)
            return
        self.note_written(len(group))
        for waiting in group:
            waiting.finish()
        self.space.tell()

    def _write(self, group: Sequence[Waiting[Job]]) -> None:
        """Do all jobs in one transaction, in a worker thread."""
        database = self._database
        database.check_file()
        is_full = self.space.look()
        with self._noticing_no_room(), database.transaction():
            for waiting in group:
                if is_full and not waiting.job.frees_space:
                    waiting.failure = self.space.make_error()
                    continue
                self.space.took(waiting.job.size)
                try:
                    waiting.result = waiting.job.run(database)
                except TrialogueError as exc:
                    if _is_of_database(exc):
                        raise
                    waiting.failure = exc

    @contextmanager
    def _noticing_no_room(self) -> Generator[None]:
        try:
            yield
        except StoreError as exc:
            if _is_for_room(exc):
                self.space.surprise()
            raise

    async def watch_space(self) -> None:
        """While the disk is full and nothing is written: find out when it no longer is."""
        await self.space.watch(self._look_for_space)

    async def _look_for_space(self) -> None:
        await trio.to_thread.run_sync(self._look, limiter=self.limiter)

    def _look(self) -> None:
        """In a worker thread, which may have waited for those that write or close."""
        if self.failure is None and not self._is_closing:
            self.space.look()

    def _stop(self, exc: Exception) -> None:
        """Take no more: after a failed sync nobody knows what the disk holds."""
        self.failure = exc
        log.error("the store has stopped", extra={"error": str(exc)})
        self._give_up(self._waiting, exc)
        self._waiting = []

    def make_failure(self, exc: Exception) -> Exception:
        if isinstance(exc, StoreError) and _is_for_room(exc):
            return self.space.make_error()
        return super().make_failure(exc)


def _is_of_database(exc: TrialogueError) -> bool:
    """Whether it ends the transaction, not just the job."""
    from .database import DatabaseError

    return isinstance(exc, DatabaseError)


def _is_for_room(exc: StoreError) -> bool:
    """Whether nothing was written since there is no room."""
    from .database import DatabaseFullError

    return isinstance(exc, DatabaseFullError)


def _is_final(exc: StoreError) -> bool:
    """Whether nothing may be written after it."""
    from .database import DatabaseLostError

    return isinstance(exc, DatabaseLostError)
