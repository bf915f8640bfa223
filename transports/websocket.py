"""``ws://`` and ``wss://``: one JSON object a text message. The transport."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import trio

from ..core.abc import Channel, ConnectOptions, Listener, ListenOptions, Transport
from ..core.errors import SettingsError
from ._handshake import PATHS, make_policy
from ._poller import wants_poller
from ._tcp import (
    TcpAddress,
    bind_tcp,
    connect_tcp,
    join_host,
    open_tcp_sockets,
    parse_tcp_url,
)
from ._tls import server_context
from ._ws.channel import WebSocketChannel, shake_hands
from ._ws.connection import ServerConnection
from ._ws.listener import WebSocketListener

__all__ = ["ServerConnection", "WebSocketListener", "WebSocketTransport", "transport"]


class WebSocketTransport(Transport):
    """WebSockets."""

    schemes = ("ws", "wss")
    listener_class: type[WebSocketListener] = WebSocketListener

    def check_url(self, url: str) -> None:
        """See `Transport.check_url`."""
        _parse(url)

    def open_sockets(self, url: str, count: int) -> AbstractAsyncContextManager[Sequence[Any]]:
        """Bind for several processes. See `Transport.open_sockets`."""
        return open_tcp_sockets(_parse(url), count)

    async def open_listener(self, url: str, options: ListenOptions) -> Listener:
        """Bind. See `Transport.open_listener`."""
        address = _parse(url)
        secure = address.scheme == "wss"
        context = server_context(options.tls, url) if secure else None
        polls = wants_poller(options.settings.driver, url)
        sock, address = await bind_tcp(address, options.socket)
        hosts = (address.host, sock.getsockname()[0])
        policy = make_policy(options, hosts, is_secure=secure)
        address = attrs.evolve(address, path="")
        return self.listener_class(sock, address, context, policy, polls=polls)

    @asynccontextmanager
    async def open_channel(self, url: str, options: ConnectOptions) -> AsyncGenerator[Channel]:
        """Connect. See `Transport.open_channel`."""
        secure = url.startswith("wss:")
        address = parse_tcp_url(url, default_port=443 if secure else 80)
        with trio.fail_after(options.connect_seconds):
            wire = await connect_tcp(address, encrypted=secure, tls=options.tls)
            try:
                host = join_host(address.host, address.port)
                early = await shake_hands(wire, host, address.path, options)
            except BaseException:
                wire.close()
                raise
        channel = WebSocketChannel(wire, early, max_frame_bytes=options.max_frame_bytes)
        try:
            yield channel
        finally:
            await channel.aclose()


def _parse(url: str) -> TcpAddress:
    """Read a URL to listen on."""
    address = parse_tcp_url(url)
    if address.path not in {"", *PATHS}:
        raise SettingsError(f"{url!r}: the path is / or /v1/ws, or left out")
    return address


transport = WebSocketTransport()
