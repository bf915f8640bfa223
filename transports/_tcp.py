"""What the transports over TCP share: addresses, binding, connecting, with TLS or without."""

from __future__ import annotations

import errno
import socket
import ssl
import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any, cast
from urllib.parse import urlsplit

import attrs
import trio

from ..core.errors import SettingsError
from ._errors import explain
from ._listener import BACKLOG, SEND_BUFFER_BYTES, SocketListener
from ._tls import TlsWire, client_context
from ._wire import SocketWire

__all__ = [
    "TcpAddress",
    "TcpListener",
    "bind_tcp",
    "connect_tcp",
    "end_listening",
    "join_host",
    "open_tcp_sockets",
    "parse_tcp_url",
]


@attrs.frozen
class TcpAddress:
    """A host, as it was written, and a port. ``path`` is what follows, with its query."""

    scheme: str
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{join_host(self.host, self.port)}"


def join_host(host: str, port: int) -> str:
    """Write ``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_tcp_url(url: str, *, default_port: int | None = None) -> TcpAddress:
    """Read ``scheme://host:port/path``.

    Raises:
        SettingsError: It has another form.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise SettingsError(f"{url!r} is not a URL: {exc}") from None
    if parts.username is not None or parts.password is not None:
        raise SettingsError(f"a {parts.scheme} URL must not carry a user name or password")
    if not host:
        raise SettingsError(f"{url!r} names no host, such as {parts.scheme}://127.0.0.1:8765")
    if port is None:
        if default_port is None:
            raise SettingsError(f"{url!r} names no port, such as {parts.scheme}://{host}:8765")
        port = default_port
    if parts.fragment:
        raise SettingsError(f"{url!r} has a fragment (#), which means nothing here")
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return TcpAddress(parts.scheme, host, port, path)


async def _resolve(address: TcpAddress, flags: int) -> list[tuple[Any, ...]]:
    try:
        found = await trio.socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=flags
        )
    except (socket.gaierror, UnicodeError):
        raise OSError(
            errno.EADDRNOTAVAIL, f"{address}: there is no host of the name {address.host!r}"
        ) from None
    # A name like localhost stands for both families; people who type it mean the older one.
    return sorted(found, key=lambda info: info[0] != socket.AF_INET)


async def bind_tcp(
    address: TcpAddress, bound: socket.socket | None = None
) -> tuple[socket.socket, TcpAddress]:
    """Bind and listen. Returns the socket, and the address with its real port.

    Args:
        address: Where.
        bound: To it already; it only has to listen.

    Raises:
        OSError: With a text for people.
    """
    if bound is None:
        family, target = await _find_target(address)
        sock = _bind(family, target, address)
    else:
        sock = bound
        await trio.lowlevel.checkpoint()
    try:
        sock.listen(BACKLOG)
        port: int = sock.getsockname()[1]
    except OSError as exc:
        sock.close()
        raise explain(exc, str(address)) from exc
    return sock, attrs.evolve(address, port=port)


@asynccontextmanager
async def open_tcp_sockets(address: TcpAddress, count: int) -> AsyncGenerator[list[socket.socket]]:
    """Bind a socket for each of several processes. See `Transport.open_sockets`.

    The kernel shares new connections out among those that listen, by the clients' addresses. They
    are open here too, so one listens on when its process has died, until it is shut down.
    """
    if sys.platform != "linux":
        raise SettingsError(f"{address}: only Linux shares connections out among processes")
    family, target = await _find_target(address)
    with ExitStack() as stack:
        # By itself first, and it never listens: beside another server of this user's that shares
        # its port too, it would be given some of that one's connections.
        holder = stack.enter_context(_bind(family, target, address))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # By its number, so that one that is shut down and listens again has kept it.
        target = holder.getsockname()
        yield [
            stack.enter_context(_bind(family, target, address, is_shared=True))
            for _ in range(count)
        ]


def end_listening(sock: socket.socket) -> None:
    """Have a socket take no connections any more, in whatever processes it is open."""
    with suppress(OSError):  # it does not listen, or the system knows no such thing
        sock.shutdown(socket.SHUT_RDWR)


async def _find_target(address: TcpAddress) -> tuple[int, Any]:
    family, _, _, _, target = (await _resolve(address, socket.AI_PASSIVE))[0]
    return family, target


def _bind(
    family: int, target: Any, address: TcpAddress, *, is_shared: bool = False
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Inherited by every connection.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        # Too, on Linux: see `TcpListener._set_options`.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)
    except OSError as exc:
        sock.close()
        raise explain(exc, str(address)) from exc
    except BaseException:
        sock.close()
        raise
    return sock


async def connect_tcp(address: TcpAddress, *, encrypted: bool, tls: str | Any) -> SocketWire:
    """Connect to whichever address of the host answers first.

    Args:
        address: Whose host the server's certificate must name.
        encrypted: Speak TLS.
        tls: As in `ConnectOptions`.

    Raises:
        SettingsError: ``tls`` is wrong.
        OSError: Nobody there; with a text for people.
        trio.BrokenResourceError: No TLS handshake.
    """
    context = client_context(tls) if encrypted else None
    try:
        stream = await trio.open_tcp_stream(address.host, address.port)
    except OSError as exc:
        raise explain(_first_cause(exc), str(address)) from exc
    sock = socket.socket(fileno=stream.socket.detach())
    if context is None:
        return SocketWire(sock)
    wire = TlsWire(sock, context, server_hostname=address.host)
    try:
        await wire.handshake()
    except BaseException:
        wire.close()
        raise
    return wire


def _first_cause(exc: OSError) -> OSError:
    """Find the error of the first address that was tried; Trio's own says only how many."""
    cause: Any = exc.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cast("BaseExceptionGroup[BaseException]", cause).exceptions[0]
    return cause if isinstance(cause, OSError) else exc


class TcpListener(SocketListener):
    """Accepts TCP connections, and encrypts them if it has a context."""

    def __init__(
        self,
        sock: socket.socket,
        address: TcpAddress,
        context: ssl.SSLContext | None,
        *,
        polls: bool,
    ) -> None:
        super().__init__(sock, str(address), polls=polls)
        self._address = address
        self._context = context

    def _end(self) -> None:
        # It may be open in another process, where it would go on to take connections.
        end_listening(self.sock)

    def _set_options(self, sock: socket.socket) -> None:
        # What is written is whole: a flush is one send.
        if sys.platform != "linux":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _describe(self, sock: socket.socket, address: Any) -> str:
        return join_host(address[0], address[1])

    def _make_wire(self, sock: socket.socket) -> SocketWire:
        return SocketWire(sock) if self._context is None else TlsWire(sock, self._context)
