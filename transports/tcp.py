"""``tcp://`` and ``tcps://``: one JSON object a line, over TCP or TLS."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import trio

from ..core.abc import (
    Acceptor,
    Channel,
    ConnectOptions,
    Listener,
    ListenOptions,
    PeerInfo,
    Transport,
)
from ..core.errors import SettingsError
from ._connection import run_connection
from ._lines import REFUSAL, LineChannel, LineConnection, drive_lines
from ._outbox import Spawn, frame_line
from ._polled import PolledHandshake, PolledLines
from ._poller import Poller, wants_poller
from ._tcp import (
    TcpAddress,
    TcpListener,
    bind_tcp,
    connect_tcp,
    open_tcp_sockets,
    parse_tcp_url,
)
from ._tls import server_context
from ._wire import SocketWire

__all__ = ["TcpLineListener", "TcpTransport", "transport"]


class TcpLineListener(TcpListener):
    """Lines over TCP or TLS."""

    refusal = REFUSAL

    async def _serve_wire(
        self, wire: SocketWire, address: str, accept: Acceptor, spawn: Spawn
    ) -> None:
        with trio.fail_after(accept.settings.connect_seconds):
            await wire.handshake()
        peer = PeerInfo(transport=self._address.scheme, address=address)
        connection = LineConnection(wire, peer, accept, spawn, frame_line)
        await run_connection(connection, partial(drive_lines, connection, accept))

    def _poll_wire(
        self, wire: SocketWire, address: str, accept: Acceptor, spawn: Spawn, poller: Poller
    ) -> None:
        peer = PeerInfo(transport=self._address.scheme, address=address)
        connection = LineConnection(wire, peer, accept, spawn, frame_line)
        polled = PolledLines(poller, wire, connection, accept, spawn)
        if self._context is None:
            polled.start()
            return

        def go_further() -> None:
            polled.start()
            # What came together with the end of the handshake is in TLS, where no epoll sees it.
            polled.read()

        PolledHandshake(poller, wire, accept, self.boundary, go_further).start()


class TcpTransport(Transport):
    """Lines over TCP and TLS."""

    schemes = ("tcp", "tcps")

    def check_url(self, url: str) -> None:
        """See `Transport.check_url`."""
        _parse(url)

    def open_sockets(self, url: str, count: int) -> AbstractAsyncContextManager[Sequence[Any]]:
        """Bind for several processes. See `Transport.open_sockets`."""
        return open_tcp_sockets(_parse(url), count)

    async def open_listener(self, url: str, options: ListenOptions) -> Listener:
        """Bind. See `Transport.open_listener`."""
        address = _parse(url)
        context = server_context(options.tls, url) if address.scheme == "tcps" else None
        polls = wants_poller(options.settings.driver, url)
        sock, address = await bind_tcp(address, options.socket)
        return TcpLineListener(sock, address, context, polls=polls)

    @asynccontextmanager
    async def open_channel(self, url: str, options: ConnectOptions) -> AsyncGenerator[Channel]:
        """Connect. See `Transport.open_channel`."""
        address = _parse(url)
        with trio.fail_after(options.connect_seconds):
            wire = await connect_tcp(address, encrypted=address.scheme == "tcps", tls=options.tls)
        channel = LineChannel(wire, max_frame_bytes=options.max_frame_bytes)
        try:
            yield channel
        finally:
            await channel.aclose()


def _parse(url: str) -> TcpAddress:
    address = parse_tcp_url(url)
    if address.path not in {"", "/"}:
        raise SettingsError(f"{url!r}: a {address.scheme} URL has no path")
    return address


transport = TcpTransport()
