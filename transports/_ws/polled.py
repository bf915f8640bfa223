"""The WebSocket driver for the poller: no task, and no library while nothing unusual comes.

`FrameScanner` takes plain text messages off, as it does for the task driver. For the rest a
wsproto connection is made, and dropped when it holds nothing more: at a frame boundary a fresh one
is as good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage

from ...core.abc import Acceptor
from .._connection import FRAMES_PER_CHECKPOINT
from .._handshake import MAX_HEAD_BYTES, find_head_end
from .._outbox import Spawn
from .._polled import PolledConnection, PolledHandshake
from .._poller import Poller
from .._wire import SocketWire
from .connection import TOO_BIG, UNSUPPORTED, ServerConnection
from .frames import FrameScanner

__all__ = ["PolledUpgrade", "PolledWebSocket"]


class PolledUpgrade(PolledHandshake):
    """Reads a request's head as well.

    Args:
        poller, wire, accept, boundary: As of `PolledHandshake`.
        take_head: Is given the head and what came after it, and goes on from there; None for a head
            that is too long.
    """

    __slots__ = ("_data", "_take_head")

    def __init__(
        self,
        poller: Poller,
        wire: SocketWire,
        accept: Acceptor,
        boundary: Callable[[], AbstractContextManager[None]],
        take_head: Callable[[bytes | None, bytes], None],
    ) -> None:
        super().__init__(poller, wire, accept, boundary, self._read_head)
        self._data = b""
        self._take_head = take_head

    def _read_head(self) -> None:
        while (end := find_head_end(self._data)) < 0 and len(self._data) <= MAX_HEAD_BYTES:
            data = self._wire.try_receive()
            if not data:
                raise trio.BrokenResourceError("the peer hung up in the middle of the handshake")
            self._data += data
        take_head = self._take_head
        del self._take_head  # which knows this
        if end < 0:
            take_head(None, b"")
        else:
            take_head(self._data[:end], self._data[end:])


class PolledWebSocket(PolledConnection):
    """Text messages. See `drive_websocket`, which does the same in a task."""

    __slots__ = ("_budget", "_events", "_is_refused", "_library", "_limit", "_parts", "_scanner")

    connection: ServerConnection

    def __init__(
        self,
        poller: Poller,
        wire: SocketWire,
        connection: ServerConnection,
        accept: Acceptor,
        spawn: Spawn,
    ) -> None:
        super().__init__(poller, wire, connection, accept, spawn)
        self._scanner = FrameScanner(masked=True)
        self._budget = 0
        self._limit = 0  # by which what was read has been scanned
        self._is_refused = False  # by the link, while a read is being scanned
        #: Made for anything unusual.
        self._library: Connection | None = None
        #: What it has found and nobody has acted on.
        self._events: Iterator[Event] = iter(())
        #: Of a message that comes in fragments.
        self._parts: list[bytes] = []

    def _feed(self, data: bytes) -> None:
        self._budget = FRAMES_PER_CHECKPOINT
        self._limit = self.link.max_frame_bytes
        other = self._scanner.scan(data, self._limit, self._feed_plain)
        if other and not self.connection.closed:
            if self._library is None:
                self._library = Connection(ConnectionType.SERVER)
            self._library.receive_data(other)
            self._events = self._library.events()
            if not self._feed_unusual(self._library):
                return
        self._look_up()

    def _feed_rest(self) -> None:
        self._budget = FRAMES_PER_CHECKPOINT
        if self._library is not None and not self._feed_unusual(self._library):
            return
        if self._scanner.stopped or self._scanner.oversize:
            self._feed(b"")
        else:
            self._look_up()

    def _feed_plain(self, payload: bytes) -> bool:
        if not self.link.feed(payload):
            self._is_refused = True
            return False
        self._budget -= 1
        return self._budget > 0 and not self.connection.closed

    def _look_up(self) -> None:
        """Find out, after all that may be fed was fed, what to wait for."""
        connection, scanner = self.connection, self._scanner
        if connection.closed:
            self._end()
        elif self._is_refused:
            self._is_refused = False
            self._pause()
        elif scanner.stopped or (scanner.oversize and self.link.max_frame_bytes > self._limit):
            # What came before a frame that was too large may have brought a credential.
            self._leave_rest()
        elif scanner.oversize:
            limit = self.link.max_frame_bytes
            connection.close_with(TOO_BIG, f"a frame may have {limit} bytes")
            self._end()
        elif connection.is_congested:
            # The link would say no, but not everything that is answered is fed to it.
            self._pause()
            connection.call_when_drained(self.ready)

    def _feed_unusual(self, library: Connection) -> bool:
        """Act on what the library has found, as far as the link and the others let us.

        Returns:
            False if that was not all, for now or for ever.
        """
        for event in self._events:
            self._act_on(event, library)
            if self.connection.closed or self._is_refused:
                self._look_up()
                return False
            self._budget -= 1
            if self._budget <= 0:
                self._leave_rest()
                return False
        if not self._scanner.is_library_inside:
            self._library = None
        return True

    def _act_on(self, event: Event, library: Connection) -> None:
        connection = self.connection
        if isinstance(event, TextMessage):
            self._parts.append(event.data.encode())
            if event.message_finished:
                self._is_refused = not self.link.feed(self._take_parts())
        elif isinstance(event, BytesMessage):
            self._parts.append(bytes(event.data))
            if event.message_finished and not connection.take_binary(self._take_parts()):
                connection.close_with(UNSUPPORTED, "frames are text messages")
        elif isinstance(event, Ping):
            connection.raw(bytes(library.send(event.response())))
        elif isinstance(event, CloseConnection):
            if library.state is ConnectionState.REMOTE_CLOSING:
                connection.raw(bytes(library.send(event.response())))
                connection.finish()
            else:
                connection.close_with(event.code, event.reason or "")

    def _take_parts(self) -> bytes:
        """Put a message together that is complete."""
        self._scanner.library_done()
        parts, self._parts = self._parts, []
        return b"".join(parts)
