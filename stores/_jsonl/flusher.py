"""Moves what is acknowledged from the commit log to the sessions' own files, and drops the log.

A flush appends each session's lines to its head, without a sync. A checkpoint makes those files
and the index durable, and only then removes the log that would have brought them back.
"""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import trio

from ...core.errors import FencedError, StoreError
from .._files import Files, NoRoomError
from .commit import CommitLog
from .committer import Committer
from .heads import Heads
from .index import Index
from .index_file import IndexFile
from .rows import Row
from .segments import head_name
from .session import FlushJob, OwnedSession

__all__ = ["Flusher"]

log = logging.getLogger("trialogue.store")

#: A line is in its session's own file after so long.
FLUSH_SECONDS: Final = 0.25
#: Above it the flush does not wait; four times that, and the commits wait for the flush.
FLUSH_BYTES: Final = 8 * 1024 * 1024
#: After a checkpoint that found no room.
FULL_SECONDS: Final = 1.0
#: What a start would have to replay.
CHECKPOINT_BYTES: Final = 32 * 1024 * 1024


class Flusher:
    """Says when something is written to the sessions' files, and has it done.

    Attributes:
        flushes, checkpoints: Counted.
        pending_bytes: Given to it, and not planned to be written yet.
        unwritten_bytes: These, and those that are being written.
    """

    def __init__(
        self,
        files: Files,
        index: Index,
        index_file: IndexFile,
        *,
        epoch: int,
        sync: bool,
        auto_save_seconds: float,
        checkpoint_seconds: float,
        limiter: trio.CapacityLimiter,
        close_mark: str,
    ) -> None:
        self.flushes = self.checkpoints = 0
        #: One flush at a time, and one checkpoint.
        self._flushing = trio.Lock()
        self._working = trio.Lock()
        self._files = files
        self._heads = Heads(files, sync=sync)
        self._index = index
        self._index_file = index_file
        self._epoch = epoch
        self._sync = sync
        self._auto_save = auto_save_seconds
        self._checkpoint_seconds = checkpoint_seconds
        self._limiter = limiter
        self._log_number = 1
        self._dirty: dict[OwnedSession, None] = {}
        self._written: set[str] = set()
        self.pending_bytes = 0
        self._writing_bytes = 0
        self._wake = trio.Event()
        self._room = trio.Event()
        self._flushed = trio.Event()
        self._is_urgent = False
        self._failure: Exception | None = None
        self._doomed: list[str] = []
        self._is_closed = False
        self._close_mark = close_mark
        #: Commit logs that are complete, and not dropped yet, oldest first.
        self._complete: list[str] = []
        self._checkpoint_due = math.inf
        self._save_due = math.inf
        self.on_foreign: Callable[[OwnedSession], None] = lambda session: None
        self.on_no_room: Callable[[], None] = lambda: None
        self.before_removing: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        #: Raises if the folder is not ours any more. Called in the worker thread.
        self.check_lock: Callable[[], None] = lambda: None

    # -- told by others --------------------------------------------------------------------

    def took(self, session: OwnedSession, size: int) -> None:
        """Write a session's new lines soon."""
        self._dirty[session] = None
        self.pending_bytes += size
        if self.pending_bytes > FLUSH_BYTES:
            self._is_urgent = True
        self._wake.set()

    def forget(self, session: OwnedSession) -> None:
        """Write no more of a session: it is deleted, or somebody else's."""
        self._dirty.pop(session, None)
        session.unflushed = []

    def remove_soon(self, names: Sequence[str]) -> None:
        """Remove files, of which the commit log says that they are gone."""
        self._doomed += names
        self._is_urgent = True
        self._wake.set()

    @property
    def mended(self) -> int:
        """How many files had got an end from somebody else, which was kept aside."""
        return self._heads.mended

    @property
    def unwritten_bytes(self) -> int:
        return self.pending_bytes + self._writing_bytes

    def checkpoint_soon(self) -> None:
        """Somebody took the commit log away: what it had has to be in synced files."""
        self._checkpoint_due = -math.inf
        self._is_urgent = True
        self._wake.set()

    def has_room(self) -> bool:
        """Whether what is unflushed is bounded."""
        return self.pending_bytes <= 4 * FLUSH_BYTES

    async def wait_room(self) -> None:
        """Wait until it is."""
        while not self.has_room():
            self._room = trio.Event()
            self._wake.set()
            await self._room.wait()

    async def wait_flushed(self) -> None:
        """Wait for the end of the flush that is going on."""
        await self._flushed.wait()

    # -- the task --------------------------------------------------------------------------

    async def run(self, committer: Committer) -> None:
        """Flush, save the index and checkpoint until cancelled, or until the store has stopped."""
        while committer.failure is None:
            await self._wait_work()
            with trio.CancelScope(shield=True):
                await self._work(committer)

    async def _wait_work(self) -> None:
        due = min(self._checkpoint_due, self._save_due)
        if not self._dirty and not self._doomed:
            with trio.move_on_at(due):
                await self._wake.wait()
        self._wake = trio.Event()
        if self._dirty and not self._is_urgent:
            with trio.move_on_after(FLUSH_SECONDS):
                while not self._is_urgent:
                    await self._wake.wait()
                    self._wake = trio.Event()
        else:
            await trio.lowlevel.checkpoint()

    async def _work(self, committer: Committer) -> None:
        async with self._working:
            if self._is_closed:
                return
            try:
                if not await self.flush():
                    return
                now = trio.current_time()
                is_saving = now >= self._save_due
                if (
                    committer.log.size > CHECKPOINT_BYTES
                    or now >= self._checkpoint_due
                    # Written anew only when all that it says is durable.
                    or (is_saving and self._wants_rewrite())
                ):
                    await self._checkpoint(committer)
                elif is_saving:
                    await self._save_index(self._take_changes())
            except FencedError as exc:
                committer.stop(exc)
            except Exception as exc:  # noqa: BLE001 - the store stops, for good
                committer.stop(StoreError(f"The store has stopped: {exc}"))

    # -- flushing --------------------------------------------------------------------------

    async def flush(self) -> bool:
        """Append to the sessions' files what is only in the commit log.

        Returns:
            Whether there was room for it. If not, it is tried again.

        Raises:
            OSError, FencedError: It failed, now or before: then what it had taken is nowhere but
                in the log, which no checkpoint may drop any more.
        """
        async with self._flushing:
            if self._failure is not None:
                raise OSError(errno.EIO, "an earlier flush failed") from self._failure
            try:
                return await self._flush()
            except Exception as exc:
                self._failure = exc
                raise

    async def mend(self, session: OwnedSession) -> bool:
        """See to a session's file that is not as it was left. Returns whether it is so again.

        Raises:
            OSError, FencedError: It cannot be looked at, or the folder is another process's.
        """
        async with self._flushing:
            return await trio.to_thread.run_sync(self._mend, session, limiter=self._limiter)

    def _mend(self, session: OwnedSession) -> bool:
        """In the worker thread."""
        self.check_lock()
        return self._heads.mend(session)

    async def _flush(self) -> bool:
        sessions, self._dirty = self._dirty, {}
        self._is_urgent = False
        jobs = [session.plan_flush() for session in sessions if session.unflushed]
        self.pending_bytes = 0
        self._room.set()
        doomed, self._doomed = self._doomed, []
        if doomed:
            # Else a power loss could leave a log that knows of no deletion, and no file.
            await self.before_removing()
            await trio.to_thread.run_sync(self._remove, doomed, limiter=self._limiter)
        if jobs or doomed:
            now = trio.current_time()
            self._checkpoint_due = min(self._checkpoint_due, now + self._checkpoint_seconds)
            self._save_due = min(self._save_due, now + self._auto_save)
        if not jobs:
            return True
        self._flushed = trio.Event()
        self._writing_bytes = sum(job.size for job in jobs)
        undone = False
        try:
            await trio.to_thread.run_sync(self._write, jobs, limiter=self._limiter)
            for job in jobs:
                session = job.session
                self._written.add(head_name(session.id))
                if job.foreign_size is not None:
                    session.not_flushed()
                    self.on_foreign(session)
                elif job.is_undone:
                    session.not_flushed()
                    self._dirty[session] = None
                    self.pending_bytes += job.size
                    undone = True
                else:
                    session.flushed_as(job)
            self.flushes += 1
        finally:
            self._writing_bytes = 0
            self._flushed.set()
        if undone:
            self.on_no_room()
        return not undone

    def _remove(self, names: Sequence[str]) -> None:
        """In the worker thread."""
        self.check_lock()
        self._heads.remove(names)

    def _write(self, jobs: Sequence[FlushJob]) -> None:
        """In the worker thread."""
        self.check_lock()
        self._heads.write(jobs)

    # -- the checkpoint --------------------------------------------------------------------

    async def _checkpoint(self, committer: Committer) -> None:
        """Make durable what the commit log holds, and drop the log. Appends go on meanwhile."""
        self._checkpoint_due = math.inf
        self._log_number += 1
        number = self._log_number
        try:
            new = await trio.to_thread.run_sync(
                lambda: CommitLog(self._files, epoch=self._epoch, number=number),
                limiter=self._limiter,
            )
        except NoRoomError:
            self._try_later()
            return
        old = await committer.swap(new)
        self._complete.append(old.name)
        try:
            # As it is now: what changes from here on is in the new log only.
            changes = self._take_changes()
            everything = self._index.rows.copy() if self._wants_rewrite() else None
            has_room = await self.flush()
            if has_room:
                await self._settle(changes, everything)
            else:
                self._index.unsaved.update(changes)
                if self._sync:
                    await trio.to_thread.run_sync(old.sync, limiter=self._limiter)
        finally:
            await committer.close_log(old)  # noqa: ASYNC102 - the caller's shield
        if not has_room:
            self._try_later()
            return
        await trio.to_thread.run_sync(self._drop_logs, limiter=self._limiter)
        self.checkpoints += 1

    def _try_later(self) -> None:
        """There is no room: what a checkpoint would drop stays until there is."""
        self._checkpoint_due = trio.current_time() + FULL_SECONDS
        # A save may have been what asked for it, and would again, at once.
        self._save_due = max(self._save_due, self._checkpoint_due)
        self.on_no_room()

    def _drop_logs(self) -> None:
        """In the worker thread. Each has to be gone for good before the next one can go.

        Coming back alone, an old log that deletes a session would delete what came after, too.
        """
        while self._complete:
            self._files.remove(self._complete[0])
            if self._sync:
                self._files.sync_folder()
            del self._complete[0]

    def _take_changes(self) -> dict[str, Row | None]:
        rows, unsaved = self._index.rows, self._index.unsaved
        self._index.unsaved = set()
        return {session_id: rows.get(session_id) for session_id in unsaved}

    def _wants_rewrite(self, *, is_last: bool = False) -> bool:
        return self._index_file.wants_rewrite(
            len(self._index.unsaved), len(self._index.rows), is_last=is_last
        )

    async def _settle(
        self, changes: Mapping[str, Row | None], everything: Mapping[str, Row] | None
    ) -> None:
        """Make the sessions' files, the index and the names durable."""
        written, self._written = self._written, set()
        if self._sync:
            await trio.to_thread.run_sync(self._heads.sync, [*written], limiter=self._limiter)
        if everything is None:
            # Synced with the mark that comes behind it.
            await self._save_index(changes)
        else:
            await self._rewrite_index(everything)
        if self._sync:
            await trio.to_thread.run_sync(self._heads.sync_names, limiter=self._limiter)
        await trio.to_thread.run_sync(self._mark_saved, limiter=self._limiter)

    def _mark_saved(self) -> None:
        """In the worker thread."""
        self.check_lock()
        self._index_file.mark_saved((self._epoch, self._log_number), sync=self._sync)

    async def _save_index(self, changes: Mapping[str, Row | None]) -> None:
        self._save_due = math.inf

        def save() -> None:
            self.check_lock()
            self._index_file.append(changes)

        await trio.to_thread.run_sync(save, limiter=self._limiter)

    async def _rewrite_index(self, rows: Mapping[str, Row]) -> None:
        self._save_due = math.inf
        everything = list(rows.values())

        def rewrite() -> None:
            self.check_lock()
            self._index_file.rewrite(everything, sync=self._sync)

        await trio.to_thread.run_sync(rewrite, limiter=self._limiter)

    async def wait_idle(self) -> None:
        """Wait until no thread of ours is at work."""
        async with self._working, self._flushing:
            pass

    def _mark_closed(self) -> None:
        """In the worker thread."""
        self._index_file.mark_closed(self._close_mark, sync=self._sync)

    async def close(self, committer: Committer) -> bool:
        """Leave files that need no replay. Returns False if the store has stopped."""
        async with self._working:
            self._is_closed = True
            is_whole = await committer.finish()
            if not await self.flush():
                log.warning("there is no room for the sessions' files: the next start writes them")
                return False
            rows = self._index.rows
            everything: dict[str, Row] | None = None
            if self._wants_rewrite(is_last=True):
                # In the order that the next start wants them in.
                everything = {
                    session_id: rows[session_id] for session_id in self._index.list_oldest()
                }
            await self._settle(self._take_changes(), everything)
            if not is_whole:
                return False
            await trio.to_thread.run_sync(self._mark_closed, limiter=self._limiter)
            log_file = committer.log
            await committer.close_log(log_file)
            self._complete.append(log_file.name)
            await trio.to_thread.run_sync(self._drop_logs, limiter=self._limiter)
        return True
