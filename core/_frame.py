"""The bytes of one protocol message, made once and shared by all that receive it."""

from __future__ import annotations

import msgspec

__all__ = ["Frame"]


class Frame(msgspec.Struct, eq=False, gc=False):
    """An outgoing protocol message: immutable, and framed once for each kind of transport.

    Attributes:
        payload: The JSON object, UTF-8, without any framing.
        event: The event's type, None for a response, ping or pong. For transports that show it
            outside of the payload (Server-Sent Events).
        position: ``"<term>-<seq>"``: of a durable event its own, of ``sync`` the one that it names,
            else None. Whoever has received the frame has everything up to there.
        line: The payload and its LF; a slot that the line transports fill at first use.
        websocket: One unmasked text message; filled by the WebSocket transport at first use.
        sse: Filled by the HTTP transport at first use.

    A transport that frames differently wraps the payload each time, or subclasses its own cache.
    A `msgspec.Struct`: one is made for each response and event, in a sixth of the time of a class.
    """

    payload: bytes
    event: str | None = None
    position: str | None = None
    line: bytes | None = None
    websocket: bytes | None = None
    sse: bytes | None = None

    def __repr__(self) -> str:
        what = self.event or "frame"
        at = f" {self.position}" if self.position else ""
        return f"<Frame {what}{at} {len(self.payload)} bytes>"
