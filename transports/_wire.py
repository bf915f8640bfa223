"""The wire: the few calls that a driver makes on a connection's bytes, and the one over a socket.

It is a small `trio.abc.Stream` on a raw non-blocking socket: ``recv`` first, and waiting only when
that would block. Trio's own `SocketStream` costs about 30 µs more a round trip.
"""

from __future__ import annotations

import socket
import struct
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Final

import trio
from trio.lowlevel import (
    cancel_shielded_checkpoint,
    checkpoint,
    checkpoint_if_cancelled,
    notify_closing,
    wait_readable,
    wait_writable,
)

__all__ = ["READ_BYTES", "SocketWire", "Wire", "lost"]

#: One read. Bigger makes nothing faster, and is memory for each read in progress.
READ_BYTES: Final = 64 * 1024
#: ``struct linger {on, 0 seconds}``: closing throws the unsent bytes away.
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Wire(trio.abc.Stream):
    """A byte stream with what a server needs beside: sending without waiting, and a firm end.

    `receive_some` raises `trio.ClosedResourceError` after `interrupt` or `close`. It loses
    nothing when it is cancelled. Every call of it is a checkpoint.
    """

    __slots__ = ()

    @abstractmethod
    def try_send(self, data: bytes | memoryview) -> int:
        """Send what goes at once, and say how much.

        Raises:
            BlockingIOError: Nothing does.
            OSError: The peer is gone.
        """

    @abstractmethod
    async def send_some(self, data: bytes | memoryview) -> int:
        """Wait until a part of ``data`` can be sent, and say how much was."""

    @abstractmethod
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes; ``b""`` is the end."""

    @abstractmethod
    async def send_end(self) -> None:
        """Say that nothing more will be sent, and go on receiving."""

    @abstractmethod
    async def discard_input(self) -> None:
        """Read to the end, and throw it away. After an `interrupt` too."""

    @abstractmethod
    def interrupt(self) -> None:
        """Make the task in `receive_some` stop, now or when it comes. Synchronous."""

    @abstractmethod
    def close(self, *, abort: bool = False) -> None:
        """Close, synchronously. Idempotent.

        Args:
            abort: Throw away what the operating system still holds, and let the peer know.
        """

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it. If that is cancelled in the middle, later sends raise."""
        rest = memoryview(data)
        if not rest:
            await checkpoint()
        started = False
        try:
            while rest:
                rest = rest[await self.send_some(rest) :]
                started = True
        except BaseException:
            if started:
                # The peer holds half a frame: whatever follows would be read as its other half.
                self.close(abort=True)
            raise

    async def wait_send_all_might_not_block(self) -> None:
        """Not needed by anybody here."""
        await checkpoint()

    async def aclose(self) -> None:
        """Close at once."""
        self.close()
        await checkpoint()


class SocketWire(Wire):
    """A wire on a connected socket, which it owns."""

    __slots__ = ("interrupted", "sock")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        #: Nothing more is to be received, though there may be something.
        self.interrupted = False

    @property
    def local_host(self) -> str:
        """The address that the peer has reached."""
        try:
            return str(self.sock.getsockname()[0])
        except OSError:
            return ""

    def try_handshake(self) -> None:
        """Do what goes at once of what has to be done before the first byte: here nothing.

        Raises:
            BlockingIOError: More has to come; call again then.
            OSError: It failed.
        """

    async def handshake(self) -> None:
        """Wait until `try_handshake` is done.

        Raises:
            trio.BrokenResourceError: It failed; says why.
        """
        await checkpoint()
        while True:
            try:
                self.try_handshake()
            except BlockingIOError:
                await wait_readable(self.sock)
            except OSError as exc:
                raise trio.BrokenResourceError(f"the handshake failed: {exc}") from exc
            else:
                return

    def try_send(self, data: bytes | memoryview) -> int:
        """Send without waiting."""
        return self.sock.send(data)

    def try_receive(self) -> bytes:
        """Receive up to 64 KiB without waiting; ``b""`` is the end.

        Raises:
            BlockingIOError: Nothing is there.
            OSError: The peer is gone.
        """
        return self.sock.recv(READ_BYTES)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive up to 64 KiB, whatever is asked for."""
        await checkpoint_if_cancelled()
        if self.interrupted:
            raise trio.ClosedResourceError("this connection is closed")
        return await self._receive(self.try_receive)

    async def _receive(self, receive: Callable[[], bytes]) -> bytes:
        try:
            data = receive()
        except BlockingIOError:
            pass
        except OSError as exc:
            raise self._translated(exc) from exc
        else:
            # It was there already: let the others run before the next, however fast this peer is.
            await cancel_shielded_checkpoint()
            return data
        while True:
            await wait_readable(self.sock)
            try:
                return receive()
            except BlockingIOError:
                continue
            except OSError as exc:
                raise self._translated(exc) from exc

    async def send_some(self, data: bytes | memoryview) -> int:
        """Send a part, waiting for room first if there is none."""
        await checkpoint_if_cancelled()
        try:
            sent = self.try_send(data)
        except BlockingIOError:
            pass
        except OSError as exc:
            raise self._translated(exc) from exc
        else:
            await cancel_shielded_checkpoint()
            return sent
        while True:
            await wait_writable(self.sock)
            try:
                return self.try_send(data)
            except BlockingIOError:
                continue
            except OSError as exc:
                raise self._translated(exc) from exc

    async def send_end(self) -> None:
        """Shut our direction down."""
        await checkpoint()
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise self._translated(exc) from exc

    async def discard_input(self) -> None:
        """Read the raw bytes until the peer has closed its direction."""
        while await self._receive(partial(self.sock.recv, READ_BYTES)):
            pass  # Which is a checkpoint each time.

    def interrupt(self) -> None:
        """Wake the reader, and let no other in."""
        self.interrupted = True
        if self.sock.fileno() >= 0:
            notify_closing(self.sock)

    def close(self, *, abort: bool = False) -> None:
        """Close the socket; ``abort`` sends a reset, and frees the kernel's buffer at once."""
        self.interrupted = True
        sock = self.sock
        if sock.fileno() < 0:
            return
        notify_closing(sock)
        if abort:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            except OSError:
                pass
        sock.close()

    def _translated(self, exc: OSError) -> Exception:
        if self.sock.fileno() < 0:
            return trio.ClosedResourceError("this connection is closed")
        return trio.BrokenResourceError(f"the connection broke: {exc.strerror or exc}")


def lost(exc: trio.ClosedResourceError, *, by_user: bool) -> Exception:
    """Say whether the user closed a channel, or a cancelled send, which leaves half a frame."""
    return exc if by_user else trio.BrokenResourceError("a send was cancelled in the middle")
