"""The store itself: takes sessions, appends to them, lists and removes them.

What blocks is done elsewhere, by the committer, the flusher and the reader; here is what decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs
import trio

from ..core._clock import utc_before
from ..core._ids import ID_PATTERN
from ..core._line import encode_entry, encode_note
from ..core.abc import SessionLog, SessionStore
from ..core.errors import FencedError, OverloadedError, SessionNotFoundError, StoreError
from ..core.log import Damage, Entry, Note, Recollection, Summary, SummaryPage
from ..core.models import SessionStatus
from ._jsonl_commit import encode_append, encode_delete, encode_term
from ._jsonl_committer import Committer, Fsync, Request, again
from ._jsonl_flusher import Flusher
from ._jsonl_marks import Marks
from ._jsonl_reader import Reader
from ._jsonl_replay import cut_tail, fold_row, note_end
from ._jsonl_rows import Row, make_row, position_of, read_summary, with_term
from ._jsonl_segments import load_tail
from ._jsonl_session import OwnedSession, SegmentLimits
from ._jsonl_sessions import Sessions, not_found
from ._jsonl_start import LOCK_NAME, Loaded, make_mark, release_folder
from ._space import MIN_FREE_BYTES
from .observe import Observers

__all__ = ["JsonlLog", "JsonlSettings", "JsonlStore"]

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


class JsonlLog(SessionLog):
    """One session's log, in the term of this process."""

    def __init__(self, store: JsonlStore, session: OwnedSession) -> None:
        self.term = session.term
        self.wants_snapshot = session.wants_snapshot
        self._store = store
        self._session = session

    async def append(self, batch: Sequence[Entry], summary: Summary) -> None:
        await self._store.append(self._session, batch, summary)
        self.wants_snapshot = self._session.wants_snapshot

    def note(self, note: Note) -> None:
        self._store.note(self._session, note)
        self.wants_snapshot = self._session.wants_snapshot


class JsonlStore(SessionStore):
    """A folder of sessions. From `open_jsonl_store`."""

    def __init__(self, loaded: Loaded, settings: JsonlSettings) -> None:
        self.settings = settings
        self.observers = Observers()
        self._files = loaded.files
        self._lock = loaded.lock
        self._limits = SegmentLimits(entries=settings.roll_entries, size=settings.roll_bytes)
        self._opening: dict[str, trio.Event] = {}
        self._creating: dict[str, OwnedSession] = {}
        self._sessions = Sessions(loaded.index, loaded.names, loaded.damaged)
        self._torn = loaded.torn
        self._shortened = loaded.shortened
        self._lost = loaded.lost
        self._replayed = loaded.replayed
        self._entries = 0
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
            unwritten_bytes=lambda: self._flusher.unwritten_bytes,
        )
        self._reader = Reader(loaded.files, self._sessions, self._committer, self._flusher)
        self._committer.on_foreign = self._look_at_foreign
        self._committer.on_log_gone = self._flusher.checkpoint_soon
        self._flusher.on_foreign = self._fence
        self._flusher.on_no_room = self._found_no_room
        if settings.fsync == "interval":
            self._flusher.before_removing = self._committer.sync
        self._flusher.check_lock = self._committer.check_lock
        self._marks = Marks(loaded.files, self._sessions, self._committer.check_lock)
        self._foreign: list[tuple[OwnedSession, Request | None]] = []
        self._foreign_woken = trio.Event()

    # -- its tasks ---------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled, or closed."""
        try:
            with self._tasks:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._committer.run)
                    nursery.start_soon(self._flusher.run, self._committer)
                    nursery.start_soon(self._run_foreign)
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
        _check_id(session_id)
        session = OwnedSession(session_id, term=1, limits=self._limits)
        return JsonlLog(self, session)

    async def open(self, session_id: str) -> SessionLog:
        while (opening := self._opening.get(session_id)) is not None:
            await opening.wait()
        if self._committer.failure is not None:
            # What became of an append that failed is known only after a restart.
            raise again(self._committer.failure)
        session = self._sessions.owned.get(session_id)
        if session is not None and session.failure is None:
            await trio.lowlevel.checkpoint()
            return JsonlLog(self, session)
        self._opening[session_id] = opened = trio.Event()
        try:
            session = await self._take(session_id)
        finally:
            del self._opening[session_id]
            opened.set()
        self.observers.tell(lambda observer: observer.loaded(session_id))
        return JsonlLog(self, session)

    async def _take(self, session_id: str) -> OwnedSession:
        """Read a session's end, mend it if it is torn, and take the next term."""
        if self._committer.failure is not None:
            raise again(self._committer.failure)
        row = self._sessions.index.rows.get(session_id)
        self._sessions.check_whole(session_id)
        if row is None:
            raise not_found(session_id)
        older = self._sessions.older(session_id)
        tail = await self._reader.in_thread(lambda: load_tail(self._files, session_id, older))
        if tail is not None and tail.fault is not None and tail.fault.is_damage:
            self._sessions.quarantine(session_id, tail.fault)
        elif tail is None or not tail.file_size:
            self._sessions.check_end(session_id, 0 if tail is None else tail.seq)
        self._sessions.check_whole(session_id)
        if tail is None:
            raise not_found(session_id)
        if tail.file_size > tail.size:
            kept = await self._reader.in_thread(lambda: cut_tail(self._files, session_id, tail))
            self._torn += kept
        if position_of(row) != f"{tail.term}-{tail.seq}":
            folded = await self._reader.in_thread(lambda: fold_row(self._files, session_id, older))
            if folded is None:
                raise not_found(session_id)
            if note_end(row, position_of(folded)):
                self._shortened += 1
            else:
                log.warning(
                    "the index was out of date",
                    extra={
                        "session_id": session_id,
                        "at": position_of(row),
                        "now": position_of(folded),
                    },
                )
            row = with_term(folded, max(folded.term, row.term))
        session = OwnedSession(session_id, term=max(tail.term, row.term) + 1, limits=self._limits)
        session.continue_from(tail, older)
        taken = with_term(row, session.term)

        def commit() -> None:
            self._sessions.own(session)
            self._reader.forget(session_id)
            self._sessions.index.put(taken)

        await self._submit(
            Request(payload=encode_term(session_id, session.term), commit=commit, session=session)
        )
        return session

    async def append(self, session: OwnedSession, batch: Sequence[Entry], summary: Summary) -> None:
        """Append for a `JsonlLog`."""
        if session.failure is not None:
            raise again(session.failure)
        if not batch:
            await trio.lowlevel.checkpoint()
            return
        staged = session.staged
        if not staged and (
            session.id in self._sessions.index.rows
            or self._creating.get(session.id, session) is not session
        ):
            raise StoreError(f"There is a session {session.id} already")
        self._check_order(session, batch)
        lines = [encode_entry(entry) for entry in batch]
        blob = b"\n".join(lines) + b"\n"
        term = max(session.term, batch[-1].term)
        raw = session.encoder.encode(summary, term)

        def commit() -> None:
            self._committed(session, batch, lines, make_row(summary, term, raw), len(blob))

        def withdraw() -> None:
            session.staged = staged
            self._created(session)

        if not staged:
            self._creating[session.id] = session
        session.staged = batch[-1].seq
        request = Request(
            payload=encode_append(session.id, blob, raw),
            commit=commit,
            session=session,
            withdraw=withdraw,
        )
        try:
            await self._submit(request)
        except Exception:
            session.staged = session.seq
            self._created(session)
            raise
        finally:
            self._release_notes(session)

    def _created(self, session: OwnedSession) -> None:
        """A session exists, or its first append has failed: another may have its id."""
        if self._creating.get(session.id) is session:
            del self._creating[session.id]

    def _check_order(self, session: OwnedSession, batch: Sequence[Entry]) -> None:
        """Check that a batch follows what was given before. An imported one has terms of its own.

        Raises:
            StoreError: It does not.
        """
        seq, term = session.staged, session.last_term
        for entry in batch:
            seq += 1
            if entry.seq != seq or entry.term < term or entry.session_id != session.id:
                raise StoreError(f"{entry!r} does not follow {term}-{seq - 1} of {session.id}")
            term = entry.term

    def _committed(
        self,
        session: OwnedSession,
        batch: Sequence[Entry],
        lines: Sequence[bytes],
        row: Row,
        size: int,
    ) -> None:
        session_id = session.id
        is_new = not session.exists
        session.took(batch, lines)
        self._sessions.index.put(row)
        self._entries += len(batch)
        if is_new:
            self._sessions.own(session)
            self._created(session)
        self._flusher.took(session, size)
        self.observers.tell_appended(session_id, batch, is_new=is_new)

    def note(self, session: OwnedSession, note: Note) -> None:
        """Keep a note for a `JsonlLog`: behind the entry that it speaks of."""
        if session.failure is not None or self._committer.failure is not None:
            return
        if note.after.seq > session.staged or not session.staged:
            session.held.append(note)
            return
        line = encode_note(note)
        if note.type == "snapshot":
            # On its way: none is wanted any more.
            session.entries_after = session.bytes_after = 0

        def commit() -> None:
            session.took([note], [line])
            self._flusher.took(session, len(line))

        payload = encode_append(session.id, line + b"\n", b"")
        self._committer.submit_lazily(Request(payload=payload, commit=commit, session=session))

    def _release_notes(self, session: OwnedSession) -> None:
        held, session.held = session.held, []
        for note in held:
            self.note(session, note)

    async def _submit(self, request: Request) -> None:
        self._committer.submit(request)
        await request.wait()

    # -- somebody else's writing ---------------------------------------------------------------

    def _look_at_foreign(self, request: Request) -> None:
        """A head has another size than we left it with, or the flusher was at it just then."""
        session = request.session
        assert session is not None
        if session.flushing or session.size != request.size:
            request.is_taken = False
            try:
                self._committer.submit(request)
            except Exception as exc:  # noqa: BLE001 - it is told
                request.finish(exc)
            return
        self._explain_soon(session, request)

    def _explain_soon(self, session: OwnedSession, request: Request | None) -> None:
        self._foreign.append((session, request))
        self._foreign_woken.set()

    def _found_no_room(self) -> None:
        """The flusher did, whatever was measured: let the committer take no more for now."""
        self._committer.space.surprise()
        self._committer.space.tell()

    def _fence(self, session: OwnedSession) -> None:
        """The flusher found another size: what it had to write is not written."""
        lost = len(session.unflushed)
        log.error(
            "somebody else has written to a session",
            extra={"session_id": session.id, "lines_not_written": lost},
        )
        session.failure = FencedError(f"Another process has taken {session.id}")
        self._disown(session)
        self._explain_soon(session, None)

    def _disown(self, session: OwnedSession, *, is_taken: bool = True) -> None:
        self._flusher.forget(session)
        self._sessions.disown(session, is_taken=is_taken)

    async def _run_foreign(self) -> None:
        while True:
            await self._foreign_woken.wait()
            self._foreign_woken = trio.Event()
            foreign, self._foreign = self._foreign, []
            for session, request in foreign:
                error = await self._explain(session)
                if request is not None:
                    request.finish(error)

    async def _explain(self, session: OwnedSession) -> Exception:
        """Say what happened to a session's file."""
        session_id = session.id
        older = session.older
        is_taken = False
        try:
            tail = await self._reader.in_thread(lambda: load_tail(self._files, session_id, older))
            is_taken = tail is not None and tail.term > session.term
        except (OSError, SessionNotFoundError) as exc:
            log.warning(
                "a file cannot be read", extra={"session_id": session_id, "error": str(exc)}
            )
        error: Exception
        if is_taken:
            error = FencedError(f"Another process has taken {session_id}")
        else:
            error = StoreError(f"The file of {session_id} was changed by somebody else")
        session.failure = error
        self._disown(session, is_taken=is_taken)
        return error

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
            "torn": self._torn + self._flusher.mended,
            "shortened": self._shortened,
            "replayed": self._replayed,
            "lostRecords": self._lost,
            "appended": self._entries,
            "groups": self._committer.groups,
            "syncs": self._committer.syncs,
            "flushes": self._flusher.flushes,
            "checkpoints": self._flusher.checkpoints,
            "logBytes": self._committer.log.size,
            "unflushedBytes": self._flusher.pending_bytes,
            "isFull": self._committer.space.is_full,
            "failure": self.failure,
        }


def _check_id(session_id: str) -> None:
    if ID_PATTERN.fullmatch(session_id) is None:
        raise StoreError(f"not an id that can be a file's name: {session_id[:64]!a}")
