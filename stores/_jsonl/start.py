"""What a start does: takes the folder, brings back what it holds; and the lock. Synchronous."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import attrs

from ...core import codec
from ...core._clock import utc_now
from ...core._ids import ID_PATTERN
from ...core._json import as_object
from ...core.errors import StoreError, StoreInUseError
from ...core.log import Damage
from .._files import Files, IrregularError, LockedError, make_stamp
from .commit import (
    CommitLog,
    Hole,
    Operation,
    Replay,
    is_commit_log,
    read_commit_logs,
)
from .index import Index
from .index_file import INDEX_NAME, TORN, IndexFile
from .marks import load_marks, try_to_save
from .replay import Replayer, find_fault, fold_session
from .rows import Row
from .segments import (
    Fault,
    Names,
    head_name,
    list_sessions,
    make_fault,
    segment_name,
)

__all__ = [
    "LOCK_NAME",
    "Loaded",
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
        shortened: Sessions that end before what the index knows of them.
        lost: Records of the commit log that had been durable, and are damaged; at least.
    """

    files: Files
    lock: int
    epoch: int
    commit_log: CommitLog
    index_file: IndexFile
    index: Index
    names: Names
    damaged: dict[str, Damage]
    replayed: int
    torn: int
    shortened: int
    lost: int


def load_folder(files: Files, *, steal: bool) -> Loaded:
    """Take a folder and read what it holds.

    Raises:
        StoreInUseError: Another process has it; says which.
        StoreError: Nobody could have its lock, which is no file.
    """
    try:
        lock, before = files.lock(LOCK_NAME, steal=steal)
    except LockedError as exc:
        holder = _describe(exc.holder)
        raise StoreInUseError(
            f"{files.folder} is in use by {holder}: one process at a time may have a folder", holder
        ) from None
    except IrregularError as exc:
        # Not put aside: whoever has the folder, and the file that stood there, would lose it.
        path = os.path.join(files.folder, LOCK_NAME)
        raise StoreError(
            f"{path} is not a regular file: stop what uses the folder, and move it away"
        ) from exc
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
    index_file = IndexFile(files)
    index = index_file.load()
    rows, problem = index.rows, index.problem
    found = list_sessions(names, rows)
    mark = _read_holder(before).get("closed")
    if problem is None and not replay.names and mark is not None and mark != index.mark:
        problem = "not the one that was left here"
    elif problem in (None, TORN) and replay.first is not None:
        # What was cut short had not been all that speaks of it: the commit log does too.
        problem = None if replay.first in index.saved else "older than what was left here"
    if problem is not None:
        rows = {}
        index_file.discard()
        if found.heads:
            path = os.path.join(files.folder, INDEX_NAME)
            log.warning("the index is rebuilt", extra={"reason": problem, "path": path})
    changed: dict[str, Row | None] = {}
    work = Replayer(
        files,
        found,
        rows,
        changed,
        is_incomplete=replay.is_incomplete,
        has_holes=bool(replay.holes),
    )
    operations = _by_session(replay.operations)
    missing = _put_aside_logs(files)
    irregular = _put_aside(files, operations)
    # Goes with its session.
    found.torn.extend(irregular)
    lost = _find_lost(replay.holes)
    for session_id in operations.keys() | lost.keys():
        work.replay(session_id, operations.get(session_id, ()), lost.get(session_id, 0))
    for session_id in index.unproven - operations.keys():
        if session_id in rows and session_id not in work.damaged:
            work.prove(session_id)
    faults = work.damaged
    present = found.heads | found.older.keys()
    for session_id in rows:
        if session_id not in present and session_id not in faults:
            faults[session_id] = make_fault(head_name(session_id), "there is no such file")
    # The index may be older than the files.
    for session_id in present.difference(rows):
        row, fault = fold_session(files, session_id, found.older.get(session_id, ()))
        if row is not None:
            changed[session_id] = rows[session_id] = row
        if fault is not None and fault.is_damage:
            faults.setdefault(session_id, fault)
    _find_irregular(irregular, found, faults)
    marks = load_marks(files)
    for session_id in marks.keys() - faults.keys():
        older = found.older.get(session_id, ())
        fault = find_fault(files, session_id, older, rows.get(session_id))
        if fault is not None:
            faults[session_id] = fault
        elif session_id in rows:
            log.warning("a session is whole again", extra={"session_id": session_id})
    damaged = {session_id: fault.damage for session_id, fault in faults.items()}
    for session_id in marks.keys() - damaged.keys() - rows.keys() - work.deleted:
        # Nothing of it is there, and that is what was wrong.
        damaged[session_id] = marks[session_id]
    if damaged != marks:
        try_to_save(files, damaged)
    for session_id, damage in damaged.items():
        log.error("a session is damaged", extra={"session_id": session_id, "fault": damage.reason})
    _settle(files, index_file, rows, changed, replay, epoch, names_changed=work.names_changed)
    commit_log = CommitLog(files, epoch=epoch, number=1, next_lsn=replay.next_lsn)
    return Loaded(
        files=files,
        lock=lock,
        epoch=epoch,
        commit_log=commit_log,
        index_file=index_file,
        index=Index(rows),
        names=found,
        damaged=damaged,
        replayed=work.replayed,
        torn=work.torn + len(replay.cut),
        shortened=work.shortened,
        lost=sum(hole.records for hole in replay.holes) + missing,
    )


def _put_aside_logs(files: Files) -> int:
    """Make room for commit logs, where there is something else. Gives how many cannot be read."""
    logs = [name for name in files.irregular if is_commit_log(name)]
    for name in logs:
        aside = f"{name}.damaged-{make_stamp()}"
        files.rename(name, aside)
        log.error(
            "a commit log is no regular file, and what it had is not read",
            extra={"path": os.path.join(files.folder, name), "kept_in": aside},
        )
    return len(logs)


def _put_aside(files: Files, operations: Collection[str]) -> list[str]:
    """Make room for files that will be written. Gives the irregular names that stay."""
    stay: list[str] = []
    for name in files.irregular:
        session_id = name.partition(".")[0]
        if session_id in operations and name == head_name(session_id):
            files.rename(name, f"{session_id}.torn-{make_stamp()}")
        elif ID_PATTERN.fullmatch(session_id) is not None:
            stay.append(name)
    return stay


def _find_irregular(names: Sequence[str], found: Names, faults: dict[str, Fault]) -> None:
    """Note the sessions of which a file is a link, a folder or the like: none is followed."""
    irregular = list_sessions(names)
    for session_id, firsts in irregular.older.items():
        name = segment_name(session_id, firsts[0])
        faults[session_id] = make_fault(name, "it is no regular file", firsts[0])
    for session_id in irregular.heads - faults.keys() - found.older.keys():
        faults[session_id] = make_fault(head_name(session_id), "it is no regular file")


def _by_session(operations: Sequence[Operation]) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        found.setdefault(operation.session_id, []).append(operation)
    return found


def _find_lost(holes: Sequence[Hole]) -> dict[str, float]:
    """Give the sessions that damaged records name, and the last seq that each had there."""
    lost: dict[str, float] = {}
    for hole in holes:
        for session_id, seq in hole.named.items():
            lost[session_id] = max(seq, lost.get(session_id, 0))
    return lost


def _settle(
    files: Files,
    index_file: IndexFile,
    rows: dict[str, Row],
    changed: dict[str, Row | None],
    replay: Replay,
    epoch: int,
    *,
    names_changed: bool,
) -> None:
    """Drop the old commit logs: all that they said is durable."""
    if names_changed:
        files.sync_folder()
    if index_file.wants_rewrite(len(changed), len(rows)):
        index_file.rewrite(list(rows.values()), sync=True)
    else:
        index_file.append(changed)
    index_file.mark_saved((epoch, 1), sync=True)
    for problem in replay.problems:
        log.error("the commit log is damaged", extra={"problem": problem})
    for name in replay.names:
        if replay.problems:
            files.rename(name, f"{name}.damaged-{make_stamp()}")
        elif name in replay.cut:
            # What it ends with may have been acknowledged, if the disk and not a kill cut it.
            aside = f"{name}.torn-{make_stamp()}"
            files.rename(name, aside)
            log.warning(
                "the commit log ends in the middle of a record",
                extra={"bytes": replay.cut[name], "kept_in": aside},
            )
        else:
            files.remove(name)
        # An older one that came back without those after it would undo what they say.
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
        if mark is not None and files.is_named(LOCK_NAME, lock):
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
