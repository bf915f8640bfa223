"""The WebSocket driver that is a task a connection, on any system.

trio-websocket runs over our wire: pings, fragments, the closing and all errors are its own, but its
sends are posts, so that a cancelled one cannot cut a frame in half, and plain text messages are
taken off before it sees them. The handshake is ours, since only its answer would be the
library's: it hides the Host, and forgets what came together with the request.
"""

from __future__ import annotations

from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from ...core.abc import Acceptor, Link
from .._connection import FRAMES_PER_CHECKPOINT
from .._handshake import Upgrade
from .._wire import READ_BYTES
from .connection import INVALID_TEXT, PROTOCOL_ERROR, TOO_BIG, UNSUPPORTED, ServerConnection
from .frames import FrameScanner

__all__ = ["drive_websocket"]


class _LibraryStream(trio.abc.Stream):
    """What trio-websocket takes for its stream.

    Receiving gives it a handshake that is known to be good, and then only what it must see.
    """

    def __init__(self, connection: ServerConnection, upgrade: Upgrade, early: bytes) -> None:
        self._connection = connection
        self._head = _CANONICAL_HEAD % upgrade.key.encode()
        self._early = early
        self._scanner = FrameScanner(masked=True)
        self._link: Link | None = None
        self._opened = trio.Event()
        self._limit = 0  # by which what was read has been scanned
        #: The library has handed on what it held.
        self._handed_on = trio.Event()
        self._refused = False  # by the link: it takes no more before it is ready
        self._budget = 0
        #: What ended the receiving.
        self.failure: Exception | None = None
        #: A message was too large: nothing more is read.
        self.oversize = False

    def open(self, link: Link) -> None:
        """Begin to read messages."""
        self._link = link
        self._opened.set()

    def message_done(self) -> None:
        """Note that a data message has come out of the library, and was fed."""
        self._scanner.library_done()
        self._handed_on.set()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Post. A close frame is the last that is taken."""
        self._connection.raw(bytes(data))
        if data[0] == 0x88:
            self._connection.finish()
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for what the library must see; meanwhile the link gets what it need not."""
        try:
            return await self._receive()
        except Exception as exc:
            # Kept from the library: its reader closes a channel in passing, which wakes the other
            # task, whose end cancels this one, whose exception then becomes a Cancelled.
            self.failure = exc
            raise trio.ClosedResourceError from exc

    async def _receive(self) -> bytes:
        if self._head:
            await trio.lowlevel.checkpoint()
            head, self._head = self._head, b""
            return head
        if self._link is None:
            await self._opened.wait()
        link = self._link
        assert link is not None
        while True:
            await self._wait_fed(link)
            data, self._early = self._early, b""
            if self._scanner.oversize:
                # What came before it may have brought a credential.
                if link.max_frame_bytes == self._limit:
                    self.oversize = True
                    break
            elif not data:
                if self._connection.is_congested:
                    # The link would say no, but not everything that is answered is fed to it.
                    await self._connection.wait_room()
                data = await self._connection.wire.receive_some()
                if not data:
                    return b""
                link.heard()
            other = await self._scan(data, link)
            if other:
                return other
        await trio.lowlevel.checkpoint()
        return b""

    async def _wait_fed(self, link: Link) -> None:
        """Wait until all that was read is fed, and the link takes more.

        What comes next is judged by that: an authenticated peer may send larger frames.
        """
        while self._scanner.is_message_inside:
            self._handed_on = trio.Event()
            await self._handed_on.wait()
        while not link.is_ready and not self._connection.closed:
            await self._connection.wait_ready()

    async def _scan(self, data: bytes, link: Link) -> bytes:
        self._budget = FRAMES_PER_CHECKPOINT
        scanner, connection = self._scanner, self._connection
        self._limit = link.max_frame_bytes
        other = scanner.scan(data, self._limit, self._deliver)
        while scanner.stopped and not connection.closed:
            if self._refused:
                self._refused = False
                await connection.wait_ready()
            else:
                await trio.lowlevel.checkpoint()
            if not connection.closed:
                self._budget = FRAMES_PER_CHECKPOINT
                self._limit = link.max_frame_bytes
                other += scanner.scan(b"", self._limit, self._deliver)
        if connection.closed:
            raise trio.ClosedResourceError("this connection is closed")
        return other

    def _deliver(self, payload: bytes) -> bool:
        assert self._link is not None
        if not self._link.feed(payload):
            self._refused = True
            return False
        self._budget -= 1
        return self._budget > 0 and not self._connection.closed

    async def aclose(self) -> None:
        """Leave the end to `run_connection`: what was posted is still to be sent."""
        await trio.lowlevel.checkpoint()


#: Of the request, the library needs the key; the rest was checked, and is none of its business.
_CANONICAL_HEAD: Final = (
    b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def drive_websocket(
    connection: ServerConnection, accept: Acceptor, upgrade: Upgrade, early: bytes
) -> None:
    """Accept, open the link and feed it with what comes, until the peer's end or ours."""
    stream = _LibraryStream(connection, upgrade, early)
    # The nursery holds the library's reader, which runs the stream's receiving.
    async with trio.open_nursery() as nursery:
        request = await wrap_server_stream(
            nursery,
            stream,
            max_message_size=accept.settings.max_frame_bytes,
            receive_buffer_size=READ_BYTES,
        )
        library = await request.accept()
        link = connection.open_link(accept)
        stream.open(link)
        await _feed_unusual(connection, link, library, stream)
        nursery.cancel_scope.cancel()


async def _feed_unusual(
    connection: ServerConnection, link: Link, library: WebSocketConnection, stream: _LibraryStream
) -> None:
    """Feed the link with the messages that come out of the library, until that is closed."""
    try:
        while True:
            message = await library.get_message()
            if isinstance(message, bytes):
                if not connection.take_binary(message):
                    connection.close_with(UNSUPPORTED, "frames are text messages")
            elif not link.feed(message.encode()):
                await connection.wait_ready()
            if connection.closed:
                return
            stream.message_done()
    except ConnectionClosed as closed:
        if stream.failure is not None:
            raise stream.failure from closed
        # On an error the library just hangs up; the peer is told why. What the library found came
        # before a frame that was too large, for nothing is read after that.
        why = closed.reason
        if why is not None and why.code in {PROTOCOL_ERROR, UNSUPPORTED, INVALID_TEXT, TOO_BIG}:
            connection.close_with(why.code, why.reason or "")
        elif stream.oversize:
            connection.close_with(TOO_BIG, f"a frame may have {link.max_frame_bytes} bytes")
