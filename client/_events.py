"""Events as the client sees them: one class round the bodies of `trialogue.core.events`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import attrs

from ..core import codec
from ..core.errors import InvalidRequestError, RemoteProtocolError
from ..core.events import EVENTS, CustomEvent, EventBody

__all__ = ["Event", "EventPage", "read_event", "seq_of"]

log = logging.getLogger("trialogue.client")


def seq_of(position: str) -> int:
    """Give the count in a position, which grows by one with each event (§6.1)."""
    _, _, seq = position.partition("-")
    if not seq.isascii() or not seq.isdigit():
        raise RemoteProtocolError(f"{position[:64]!r} is no position")
    return int(seq)


@attrs.frozen(kw_only=True)
class Event:
    """One event of one session.

    Attributes:
        session_id: Whose.
        position: Its place in the session's log; None if it is transient. Keep the last one you
            have dealt with, and give it as ``after`` to go on from there, even in another process.
        body: What happened, e.g. a `MessageCompleted`: ``match event.body``.
    """

    session_id: str
    position: str | None = None
    body: EventBody

    @property
    def type(self) -> str:
        """Its name on the wire, e.g. ``message.completed``; an agent's own begin with ``_``."""
        return self.body.name if isinstance(self.body, CustomEvent) else self.body.type

    @property
    def is_durable(self) -> bool:
        """Whether it is in the session's log."""
        return self.position is not None

    @property
    def turn_id(self) -> str | None:
        """The turn that it belongs to, if any."""
        body = self.body
        if isinstance(body, CustomEvent):
            turn_id = body.data.get("turnId")
        else:
            source = getattr(body, "message", body)
            turn_id = getattr(source, "turn_id", None)
        return turn_id if isinstance(turn_id, str) else None


@attrs.frozen(kw_only=True)
class EventPage:
    """A part of a session's log. ``has_more``: read on after the last position."""

    events: tuple[Event, ...]
    has_more: bool


def read_event(payload: Mapping[str, Any]) -> Event:
    """Make an event of the payload of its frame, or of an element of ``event.list``.

    An event that this version does not know, or not in this form, is a `CustomEvent`.

    Raises:
        RemoteProtocolError: It is no event at all.
    """
    match payload:
        case {"sessionId": str(session_id), "type": str(name), "data": {} as data}:
            pass
        case _:
            raise RemoteProtocolError("the server sent an event that is none")
    position = payload.get("position")
    if position is not None and not isinstance(position, str):
        raise RemoteProtocolError("the server sent an event whose position is none")
    return Event(session_id=session_id, position=position, body=read_body(name, data))


def read_body(name: str, data: Mapping[str, Any]) -> EventBody:
    """Make the body of an event of its name and data."""
    cls = EVENTS.get(name)
    if cls is None:
        return CustomEvent(name, data)
    try:
        return codec.structure(data, cls)
    except InvalidRequestError as exc:
        # A later minor version may have a new word where we know a few. It must not cost more
        # than this event: the cursor has to move on.
        log.warning("an event of another form", extra={"event": name, "issues": exc.data})
        return CustomEvent(name, data)
