"""Group commit: what many sessions want to write becomes one record, one sync, one round of acks.

While a round is in its worker thread, the next group gathers; so the slower the disk, the larger
the groups. A thread's round is told right from its callback, which begins the next one if there is
more: the one task is there for what waits its time. An append that is cancelled before its round began is out, and one that is
cancelled later is in.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, TypeAlias

import attrs
import msgspec
import trio

from ...core.abc import Done
from ...core.errors import FencedError, StoreError, WireError
from .._files import Files, NoRoomError
from .._space import Space
from .commit import CommitLog
from .segments import head_name
from .session import OwnedSession

__all__ = ["Committer", "Fsync", "Request", "again"]

log = logging.getLogger("trialogue.store")

Fsync: TypeAlias = Literal["always", "interval", "never"]

#: What is written is there twice until a checkpoint: in the commit log, and in its session's file.
_COPIES: Final = 2
#: Notes wait for a group to go with for so long.
NOTE_SECONDS: Final = 0.05


class Request(msgspec.Struct, eq=False):
    """One thing to be written: a batch of entries, notes, a deletion, a term.

    A `msgspec.Struct`, since one is made for each batch and each text in progress.

    Attributes:
        commit: Called on the event loop when it is durable, before anybody is told.
        session: Whose file has to be as we left it; None asks nothing.
        frees_space: It may be written though the disk is nearly full.
        withdraw: Called if it was taken back.
        done: Called on the event loop when it is durable, or with why it is not.
        size: What the session's head has to have; None while the flusher has to look.
    """

    payload: bytes
    commit: Callable[[], None]
    session: OwnedSession | None = None
    frees_space: bool = False
    withdraw: Callable[[], None] | None = None
    done: Done | None = None
    size: int | None = None
    is_taken: bool = False
    is_withdrawn: bool = False
    is_abandoned: bool = False
    is_done: bool = False
    error: Exception | None = None
    task: trio.lowlevel.Task | None = None

    def take(self) -> None:
        """Begin its round: it cannot be withdrawn any more."""
        self.is_taken = True
        session = self.session
        # One that has lines for the flusher is looked at by the flusher, soon.
        if session is not None and not session.unflushed:
            self.size = session.size

    def finish(self, error: Exception | None) -> None:
        """Tell whoever waits."""
        self.is_done = True
        self.error = error
        if self.done is not None:
            self.done(None if error is None else again(error))
        if self.is_abandoned and self.session is not None:
            self.session.abandoned -= 1
            if error is not None and self.withdraw is not None:
                self.withdraw()
        if self.task is not None:
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        """Wait until it is durable. Cancelling takes it back if it is not on its way yet."""
        if not self.is_done:
            self.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        if self.error is not None:
            raise again(self.error)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self.task = None
        if not self.is_taken:
            self.is_withdrawn = True
            if self.withdraw is not None:
                self.withdraw()
        elif self.session is not None:
            self.is_abandoned = True
            self.session.abandoned += 1
        return trio.lowlevel.Abort.SUCCEEDED


@attrs.frozen
class _Round:
    """What a worker thread found: the requests that were not written, and why."""

    refused: Sequence[Request]
    foreign: Sequence[Request]


def again(error: Exception) -> Exception:
    """Give an exception to raise that says the same: each keeps where it was raised."""
    made: Exception
    if isinstance(error, WireError):
        made = type(error)(error.message, data=error.data, retryable=error.retryable)
    else:
        made = type(error)(*error.args)
    made.__cause__ = error.__cause__
    return made


class _TakenAfterError(Exception):
    """The folder was taken while a group was being written."""


def _explain(exc: Exception) -> Exception:
    """Say why the store stops, for good."""
    if isinstance(exc, _TakenAfterError):
        return FencedError("Another process has taken the store's folder")
    if isinstance(exc, FencedError):
        return exc
    failure = StoreError(f"The store has stopped: {exc}")
    failure.__cause__ = exc
    return failure


class Committer:
    """The commit log's only writer.

    Attributes:
        failure: Why nothing is written any more.
        space: How much room there is.
        groups, syncs: Counted.
    """

    def __init__(
        self,
        files: Files,
        commit_log: CommitLog,
        *,
        lock_name: str,
        lock_handle: int,
        fsync: Fsync,
        interval_seconds: float,
        min_free_bytes: int,
        limiter: trio.CapacityLimiter,
        wait_room: Callable[[], Awaitable[None]],
        has_room: Callable[[], bool],
        unwritten_bytes: Callable[[], int],
    ) -> None:
        self.failure: Exception | None = None
        # What is acknowledged has to find room in the sessions' files, too.
        self.space = Space(lambda: files.free_bytes() - unwritten_bytes(), min_free_bytes)
        self.groups = self.syncs = 0
        self.log = commit_log
        self._files = files
        self._lock_name = lock_name
        self._lock_handle = lock_handle
        self._fsync: Fsync = fsync
        self._interval = interval_seconds
        self._limiter = limiter
        self._wait_room = wait_room
        self._has_room = has_room
        self._queue: list[Request] = []
        self._due = math.inf
        self._wake = trio.Event()
        self._rounds = trio.Lock()
        self._syncs = trio.Lock()
        self._unsynced = False
        self._is_closing = False
        self._settled = trio.Event()
        #: Waits for a round to end.
        self._task: trio.lowlevel.Task | None = None
        #: It is to go on when the round has ended, since it was cancelled.
        self._is_wanted = False
        self._crash: Exception | None = None
        self.on_foreign: Callable[[Request], None] = lambda request: None
        #: What it had acknowledged, and nobody flushed, is now in memory only.
        self.on_log_gone: Callable[[], None] = lambda: None

    # -- giving it work --------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Write it with the next group.

        Raises:
            StoreError, FencedError: Nothing is written any more.
        """
        if self._is_closing:
            raise StoreError("The store is closed")
        self.submit_again(request)

    def submit_again(self, request: Request) -> None:
        """As `submit`, also while the store closes: it was in a group already."""
        if self.failure is not None:
            raise again(self.failure)
        self._queue.append(request)
        if self._due != -math.inf:
            self._due = -math.inf
            self._wake.set()

    def submit_lazily(self, request: Request) -> None:
        """Write it with the next group, or alone if none comes soon. Nobody waits for it."""
        if self.failure is not None:
            return
        self._queue.append(request)
        if self._due == math.inf:
            self._due = trio.current_time() + NOTE_SECONDS
            self._wake.set()

    async def wait_settled(self) -> None:
        """Wait for the end of the round that is going on."""
        await self._settled.wait()

    # -- the task --------------------------------------------------------------------------

    async def run(self) -> None:
        """Write groups until cancelled."""
        while True:
            # Nothing else in here is a checkpoint while there is always more to write.
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._wait_due()
            await self._wait_room()
            try:
                # A tick sooner than by its own context manager.
                self._rounds.acquire_nowait()
            except trio.WouldBlock:
                await self._rounds.acquire()
            try:
                await self._commit_queue()
            finally:
                self._rounds.release()

    async def _wait_due(self) -> None:
        while (now := trio.current_time()) < self._due:
            self._wake = trio.Event()
            with trio.move_on_after(self._due - now):
                await self._wake.wait()

    async def finish(self) -> bool:
        """Write what is still waiting, lazy or not, and take no more: its file will be closed.

        Returns:
            Whether all of it could be written.
        """
        # Those who are told within a round may have more at once: it would never end.
        self._is_closing = True
        async with self._rounds:
            while self._queue and self.failure is None:
                await self._commit_queue()
            async with self._syncs:
                is_whole = self.failure is None
                self.stop(StoreError("The store is closed"), quiet=True)
                return is_whole

    async def _commit_queue(self) -> None:
        """Write what waits, and what comes meanwhile.

        No scheduler's tick passes between a worker thread and who is told, nor between one round
        and the next: under load a tick is as long as the round. Hence no `trio.to_thread` here.
        """
        self._is_wanted = False
        if self._begin_round():
            self._task = trio.lowlevel.current_task()
            # Cancelled only between rounds: what a thread writes, somebody has to be told.
            await trio.lowlevel.wait_task_rescheduled(self._end_soon)
            if self._crash is not None:
                raise self._crash

    def _end_soon(self, _: object) -> trio.lowlevel.Abort:
        self._is_wanted = True
        return trio.lowlevel.Abort.FAILED

    def _begin_round(self) -> bool:
        """Give all that waits to a worker thread, if there is something."""
        group = [request for request in self._queue if not request.is_withdrawn]
        self._queue = []
        self._due = math.inf
        if not group:
            return False
        for request in group:
            request.take()
        self._settled = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def write() -> _Round | Exception:
            try:
                return self._write(group)
            except Exception as exc:  # noqa: BLE001 - it is told
                return exc

        trio.lowlevel.start_thread_soon(
            write, lambda result: token.run_sync_soon(self._end_round, group, result.unwrap)
        )
        return True

    def _end_round(
        self, group: Sequence[Request], get_result: Callable[[], _Round | Exception]
    ) -> None:
        """On the event loop, right from the worker thread."""
        try:
            self._settle(group, get_result())
            has_more = self._due == -math.inf and self.failure is None
            is_wanted = self._is_wanted or self._rounds.statistics().tasks_waiting
            if has_more and not is_wanted and self._has_room() and self._begin_round():
                return
        except Exception as exc:  # noqa: BLE001 - raised in the task
            self._crash = exc
        task, self._task = self._task, None
        assert task is not None
        trio.lowlevel.reschedule(task)

    def _settle(self, group: Sequence[Request], done: _Round | Exception) -> None:
        """Tell everybody what became of a round."""
        self._settled.set()
        if isinstance(done, Exception):
            self._stop(_explain(done), group)
            return
        self.groups += 1
        if self.log.is_anew:
            self.on_log_gone()
        skipped = {*done.refused, *done.foreign}
        for request in group:
            if request not in skipped:
                request.commit()
                request.finish(None)
        for request in done.refused:
            request.finish(self.space.make_error())
        for request in done.foreign:
            self.on_foreign(request)
        self.space.tell()

    def _stop(self, failure: Exception, group: Sequence[Request]) -> None:
        """Take no more, for good: what a failed sync left on the disk, nobody knows."""
        if self.failure is None:
            self.failure = failure
            log.critical("the store has stopped", extra={"error": repr(failure)})
        waiting, self._queue = self._queue, []
        for request in (*group, *waiting):
            if not request.is_done and not request.is_withdrawn:
                request.finish(failure)

    def stop(self, failure: Exception, *, quiet: bool = False) -> None:
        """As if writing had failed: somebody else could not write what has to be written."""
        if quiet and self.failure is None:
            self.failure = failure
        self._stop(failure, ())

    # -- in the worker thread --------------------------------------------------------------

    def _write(self, group: Sequence[Request]) -> _Round:
        files = self._files
        self.check_lock()
        is_full = self.space.look()
        refused: list[Request] = []
        foreign: list[Request] = []
        payloads: list[bytes] = []
        for request in group:
            session = request.session
            if not request.frees_space and (
                is_full or not self.space.fits(_COPIES * len(request.payload))
            ):
                refused.append(request)
            elif (
                session is not None
                and request.size is not None
                and (files.size_of(head_name(session.id)) or 0) != request.size
            ):
                foreign.append(request)
            else:
                payloads.append(request.payload)
                self.space.took(_COPIES * len(request.payload))
        if payloads:
            try:
                if not self.log.is_as_left:
                    self.log.make_anew()
                    # Whoever took the folder has dropped the log, and is to find nothing in this one.
                    self.check_lock()
                self.log.write(b"".join(payloads))
            except NoRoomError:
                self.space.surprise()
                return _Round([request for request in group if request not in foreign], foreign)
            if self._fsync == "always":
                self.log.sync()
                self.syncs += 1
                # Whoever took the folder since then has not read this record, perhaps.
                if not files.is_named(self._lock_name, self._lock_handle):
                    raise _TakenAfterError
            else:
                self._unsynced = True
        return _Round(refused, foreign)

    def check_lock(self) -> None:
        """Check that the folder is still ours. In a worker thread.

        Raises:
            FencedError: It is not.
        """
        if not self._files.is_named(self._lock_name, self._lock_handle):
            if self._files.size_of(self._lock_name) is None:
                raise FencedError(f"{self._files.folder}, or the lock in it, was removed")
            raise FencedError("Another process has taken the store's folder")

    async def watch_space(self) -> None:
        """While the disk is full and nothing is written: find out when it no longer is."""
        await self.space.watch(self._look_for_space)

    async def _look_for_space(self) -> None:
        async with self._rounds:
            await trio.to_thread.run_sync(self.space.look, limiter=self._limiter)

    # -- the log's files -------------------------------------------------------------------

    async def swap(self, commit_log: CommitLog) -> CommitLog:
        """Go on in another file. Returns the one before, complete."""
        async with self._rounds:
            before, self.log = self.log, commit_log
            commit_log.follow(before)
            return before

    async def sync(self) -> None:
        """Make durable what is written (policy ``interval``)."""
        async with self._syncs:
            if not self._unsynced or self.failure is not None:
                return
            self._unsynced = False
            try:
                await trio.to_thread.run_sync(self.log.sync, limiter=self._limiter)
                self.syncs += 1
            except OSError as exc:
                self._stop(StoreError(f"The store has stopped: {exc}"), ())

    async def wait_idle(self) -> None:
        """Wait until no thread of ours is at work."""
        async with self._rounds, self._syncs:
            pass

    async def close_log(self, commit_log: CommitLog) -> None:
        """Close a file that is not written to any more."""
        async with self._syncs:
            await trio.to_thread.run_sync(commit_log.close, limiter=self._limiter)

    async def run_interval(self) -> None:
        """Sync every interval (policy ``interval``)."""
        while True:
            await trio.sleep(self._interval)
            await self.sync()
