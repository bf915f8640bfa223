"""The store itself: puts its parts together, lists sessions and removes them, and ends in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs
import trio

from ...core._clock import utc_before
from ...core.abc import SessionLog, SessionStore
from ...core.errors import FencedError, OverloadedError, StoreError
from ...core.log import Damage, Entry, Recollection, Summary, SummaryPage
from ...core.models import SessionStatus
from .._space import MIN_FREE_BYTES
from ..observe import Observers
from .commit import encode_delete
from .committer import Committer, Fsync, Request
from .flusher import Flusher
from .foreign import Foreign
from .marks import Marks
from .reader import Reader
from .rows import read_summary
from .session import OwnedSession, SegmentLimits
from .sessions import Sessions, not_found
from .start import LOCK_NAME, Loaded, make_mark, release_folder
from .writer import Writer

__all__ = ["JsonlSettings", "JsonlStore"]

log = logging.getLogger("trialogue.store")


def _positive(_: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not value > 0:
        raise ValueError(f"{attribute.name} must be above 0, not {value!r}")


@attrs.frozen(kw_only=True)
class JsonlSettings:
    """How a folder is kept.

    Attributes:
        fsync: ``always``, ``interval`` or ``never``: see the module.
        interval_seconds: Between two syncs, with ``interval``.
        auto_save_seconds: After a change, the index file is written so much later; ``math.inf``
            leaves it to the checkpoints and the end.
        checkpoint_seconds: What the commit log holds is in synced files after so long.
        min_free_bytes: With less room on the disk no new work is taken, until there is room again.
            With a quarter of it nothing at all is taken but deletions.
        roll_entries: So many entries after its last snapshot a session wants one, and with it a
            new file.
        roll_bytes: A file is not longer than about this.
    """

    fsync: Fsync = attrs.field(
        default="always", validator=attrs.validators.in_(("always", "interval", "never"))
    )
    interval_seconds: float = attrs.field(default=0.1, validator=_positive)
    auto_save_seconds: float = attrs.field(default=5.0, validator=_positive)
    checkpoint_seconds: float = attrs.field(default=30.0, validator=_positive)
    min_free_bytes: int = MIN_FREE_BYTES
    roll_entries: int = attrs.field(default=1000, validator=_positive)
    roll_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=_positive)


class JsonlStore(SessionStore):
    """A folder of sessions. From `open_jsonl_store`."""

    def __init__(self, loaded: Loaded, settings: JsonlSettings) -> None:
        self.settings = settings
        self.observers = Observers()
        self._files = loaded.files
        self._lock = loaded.lock
        self._sessions = Sessions(loaded.index, loaded.names, loaded.damaged)
        self._torn = loaded.torn
        self._shortened = loaded.shortened
        self._lost = loaded.lost
        self._replayed = loaded.replayed
        self._closed = False
        self._tasks = trio.CancelScope()
        self._ended = trio.Event()
        self._mark = make_mark()
        # Threads of their own: neither of the two writers ever waits for the other's.
        self._flusher = Flusher(
            loaded.files,
            loaded.index,
            loaded.index_file,
            epoch=loaded.epoch,
            sync=settings.fsync != "never",
            auto_save_seconds=settings.auto_save_seconds,
            checkpoint_seconds=settings.checkpoint_seconds,
            limiter=trio.CapacityLimiter(2),
            close_mark=self._mark,
        )
        self._committer = Committer(
            loaded.files,
            loaded.commit_log,
            lock_name=LOCK_NAME,
            lock_handle=loaded.lock,
            fsync=settings.fsync,
            interval_seconds=settings.interval_seconds,
            min_free_bytes=settings.min_free_bytes,
            limiter=trio.CapacityLimiter(2),
            wait_room=self._flusher.wait_room,
            has_room=self._flusher.has_room,
            unwritten_bytes=lambda: self._flusher.unwritten_bytes,
        )
        self._reader = Reader(loaded.files, self._sessions, self._committer, self._flusher)
        self._committer.on_log_gone = self._flusher.checkpoint_soon
        self._flusher.on_no_room = self._found_no_room
        if settings.fsync == "interval":
            self._flusher.before_removing = self._committer.sync
        self._flusher.check_lock = self._committer.check_lock
        self._marks = Marks(loaded.files, self._sessions, self._committer.check_lock)
        self._foreign = Foreign(
            loaded.files, self._sessions, self._committer, self._flusher, self._reader
        )
        self._writer = Writer(
            loaded.files,
            self._sessions,
            self._committer,
            self._flusher,
            self._reader,
            self.observers,
            SegmentLimits(entries=settings.roll_entries, size=settings.roll_bytes),
        )

    # -- its tasks ---------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled, or closed."""
        try:
            with self._tasks:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._committer.run)
                    nursery.start_soon(self._flusher.run, self._committer)
                    nursery.start_soon(self._foreign.run)
                    nursery.start_soon(self._committer.watch_space)
                    nursery.start_soon(self._marks.run)
                    if self.settings.fsync == "interval":
                        nursery.start_soon(self._committer.run_interval)
                    task_status.started()
        finally:
            self._ended.set()

    async def aclose(self) -> None:
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        with trio.CancelScope(shield=True):
            is_clean = False
            try:
                if self._committer.failure is None:
                    is_clean = await self._flusher.close(self._committer)
            except (OSError, FencedError) as exc:
                # The commit log is still there, and the next start replays it.
                log.error("the store could not be closed", extra={"error": repr(exc)})
            finally:
                self._committer.stop(StoreError("The store is closed"), quiet=True)
                await self._let_go(is_clean=is_clean)  # noqa: ASYNC102 - shielded by its caller

    async def _let_go(self, *, is_clean: bool) -> None:
        """Close every file, once nobody is at work with one, nor will be."""
        self._tasks.cancel(reason="the store is closed")
        await self._ended.wait()
        self._foreign.give_up()
        await self._flusher.wait_idle()
        await self._committer.wait_idle()
        await self._reader.wait_idle()
        await self._marks.save()
        mark = self._mark if is_clean else None

        def let_go() -> None:
            try:
                self._committer.log.close()
            finally:
                release_folder(self._files, self._lock, mark)

        await trio.to_thread.run_sync(let_go)

    # -- writing -----------------------------------------------------------------------------

    def create(self, session_id: str) -> SessionLog:
        return self._writer.create(session_id)

    async def open(self, session_id: str) -> SessionLog:
        return await self._writer.open(session_id)

    def _found_no_room(self) -> None:
        """The flusher did, whatever was measured: let the committer take no more for now."""
        self._committer.space.surprise()
        self._committer.space.tell()

    # -- reading -----------------------------------------------------------------------------

    async def read(self, session_id: str, after: int, limit: int) -> Sequence[Entry]:
        return await self._reader.read(session_id, after, limit)

    async def recall(self, session_id: str) -> Recollection:
        return await self._reader.recall(session_id)

    async def find_created(self, owner: str | None, key: str) -> str | None:
        await trio.lowlevel.checkpoint()
        return self._sessions.index.find_created(owner, key)

    async def list_ids(self) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        return [*self._sessions.index.rows, *self._sessions.unlisted()]

    async def list_open_work(self) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        return [
            name
            for name in self._sessions.index.list_open_work()
            if name not in self._sessions.damaged
        ]

    async def summary(self, session_id: str) -> Summary | None:
        await trio.lowlevel.checkpoint()
        row = self._sessions.index.rows.get(session_id)
        return None if row is None else read_summary(row)

    async def list(
        self,
        *,
        owner: str | None = None,
        status: SessionStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> SummaryPage:
        await trio.lowlevel.checkpoint()
        return self._sessions.index.list(owner=owner, status=status, limit=limit, cursor=cursor)

    # -- removing ----------------------------------------------------------------------------

    async def delete(self, session_id: str) -> bool:
        if session_id not in self._sessions.index.rows and session_id not in self.damaged:
            await trio.lowlevel.checkpoint()
            return False
        await self._remove([session_id])
        return True

    async def prune(
        self,
        *,
        keep: int | None = None,
        older_seconds: float | None = None,
        keep_bytes: int | None = None,
        protect: Collection[str] = (),
    ) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        oldest = self._sessions.index.list_oldest()
        free = [session_id for session_id in oldest if session_id not in protect]
        count = 0 if keep is None else min(len(free), max(0, len(oldest) - keep))
        if older_seconds is not None:
            before = utc_before(older_seconds)
            rows = self._sessions.index.rows
            while count < len(free) and rows[free[count]].activity < before:
                count += 1
        if keep_bytes is not None:
            await self._flush()
            segments = {session_id: self._sessions.older(session_id) for session_id in oldest}
            sizes = await self._reader.measure(segments)
            excess = sum(sizes.values()) - sum(sizes[name] for name in free[:count]) - keep_bytes
            while count < len(free) and excess > 0:
                excess -= sizes[free[count]]
                count += 1
        doomed = [
            session_id for session_id in free[:count] if session_id in self._sessions.index.rows
        ]
        if doomed:
            await self._remove(doomed)
        return doomed

    async def _remove(self, session_ids: Sequence[str]) -> None:
        """Delete for good: in the commit log, then in memory, then the files."""
        requests: list[Request] = []
        stopped: list[OwnedSession] = []
        for session_id in session_ids:
            session = self._sessions.owned.get(session_id)
            if session is not None and session.failure is None:
                session.failure = not_found(session_id)
                stopped.append(session)
            request = Request(
                payload=encode_delete(session_id),
                commit=self._forgetter(session_id),
                frees_space=True,
            )
            self._committer.submit(request)
            requests.append(request)
        # Once it is decided it is done, or one of many would be half done.
        with trio.CancelScope(shield=True):
            try:
                for request in requests:
                    await request.wait()
            except OverloadedError:
                # There was not even room to say so. They were of one group: none is gone.
                for session in stopped:
                    session.failure = None
                raise
            await self._flush()
        await trio.lowlevel.checkpoint()
        self.observers.tell_pruned(session_ids)

    async def _flush(self) -> None:
        """Bring the files up to date.

        Raises:
            StoreError: That failed, and the store has stopped.
        """
        try:
            with trio.CancelScope(shield=True):
                await self._flusher.flush()
        except OSError as exc:
            failure = StoreError(f"The store has stopped: {exc}")
            self._committer.stop(failure)
            raise failure from exc

    def _forgetter(self, session_id: str) -> Callable[[], None]:
        def forget() -> None:
            session, names = self._sessions.forget(session_id)
            if session is not None:
                self._flusher.forget(session)
            self._reader.forget(session_id)
            self._flusher.remove_soon(names)

        return forget

    # -- health ------------------------------------------------------------------------------

    @property
    def damaged(self) -> Mapping[str, Damage]:
        """The sessions that are read-only since their files are damaged, and what is wrong."""
        return self._sessions.damaged

    @property
    def failure(self) -> str | None:
        failure = self._committer.failure
        return None if failure is None else str(failure)

    def check_writable(self) -> None:
        self._committer.space.check()

    def statistics(self) -> Mapping[str, Any]:
        """Say what was done since the store was opened, and how it is.

        ``damaged`` counts the sessions that are read-only since their files are damaged, ``torn``
        the tails that were cut back and kept aside, ``shortened`` the sessions that had lost their
        last entries as a whole, which the index knew of, ``replayed`` the entries that the start took
        from the commit log, ``lostRecords`` what was durable there and is damaged.
        """
        return {
            "sessions": len(self._sessions.index.rows),
            "owned": len(self._sessions.owned),
            "damaged": len(self._sessions.damaged),
            "torn": self._torn + self._writer.torn + self._flusher.mended,
            "shortened": self._shortened + self._writer.shortened,
            "replayed": self._replayed,
            "lostRecords": self._lost,
            "appended": self._writer.entries,
            "groups": self._committer.groups,
            "syncs": self._committer.syncs,
            "flushes": self._flusher.flushes,
            "checkpoints": self._flusher.checkpoints,
            "logBytes": self._committer.log.size,
            "unflushedBytes": self._flusher.pending_bytes,
            "isFull": self._committer.space.is_full,
            "failure": self.failure,
        }
