"""Does again what the commit log says, and mends the ends of files. Synchronous."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import attrs

from ...core._clock import utc_now
from ...core._json import UNREADABLE
from ...core._line import DamagedLineError, decode_line, encode_entry, encode_loss
from ...core.errors import StoreError
from ...core.log import Entry, Position
from .._files import Files, make_stamp
from .commit import Operation
from .read import Page, View, read_all, read_page
from .rows import Row, decode_row, fold_summary, position_of, with_term
from .segments import Fault, Names, Tail, head_name, load_tail, segment_name
from .sessions import find_missing_end

__all__ = [
    "Replayer",
    "cut_tail",
    "find_fault",
    "fold_row",
    "fold_session",
    "note_end",
]

log = logging.getLogger("trialogue.store")


class Replayer:
    """Does again what the commit log says, one session at a time."""

    def __init__(
        self,
        files: Files,
        names: Names,
        rows: dict[str, Row],
        changed: dict[str, Row | None],
        *,
        is_incomplete: bool,
        has_holes: bool,
    ) -> None:
        self.damaged: dict[str, Fault] = {}
        self.deleted: set[str] = set()
        self.replayed = self.torn = self.shortened = 0
        self.names_changed = False
        self._files = files
        self._names = names
        self._rows = rows
        self._changed = changed
        self._is_incomplete = is_incomplete
        self._has_holes = has_holes

    def replay(self, session_id: str, operations: Sequence[Operation], lost: float) -> None:
        """Do what the commit log says of a session.

        Args:
            session_id: Which.
            operations: In order.
            lost: The last seq that damaged records had of it, 0 if they do not name it.

        Raises:
            StoreError: They are none, though their records are whole.
        """
        try:
            self._replay(session_id, operations, lost)
        except (DamagedLineError, *UNREADABLE, KeyError) as exc:
            raise StoreError(f"the commit log has what is none of {session_id}: {exc}") from exc

    def _replay(self, session_id: str, operations: Sequence[Operation], lost: float) -> None:
        lines: list[bytes] = []
        summary, term = b"", 0
        hole_at: int | None = None
        known = self._rows.get(session_id)
        for operation in operations:
            if operation.is_after_hole and hole_at is None:
                hole_at = len(lines)
            if operation.kind == "delete":
                self._delete(session_id)
                known = None
                lines, summary, term = [], b"", 0
                if hole_at is not None:
                    hole_at = lost = 0
            elif operation.kind == "term":
                term = operation.term
            else:
                lines += operation.lines
                summary = operation.summary or summary
        behind = [] if hole_at is None else lines[hole_at:]
        is_whole = self._append(session_id, lines, behind) if lines else True
        # An entry that came later and follows what is there leaves no room for a missing one.
        if lost and is_whole and _last_seq(session_id, behind) is None:
            is_whole = self._find_end(session_id) >= lost
            if not is_whole:
                self._damage(session_id, "records of the commit log are damaged")
        if not lines and not term and is_whole:
            return
        older = self._names.older.get(session_id, ())
        row: Row | None = None
        if summary and is_whole:
            row = decode_row(summary)
        elif lines or not is_whole:
            row = fold_row(self._files, session_id, older)
            if row is None and summary:
                # Its beginning is lost: it is listed, for that to be seen.
                row = decode_row(summary)
        else:
            row = self._rows.get(session_id) or fold_row(self._files, session_id, older)
        if row is None:
            return
        if term > row.term:
            row = with_term(row, term)
        self._rows[session_id] = self._changed[session_id] = row
        if known is not None and session_id not in self.damaged:
            self.shortened += note_end(known, position_of(row))

    def prove(self, session_id: str) -> None:
        """See that a row is not ahead of its log, which may have lost what nobody had synced."""
        older = self._names.older.get(session_id, ())
        tail = load_tail(self._files, session_id, older)
        known = self._rows[session_id]
        position = position_of(known)
        found = Position(0, 0) if tail is None else Position(tail.term, tail.seq)
        row: Row | None = None
        if tail is not None:
            self._sync(head_name(session_id))
            if position == str(found):
                return
        if tail is not None and self._has_holes and Position.parse(position).seq > found.seq:
            self._damage(session_id, f"the index knows it up to {position}")
        else:
            self.shortened += note_end(known, str(found))
        if tail is not None:
            row = fold_row(self._files, session_id, older)
        self._changed[session_id] = row
        if row is None:
            del self._rows[session_id]
        else:
            self._rows[session_id] = row

    def _delete(self, session_id: str) -> None:
        older = self._names.older.pop(session_id, ())
        torn = [name for name in self._names.torn if name.startswith(session_id + ".")]
        for name in (
            head_name(session_id),
            *(segment_name(session_id, first) for first in older),
            *torn,
        ):
            self.names_changed |= self._files.remove(name)
        self._names.heads.discard(session_id)
        self.deleted.add(session_id)
        if self._rows.pop(session_id, None) is not None:
            self._changed[session_id] = None

    def _append(self, session_id: str, lines: Sequence[bytes], behind: Sequence[bytes]) -> bool:
        """Append what is not there. Returns False if the end does not fit the lines.

        Args:
            session_id: Whose.
            lines: All that the commit log has.
            behind: Of them, those that damaged records came before.
        """
        files, older = self._files, self._names.older.get(session_id, ())
        tail = load_tail(files, session_id, older)
        missing = _find_missing(session_id, lines, tail)
        if missing.reason is None and behind and not self._agree(session_id, behind, tail):
            before = _find_missing(session_id, lines[: -len(behind)], tail)
            missing = attrs.evolve(before, stray=behind, reason="the commit log has another entry")
        if missing.lines:
            data = b"".join(line + b"\n" for line in missing.lines)
            name = head_name(session_id)
            size = 0 if tail is None else tail.size
            file_size = files.size_of(name) or 0
            if file_size > size:
                self.torn += cut_tail(files, session_id, tail, unless_in=data)
            self._write(name, data, size)
            self._names.heads.add(session_id)
            self.replayed += missing.entries
        if missing.reason is not None:
            # If what is missing had not been synced, nobody was promised what came behind it.
            if not self._is_incomplete:
                self._damage(session_id, missing.reason, missing.stray)
            return False
        if not missing.lines:
            # It may be there in the system's memory only; the log that has it is dropped next.
            self._sync(head_name(session_id))
            return tail is None or tail.seq == _last_seq(session_id, lines)
        return True

    def _agree(self, session_id: str, lines: Sequence[bytes], tail: Tail | None) -> bool:
        """Whether lines are as those at their places in the files: a deletion may be lost."""
        entries = [
            record
            for line in lines
            if isinstance(record := decode_line(line, session_id), Entry)
            and tail is not None
            and record.seq <= tail.seq
        ]
        if not entries:
            return True
        view = View(session_id=session_id, older=self._names.older.get(session_id, ()))
        page = read_page(self._files, view, entries[0].seq - 1, len(entries))
        return [*map(encode_entry, page.entries)] == [*map(encode_entry, entries)]

    def _find_end(self, session_id: str) -> int:
        tail = load_tail(self._files, session_id, self._names.older.get(session_id, ()))
        return 0 if tail is None else tail.seq

    def _damage(self, session_id: str, reason: str, stray: Sequence[bytes] = ()) -> None:
        """Something durable is lost: let the session be read as far as it is known.

        Lines that do not follow are kept behind its end, where that is seen at every start; if
        there are none, two that say so.
        """
        tail = load_tail(self._files, session_id, self._names.older.get(session_id, ()))
        name = head_name(session_id)
        end, seq = (0, 0) if tail is None else (tail.size, tail.seq)
        fault = Fault(name=name, offset=end, next_seq=seq + 1, reason=reason, is_damage=True)
        self.damaged[session_id] = fault if tail is None else tail.fault or fault
        if tail is None and not stray:
            return
        file_size = self._files.size_of(name) or 0
        lines = stray or [encode_loss(utc_now(), reason)] * 2
        data = b"".join(line + b"\n" for line in lines)
        self._write(name, (b"\n" if file_size > end else b"") + data, file_size)
        self._names.heads.add(session_id)

    def _sync(self, name: str) -> None:
        self.names_changed = True
        try:
            handle = self._files.open(name)
        except FileNotFoundError:
            return
        try:
            self._files.sync(handle)
        finally:
            self._files.close(handle)

    def _write(self, name: str, data: bytes, offset: int) -> None:
        handle = self._files.open(name, create=True)
        try:
            self._files.write(handle, data, offset)
            self._files.sync(handle)
        finally:
            self._files.close(handle)
        self.names_changed = True


def _last_seq(session_id: str, lines: Sequence[bytes]) -> int | None:
    for line in reversed(lines):
        record = decode_line(line, session_id)
        if isinstance(record, Entry):
            return record.seq
    return None


@attrs.frozen(kw_only=True)
class _Missing:
    """What a session's files lack of some lines.

    Attributes:
        lines: That follow what is there.
        entries: How many of them are.
        stray: That do not follow: an entry is missing before them.
        reason: Why not.
    """

    lines: Sequence[bytes]
    entries: int
    stray: Sequence[bytes] = ()
    reason: str | None = None


def _find_missing(session_id: str, lines: Sequence[bytes], tail: Tail | None) -> _Missing:
    """Give the lines that come behind a tail."""
    seq = 0 if tail is None else tail.seq
    missing: list[bytes] = []
    count = 0
    for index, line in enumerate(lines):
        record = decode_line(line, session_id)
        if isinstance(record, Entry):
            if record.seq <= seq:
                missing.clear()
                continue
            wanted = seq + count + 1
            if record.seq != wanted:
                return _Missing(
                    lines=missing,
                    entries=count,
                    stray=lines[index:],
                    reason=f"seq {wanted} is missing",
                )
            count += 1
            missing.append(line)
        elif count or tail is None or line not in tail.notes:
            missing.append(line)
    return _Missing(lines=missing, entries=count)


def cut_tail(files: Files, session_id: str, tail: Tail | None, *, unless_in: bytes = b"") -> bool:
    """Cut a head back to its last valid line, and keep what is cut off in a file of its own.

    Args:
        files: The folder.
        session_id: Whose head.
        tail: Where the valid part ends; None if there is none.
        unless_in: What follows: a beginning of just that need not be kept.

    Returns:
        Whether something was kept aside.
    """
    name = head_name(session_id)
    size = 0 if tail is None else tail.size
    handle = files.open(name)
    try:
        torn = files.read(handle, size, files.size(handle) - size)
        is_kept = not unless_in.startswith(torn)
        if is_kept:
            aside = f"{session_id}.torn-{make_stamp()}"
            copy = files.open(aside, exclusive=True)
            try:
                files.write(copy, torn, 0)
                files.sync(copy)
            finally:
                files.close(copy)
            files.sync_folder()
            log.warning(
                "a torn tail was cut back",
                extra={"session_id": session_id, "bytes": len(torn), "kept_in": aside},
            )
        files.truncate(handle, size)
        files.sync(handle)
    finally:
        files.close(handle)
    return is_kept


def fold_row(files: Files, session_id: str, older: tuple[int, ...]) -> Row | None:
    """Make a session's row of its log; None if nothing in it is valid."""
    return fold_session(files, session_id, older)[0]


def fold_session(
    files: Files, session_id: str, older: tuple[int, ...]
) -> tuple[Row | None, Fault | None]:
    """Make a session's row of its log, and say what ended that before its time."""
    ends: list[Page] = []
    view = View(session_id=session_id, older=older)
    row = fold_summary(session_id, read_all(files, view, ends.append))
    return row, ends[0].fault if ends else None


def find_fault(
    files: Files, session_id: str, older: tuple[int, ...], row: Row | None
) -> Fault | None:
    """Read a session whole, and say where it is damaged; None if it is not."""
    ends: list[Page] = []
    for _ in read_all(files, View(session_id=session_id, older=older), ends.append):
        pass
    (last,) = ends
    if last.fault is not None and last.fault.is_damage:
        return last.fault
    return None if row is None or last.end is None else find_missing_end(row, last.end)


def note_end(known: Row, found: str) -> bool:
    """Tell of a session that ends before what the index knows of it. Returns whether it does.

    Its last lines are gone as a whole: nothing in its files says so.
    """
    expected = position_of(known)
    is_short = Position.parse(found).seq < Position.parse(expected).seq
    if is_short:
        log.warning(
            "a session has lost its last entries",
            extra={"session_id": known.session_id, "expected": expected, "found": found},
        )
    return is_short
