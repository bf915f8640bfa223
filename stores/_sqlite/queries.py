"""What is read from the database. Each runs in a worker thread, on a connection that only reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ...core.errors import SessionNotFoundError, StoreError
from ...core.log import Damage, Entry, Recollection, Summary, SummaryPage
from ...core.models import SessionStatus
from .._reading import read_entries, read_notes, read_summary
from .schema import PLACES

if TYPE_CHECKING:
    from .database import Database

__all__ = [
    "find_created",
    "list_ids",
    "list_open_work",
    "list_page",
    "look_at_damaged",
    "read",
    "recall",
    "summary",
]

log = logging.getLogger("trialogue.stores.sqlite")

#: Entries that are read at a time where all are.
_PAGE: Final = 512
_SUMMARY: Final = "id, seq, session, owner, created_key, has_open_work"


def read(
    database: Database, session_id: str, after: int, limit: int
) -> tuple[list[Entry], Damage | None]:
    """Read as `SessionStore.read` does, and say what is wrong with what comes next."""
    with database.snapshot():
        number, last = _find(database, session_id)
        first = number * PLACES
        rows = database.rows(
            "SELECT line FROM entries WHERE place > ? AND place < ? ORDER BY place LIMIT ?",
            (first + min(after, PLACES - 1), first + PLACES, limit),
        )
        end = last
        if after + len(rows) > last:
            end = max(last, _find_end(database, first))
    entries, damage = read_entries((line for (line,) in rows), session_id, after)
    if damage is not None:
        return entries, damage
    if len(entries) < min(limit, last - after):
        seq = after + 1 + len(entries)
        return entries, Damage(seq=seq, reason=f"damaged at seq {seq}: it is missing")
    if end > last:
        # All of them can be read; which of the two is right, nobody knows.
        reason = f"the session is said to end at seq {last}, and has entries up to {end}"
        return entries, Damage(seq=end + 1, reason=reason)
    return entries, None


def _find_end(database: Database, first: int) -> int:
    """Give the seq of the last entry that there is."""
    row = database.row(
        "SELECT max(place) FROM entries WHERE place BETWEEN ? AND ?", (first, first + PLACES - 1)
    )
    return 0 if row is None or row[0] is None else int(row[0]) - first


def recall(database: Database, session_id: str) -> tuple[Recollection, Damage | None]:
    """As `SessionStore.recall`, up to a note that is damaged."""
    with database.snapshot():
        number, last = _find(database, session_id)
        rows = database.rows("SELECT line FROM notes WHERE session = ? ORDER BY number", (number,))
    return read_notes((line for (line,) in rows), session_id, last)


def look_at_damaged(database: Database) -> dict[str, Damage | None]:
    """Read the sessions that are noted as damaged: what is wrong with each, None if it is whole."""
    try:
        ids = database.rows("SELECT id FROM sessions JOIN damaged USING (number)")
    except StoreError as exc:
        # It is a hint: whoever reads those sessions finds it again.
        log.warning("which sessions are damaged cannot be read", extra={"error": str(exc)})
        return {}
    return {str(session_id): _find_damage(database, session_id) for (session_id,) in ids}


def _find_damage(database: Database, session_id: str) -> Damage | None:
    after = 0
    while True:
        try:
            entries, damage = read(database, session_id, after, _PAGE)
            if damage is None and len(entries) < _PAGE:
                damage = recall(database, session_id)[1]
                return damage or summary(database, session_id)[1]
        except StoreError as exc:
            return Damage(seq=after + 1, reason=str(exc))
        if damage is not None:
            return damage
        after += _PAGE


def find_created(database: Database, owner: str | None, key: str) -> str | None:
    """As `SessionStore.find_created`."""
    row = database.row(
        "SELECT id FROM sessions WHERE created_key = ? AND owner IS ? ORDER BY number DESC",
        (key, owner),
    )
    return None if row is None else str(row[0])


def list_ids(database: Database) -> list[str]:
    """As `SessionStore.list_ids`."""
    return [str(session_id) for (session_id,) in database.rows("SELECT id FROM sessions")]


def list_open_work(database: Database) -> list[str]:
    """As `SessionStore.list_open_work`."""
    rows = database.rows("SELECT id FROM sessions WHERE has_open_work ORDER BY id")
    return [str(session_id) for (session_id,) in rows]


def summary(database: Database, session_id: str) -> tuple[Summary | None, Damage | None]:
    """As `SessionStore.summary`, and say what is wrong if it cannot be read."""
    row = database.row(f"SELECT {_SUMMARY} FROM sessions WHERE id = ?", (session_id,))
    found = None if row is None else _make_summary(row)
    return (None, found) if isinstance(found, Damage) else (found, None)


def list_page(
    database: Database,
    owner: str | None,
    status: SessionStatus | None,
    *,
    limit: int,
    before: tuple[str, str] | None,
) -> tuple[SummaryPage, Mapping[str, Damage]]:
    """As `SessionStore.list`; ``before`` is what its cursor says.

    Returns:
        The page, and what is wrong with those that would be on it and cannot be read.
    """
    where, parameters = "owner IS ?", list[Any]([owner])
    if status is not None:
        where += " AND status = ?"
        parameters.append(status)
    if before is not None:
        where += " AND (last_activity_at, id) < (?, ?)"
        parameters.extend(before)
    rows = database.rows(
        f"SELECT {_SUMMARY}, last_activity_at FROM sessions WHERE {where}"
        " ORDER BY last_activity_at DESC, id DESC LIMIT ?",
        (*parameters, limit + 1),
    )
    found = {str(row[0]): _make_summary(row) for row in rows[:limit]}
    damaged = {name: each for name, each in found.items() if isinstance(each, Damage)}
    cursor: str | None = None
    if len(rows) > limit:
        session_id, *_, activity = rows[limit - 1]
        cursor = f"{activity}~{session_id}"
    page = [each for each in found.values() if not isinstance(each, Damage)]
    return SummaryPage(summaries=page, next_cursor=cursor), damaged


def _find(database: Database, session_id: str) -> tuple[int, int]:
    """Give a session's number, and the seq of its last entry."""
    row = database.row("SELECT number, seq FROM sessions WHERE id = ?", (session_id,))
    if row is None:
        raise SessionNotFoundError(f"Session not found: {session_id}")
    number, seq = row
    return int(number), int(seq)


def _make_summary(row: tuple[Any, ...]) -> Summary | Damage:
    session_id, seq, text, owner, created_key, has_open_work = row[:6]
    return read_summary(
        session_id,
        text.encode() if isinstance(text, str) else text,
        seq=seq,
        owner=owner,
        created_key=created_key,
        has_open_work=bool(has_open_work),
    )
