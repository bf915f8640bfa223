"""Takes sessions, and appends to them: what decides, on the event loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from ...core._ids import ID_PATTERN
from ...core._line import encode_entry, encode_note
from ...core.abc import Done, SessionLog
from ...core.errors import StoreError
from ...core.log import Entry, Note, Summary
from .._files import Files
from ..observe import Observers
from .commit import encode_append, encode_term
from .committer import Committer, Request, again
from .flusher import Flusher
from .reader import Reader
from .replay import cut_tail, fold_row, note_end
from .rows import Row, make_row, position_of, with_term
from .segments import load_tail
from .session import OwnedSession, SegmentLimits
from .sessions import Sessions, not_found

__all__ = ["JsonlLog", "Writer"]

log = logging.getLogger("trialogue.store")


class JsonlLog(SessionLog):
    """One session's log, in the term of this process."""

    def __init__(self, writer: Writer, session: OwnedSession) -> None:
        self.term = session.term
        self.wants_snapshot = session.wants_snapshot
        self._writer = writer
        self._session = session

    def append_soon(self, batch: Sequence[Entry], summary: Summary, done: Done) -> bool:
        def over(error: Exception | None) -> None:
            self._writer.appended(self._session, error)
            self.wants_snapshot = self._session.wants_snapshot
            done(error)

        self._writer.submit_append(self._session, batch, summary, over)
        return True

    async def append(self, batch: Sequence[Entry], summary: Summary) -> None:
        await self._writer.append(self._session, batch, summary)
        self.wants_snapshot = self._session.wants_snapshot

    def note(self, note: Note) -> None:
        self._writer.note(self._session, note)
        self.wants_snapshot = self._session.wants_snapshot


class Writer:
    """Writes sessions, one owner each.

    Attributes:
        entries: Counted, as acknowledged.
        torn: Tails that were cut back when a session was taken.
        shortened: Sessions that were found then to end before what the index knew of them.
    """

    def __init__(
        self,
        files: Files,
        sessions: Sessions,
        committer: Committer,
        flusher: Flusher,
        reader: Reader,
        observers: Observers,
        limits: SegmentLimits,
    ) -> None:
        self.entries = self.torn = self.shortened = 0
        self._files = files
        self._sessions = sessions
        self._committer = committer
        self._flusher = flusher
        self._reader = reader
        self._observers = observers
        self._limits = limits
        self._opening: dict[str, trio.Event] = {}
        self._creating: dict[str, OwnedSession] = {}

    def create(self, session_id: str) -> SessionLog:
        """As `SessionStore.create`."""
        _check_id(session_id)
        session = OwnedSession(session_id, term=1, limits=self._limits)
        return JsonlLog(self, session)

    async def open(self, session_id: str) -> SessionLog:
        """As `SessionStore.open`."""
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
        self._observers.tell(lambda observer: observer.loaded(session_id))
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
            self.torn += kept
        if position_of(row) != f"{tail.term}-{tail.seq}":
            folded = await self._reader.in_thread(lambda: fold_row(self._files, session_id, older))
            if folded is None:
                raise not_found(session_id)
            if note_end(row, position_of(folded)):
                self.shortened += 1
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

        payload = encode_term(session_id, session.term)
        request = Request(payload=payload, commit=commit, session=session)
        self._committer.submit(request)
        await request.wait()
        return session

    async def append(self, session: OwnedSession, batch: Sequence[Entry], summary: Summary) -> None:
        """As `SessionLog.append`."""
        if not batch:
            await trio.lowlevel.checkpoint()
            return
        request = self.submit_append(session, batch, summary)
        try:
            await request.wait()
        except Exception as exc:
            self.appended(session, exc)
            raise
        except trio.Cancelled:
            self._release_notes(session)
            raise
        self.appended(session, None)

    def submit_append(
        self,
        session: OwnedSession,
        batch: Sequence[Entry],
        summary: Summary,
        done: Done | None = None,
    ) -> Request:
        """Have a batch appended. What comes of it has to be said to `appended`.

        Raises:
            FencedError, StoreError: It cannot be, as is known already.
        """
        if session.failure is not None:
            raise again(session.failure)
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

        request = Request(
            payload=encode_append(session.id, blob, raw),
            commit=commit,
            session=session,
            withdraw=withdraw,
            done=done,
        )
        self._committer.submit(request)
        if not staged:
            self._creating[session.id] = session
        session.staged = batch[-1].seq
        return request

    def appended(self, session: OwnedSession, error: Exception | None) -> None:
        """What was submitted is durable, or is not."""
        if error is not None:
            session.staged = session.seq
            self._created(session)
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
        self.entries += len(batch)
        if is_new:
            self._sessions.own(session)
            self._created(session)
        self._flusher.took(session, size)
        self._observers.tell_appended(session_id, batch, is_new=is_new)

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


def _check_id(session_id: str) -> None:
    if ID_PATTERN.fullmatch(session_id) is None:
        raise StoreError(f"not an id that can be a file's name: {session_id[:64]!a}")
