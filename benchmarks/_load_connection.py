"""A connection of the load: a raw socket that never waits, and the epoll that drives thousands.

Waiting for nobody is the point: connecting, TLS, the upgrade and each send go as far as they can
and on when the socket lets them, so that what is slow delays no other's work.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final, Protocol
from urllib.parse import SplitResult, urlsplit

from ._measure_sockets import cut_websocket, make_upgrade, mask

__all__ = ["Address", "LoadConnection", "Loop", "Owner"]

_RECEIVE_BYTES: Final = 256 * 1024
#: What a slow reader has room for, beside what the server's end buffers.
_SLOW_BUFFER_BYTES: Final = 4096
_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
#: Where a port of HTTP has its WebSocket: by that goes a load, as every connection that lasts.
_OVER_HTTP: Final = {"http": "ws", "https": "wss"}
_HTTP_PATH: Final = "/v1/ws"
#: Of one wait, since who waits for the loop to be over is asked after it.
_MAX_WAIT_SECONDS: Final = 0.02


class Address:
    """Where a server is: looked up once, for thousands of connections."""

    def __init__(self, url: str, tls_ca: str | None = None) -> None:
        """``url``: as the server announces it. ``tls_ca``: its authority, a PEM file.

        Raises:
            OSError: There is no such host, or the file cannot be read.
        """
        parts: SplitResult = urlsplit(url)
        if parts.scheme in _OVER_HTTP:
            path = parts.path.rstrip("/") + _HTTP_PATH
            parts = parts._replace(scheme=_OVER_HTTP[parts.scheme], path=path)
        self.is_websocket = parts.scheme in {"ws", "wss"}
        self.tls = parts.scheme in {"wss", "tcps"}
        self.name = parts.hostname or ""
        self.context = ssl.create_default_context(cafile=tls_ca) if self.tls else None
        self.sockaddr: tuple[str, int] | str
        if parts.scheme == "unix":
            self.family, self.sockaddr = socket.AF_UNIX, parts.path
        else:
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
            found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
            family, _, _, _, sockaddr = found[0]
            self.family, self.sockaddr = family, (str(sockaddr[0]), int(sockaddr[1]))
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        self.host, self.target = parts.netloc.rpartition("@")[2], target


class Owner(Protocol):
    """Who is told what becomes of a connection."""

    def on_open(self) -> None:
        """It may send."""

    def on_frames(self, payloads: list[bytes]) -> None:
        """Complete frames came."""

    def on_lost(self, why: str, /) -> None:
        """It is over, and not by our `LoadConnection.close`."""


class LoadConnection:
    """One connection, from the first packet to the last."""

    __slots__ = (
        "_address",
        "_buffer",
        "_handshake",
        "_is_slow",
        "_loop",
        "_out",
        "_owner",
        "_sock",
        "is_closed",
    )

    def __init__(
        self, loop: Loop, address: Address, owner: Owner, *, is_slow: bool = False
    ) -> None:
        self._loop, self._address, self._owner = loop, address, owner
        self._is_slow = is_slow
        self._buffer = b""
        self._out = bytearray()
        self.is_closed = False
        self._sock: socket.socket = socket.socket(address.family)
        self._sock.setblocking(False)
        if is_slow:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER_BYTES)
        #: The next step of the handshake; None once it is over.
        self._handshake: Callable[[], None] | None = self._connected

    def start(self) -> None:
        """Connect; the owner hears of it."""
        failed = self._sock.connect_ex(self._address.sockaddr)
        if failed not in {0, errno.EINPROGRESS}:
            self._lose(os.strerror(failed))
            return
        self._loop.watch(self._sock, self, select.EPOLLIN | select.EPOLLOUT)

    # -- becoming open -----------------------------------------------------------------------

    def _connected(self) -> None:
        failed = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise OSError(failed, os.strerror(failed))
        address = self._address
        if address.family != socket.AF_UNIX:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.context is not None:
            # The same descriptor under another object; it stays registered.
            self._sock = address.context.wrap_socket(
                self._sock, server_hostname=address.name, do_handshake_on_connect=False
            )
            self._handshake = self._encrypt
            self._encrypt()
        else:
            self._upgrade()

    def _encrypt(self) -> None:
        assert isinstance(self._sock, ssl.SSLSocket)
        try:
            self._sock.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as exc:
            wants_write = isinstance(exc, ssl.SSLWantWriteError)
            self._loop.change(self._sock, select.EPOLLIN | (select.EPOLLOUT if wants_write else 0))
            return
        self._upgrade()

    def _upgrade(self) -> None:
        self._loop.change(self._sock, select.EPOLLIN)
        if not self._address.is_websocket:
            self._opened()
            return
        self._handshake = self._upgraded
        self._write(make_upgrade(self._address.host, self._address.target))

    def _upgraded(self) -> None:
        self._buffer += self._receive(_RECEIVE_BYTES)
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 101"):
            status = head.partition(b"\r\n")[0].decode(errors="replace")
            raise ConnectionError(f"no WebSocket here: {status}")
        self._buffer = rest
        self._opened()

    def _opened(self) -> None:
        self._handshake = None
        if self._is_slow:
            # From here on it reads when its owner says so.
            self._loop.change(self._sock, 0)
        self._owner.on_open()

    # -- open --------------------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        """Send a frame, or what of it can be, and the rest later."""
        if not self.is_closed:
            self._write(mask(payload) if self._address.is_websocket else payload + b"\n")

    def read(self, limit: int = _RECEIVE_BYTES) -> None:
        """Read once, at most so many bytes: what a slow reader calls."""
        if self.is_closed or self._handshake is not None:
            return
        try:
            received = self._receive(limit)
            if received:
                self._cut(received)
        except OSError as exc:
            self._lose(str(exc))

    def hurry(self) -> None:
        """Read like anybody from here on."""
        if self._is_slow:
            self._is_slow = False
            if not self.is_closed and self._handshake is None:
                self._loop.change(self._sock, select.EPOLLIN)

    def close(self) -> None:
        """Hang up; the owner knows."""
        if not self.is_closed:
            self.is_closed = True
            self._loop.forget(self._sock)
            self._sock.close()

    def on_event(self, mask_: int) -> None:
        """Go on, since the socket is ready."""
        try:
            if self._handshake is not None:
                if self._out and mask_ & select.EPOLLOUT:
                    self._flush()
                self._handshake()
                return
            if mask_ & select.EPOLLOUT:
                self._flush()
            if mask_ & ~select.EPOLLOUT:
                while received := self._receive(_RECEIVE_BYTES):
                    self._cut(received)
                    if self.is_closed or (len(received) < _RECEIVE_BYTES and not self._address.tls):
                        break
        except (OSError, ssl.SSLError) as exc:
            self._lose(exc.strerror or str(exc))

    def _receive(self, limit: int) -> bytes:
        """Give what is there, perhaps nothing.

        Raises:
            ConnectionError: The server hung up.
        """
        try:
            received = self._sock.recv(limit)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        if not received:
            raise ConnectionError("the server hung up")
        return received

    def _cut(self, received: bytes) -> None:
        data = self._buffer + received if self._buffer else received
        if self._address.is_websocket:
            payloads, self._buffer = cut_websocket(data, self._on_control)
        else:
            *payloads, self._buffer = data.split(b"\n")
        if payloads:
            self._owner.on_frames(payloads)

    def _on_control(self, opcode: int, payload: bytes) -> None:
        if opcode == 0x89:
            self._write(mask(payload, 0x8A))
        elif opcode == 0x88:
            raise ConnectionError(f"the server closed, {int.from_bytes(payload[:2])}")
        else:
            raise ConnectionError(f"a WebSocket frame that is not expected: {opcode:#x}")

    def _write(self, data: bytes) -> None:
        if self._out:
            self._out += data
            return
        sent = self._send(data)
        if sent < len(data):
            self._out += data[sent:]
            self._loop.change(self._sock, self._reading() | select.EPOLLOUT)

    def _flush(self) -> None:
        del self._out[: self._send(bytes(self._out))]
        if not self._out:
            self._loop.change(self._sock, self._reading())

    def _reading(self) -> int:
        return 0 if self._is_slow and self._handshake is None else select.EPOLLIN

    def _send(self, data: bytes) -> int:
        if not data:
            return 0
        try:
            return self._sock.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except OSError:
            # Reading says why, and tells the owner where he expects it.
            return 0

    def _lose(self, why: str) -> None:
        if not self.is_closed:
            self.close()
            self._owner.on_lost(why)


class Loop:
    """One epoll and one heap of what is due."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._connections: dict[int, LoadConnection] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._readers: dict[int, Callable[[], None]] = {}

    def watch(self, sock: socket.socket, connection: LoadConnection, events: int) -> None:
        """Tell a connection when its socket is ready."""
        self._connections[sock.fileno()] = connection
        self._epoll.register(sock, events)

    def change(self, sock: socket.socket, events: int) -> None:
        """Change what for."""
        self._epoll.modify(sock, events)

    def forget(self, sock: socket.socket) -> None:
        """Stop that."""
        if self._connections.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock)

    def watch_file(self, number: int, on_ready: Callable[[], None]) -> None:
        """Call a function whenever something can be read there."""
        self._readers[number] = on_ready
        self._epoll.register(number, select.EPOLLIN)

    def forget_file(self, number: int) -> None:
        """Stop that."""
        del self._readers[number]
        self._epoll.unregister(number)

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        """Call a function at a time of `time.monotonic`."""
        heapq.heappush(self._timers, (when, next(self._order), function))

    def run(self, is_over: Callable[[], bool]) -> None:
        """Go on until it is over, which is asked after each round."""
        while not is_over():
            self.run_once()

    def run_once(self) -> None:
        """Do what is due, then wait until something is due or ready, and do what is ready."""
        timers = self._timers
        now = time.monotonic()
        while timers and timers[0][0] <= now:
            heapq.heappop(timers)[2]()
        wait = _MAX_WAIT_SECONDS
        if timers:
            wait = min(wait, max(0.0, timers[0][0] - time.monotonic()))
        # epoll counts in milliseconds, select in microseconds: what is due must not be late by
        # our clock. The epoll was made before the sockets, so its number is small.
        if wait:
            select.select([self._epoll], [], [], wait)
        for number, events in self._epoll.poll(0, 512):
            connection = self._connections.get(number)
            if connection is not None:
                connection.on_event(events)
            elif number in self._readers:
                self._readers[number]()

    def close(self) -> None:
        """Hang up all."""
        for connection in list(self._connections.values()):
            connection.close()
        self._epoll.close()
