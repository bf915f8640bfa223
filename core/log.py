"""What a session's log consists of: positions, entries, and the summary that lists show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal

import attrs
import msgspec

from . import codec
from ._frame import Frame
from .errors import DamagedError, InvalidRequestError
from .events import EVENTS, CustomEvent, EventBody, LogClass
from .models import Session

__all__ = [
    "Damage",
    "Entry",
    "KeyRecord",
    "Note",
    "Position",
    "Recollection",
    "Summary",
    "SummaryPage",
]

_POSITION: Final = re.compile(r"(0|[1-9]\d{0,15})-(0|[1-9]\d{0,15})", re.ASCII)


@attrs.frozen(order=False)
class Position:
    """A place in one session's log: ``"<term>-<seq>"`` (PROTOCOL §6.1).

    ``seq`` counts events from 1; ``0-0`` stands before the first one.
    """

    term: int
    seq: int

    def __str__(self) -> str:
        return f"{self.term}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read the wire's form.

        Raises:
            InvalidRequestError: It has another form.
        """
        match = _POSITION.fullmatch(text)
        if match is None:
            raise InvalidRequestError(
                f"Not a position: {text[:64]!r}",
                data={"issues": [{"path": "params.after", "message": "not of the form term-seq"}]},
            )
        return cls(int(match[1]), int(match[2]))


@attrs.frozen(kw_only=True)
class Damage:
    """What is wrong with a session's log.

    Attributes:
        seq: Of the first entry that cannot be read.
        reason: What is there in its place, and where, for people.
    """

    seq: int
    reason: str

    def error(self, session_id: str) -> DamagedError:
        """Make the exception for whoever wants to write, or to read on."""
        return DamagedError(f"{session_id} is read-only: {self.reason}", session_id, self.seq)


@attrs.frozen(kw_only=True)
class KeyRecord:
    """An idempotency key, kept with the effect it names (PROTOCOL §7).

    Attributes:
        fingerprint: Of the parameters that say what the effect is.
        result: What the first request was answered, in wire form.
    """

    key: str
    method: str
    fingerprint: str
    result: dict[str, Any]


class Entry(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """One durable event of one session, immutable, with the bytes that every use of it shares.

    A `msgspec.Struct` that the garbage collector does not look at: a long log is as many of
    them, and nothing that they hold refers back to them.

    Attributes:
        data: The event's ``data`` as JSON, which the frame and the log line are both made from.
        keys: Idempotency keys that this entry carried out.
        parsed, framed: What `body` and `frame` have given before.
    """

    session_id: str
    term: int
    seq: int
    timestamp: str
    event: str
    log_class: LogClass
    data: bytes
    keys: tuple[KeyRecord, ...] = ()
    parsed: EventBody | None = None
    framed: Frame | None = None

    def __repr__(self) -> str:
        return f"<Entry {self.session_id} {self.term}-{self.seq} {self.event}>"

    @property
    def position(self) -> Position:
        """Where it stands in the log."""
        return Position(self.term, self.seq)

    @property
    def body(self) -> EventBody:
        """The event as a class of `trialogue.core.events`; parsed at first use if it was read."""
        body = self.parsed
        if body is None:
            data = codec.decode_json(self.data)
            cls = EVENTS.get(self.event)
            body = CustomEvent(self.event, data) if cls is None else codec.structure(data, cls)
            self.parsed = body
        return body

    @property
    def frame(self) -> Frame:
        """The event as it is sent; made at first use and shared by all receivers."""
        frame = self.framed
        if frame is None:
            position = f"{self.term}-{self.seq}"
            frame = self.framed = Frame(
                b'{"version":"1.0","type":"event","payload":{"sessionId":"%b","position":"%b",'
                b'"type":%b,"data":%b}}'
                % (
                    self.session_id.encode(),
                    position.encode(),
                    codec.encode_json(self.event),
                    self.data,
                ),
                self.event,
                position,
            )
        return frame

    def forget(self) -> None:
        """Drop what `body` and `frame` have given, which is three times what it was made from.

        A store in memory keeps the entry for as long as its session.
        """
        self.parsed = self.framed = None


class Note(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """Something in a log that is no event: it has no position of its own, and takes no seq.

    A `msgspec.Struct`, since one is made of each text in progress ten times a second.

    Attributes:
        type: ``partial`` is a piece of the text of a message in progress, with its ``messageId``
            and ``offset`` (code points); ``snapshot`` is the state folded up to ``after``.
        after: The last entry that was staged before it.
        data: JSON.
    """

    session_id: str
    type: Literal["partial", "snapshot"]
    after: Position
    timestamp: str
    data: bytes


@attrs.frozen(kw_only=True)
class Recollection:
    """What spares the reading of a whole log.

    Attributes:
        snapshot: The newest valid one, None if there is none: read on after its position.
        partials: Those written after the snapshot, in order.
    """

    snapshot: Note | None = None
    partials: Sequence[Note] = ()


@attrs.frozen(kw_only=True)
class Summary:
    """What a store knows of a session without reading its log.

    Attributes:
        owner: The principal that created it, None for anonymous.
        created_key: The idempotency key that created it.
        has_open_work: A turn is running or inputs are queued: a start has to read this session.
    """

    session: Session
    owner: str | None = None
    created_key: str | None = None
    has_open_work: bool = False


@attrs.frozen(kw_only=True)
class SummaryPage:
    """A page of a listing; ``next_cursor`` is None on the last one."""

    summaries: Sequence[Summary]
    next_cursor: str | None = None
