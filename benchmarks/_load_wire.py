"""The frames of the load as they are decoded: into one shape, and not more of it than is needed."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["Data", "Payload", "decode"]


class Message(msgspec.Struct, rename="camel"):
    """Of a message, what is checked."""

    id: str = ""
    content: str = ""


class Error(msgspec.Struct):
    """Of an error, what it is called, says, and when to come again."""

    code: str
    message: str = ""
    data: ErrorData | None = None


class ErrorData(msgspec.Struct, rename="camel"):
    """Of an error's data, when to come again."""

    retry_after_ms: int | None = None


class Data(msgspec.Struct, rename="camel"):
    """What an event or an answer carries, whichever it is."""

    id: str = ""
    turn_id: str = ""
    message_id: str = ""
    position: str = ""
    offset: int = 0
    delta: str = ""
    outcome: str = ""
    message: Message | None = None
    error: Error | None = None


class Payload(msgspec.Struct, rename="camel"):
    """An event, a response or a pong: `type` is an event's, `id` a response's."""

    id: int | str | None = None
    success: bool = False
    error: Error | None = None
    session_id: str = ""
    position: str = ""
    type: str = ""
    nonce: str = ""
    data: Data = msgspec.field(default_factory=Data)


class _Envelope(msgspec.Struct):
    type: str
    payload: Payload


class _OtherPayload(msgspec.Struct, rename="camel"):
    session_id: str = ""
    position: str = ""
    type: str = ""


class _OtherEnvelope(msgspec.Struct):
    type: str
    payload: _OtherPayload


_envelopes: Final = msgspec.json.Decoder(_Envelope)
_others: Final = msgspec.json.Decoder(_OtherEnvelope)


def decode(frame: bytes) -> tuple[str, Payload]:
    """Give an envelope's type and payload.

    Raises:
        msgspec.MsgspecError: It is not a frame.
    """
    try:
        envelope = _envelopes.decode(frame)
    except msgspec.ValidationError:
        # An agent's own event, whose data may have our names for something else.
        other = _others.decode(frame)
        said = other.payload
        return other.type, Payload(
            session_id=said.session_id, position=said.position, type=said.type
        )
    return envelope.type, envelope.payload
