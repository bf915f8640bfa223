"""Gathers what many sessions have to write, and has it written together, in order.

While one group is under way the next one gathers, so that a slower disk or a farther engine makes
larger groups. No cancel ends what is under way: whoever waited may go, the job is done or not.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Final, Generic, TypeVar

import attrs
import trio

from ..core.errors import StoreError

__all__ = ["GroupCommitter", "Waiting"]

JobT = TypeVar("JobT")

#: A note waits so long for an append to go with (`SessionLog.note`: 100 ms at most).
NOTE_SECONDS: Final = 0.05
#: Of one group, so that no reader of the event loop's lock waits long, and no task either.
MOST_JOBS: Final = 512
#: How long closing waits for a disk or an engine that does not answer.
CLOSE_SECONDS: Final = 30.0


@attrs.define(eq=False)
class Waiting(Generic[JobT]):
    """A job, and what came of it.

    Attributes:
        done: None for a note: nobody waits for it.
    """

    job: JobT
    done: trio.Event | None
    result: Any = None
    failure: Exception | None = None

    def finish(self) -> None:
        """Tell who waits."""
        if self.done is not None:
            self.done.set()


class GroupCommitter(ABC, Generic[JobT]):
    """Takes jobs, and gives them on in groups, one group at a time.

    Attributes:
        commits: Groups so far that were written.
        jobs: What was written with them.
        failure: Why nothing is written any more, None while all is well.
    """

    def __init__(self) -> None:
        self._waiting: list[Waiting[JobT]] = []
        self._wake = trio.Event()
        self._notes_due = math.inf
        self._is_closing = False
        self._ended = trio.Event()
        self._scope = trio.CancelScope(shield=True)
        self.commits = 0
        self.jobs = 0
        self.failure: Exception | None = None

    @abstractmethod
    async def commit(self, group: Sequence[Waiting[JobT]]) -> None:
        """Write a group, and finish each of it. Raises nothing."""

    async def do(self, job: JobT) -> Any:
        """Have a job done, with the next group, and give what it returned.

        If this is cancelled, the job is not done, or it is, with a group that is on its way;
        the next `do` comes after that.
        """
        self._check()
        waiting = Waiting(job, trio.Event())
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

    def note(self, job: JobT, *, at_once: bool = False) -> None:
        """Have a job done soon; nobody waits for it. Does nothing if the store has failed.

        Args:
            job: What to do.
            at_once: It does not wait for something to go with.
        """
        if self.failure is None and not self._is_closing:
            self._waiting.append(Waiting(job, None))
            due = trio.current_time() + (0.0 if at_once else NOTE_SECONDS)
            if due < self._notes_due:
                self._notes_due = due
                self._wake.set()

    @property
    def is_closing(self) -> bool:
        """Nothing more is taken."""
        return self._is_closing

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
                        group = self._waiting[:MOST_JOBS]
                        del self._waiting[:MOST_JOBS]
                        self._notes_due = math.inf
                        await self.commit(group)
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

    def note_written(self, count: int) -> None:
        """Count a group that was written."""
        self.commits += 1
        self.jobs += count

    def _give_up(
        self, group: Iterable[Waiting[JobT]], exc: Exception, cause: Exception | None = None
    ) -> None:
        for waiting in group:
            # Each its own: an exception that several tasks raise gathers all their tracebacks.
            waiting.failure = self.make_failure(exc)
            waiting.failure.__cause__ = cause or exc
            waiting.finish()

    def make_failure(self, exc: Exception) -> Exception:
        """Make what one of those who wait is told."""
        return StoreError(str(exc))

    async def aclose(self) -> None:
        """Write what waits, and end. Idempotent."""
        self._is_closing = True
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + CLOSE_SECONDS)
        self._wake.set()
        await self._ended.wait()
