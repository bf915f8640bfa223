"""What stores that keep lines make of them: entries, notes, summaries, and what is wrong there."""

from __future__ import annotations

from collections.abc import Iterable

from ..core._line import DamagedLineError, decode_line
from ..core.codec import decode_json, structure
from ..core.errors import InvalidRequestError
from ..core.log import Damage, Entry, Note, Recollection, Summary
from ..core.models import Session

__all__ = ["read_cursor", "read_entries", "read_notes", "read_summary"]


def read_entries(
    lines: Iterable[object], session_id: str, after: int
) -> tuple[list[Entry], Damage | None]:
    """Read the lines behind a seq, and say what is wrong with the first that is no such entry."""
    entries: list[Entry] = []
    for seq, line in enumerate(lines, after + 1):
        try:
            entry = _decode(line, session_id)
        except DamagedLineError as exc:
            return entries, Damage(seq=seq, reason=f"damaged at seq {seq}: {exc}")
        if not isinstance(entry, Entry) or entry.seq != seq:
            return entries, Damage(seq=seq, reason=f"damaged at seq {seq}: another entry is there")
        entries.append(entry)
    return entries, None


def read_notes(
    lines: Iterable[object], session_id: str, last: int
) -> tuple[Recollection, Damage | None]:
    """Read notes, up to one that is damaged.

    Args:
        lines: Of the notes.
        session_id: Whose they are.
        last: The seq of the session's last entry.
    """
    damage: Damage | None = None
    snapshot: Note | None = None
    partials: list[Note] = []
    for line in lines:
        try:
            note = _decode(line, session_id)
            if not isinstance(note, Note):
                raise DamagedLineError("an entry")
        except DamagedLineError as exc:
            damage = Damage(seq=last + 1, reason=f"a note is damaged: {exc}")
            break
        if note.type == "snapshot":
            snapshot, partials = note, []
        else:
            partials.append(note)
    return Recollection(snapshot=snapshot, partials=partials), damage


def _decode(line: object, session_id: str) -> Entry | Note:
    if not isinstance(line, bytes):
        # A database checks types when it writes, and not what a damaged page makes of them.
        raise DamagedLineError(f"the line is of type {type(line).__name__}")
    return decode_line(line, session_id)


def read_summary(
    session_id: str,
    text: object,
    *,
    seq: int,
    owner: str | None,
    created_key: str | None,
    has_open_work: bool,
) -> Summary | Damage:
    """Read what lists show of a session, or say that it cannot be.

    Args:
        session_id: Whose it has to be.
        text: The session, as JSON.
        seq: Of its last entry.
        owner: As in `Summary`.
        created_key: As in `Summary`.
        has_open_work: As in `Summary`.
    """
    try:
        session = structure(decode_json(text), Session) if isinstance(text, bytes) else None
    except Exception:  # noqa: BLE001 - whatever somebody wrote there
        session = None
    if session is None or session.id != session_id:
        return Damage(seq=seq + 1, reason="what lists show of the session cannot be read")
    return Summary(
        session=session, owner=owner, created_key=created_key, has_open_work=has_open_work
    )


def read_cursor(cursor: str | None) -> tuple[str, str] | None:
    """Read a cursor of a list: the last activity and the id of the last session that it showed.

    Raises:
        InvalidRequestError: It is not one of ours.
    """
    if cursor is None:
        return None
    time, mark, session_id = cursor.partition("~")
    if not mark:
        raise InvalidRequestError(
            "Invalid request: params.cursor: not one of ours",
            data={"issues": [{"path": "params.cursor", "message": "not one of ours"}]},
        )
    return time, session_id
