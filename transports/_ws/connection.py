"""The server's end of a WebSocket: how it closes, whatever drives it."""

from __future__ import annotations

from typing import Final

import trio

from ...core.abc import Acceptor, CloseReason, PeerInfo
from .._connection import StreamConnection
from .._outbox import Spawn
from .._wire import Wire
from .frames import close_frame, frame_websocket

__all__ = ["INVALID_TEXT", "PROTOCOL_ERROR", "TOO_BIG", "UNSUPPORTED", "ServerConnection"]

#: RFC 6455 §7.4.1 and the registry it opened.
_CODES: Final = {
    CloseReason.NORMAL: 1000,
    CloseReason.GOING_AWAY: 1001,
    CloseReason.UNAUTHORIZED: 1008,
    CloseReason.PROTOCOL_ERROR: 1008,
    CloseReason.TOO_SLOW: 1013,
    CloseReason.TIMEOUT: 1008,
    CloseReason.OVERLOADED: 1013,
    CloseReason.SERVER_ERROR: 1011,
}
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED: Final = 1003
INVALID_TEXT: Final = 1007
TOO_BIG: Final = 1009


class ServerConnection(StreamConnection):
    """A WebSocket from a client."""

    __slots__ = ("_room",)

    def __init__(self, wire: Wire, peer: PeerInfo, accept: Acceptor, spawn: Spawn) -> None:
        super().__init__(wire, peer, accept, spawn, frame_websocket)
        self._room: trio.Event | None = None

    def close_soon(self, reason: CloseReason) -> None:
        """Send what was posted and a close frame, then close."""
        self.close_with(_CODES[reason], reason.value)

    def close_with(self, code: int, reason: str = "") -> None:
        """As `close_soon`, with a code of WebSocket's own."""
        self.raw(close_frame(code, reason))
        self.finish()

    def take_binary(self, payload: bytes) -> bool:
        """Say whether a binary message is welcome here. It is not; the conformance test's is."""
        return False

    async def wait_room(self) -> None:
        """Wait until the outbox is below its mark, or has ended."""
        if self.ended:
            await trio.lowlevel.checkpoint()
            return
        room = self._room = trio.Event()
        self.call_when_drained(room.set)
        await room.wait()

    def _ended(self) -> None:
        super()._ended()
        if self._room is not None:
            self._room.set()
