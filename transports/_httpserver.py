"""hypercorn's half of an HTTP connection: the only module that knows it.

Connections are accepted by our own listener, and each is handed to hypercorn's `TCPServer` as a
stream. Of that server two things are changed. It sends under a shield that no deadline ends: ours
is cut off with the connection when the peer takes nothing for the write timeout, or when whoever
waits is cancelled. And a client that is gone it keeps for as long as an idle one. What goes wrong
in it is the listener's boundary's to keep from the others; a WebSocket it never gets to accept.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from logging import getLogger
from typing import Any, Final, TypeAlias

import trio
from hypercorn.config import Config
from hypercorn.events import Closed as ConnectionClosed
from hypercorn.events import Event, RawData, Updated
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from ._connection import LINGER_SECONDS
from ._handshake import MAX_HEAD_BYTES
from ._tls import TlsWire
from ._wire import SocketWire

__all__ = ["App", "serve_http"]

App = Callable[..., Awaitable[None]]
RawSocket: TypeAlias = socket.socket

#: Of a connection without a request. More than a client or proxy keeps one by default, so that it
#: is they who close it.
IDLE_SECONDS: Final = 75.0
#: Requests at a time over one HTTP/2 connection, each of which takes a place.
MAX_STREAMS: Final = 100
#: A client's channel sends each frame in a request, on one connection.
MAX_REQUESTS: Final = 1_000_000


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
        self._closing = False

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
        if self._closing:
            await trio.lowlevel.checkpoint()
            return
        self._closing = True
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
    """One connection."""

    _is_gone = False

    async def protocol_send(self, event: Event) -> None:
        """As hypercorn's, but for the shield."""
        if isinstance(event, Updated) and self._is_gone:
            await trio.lowlevel.checkpoint()
            return
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            try:
                await self.stream.send_all(event.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self.protocol.handle(ConnectionClosed())

    async def _read_data(self) -> None:
        """As hypercorn's, which waits out its patience with an idle client that is gone."""
        try:
            await super()._read_data()
        finally:
            self._is_gone = True
        await self.idle_task.stop()


_config: Final = _make_config()


async def serve_http(wire: SocketWire, early: bytes, app: App, write_seconds: float) -> None:
    """Serve one connection to its end.

    Args:
        wire: After its handshake. Owned by the caller.
        early: What was read from it already.
        app: ASGI's, called for each request.
        write_seconds: A peer that takes no byte for so long is dropped.
    """
    make: Any = _TlsStream if isinstance(wire, TlsWire) else _Stream

    async def call(
        scope: Any, receive: Any, send: Any, sync_spawn: object, call_soon: object
    ) -> None:
        await app(scope, receive, send)

    stream = make(wire, early, write_seconds)
    await _Server(call, _config, WorkerContext(None), {}, stream).run()
