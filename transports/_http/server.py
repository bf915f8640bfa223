"""hypercorn's half of an HTTP connection: the only module that knows it, and its engine, h11.

Connections are accepted by our own listener, and each is handed to hypercorn's `TCPServer` as a
stream. Of that server three things are changed. It sends under a shield that no deadline ends: ours
is cut off with the connection when the peer takes nothing for the write timeout, or when whoever
waits is cancelled. A client that is gone it keeps for as long as an idle one, and one that has
begun another request, too: ours has to bring it to its end as soon as its first. And a request for
a WebSocket, which a proxy sends on whatever connection it has open, ends its part: what was read is
given back. What goes wrong in it is the listener's boundary's to keep from the others.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from logging import getLogger
from typing import Any, Final, TypeAlias

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed as ConnectionClosed
from hypercorn.events import Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from .._connection import LINGER_SECONDS
from .._handshake import MAX_HEAD_BYTES, find_head_end
from .._tls import TlsWire
from .._wire import SocketWire
from .h2frames import PREFACE, FrameFollower

__all__ = ["App", "serve_http"]

App = Callable[..., Awaitable[None]]
RawSocket: TypeAlias = socket.socket

#: Of a connection without a request. More than a client or proxy keeps one by default, so that it
#: is they who close it.
IDLE_SECONDS: Final = 75.0
#: Of one read.
MAX_RECEIVE_BYTES: Final = 65536
#: Requests at a time over one HTTP/2 connection, each of which takes a place.
MAX_STREAMS: Final = 100
#: A client's channel sends each frame in a request, on one connection.
MAX_REQUESTS: Final = 1_000_000
#: How a request for a WebSocket begins, where there is one.
_UPGRADE: Final = b"GET /v1/ws"


def _make_config() -> Config:
    config = Config()
    config.errorlog = getLogger("trialogue.transports")
    config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = IDLE_SECONDS
    config.keep_alive_max_requests = MAX_REQUESTS
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.h2_max_header_list_size = MAX_HEAD_BYTES
    config.h2_max_concurrent_streams = MAX_STREAMS
    # Our own mark of a program's end is that everything is cancelled.
    return config


_config: Final = _make_config()


class _Stream(trio.abc.Stream):
    """A wire as hypercorn's server takes it.

    Args:
        wire: Owned by the listener.
        early: Was read already, and comes first.
        write_seconds: The peer takes at least a byte in this time.
    """

    def __init__(self, wire: SocketWire, early: bytes, write_seconds: float) -> None:
        self._wire = wire
        self._early = early
        self._write_seconds = write_seconds
        self.is_closing = False
        #: What was read behind hypercorn's part. Then the wire goes on without it.
        self.rest = b""

    @property
    def socket(self) -> RawSocket:
        """Whose addresses hypercorn asks for."""
        return self._wire.sock

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it, or break the connection."""
        rest = memoryview(data)
        try:
            while rest:
                sent = 0
                with trio.move_on_after(self._write_seconds):
                    sent = await self._wire.send_some(rest)
                if not sent:
                    raise trio.BrokenResourceError("the peer takes nothing")
                rest = rest[sent:]
        except BaseException:
            # The peer may hold a half of it: whatever followed would be read as its other half.
            self._wire.close(abort=True)
            raise

    async def wait_send_all_might_not_block(self) -> None:
        """Not needed by anybody here."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what was read before, then what comes."""
        early, self._early = self._early, b""
        if early:
            await trio.lowlevel.checkpoint()
            return early
        return await self._wire.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Send the end, and let the peer read what came before it; bounded."""
        if self.is_closing or self.rest:
            await trio.lowlevel.checkpoint()
            return
        self.is_closing = True
        wire = self._wire
        try:
            if wire.sock.fileno() < 0:
                await trio.lowlevel.checkpoint()
                return
            wire.interrupt()
            with trio.move_on_after(LINGER_SECONDS):
                await wire.send_end()
                await wire.discard_input()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            wire.close()


class _TlsStream(_Stream):
    """What it takes for one of TLS: it asks for the protocol that was agreed on."""

    async def do_handshake(self) -> None:
        """It is done."""
        await trio.lowlevel.checkpoint()

    def selected_alpn_protocol(self) -> str | None:
        """Whether the client wants HTTP/2."""
        assert isinstance(self._wire, TlsWire)
        return self._wire.selected_alpn_protocol()

    @property
    def transport_stream(self) -> _TlsStream:
        """The stream below, of which only the socket is asked for."""
        return self


class _Server(TCPServer):
    """One connection.

    Args:
        stream: Of it.
        app: For hypercorn.
        is_other: Whether the head of a request is for hypercorn.
        head_seconds: From the first byte of a request's head to its last.
    """

    def __init__(
        self, stream: _Stream, app: Any, is_other: Callable[[bytes], bool], head_seconds: float
    ) -> None:
        super().__init__(app, _config, WorkerContext(None), {}, stream)  # type: ignore[arg-type]
        self._ours = stream
        self._is_other = is_other
        self._head_seconds = head_seconds
        self._is_gone = False
        #: No request is being answered.
        self._is_idle = True
        #: Nor has hypercorn anything left to do about the last, or the connection is over: later
        #: than `_is_idle`, by what it then does.
        self._idle = trio.Event()
        self._idle.set()
        #: Whether the time of a head that has begun runs, or that of an idle client; None: neither.
        self._is_timed: bool | None = False
        self._frames: FrameFollower | None = None

    async def protocol_send(self, event: Event) -> None:
        """As hypercorn's, but for the shield."""
        if isinstance(event, RawData):
            async with self.send_lock:
                try:
                    await self.stream.send_all(event.data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.protocol.handle(ConnectionClosed())
            return
        if isinstance(event, Updated):
            self._is_idle, self._is_timed = event.idle, False if event.idle else None
            if not event.idle:
                self._idle = trio.Event()
        if isinstance(event, Updated) and self._is_gone:
            await trio.lowlevel.checkpoint()
        else:
            await super().protocol_send(event)
        if not isinstance(event, Updated) or event.idle:
            self._idle.set()

    async def _read_data(self) -> None:
        """As hypercorn's, which waits out its patience with a client that is gone, or slow."""
        data = b"..."
        try:
            while data:
                data = await self._read()
                await self.protocol.handle(RawData(data))
                await self._time_head(data)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass
        finally:
            self._is_gone = True
        await self.protocol.handle(ConnectionClosed())
        await self.idle_task.stop()

    # -- a request for a WebSocket ---------------------------------------------------------

    async def _read(self) -> bytes:
        """Read what is hypercorn's. What is not ends that, and is put aside."""
        stream = self._ours
        data = await stream.receive_some(MAX_RECEIVE_BYTES)
        if not data or not _UPGRADE.startswith(data[: len(_UPGRADE)]) or not self._has_all():
            return data
        with trio.move_on_after(self._head_seconds) as patience:
            while find_head_end(data) < 0 and len(data) <= MAX_HEAD_BYTES:
                more = await stream.receive_some(MAX_RECEIVE_BYTES)
                if not more:
                    return data
                data += more
        if patience.cancelled_caught:
            await self._initiate_server_close()
            return b""
        end = find_head_end(data)
        if end < 0 or not data.startswith(_UPGRADE) or self._is_other(data[:end]):
            return data
        await self._idle.wait()
        if stream.is_closing:
            return data
        stream.rest = data
        return b""

    def _has_all(self) -> bool:
        """Whether all that came before is a whole request, so that what comes is another one."""
        protocol = self.protocol.protocol
        if not isinstance(protocol, H11Protocol):
            return False
        connection = protocol.connection
        return connection.their_state in {h11.IDLE, h11.DONE} and not connection.trailing_data[0]

    # -- a head that does not end ----------------------------------------------------------

    async def _time_head(self, data: bytes) -> None:
        """Give a head that has begun its time, and what has ended without a request none."""
        has_begun = self._has_begun(data)
        if self._is_idle and has_begun != self._is_timed:
            self._is_timed = has_begun
            wait = self._wait_head if has_begun else self._idle_timeout
            timer: Any = self.idle_task
            await timer.restart(self._task_group, wait)

    def _has_begun(self, data: bytes) -> bool:
        """Whether there is a part of something that will be a request."""
        protocol: Any = self.protocol.protocol
        if not isinstance(protocol, H2Protocol):
            # A copy of at most a head, unless a request is being answered.
            return self._is_idle and bool(protocol.connection.trailing_data[0])
        if self._frames is None:
            self._frames = FrameFollower()
            # For hypercorn its preface was a request, which is never answered.
            self._is_idle = protocol.idle
            if not data.startswith(PREFACE[:3]):
                return True  # It was upgraded from HTTP/1.1, and begins behind this.
        self._frames.feed(data)
        return self._frames.is_inside

    async def _wait_head(self) -> None:
        await trio.sleep(self._head_seconds)
        await self._initiate_server_close()


async def serve_http(
    wire: SocketWire,
    early: bytes,
    app: App,
    is_other: Callable[[bytes], bool],
    *,
    head_seconds: float,
    write_seconds: float,
) -> bytes:
    """Serve one connection to its end, or to a request that is not hypercorn's.

    Args:
        wire: After its handshake. Owned by the caller.
        early: What was read from it already.
        app: ASGI's, called for each request.
        is_other: Whether the head of a request is for it.
        head_seconds: A peer that does not bring a request's head to its end in that time is dropped.
        write_seconds: Likewise one that takes no byte for so long.

    Returns:
        The request that is not, with what was read behind it; nothing is the end.
    """
    make: Any = _TlsStream if isinstance(wire, TlsWire) else _Stream

    async def call(
        scope: Any, receive: Any, send: Any, sync_spawn: object, call_soon: object
    ) -> None:
        await app(scope, receive, send)

    stream = make(wire, early, write_seconds)
    await _Server(stream, call, is_other, head_seconds).run()
    rest: bytes = stream.rest
    return rest
