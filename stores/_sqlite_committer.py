"""One transaction for all that waits: many sessions' batches, one sync, one answer each."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from ..core.errors import StoreError, TrialogueError
from ._space import MIN_FREE_BYTES, Space
from ._sqlite_jobs import Job

if TYPE_CHECKING:
    from ._sqlite_database import Database

__all__ = ["Committer"]

log = logging.getLogger("trialogue.stores.sqlite")

#: A note waits so long for an append to go with (`SessionLog.note`: 100 ms at most).
NOTE_SECONDS: Final = 0.05
#: Of one transaction, so that no reader of the event loop's lock waits long, and no task either.
MOST_JOBS: Final = 512
#: How long closing waits for a disk that does not answer.
CLOSE_SECONDS: Final = 30.0


@attrs.define(eq=False)
class _Waiting:
    job: Job
    #: None for a note: nobody waits for it.
    done: trio.Event | None
    result: Any = None
    failure: Exception | None = None


class Committer:
    """Owns the one connection that writes.

    Attributes:
        commits: Transactions so far.
        jobs: What was written with them.
        failure: Why nothing is written any more, None while all is well.
        space: How much room there is.
        limiter: Of the threads that use the connection: one at a time.
    """

    def __init__(self, database: Database, *, min_free_bytes: int = MIN_FREE_BYTES) -> None:
        self._database = database
        self._waiting: list[_Waiting] = []
        self._wake = trio.Event()
        self._notes_due = math.inf
        self._is_closing = False
        self._ended = trio.Event()
        self.limiter = trio.CapacityLimiter(1)
        self._scope = trio.CancelScope(shield=True)
        self.commits = 0
        self.jobs = 0
        self.failure: Exception | None = None
        self.space = Space(database.free_bytes, min_free_bytes)

    async def do(self, job: Job) -> Any:
        """Have a job done, with the next transaction, and give what it returned.

        If this is cancelled, the job is not done, or it is, with a transaction that is on its way;
        the next `do` comes after that.
        """
        self._check()
        waiting = _Waiting(job, trio.Event())
        self._waiting.append(waiting)
        self._wake.set()
        assert waiting.done is not None
        try:
            await waiting.done.wait()
        except trio.Cancelled:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            raise
        if waiting.failure is not None:
            raise waiting.failure
        return waiting.result

    def note(self, job: Job) -> None:
        """Have a job done soon; nobody waits for it. Does nothing if the store has failed."""
        if self.failure is None and not self._is_closing:
            self._waiting.append(_Waiting(job, None))
            if self._notes_due == math.inf:
                self._notes_due = trio.current_time() + NOTE_SECONDS
                self._wake.set()

    def _check(self) -> None:
        if self.failure is not None:
            raise StoreError(f"the store has stopped: {self.failure}") from self.failure
        if self._is_closing:
            raise StoreError("the store is closed")

    async def run(self) -> None:
        """Write what comes, until closed; no cancel ends it."""
        try:
            with self._scope:
                while not self._is_closing or self._waiting:
                    await self._wait_for_work()
                    while self._waiting:
                        batch = self._waiting[:MOST_JOBS]
                        del self._waiting[:MOST_JOBS]
                        self._notes_due = math.inf
                        await self._commit(batch)
        finally:
            self._give_up(self._waiting, self.failure or StoreError("the store is closed"))
            self._ended.set()

    async def _wait_for_work(self) -> None:
        while not self._is_closing and not any(
            waiting.done is not None for waiting in self._waiting
        ):
            self._wake = trio.Event()
            with trio.move_on_at(self._notes_due) as scope:
                await self._wake.wait()
            if scope.cancelled_caught:
                return

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        try:
            # Not abandoned by a cancel: two threads would then use one connection.
            await trio.to_thread.run_sync(self._write, batch, limiter=self.limiter)
        except StoreError as exc:
            if _is_final(exc):
                self._stop(exc)
            self._give_up(batch, exc, is_full=_is_for_room(exc))
            self.space.tell()
            return
        except Exception as exc:
            # A bug of ours. Nothing of it was committed.
            log.exception("a commit failed")
            self._give_up(batch, StoreError("the store failed"), exc)
            return
        self.commits += 1
        self.jobs += len(batch)
        for waiting in batch:
            if waiting.done is not None:
                waiting.done.set()
        self.space.tell()

    def _write(self, batch: Sequence[_Waiting]) -> None:
        """Do all jobs in one transaction, in a worker thread."""
        database = self._database
        database.check_file()
        is_full = self.space.look()
        with self._noticing_no_room(), database.transaction():
            for waiting in batch:
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

    def _give_up(
        self,
        batch: Sequence[_Waiting],
        exc: Exception,
        cause: Exception | None = None,
        *,
        is_full: bool = False,
    ) -> None:
        for waiting in batch:
            # Each its own: an exception that several tasks raise gathers all their tracebacks.
            failure = self.space.make_error() if is_full else StoreError(str(exc))
            failure.__cause__ = cause or exc
            waiting.failure = failure
            if waiting.done is not None:
                waiting.done.set()

    async def aclose(self) -> None:
        """Write what waits, and end. Idempotent."""
        self._is_closing = True
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + CLOSE_SECONDS)
        self._wake.set()
        await self._ended.wait()


def _is_of_database(exc: TrialogueError) -> bool:
    """Whether it ends the transaction, not just the job."""
    from ._sqlite_database import DatabaseError

    return isinstance(exc, DatabaseError)


def _is_for_room(exc: StoreError) -> bool:
    """Whether nothing was written since there is no room."""
    from ._sqlite_database import DatabaseFullError

    return isinstance(exc, DatabaseFullError)


def _is_final(exc: StoreError) -> bool:
    """Whether nothing may be written after it."""
    from ._sqlite_database import DatabaseLostError

    return isinstance(exc, DatabaseLostError)
