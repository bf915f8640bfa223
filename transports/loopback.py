"""``loopback://name``: the same lines, passed in memory. For tests, and for a chat in one process.

There are no sockets and no clock but Trio's, so everything is deterministic under an autojump
clock. A reader that does not read stalls its peer, as a socket's would.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from logging import getLogger
from typing import Final, NoReturn
from urllib.parse import urlsplit

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from ..core._ids import new_id
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
from ._connection import StreamConnection, run_connection
from ._errors import explain
from ._lines import REFUSAL, LineChannel, drive_lines
from ._outbox import Spawn, frame_line
from ._wire import READ_BYTES, Wire

__all__ = ["LoopbackListener", "LoopbackTransport", "MemoryWire", "open_memory_wires", "transport"]

log: Final = getLogger("trialogue.transports")

#: What one end takes while the other does not read: small, since it is this process's memory.
INBOX_BYTES: Final = 16 * 1024
#: Connections that wait for `serve` to take them.
BACKLOG: Final = 128

_listeners: Final[dict[str, LoopbackListener]] = {}
_names: Final = itertools.count(1)
_peers: Final = itertools.count(1)


class _Inbox:
    """One direction: bytes that were sent and not yet received."""

    __slots__ = ("broken", "data", "ended", "has_data", "has_room", "unread")

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False  # the sender has said so
        self.unread = False  # the receiver is gone
        self.broken = False  # the sender has thrown away what was unread
        self.has_data = trio.lowlevel.ParkingLot()
        self.has_room = trio.lowlevel.ParkingLot()

    def wake(self) -> None:
        self.has_data.unpark_all()
        self.has_room.unpark_all()


class MemoryWire(Wire):
    """One end of a pair, from `open_memory_wires`."""

    __slots__ = ("_closed", "_inbox", "_interrupted", "_outbound")

    def __init__(self, inbox: _Inbox, outbound: _Inbox) -> None:
        self._inbox = inbox
        self._outbound = outbound
        self._interrupted = self._closed = False

    def try_send(self, data: bytes | memoryview) -> int:
        """Put what there is room for into the other end's inbox."""
        peer = self._outbound
        if self._closed or peer.ended or peer.unread:
            raise BrokenPipeError
        room = INBOX_BYTES - len(peer.data)
        if room <= 0:
            raise BlockingIOError
        part = data[:room]
        peer.data += part
        peer.has_data.unpark_all()
        return len(part)

    async def send_some(self, data: bytes | memoryview) -> int:
        """Wait for room, and fill it."""
        await checkpoint()
        while True:
            try:
                return self.try_send(data)
            except BlockingIOError:
                await self._outbound.has_room.park()
            except OSError as exc:
                if self._closed:
                    raise trio.ClosedResourceError("this connection is closed") from exc
                raise trio.BrokenResourceError("the other end is closed") from exc

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Take what is there, or wait for it."""
        await checkpoint()
        while True:
            if self._interrupted:
                raise trio.ClosedResourceError("this connection is closed")
            data = self._take(max_bytes or READ_BYTES)
            if data is not None:
                return data
            await self._inbox.has_data.park()

    def _take(self, size: int) -> bytes | None:
        """Take from the inbox; ``b""`` is its end, None is nothing yet."""
        inbox = self._inbox
        if inbox.broken:
            raise trio.BrokenResourceError("the other end broke the connection")
        if inbox.data:
            data = bytes(inbox.data[:size])
            del inbox.data[:size]
            inbox.has_room.unpark_all()
            return data
        return b"" if inbox.ended else None

    async def send_end(self) -> None:
        """End the other's inbox; it may still be read."""
        await checkpoint()
        self._outbound.ended = True
        self._outbound.wake()

    async def discard_input(self) -> None:
        """Read to the end."""
        while not self._closed and self._take(READ_BYTES) != b"":
            if self._inbox.data:
                await checkpoint()
            else:
                await self._inbox.has_data.park()
        await checkpoint_if_cancelled()

    def interrupt(self) -> None:
        """Wake the reader."""
        self._interrupted = True
        self._inbox.wake()

    def close(self, *, abort: bool = False) -> None:
        """Let go of both directions."""
        if self._closed:
            return
        self._closed = self._interrupted = True
        self._inbox.unread = True
        self._inbox.data.clear()
        self._inbox.wake()
        self._outbound.ended = True
        if abort:
            self._outbound.broken = True
            self._outbound.data.clear()
        self._outbound.wake()


def open_memory_wires() -> tuple[MemoryWire, MemoryWire]:
    """Make two ends of one connection."""
    one, other = _Inbox(), _Inbox()
    return MemoryWire(one, other), MemoryWire(other, one)


class LoopbackListener(Listener):
    """A name in the process-wide table."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._arrivals, self._waiting = trio.open_memory_channel[tuple[MemoryWire, str]](BACKLOG)

    @property
    def endpoint(self) -> str:
        """``loopback://name``."""
        return f"loopback://{self._name}"

    def connect(self) -> MemoryWire:
        """Make a connection that `serve` will take.

        Raises:
            trio.WouldBlock: Too many wait for that.
        """
        ours, theirs = open_memory_wires()
        self._arrivals.send_nowait((ours, f"{self._name}#{next(_peers)}"))
        return theirs

    async def serve(
        self,
        accept: Acceptor,
        *,
        handler_nursery: trio.Nursery,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        """Accept until cancelled. See `Listener.serve`."""
        task_status.started()
        spawn = handler_nursery.start_soon
        while True:
            try:
                wire, address = await self._waiting.receive()
            except trio.EndOfChannel:
                raise trio.ClosedResourceError("this listener is closed") from None
            spawn(self._serve_wire, wire, address, accept, spawn)

    async def _serve_wire(
        self, wire: MemoryWire, address: str, accept: Acceptor, spawn: Spawn
    ) -> None:
        """Serve one connection. The boundary of its task."""
        try:
            if not accept.reserve():
                wire.try_send(REFUSAL)
                return
            try:
                peer = PeerInfo(transport="loopback", address=address)
                connection = StreamConnection(wire, peer, accept, spawn, frame_line)
                await run_connection(connection, partial(drive_lines, connection, accept))
            finally:
                accept.release()
        except* Exception:
            log.exception(
                "%s: a connection failed", self.endpoint, extra={"error_id": new_id("err")}
            )
        finally:
            wire.close()

    async def aclose(self) -> None:
        """Give the name back."""
        if _listeners.get(self._name) is self:
            del _listeners[self._name]
            self._arrivals.close()
            while True:
                try:
                    wire, _ = self._waiting.receive_nowait()
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
                wire.close()
        await checkpoint()


class LoopbackTransport(Transport):
    """Lines in memory."""

    schemes = ("loopback",)

    def check_url(self, url: str) -> None:
        """See `Transport.check_url`."""
        _parse(url)

    async def open_listener(self, url: str, options: ListenOptions) -> Listener:
        """Take a name; ``loopback://`` alone takes a free one. See `Transport.open_listener`."""
        await checkpoint()
        name = _parse(url)
        if not name:
            name = next(free for n in _names if (free := f"{n}") not in _listeners)
        elif name in _listeners:
            raise explain(OSError(errno.EADDRINUSE, ""), url)
        listener = _listeners[name] = LoopbackListener(name)
        return listener

    @asynccontextmanager
    async def open_channel(self, url: str, options: ConnectOptions) -> AsyncGenerator[Channel]:
        """Connect. See `Transport.open_channel`."""
        await checkpoint()
        listener = _listeners.get(_parse(url))
        if listener is None:
            raise ConnectionRefusedError(f"{url}: nobody listens there in this process")
        try:
            wire = listener.connect()
        except trio.WouldBlock:
            raise ConnectionRefusedError(f"{url}: too many connections wait there") from None
        channel = LineChannel(wire, max_frame_bytes=options.max_frame_bytes)
        try:
            yield channel
        finally:
            await channel.aclose()


def _parse(url: str) -> str:
    parts = urlsplit(url)
    if parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username:
        raise SettingsError(f"{url!r} is not of the form loopback://name")
    return parts.netloc


transport = LoopbackTransport()
