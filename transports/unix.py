"""``unix:///path``: one JSON object a line, over a Unix socket that only its owner may use."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final
from urllib.parse import unquote, urlsplit

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
from ._errors import explain
from ._lines import REFUSAL, LineChannel, LineConnection, drive_lines
from ._listener import BACKLOG, SEND_BUFFER_BYTES, SocketListener
from ._outbox import Spawn, frame_line
from ._polled import PolledLines
from ._poller import Poller, wants_poller
from ._wire import SocketWire

__all__ = ["UnixListener", "UnixTransport", "transport"]

#: All but the owner's reading and writing.
_OWNER_ONLY: Final = 0o177


class UnixListener(SocketListener):
    """Lines over a Unix socket. It owns the file, unless it is told otherwise."""

    refusal = REFUSAL

    def __init__(
        self, sock: socket.socket, path: str, *, polls: bool, owns_file: bool = True
    ) -> None:
        super().__init__(sock, f"unix://{path}", polls=polls)
        self._path = path
        self._file = _identity(path) if owns_file else None

    async def aclose(self) -> None:
        """Unbind, and remove the file, unless another has taken its place."""
        await super().aclose()
        _remove(self._path, self._file)
        self._file = None

    def _describe(self, sock: socket.socket, address: Any) -> str:
        if not hasattr(socket, "SO_PEERCRED"):
            return "local"
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return f"pid {int.from_bytes(credentials[:4], 'little')}"

    async def _serve_wire(
        self, wire: SocketWire, address: str, accept: Acceptor, spawn: Spawn
    ) -> None:
        peer = PeerInfo(transport="unix", address=address)
        connection = LineConnection(wire, peer, accept, spawn, frame_line)
        await run_connection(connection, partial(drive_lines, connection, accept))

    def _poll_wire(
        self, wire: SocketWire, address: str, accept: Acceptor, spawn: Spawn, poller: Poller
    ) -> None:
        peer = PeerInfo(transport="unix", address=address)
        connection = LineConnection(wire, peer, accept, spawn, frame_line)
        PolledLines(poller, wire, connection, accept, spawn).start()


class UnixTransport(Transport):
    """Lines over Unix sockets."""

    schemes = ("unix",)

    def check_url(self, url: str) -> None:
        """See `Transport.check_url`."""
        _parse(url)

    @asynccontextmanager
    async def open_sockets(self, url: str, count: int) -> AsyncGenerator[list[Any]]:
        """Bind one for all of several processes. See `Transport.open_sockets`.

        The file is removed at the end, by whoever has bound.
        """
        path = _parse(url)
        await trio.lowlevel.checkpoint()
        with _open_socket(url, path) as sock:
            file = _identity(path)
            try:
                yield [sock] * count
            finally:
                _remove(path, file)

    async def open_listener(self, url: str, options: ListenOptions) -> Listener:
        """Bind. See `Transport.open_listener`."""
        path = _parse(url)
        polls = wants_poller(options.settings.driver, url)
        await trio.lowlevel.checkpoint()
        owns_file = options.socket is None
        sock = _open_socket(url, path) if owns_file else options.socket
        try:
            sock.listen(BACKLOG)
        except OSError as exc:
            sock.close()
            raise explain(exc, url) from exc
        return UnixListener(sock, path, polls=polls, owns_file=owns_file)

    @asynccontextmanager
    async def open_channel(self, url: str, options: ConnectOptions) -> AsyncGenerator[Channel]:
        """Connect. See `Transport.open_channel`."""
        path = _parse(url)
        try:
            with trio.fail_after(options.connect_seconds):
                stream = await trio.open_unix_socket(path)
        except OSError as exc:
            raise explain(exc, url) from exc
        wire = SocketWire(socket.socket(fileno=stream.socket.detach()))
        channel = LineChannel(wire, max_frame_bytes=options.max_frame_bytes)
        try:
            yield channel
        finally:
            await channel.aclose()


def _parse(url: str) -> str:
    parts = urlsplit(url)
    # unix:///run/x.sock is absolute, unix://x.sock and unix:x.sock are relative.
    path = unquote(parts.netloc + parts.path)
    if not path or path.endswith("/") or parts.query or parts.fragment:
        raise SettingsError(f"{url!r} is not of the form unix:///path/to/socket")
    if "\0" in path:
        raise SettingsError(f"{url!r} has a NUL in its path")
    limit = 107
    if len(os.fsencode(path)) > limit:
        raise SettingsError(f"{url!r}: the path of a Unix socket has at most {limit} bytes")
    return path


def _open_socket(url: str, path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        _bind(sock, path)
    except OSError as exc:
        sock.close()
        raise explain(exc, url) from exc
    return sock


def _bind(sock: socket.socket, path: str) -> None:
    # Nobody else may connect, not even between bind and a chmod. The mask belongs to the whole
    # process; nothing waits here, so that it is ours alone but for threads.
    mask = os.umask(_OWNER_ONLY)
    try:
        try:
            sock.bind(path)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            os.unlink(path)
            sock.bind(path)
    finally:
        os.umask(mask)


def _is_stale(path: str) -> bool:
    """Whether the file is a socket that nobody listens at: its process was killed."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise FileExistsError(errno.EEXIST, "a file that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            return False  # Its queue is full.
    return False


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _remove(path: str, file: tuple[int, int] | None) -> None:
    """Remove the file that one has bound, unless another has taken its place."""
    if file is not None and _identity(path) == file:
        os.unlink(path)


transport = UnixTransport()
