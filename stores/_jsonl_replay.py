"""What a start does: takes the folder, brings back what only the commit log holds. Synchronous."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from ..core import codec
from ..core._clock import utc_now
from ..core._json import as_object
from ..core._line import decode_line
from ..core.errors import StoreInUseError
from ..core.log import Entry
from ._files import Files, LockedError
from ._jsonl_commit import CommitLog, Operation, Replay, read_commit_logs
from ._jsonl_index import Index
from ._jsonl_index_file import TORN, IndexFile, LoadedIndex
from ._jsonl_read import View, read_all
from ._jsonl_rows import Row, decode_row, fold_summary, position_of, with_term
from ._jsonl_segments import Fault, Names, Tail, head_name, list_sessions, load_tail, segment_name

__all__ = [
    "LOCK_NAME",
    "Loaded",
    "cut_tail",
    "fold_row",
    "load_folder",
    "make_mark",
    "release_folder",
]

log = logging.getLogger("trialogue.store")

LOCK_NAME: Final = "lock"


@attrs.frozen(kw_only=True)
class Loaded:
    """A folder that is ours, with nothing in its commit log.

    Attributes:
        lock: The handle that holds it.
        epoch: How often it was taken.
        replayed: Entries that only the commit log had.
        torn: Tails that were cut back.
    """

    files: Files
    lock: int
    epoch: int
    commit_log: CommitLog
    index_file: IndexFile
    index: Index
    names: Names
    damaged: dict[str, Fault]
    replayed: int
    torn: int


def load_folder(files: Files, *, steal: bool) -> Loaded:
    """Take a folder and read what it holds.

    Raises:
        StoreInUseError: Another process has it; says which.
    """
    try:
        lock, before = files.lock(LOCK_NAME, steal=steal)
    except LockedError as exc:
        holder = _describe(exc.holder)
        raise StoreInUseError(
            f"{files.folder} is in use by {holder}: one process at a time may have a folder", holder
        ) from None
    try:
        return _load(files, lock, before)
    except BaseException:
        files.close(lock)
        raise


def _load(files: Files, lock: int, before: bytes) -> Loaded:
    if not files.is_private():
        log.warning("others may look into the store's folder", extra={"folder": files.folder})
    names = files.list_names()
    replay = read_commit_logs(files, names)
    epoch = max(_epoch_of(before), replay.last_epoch) + 1
    _write_holder(files, lock, {"epoch": epoch})
    found = list_sessions(names)
    index_file = IndexFile(files)
    index = index_file.load()
    rows, problem = index.rows, index.problem
    mark = _read_holder(before).get("closed")
    if problem is None and not replay.names and mark is not None and mark != index.mark:
        problem = "not the one that was left here"
    elif problem == TORN and replay.names:
        # What was cut short had not been all that speaks of it: the commit log does too.
        problem = None
    if problem is not None:
        rows = {}
        if found.heads:
            log.warning("the index is rebuilt", extra={"reason": problem})
    changed: dict[str, Row | None] = {}
    work = _Replayer(files, found, rows, changed, is_log_damaged=bool(replay.problems))
    operations = _by_session(replay.operations)
    for session_id, ops in operations.items():
        work.replay(session_id, ops)
    for session_id in index.unproven - operations.keys():
        if session_id in rows:
            work.prove(session_id)
    # The index may be older than the files, or name some that were taken away by hand.
    present = found.heads | found.older.keys()
    for session_id in rows.keys() - present:
        changed[session_id] = None
        del rows[session_id]
    for session_id in present - rows.keys():
        row = fold_row(files, session_id, found.older.get(session_id, ()))
        if row is not None:
            changed[session_id] = rows[session_id] = row
    _settle(files, index_file, index, rows, changed, replay, names_changed=work.names_changed)
    commit_log = CommitLog(files, epoch=epoch, number=1)
    commit_log.next_lsn = replay.next_lsn
    return Loaded(
        files=files,
        lock=lock,
        epoch=epoch,
        commit_log=commit_log,
        index_file=index_file,
        index=Index(rows),
        names=found,
        damaged=work.damaged,
        replayed=work.replayed,
        torn=work.torn,
    )


def _settle(
    files: Files,
    index_file: IndexFile,
    index: LoadedIndex,
    rows: dict[str, Row],
    changed: dict[str, Row | None],
    replay: Replay,
    *,
    names_changed: bool,
) -> None:
    """Drop the old commit logs: all that they said is durable."""
    if names_changed:
        files.sync_folder()
    if index_file.wants_rewrite(len(changed), len(rows)):
        index_file.rewrite(list(rows.values()), sync=True)
    else:
        index_file.append(changed, sync=True)
    if index.unproven or changed:
        index_file.mark_synced()
    for problem in replay.problems:
        log.error("the commit log is damaged", extra={"problem": problem})
    for name in replay.names:
        if replay.problems:
            files.rename(name, f"{name}.damaged-{_stamp()}")
        else:
            files.remove(name)
    if replay.names:
        files.sync_folder()


# -- the lock --------------------------------------------------------------------------------------


def release_folder(files: Files, lock: int, mark: str | None) -> None:
    """Let go of a folder.

    Args:
        files: The folder.
        lock: The handle that holds it.
        mark: With what the index was closed; None if it was not.
    """
    try:
        if mark is not None and files.is_lock(LOCK_NAME, lock):
            before = files.read(lock, 0, 4096)
            _write_holder(files, lock, {"epoch": _epoch_of(before), "closed": mark})
    finally:
        files.close(lock)
        files.close_folder()


def make_mark() -> str:
    """Make what tells one closing from another."""
    return os.urandom(8).hex()


def _write_holder(files: Files, lock: int, more: Mapping[str, object]) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now(), **more}
    data = codec.encode_json(holder) + b"\n"
    files.write(lock, data, 0)
    files.truncate(lock, len(data))
    files.sync(lock)


def _read_holder(data: bytes) -> Mapping[str, Any]:
    try:
        return as_object(codec.decode_json(data)) or {}
    except codec.JsonError:
        return {}


def _epoch_of(data: bytes) -> int:
    epoch = _read_holder(data).get("epoch")
    return epoch if isinstance(epoch, int) else 0


def _describe(data: bytes) -> str:
    holder = _read_holder(data)
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"


# -- replay ----------------------------------------------------------------------------------------


def _by_session(operations: Sequence[Operation]) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        found.setdefault(operation.session_id, []).append(operation)
    return found


class _Replayer:
    """Does again what the commit log says, one session at a time."""

    def __init__(
        self,
        files: Files,
        names: Names,
        rows: dict[str, Row],
        changed: dict[str, Row | None],
        *,
        is_log_damaged: bool,
    ) -> None:
        self.damaged: dict[str, Fault] = {}
        self.replayed = self.torn = 0
        self.names_changed = False
        self._files = files
        self._names = names
        self._rows = rows
        self._changed = changed
        self._is_log_damaged = is_log_damaged

    def replay(self, session_id: str, operations: Sequence[Operation]) -> None:
        lines: list[bytes] = []
        summary, term = b"", 0
        for operation in operations:
            if operation.kind == "delete":
                self._delete(session_id)
                lines, summary, term = [], b"", 0
            elif operation.kind == "term":
                term = operation.term
            else:
                lines += operation.lines
                summary = operation.summary or summary
        if not lines and not term:
            return
        is_whole = self._append(session_id, lines) if lines else True
        older = self._names.older.get(session_id, ())
        row: Row | None = None
        if summary and is_whole:
            row = decode_row(summary)
        elif lines:
            row = fold_row(self._files, session_id, older)
        else:
            row = self._rows.get(session_id) or fold_row(self._files, session_id, older)
        if row is None:
            return
        if term > row.term:
            row = with_term(row, term)
        self._rows[session_id] = self._changed[session_id] = row

    def prove(self, session_id: str) -> None:
        """See that a row is not ahead of its log, which may have lost what nobody had synced."""
        older = self._names.older.get(session_id, ())
        tail = load_tail(self._files, session_id, older)
        row: Row | None = None
        if tail is not None:
            self._sync(head_name(session_id))
            row = self._rows[session_id]
            if position_of(row) == f"{tail.term}-{tail.seq}":
                return
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
        if self._rows.pop(session_id, None) is not None:
            self._changed[session_id] = None

    def _append(self, session_id: str, lines: Sequence[bytes]) -> bool:
        """Append what is not there. Returns False if the end does not fit the lines."""
        files, older = self._files, self._names.older.get(session_id, ())
        tail = load_tail(files, session_id, older)
        missing, count, gap = _find_missing(session_id, lines, tail)
        if gap is not None:
            self._note_gap(session_id, tail, lines, gap)
            return False
        if not missing:
            # It may be there in the system's memory only; the log that has it is dropped next.
            self._sync(head_name(session_id))
            return tail is None or tail.seq == _last_seq(session_id, lines)
        data = b"".join(line + b"\n" for line in missing)
        name = head_name(session_id)
        size = 0 if tail is None else tail.size
        file_size = files.size_of(name) or 0
        if file_size > size:
            self.torn += cut_tail(files, session_id, tail, unless_in=data)
        self._write(name, data, size)
        self._names.heads.add(session_id)
        self.replayed += count
        return True

    def _note_gap(
        self, session_id: str, tail: Tail | None, lines: Sequence[bytes], seq: int
    ) -> None:
        """The session ends before the log begins: what is between had been durable, and is lost.

        The lines are kept behind the damage, where it is seen at every start; not, if the log
        itself has a gap: then no sync had promised what is in it.
        """
        if self._is_log_damaged:
            return
        name = head_name(session_id)
        end = 0 if tail is None else tail.size
        fault = Fault(
            name=name, offset=end, next_seq=seq, reason=f"seq {seq} is missing", is_damage=True
        )
        self.damaged[session_id] = fault if tail is None else tail.fault or fault
        log.error("a session is damaged", extra={"session_id": session_id, "fault": str(fault)})
        file_size = self._files.size_of(name) or 0
        data = b"".join(line + b"\n" for line in lines)
        self._write(name, (b"\n" if file_size > end else b"") + data, file_size)

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


def _find_missing(
    session_id: str, lines: Sequence[bytes], tail: Tail | None
) -> tuple[list[bytes], int, int | None]:
    """Give the lines that come behind a tail, how many are entries, and the seq that is missing."""
    seq = 0 if tail is None else tail.seq
    missing: list[bytes] = []
    count = 0
    for line in lines:
        record = decode_line(line, session_id)
        if isinstance(record, Entry):
            if record.seq <= seq:
                missing.clear()
                continue
            if record.seq != seq + count + 1:
                return missing, count, seq + count + 1
            count += 1
            missing.append(line)
        elif count or tail is None or line not in tail.notes:
            missing.append(line)
    return missing, count, None


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
            aside = f"{session_id}.torn-{_stamp()}"
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
    return fold_summary(session_id, read_all(files, View(session_id=session_id, older=older)))


def _stamp() -> str:
    """Give a time for a file name, and something that no other has."""
    digits = "".join(char for char in utc_now() if char.isdigit())
    return f"{digits}-{os.urandom(3).hex()}"
