"""``http://`` and ``https://``: resources, event streams, the web chat, and a WebSocket (PROTOCOL §12).

Everything comes in by our own listener, which looks at the first request of a connection: one
that asks for a WebSocket at ``/v1/ws`` gets ours, with all its limits; every other connection is
hypercorn's, up to a later request of that kind.
"""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, NoReturn

import attrs
import trio

from ..core.abc import Acceptor, Channel, ConnectOptions, Listener, ListenOptions, Transport
from ..core.errors import SettingsError
from ._handshake import Policy, RefusalError, Upgrade, find_head_end, make_policy, parse_head
from ._http.app import HttpApp
from ._http.place import HttpPlace, Sockets
from ._http.static import StaticFile, load_site
from ._outbox import Spawn
from ._poller import Poller, wants_poller
from ._tcp import TcpAddress, bind_tcp, open_tcp_sockets, parse_tcp_url
from ._tls import server_context
from ._wire import SocketWire
from ._ws.listener import WebSocketListener

__all__ = ["HttpListener", "HttpTransport", "transport"]

#: Network connections for each that the server may have: a channel has two, a browser six.
SOCKETS_EACH: Final = 4
#: What we speak, the better first.
ALPN: Final = ("h2", "http/1.1")


class HttpListener(WebSocketListener):
    """HTTP over TCP or TLS.

    Args:
        sock, address, context, policy, polls: As of `WebSocketListener`.
        site: The static files.
        serve_http: Serves a connection: `_http/server.py`'s.
    """

    paths = frozenset({"/v1/ws"})

    def __init__(
        self,
        sock: socket.socket,
        address: TcpAddress,
        context: ssl.SSLContext | None,
        policy: Policy,
        site: Mapping[str, StaticFile],
        serve_http: Callable[..., Awaitable[bytes]],
        *,
        polls: bool,
    ) -> None:
        super().__init__(sock, address, context, policy, polls=polls)
        self._app = HttpApp(policy, site)
        self._serve_http = serve_http
        self._sockets = Sockets(0)

    async def serve(  # noqa: ASYNC128 - it is the listener's that says so
        self,
        accept: Acceptor,
        *,
        handler_nursery: trio.Nursery,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        """Accept until cancelled. See `Listener.serve`."""
        self._sockets.limit = SOCKETS_EACH * accept.settings.max_connections
        await super().serve(accept, handler_nursery=handler_nursery, task_status=task_status)

    async def _serve_socket(
        self, sock: socket.socket, address: Any, accept: Acceptor, spawn: Spawn
    ) -> None:
        await super()._serve_socket(sock, address, self._make_place(accept), spawn)

    def _poll_socket(
        self, sock: socket.socket, address: Any, accept: Acceptor, spawn: Spawn, poller: Poller
    ) -> None:
        super()._poll_socket(sock, address, self._make_place(accept), spawn, poller)

    def _make_place(self, accept: Acceptor) -> HttpPlace:
        return HttpPlace(self._sockets, accept, self._address.scheme)

    def _is_other(self, head: bytes) -> bool:
        try:
            parsed = parse_head(head)
        except ValueError:
            return False  # it is refused with what is wrong with it
        # What is no HTTP at all hypercorn would wait for, until its patience ends.
        return " HTTP/" in parsed.start and "websocket" not in parsed.words("upgrade")

    def _check(self, head: bytes, wire: SocketWire, address: str, accept: Acceptor) -> Upgrade:
        upgrade = super()._check(head, wire, address, accept)
        assert isinstance(accept, HttpPlace)
        if not accept.upgrade():
            raise RefusalError(503, "Too many connections", {"Retry-After": "1"})
        return upgrade

    async def _serve_other(
        self, wire: SocketWire, data: bytes, address: str, accept: Acceptor, spawn: Spawn
    ) -> None:
        assert isinstance(accept, HttpPlace)
        accept.wire, accept.address = wire, address
        app = partial(self._app, accept)
        settings = accept.settings
        rest = await self._serve_http(
            wire,
            data,
            app,
            self._is_other,
            head_seconds=settings.connect_seconds,
            write_seconds=settings.write_timeout_seconds,
        )
        if rest:
            end = find_head_end(rest)
            await self._serve_upgrade(wire, rest[:end], rest[end:], address, accept, spawn)


class HttpTransport(Transport):
    """HTTP."""

    schemes = ("http", "https")

    def check_url(self, url: str) -> None:
        """See `Transport.check_url`."""
        _parse(url)

    def open_sockets(self, url: str, count: int) -> AbstractAsyncContextManager[Sequence[Any]]:
        """Bind for several processes. See `Transport.open_sockets`."""
        return open_tcp_sockets(_parse(url), count)

    async def open_listener(self, url: str, options: ListenOptions) -> Listener:
        """Bind. See `Transport.open_listener`."""
        from ._http.server import serve_http  # a client needs none of it

        address = _parse(url)
        secure = address.scheme == "https"
        context = server_context(options.tls, url) if secure else None
        if context is not None and not isinstance(options.tls, ssl.SSLContext):
            context.set_alpn_protocols(ALPN)
        polls = wants_poller(options.settings.driver, url)
        site = await trio.to_thread.run_sync(load_site)
        sock, address = await bind_tcp(address, options.socket)
        if sys.platform == "linux":
            # Inherited by every connection. What was sent and is not acknowledged ends one, too,
            # that nobody is sending to any more.
            seconds = max(options.settings.write_timeout_seconds, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))
        hosts = (address.host, sock.getsockname()[0])
        policy = make_policy(options, hosts, is_secure=secure)
        address = attrs.evolve(address, path="")
        return HttpListener(sock, address, context, policy, site, serve_http, polls=polls)

    @asynccontextmanager
    async def open_channel(self, url: str, options: ConnectOptions) -> AsyncGenerator[Channel]:
        """Connect. See `Transport.open_channel`."""
        from ._http.channel import open_http_channel

        async with open_http_channel(url, options) as channel:
            yield channel


def _parse(url: str) -> TcpAddress:
    """Read a URL to listen on."""
    address = parse_tcp_url(url)
    if address.path not in {"", "/"}:
        raise SettingsError(f"{url!r}: a URL to listen on has no path")
    return address


transport = HttpTransport()
