"""A row of the index: what is known of one session without reading its log."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final

import msgspec

from ...core import codec
from ...core._state import SessionState
from ...core.log import Entry, Summary
from ...core.models import Session, SessionStatus

__all__ = [
    "Row",
    "SummaryEncoder",
    "created_number",
    "decode_row",
    "fold_summary",
    "key_of",
    "make_row",
    "position_of",
    "read_summary",
    "with_term",
]

log = logging.getLogger("trialogue.store")


class Row(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One session's place in the index: what lists select and sort by, and the summary as bytes.

    Attributes:
        activity: When the session was last active; with the id, what lists sort by.
        created: Stands for the idempotency key that created it: a number, to keep 100,000 small.
        text: Has the row's JSON, and may have much else: see `raw`.
        start: Where in it that begins.
        size: Of it, without the last brace.
    """

    # Not seen by the garbage collector: there are many, they live long, and hold no cycles.
    activity: str
    session_id: str
    owner: str | None
    status: SessionStatus
    has_open_work: bool
    term: int
    created: int | None
    text: bytes
    start: int
    size: int

    @property
    def body(self) -> bytes:
        """The row's JSON without the last brace."""
        return self.text[self.start : self.start + self.size]

    @property
    def raw(self) -> bytes:
        """The row's JSON."""
        return self.body + b"}"


class _RowSession(msgspec.Struct, rename="camel", gc=False):
    id: str
    status: SessionStatus
    last_activity_at: str


class _RowLine(msgspec.Struct, rename="camel", gc=False):
    term: int
    session: _RowSession
    owner: str | None = None
    created_key: str | None = None
    has_open_work: bool = False


class _FullLine(msgspec.Struct, rename="camel"):
    session: dict[str, Any]
    created_key: str | None = None


_row_decoder: Final = msgspec.json.Decoder(_RowLine)
_full_decoder: Final = msgspec.json.Decoder(_FullLine)
_STATUSES: Final[Mapping[str, SessionStatus]] = {
    name: name for name in ("idle", "running", "waiting", "closed", "expired")
}


class SummaryEncoder:
    """Write one session's summaries. What seldom changes is written once."""

    __slots__ = ("_known", "_rest", "_start")

    def __init__(self) -> None:
        #: What start and rest were made of.
        self._known: tuple[Summary, Session] | None = None
        self._start = b""
        self._rest = b""

    def encode(self, summary: Summary, term: int) -> bytes:
        """Write the row's JSON."""
        session = summary.session
        known = self._known
        if (
            known is None
            or known[0].owner != summary.owner
            or known[0].created_key != summary.created_key
            or known[1].config is not session.config
            or known[1].metadata is not session.metadata
            or known[1].name != session.name
            or known[1].summary != session.summary
            or known[1].parent != session.parent
            or known[1].forked_from != session.forked_from
            or known[1].node != session.node
            or known[1].created_at != session.created_at
        ):
            self._known = (summary, session)
            self._start = b'{"owner":%b,"createdKey":%b,"hasOpenWork":' % (
                codec.encode_json(summary.owner),
                codec.encode_json(summary.created_key),
            )
            rest: dict[str, Any] = codec.unstructure(session)
            for name in (
                "status",
                "lastActivityAt",
                "messageCount",
                "tokenUsage",
                "position",
                "activeTurnId",
                "queuedCount",
            ):
                rest.pop(name, None)
            self._rest = codec.encode_json(rest)[1:]
        usage = session.token_usage
        turn = b""
        if session.active_turn_id is not None:
            turn = b'"activeTurnId":%b,' % codec.encode_json(session.active_turn_id)
        return (
            b'%b%b,"term":%d,"session":{"status":"%b","lastActivityAt":%b,"messageCount":%d,'
            b'"tokenUsage":{"inputTokens":%d,"outputTokens":%d,"totalTokens":%d},'
            b'"position":%b,%b"queuedCount":%d,%b}'
        ) % (
            self._start,
            b"true" if summary.has_open_work else b"false",
            term,
            session.status.encode(),
            codec.encode_json(session.last_activity_at),
            session.message_count,
            usage.input_tokens,
            usage.output_tokens,
            usage.total_tokens,
            codec.encode_json(session.position),
            turn,
            session.queued_count,
            self._rest,
        )


def created_number(owner: str | None, key: str | None) -> int | None:
    """Give the number that stands for an idempotency key. The index file has it, too."""
    if key is None:
        return None
    name = codec.encode_json((owner, key))
    # JSON's integers are of 64 bits, with a sign.
    return int.from_bytes(blake2b(name, digest_size=7).digest())


def make_row(summary: Summary, term: int, raw: bytes) -> Row:
    """Make the row of a summary that was encoded."""
    session = summary.session
    return Row(
        activity=session.last_activity_at,
        session_id=session.id,
        owner=summary.owner,
        status=session.status,
        has_open_work=summary.has_open_work,
        term=term,
        created=created_number(summary.owner, summary.created_key),
        text=raw,
        start=0,
        size=len(raw) - 1,
    )


def decode_row(raw: bytes, owners: dict[str, str] | None = None) -> Row:
    """Read a row's JSON.

    Args:
        raw: From `SummaryEncoder`.
        owners: The owners of other rows, for one string to be enough for all of an owner's.

    Raises:
        msgspec.MsgspecError: It is none.
    """
    line = _row_decoder.decode(raw)
    session, owner = line.session, line.owner
    if owner is not None and owners is not None:
        owner = owners.setdefault(owner, owner)
    return Row(
        session.last_activity_at,
        session.id,
        owner,
        _STATUSES[session.status],
        line.has_open_work,
        line.term,
        created_number(owner, line.created_key),
        raw,
        0,
        len(raw) - 1,
    )


def read_summary(row: Row) -> Summary:
    """Give what a row was made of."""
    full = _full_decoder.decode(row.raw)
    return Summary(
        session=codec.structure(full.session, Session),
        owner=row.owner,
        created_key=full.created_key,
        has_open_work=row.has_open_work,
    )


def position_of(row: Row) -> str:
    """Give the position up to which a row speaks."""
    position: str = _full_decoder.decode(row.raw).session["position"]
    return position


def key_of(row: Row) -> str | None:
    """Give the idempotency key that created the session."""
    return _full_decoder.decode(row.raw).created_key


def with_term(row: Row, term: int) -> Row:
    """Note that a session was taken in a term in which nothing is written yet."""
    # Nothing before it can look like this: quotes inside of a string are escaped.
    old, new = b',"term":%d,"session":' % row.term, b',"term":%d,"session":' % term
    raw = row.raw.replace(old, new, 1)
    return msgspec.structs.replace(row, term=term, text=raw, start=0, size=len(raw) - 1)


def fold_summary(session_id: str, entries: Iterable[Entry]) -> Row | None:
    """Make a session's row of its log; None if that is empty."""
    state = SessionState(session_id)
    for entry in entries:
        try:
            state.apply(entry)
        except Exception:  # a later version's, or somebody's mistake: one session's affair
            log.exception("a log cannot be folded", extra={"session_id": session_id})
            break
    if not state.seq:
        return None
    summary = state.make_summary()
    return make_row(summary, state.term, SummaryEncoder().encode(summary, state.term))
