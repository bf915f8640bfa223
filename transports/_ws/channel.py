"""A client's end of a WebSocket.

It is made of wsproto, the engine inside trio-websocket, rather than of `wrap_client_stream`: that
needs a task beside the user's, so that whatever the user's code raises comes out in a group, waits
for ever if the server hangs up in the middle of the handshake, and corrupts the stream when a
send is cancelled in the middle of a frame.
"""

from __future__ import annotations

import base64
import os
from typing import Final

import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Message, Ping, TextMessage

from ...core.abc import ConnectOptions
from ...core.errors import ForbiddenError, OverloadedError, UnauthorizedError, WireError
from .._channel import InboxChannel
from .._handshake import MAX_HEAD_BYTES, Head, accept_token, find_head_end, parse_head
from .._wire import Wire
from .frames import TEXT, FrameScanner, close_frame, make_frame

__all__ = ["HeadTooLongError", "WebSocketChannel", "read_head", "shake_hands"]

#: How long a goodbye may take.
CLOSE_SECONDS: Final = 1.0

_ERRORS: Final[dict[int, tuple[type[WireError], str]]] = {
    401: (UnauthorizedError, "The server refused the credential"),
    403: (ForbiddenError, "The server refused this client"),
    503: (OverloadedError, "The server takes no more connections"),
}


class HeadTooLongError(trio.BrokenResourceError):
    """More came than a head may have, and its end was not there."""


async def read_head(wire: Wire) -> tuple[bytes, bytes]:
    """Receive a request's or response's head. Returns it, and what came after it.

    Raises:
        HeadTooLongError: It has no end within what is read of one.
        trio.BrokenResourceError: The peer hung up before.
    """
    data = b""
    while (end := find_head_end(data)) < 0:
        if len(data) > MAX_HEAD_BYTES:
            raise HeadTooLongError("the HTTP head is too long")
        more = await wire.receive_some()
        if not more:
            raise trio.BrokenResourceError("the peer hung up in the middle of the handshake")
        data += more
    return data[:end], data[end:]


async def shake_hands(wire: Wire, host: str, path: str, options: ConnectOptions) -> bytes:
    """Ask for a WebSocket. Returns what came after the answer.

    Raises:
        UnauthorizedError, ForbiddenError, OverloadedError: The server said so.
        trio.BrokenResourceError: It said something else.
    """
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {path if path.startswith('/') else f'/{path}'} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    if options.credential is not None and options.credential.scheme == "bearer":
        lines.append(f"Authorization: Bearer {options.credential.token}")
    await wire.send_all("\r\n".join([*lines, "\r\n"]).encode("ascii"))
    data, early = await read_head(wire)
    try:
        head = parse_head(data)
        token = head.get("sec-websocket-accept")
    except ValueError as exc:
        raise trio.BrokenResourceError(f"this is no WebSocket server: {exc}") from exc
    status = _read_status(head)
    if status != 101:
        raise _refused(status, head, early)
    if (
        token != accept_token(key)
        or "websocket" not in head.words("upgrade")
        or "upgrade" not in head.words("connection")
        or "sec-websocket-extensions" in head.headers
    ):
        raise trio.BrokenResourceError("the server's answer to the WebSocket handshake is wrong")
    return early


def _read_status(head: Head) -> int:
    version, _, rest = head.start.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
        raise trio.BrokenResourceError("this is no WebSocket server")
    return int(rest[:3])


def _refused(status: int, head: Head, body: bytes) -> Exception:
    text = body[:200].decode(errors="replace").strip()
    kind, message = _ERRORS.get(status, (None, f"the server answered HTTP {status}"))
    if text.isprintable() and text:
        message += f": {text}"
    if kind is None:
        return trio.BrokenResourceError(message)
    after = head.headers.get("retry-after", [""])[0]
    return kind(message, data={"retryAfterMs": int(after) * 1000} if after.isdecimal() else None)


class WebSocketChannel(InboxChannel):
    """Frames as text messages.

    Args:
        wire: After the handshake. Owned from now on.
        early: What came with the handshake's answer.
        max_frame_bytes: Of what the server sends.
    """

    def __init__(self, wire: Wire, early: bytes, *, max_frame_bytes: int) -> None:
        super().__init__()
        self._wire = wire
        self._early = early
        self._limit = max_frame_bytes
        self._scanner = FrameScanner(masked=False)
        self._library = Connection(ConnectionType.CLIENT)
        self._parts: list[str] = []
        self._unsent = b""  # answers to pings and a close, for the next who can send

    @property
    def has_ended(self) -> bool:
        """Whether all that will ever come is in the inbox."""
        return self._end is not None

    async def _send(self, payload: bytes) -> None:
        data = make_frame(TEXT, payload, os.urandom(4))
        while data:
            earlier, self._unsent = self._unsent, b""
            await self._wire.send_all(earlier + data)
            # What `receive` would have sent meanwhile, had it not been our turn.
            data, self._unsent = self._unsent, b""

    async def _fill(self) -> None:
        data, self._early = self._early, b""
        if not data:
            data = await self._wire.receive_some()
        if not data:
            self._end = trio.BrokenResourceError("the server hung up without a goodbye")
            return
        other = self._scanner.scan(data, self._limit, self._take)
        if other:
            self._library.receive_data(other)
            for event in self._library.events():
                if isinstance(event, TextMessage):
                    self._parts.append(event.data)
                    if event.message_finished:
                        self._take("".join(self._parts).encode())
                        self._parts.clear()
                        self._scanner.library_done()
                elif isinstance(event, Ping):
                    self._reply(bytes(self._library.send(event.response())))
                elif isinstance(event, CloseConnection):
                    self._closed_by(event)
                elif isinstance(event, Message):
                    self._fail(1003, "the server sent a binary message")
        if self._scanner.oversize:
            self._fail(1009, f"a frame of more than {self._limit} bytes came")

    def _take(self, payload: bytes) -> bool:
        self._inbox.append(payload)
        return True

    def _closed_by(self, event: CloseConnection) -> None:
        if self._library.state is ConnectionState.REMOTE_CLOSING:
            self._reply(bytes(self._library.send(event.response())))
            if self._end is None:
                self._end = trio.EndOfChannel()
        else:
            self._fail(event.code, f"the server broke the WebSocket protocol: {event.reason}")

    def _fail(self, code: int, text: str) -> None:
        self._reply(close_frame(code, mask=os.urandom(4)))
        self._end = trio.BrokenResourceError(text)

    def _reply(self, data: bytes) -> None:
        """Send now what goes at once, the rest with the next frame: receiving never sends."""
        self._unsent += data
        if not self._sending:
            try:
                sent = self._wire.try_send(self._unsent)
            except OSError:
                return
            self._unsent = self._unsent[sent:]

    async def aclose(self) -> None:
        """Say goodbye, and close."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        try:
            with trio.move_on_after(CLOSE_SECONDS):
                if self._end is None and not self._sending:
                    self._reply(close_frame(1000, mask=os.urandom(4)))
                    if self._unsent:
                        await self._wire.send_all(self._unsent)
                    # If another task is in there, it has to do without the server's answer.
                    while not (self._receiving or self.has_ended):
                        await self._fill()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._wire.close()
