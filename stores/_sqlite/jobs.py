"""What is written to the database: each job is a part of one transaction with all that waited.

A job either does all it is for, or raises before it changed anything; then the others go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ...core._line import encode_entry, encode_note
from ...core.codec import encode_json, unstructure
from ...core.errors import FencedError, SessionNotFoundError, StoreError
from ...core.log import Damage, Entry, Note, Summary
from .schema import PLACES

if TYPE_CHECKING:
    from .._committing_store import PruneLimits
    from .database import Database

__all__ = ["Append", "Delete", "Job", "MarkDamaged", "MarkWhole", "Open", "Prune", "WriteNote"]

#: The largest seq of a session.
LAST_SEQ: Final = PLACES - 1


class Job:
    """Something to write.

    Attributes:
        frees_space: It may be done though the disk is nearly full.
        size: Of what it writes, in bytes, where that is much.
    """

    frees_space = False
    size = 0

    def run(self, database: Database) -> Any:
        """Write it, in a worker thread, and give what the waiting task is told."""
        raise NotImplementedError


class Append(Job):
    """A batch, and the summary after it.

    Args:
        number: Of the session, None if this creates it.
    """

    def __init__(
        self,
        holder: str,
        session_id: str,
        number: int | None,
        term: int,
        batch: Sequence[Entry],
        summary: Summary,
    ) -> None:
        self._holder = holder
        self._id = session_id
        self._number = number
        self._term = term
        self._first = batch[0].seq
        self._last = batch[-1].seq
        #: Entries that were written elsewhere bring their terms along.
        self._last_term = max(term, batch[-1].term)
        if self._last - self._first != len(batch) - 1 or self._last > LAST_SEQ:
            raise StoreError(f"{batch[0]!r} to {batch[-1]!r} are not {len(batch)} entries")
        self._lines = [encode_entry(entry) for entry in batch]
        self.size = sum(map(len, self._lines))
        session = summary.session
        self._values = (
            self._last_term,
            self._last,
            summary.owner,
            session.status,
            session.last_activity_at,
            summary.has_open_work,
            summary.created_key,
            self.size,
            encode_json(unstructure(session)).decode(),
        )

    def run(self, database: Database) -> tuple[int, int]:
        number = self._number
        if number is None:
            number = self._create(database)
        elif not database.run(
            "UPDATE sessions SET term = ?, seq = ?, owner = ?, status = ?, last_activity_at = ?,"
            " has_open_work = ?, created_key = ?, bytes = bytes + ?, session = ?"
            " WHERE number = ? AND term = ? AND holder = ? AND seq = ?",
            (*self._values, number, self._term, self._holder, self._first - 1),
        ):
            raise self._refusal(database)
        place = number * PLACES + self._first
        database.run_many("INSERT INTO entries VALUES (?, ?)", list(enumerate(self._lines, place)))
        return number, self._last_term

    def _create(self, database: Database) -> int:
        if self._first != 1:
            raise StoreError(f"a session's log begins with 1, not with {self._first}")
        if not database.run(
            "INSERT INTO sessions (term, seq, owner, status, last_activity_at, has_open_work,"
            " created_key, bytes, session, id, holder) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO NOTHING",
            (*self._values, self._id, self._holder),
        ):
            raise StoreError(f"the session {self._id} exists already")
        return database.last_row

    def _refusal(self, database: Database) -> Exception:
        row = database.row(
            "SELECT term, holder, seq FROM sessions WHERE number = ?", (self._number,)
        )
        if row is None:
            return StoreError(f"the session {self._id} was deleted")
        term, holder, seq = row
        if (term, holder) != (self._term, self._holder):
            return FencedError(f"another process has taken the session {self._id}, in term {term}")
        return StoreError(f"the session {self._id} ends at {seq}: {self._first} does not follow")


class WriteNote(Job):
    """A note, if its session is still ours. A snapshot takes the place of what it was made of."""

    def __init__(self, holder: str, number: int, term: int, note: Note) -> None:
        self._holder = holder
        self._number = number
        self._term = term
        self._is_snapshot = note.type == "snapshot"
        self._line = encode_note(note)
        self.size = len(self._line)

    def run(self, database: Database) -> None:
        if not database.run(
            "INSERT INTO notes (session, line) SELECT number, ? FROM sessions"
            " WHERE number = ? AND term = ? AND holder = ?",
            (self._line, self._number, self._term, self._holder),
        ):
            return
        if self._is_snapshot:
            database.run(
                "DELETE FROM notes WHERE session = ? AND number < ?",
                (self._number, database.last_row),
            )


class Open(Job):
    """The right to write, in a new term unless this process has it already."""

    def __init__(self, holder: str, session_id: str) -> None:
        self._holder = holder
        self._id = session_id

    def run(self, database: Database) -> tuple[int, int]:
        row = database.row("SELECT number, term, holder FROM sessions WHERE id = ?", (self._id,))
        if row is None:
            raise SessionNotFoundError(f"Session not found: {self._id}")
        number, term, holder = row
        if holder != self._holder:
            term += 1
            database.run(
                "UPDATE sessions SET term = ?, holder = ? WHERE number = ?",
                (term, self._holder, number),
            )
        return number, term


class MarkDamaged(Job):
    """Note that a session is damaged, for the next start to know it. A hint, and a small one."""

    frees_space = True

    def __init__(self, session_id: str, damage: Damage) -> None:
        self._id = session_id
        self._damage = damage

    def run(self, database: Database) -> None:
        database.run(
            "INSERT OR REPLACE INTO damaged SELECT number, ?, ? FROM sessions WHERE id = ?",
            (self._damage.seq, self._damage.reason, self._id),
        )


class MarkWhole(Job):
    """A session is damaged no more."""

    frees_space = True

    def __init__(self, session_id: str) -> None:
        self._id = session_id

    def run(self, database: Database) -> None:
        database.run(
            "DELETE FROM damaged WHERE number = (SELECT number FROM sessions WHERE id = ?)",
            (self._id,),
        )


class Delete(Job):
    """A session, with all that belongs to it."""

    frees_space = True

    def __init__(self, session_id: str) -> None:
        self._id = session_id

    def run(self, database: Database) -> bool:
        row = database.row("SELECT number FROM sessions WHERE id = ?", (self._id,))
        if row is None:
            return False
        _delete(database, row[0])
        return True


class Prune(Job):
    """Some sessions of oldest activity."""

    frees_space = True

    def __init__(self, limits: PruneLimits) -> None:
        self._limits = limits

    def run(self, database: Database) -> list[str]:
        limits = self._limits
        count, size = database.rows("SELECT count(*), coalesce(sum(bytes), 0) FROM sessions")[0]
        gone: list[str] = []
        # More than are protected, so that enough of these are not.
        for number, session_id, activity, length in database.rows(
            "SELECT number, id, last_activity_at, bytes FROM sessions"
            " ORDER BY last_activity_at, id LIMIT ?",
            (limits.most + len(limits.protect),),
        ):
            if len(gone) == limits.most or not (
                (limits.keep is not None and count > limits.keep)
                or (limits.keep_bytes is not None and size > limits.keep_bytes)
                or (limits.older_than is not None and activity < limits.older_than)
            ):
                break
            if session_id in limits.protect:
                continue
            _delete(database, number)
            gone.append(session_id)
            count -= 1
            size -= length
        return gone


def _delete(database: Database, number: int) -> None:
    database.run("DELETE FROM sessions WHERE number = ?", (number,))
    first = number * PLACES
    database.run("DELETE FROM entries WHERE place BETWEEN ? AND ?", (first, first + LAST_SEQ))
    database.run("DELETE FROM notes WHERE session = ?", (number,))
    database.run("DELETE FROM damaged WHERE number = ?", (number,))
