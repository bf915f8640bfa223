"""The listening half that every transport over sockets shares."""

from __future__ import annotations

import errno
import socket
from abc import abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from logging import getLogger
from typing import Any, Final, NoReturn

import trio

from ..core._ids import new_id
from ..core.abc import Acceptor, Listener
from ._outbox import Spawn
from ._poller import Poller
from ._wire import SocketWire, Wire

__all__ = ["BACKLOG", "REFUSAL_SECONDS", "SEND_BUFFER_BYTES", "SocketListener", "answer"]

log: Final = getLogger("trialogue.transports")

#: Connections that the kernel holds for us, if its own limit (somaxconn) allows as many.
BACKLOG: Final = 4096
#: The kernel's part of what a reader that does not read can cost. Linux doubles it, and would
#: otherwise let it grow to 4 MiB.
SEND_BUFFER_BYTES: Final = 64 * 1024
#: Accepted in one go before other tasks run.
ACCEPT_BATCH: Final = 16
#: Wait so long when the process or machine has no descriptors or memory left.
EXHAUSTED_SECONDS: Final = 0.1
#: … and say so at most this often.
EXHAUSTED_LOG_SECONDS: Final = 10.0
#: So many at once are told politely that there is no place; more are just closed.
MAX_REFUSALS: Final = 64
#: How long telling one may take.
REFUSAL_SECONDS: Final = 1.0

#: One connection's trouble, not the listener's (see accept(2)).
_LOST_IN_QUEUE: Final = {
    errno.ECONNABORTED,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EPERM,
    errno.EPROTO,
    errno.ETIMEDOUT,
}


async def answer(wire: Wire, data: bytes) -> None:
    """Send a last word, and give the peer the time to read it. The caller bounds it."""
    await wire.send_all(data)
    await wire.send_end()
    await wire.discard_input()


class SocketListener(Listener):
    """Accepts from a listening socket, and runs a task for each connection, or one for all.

    A subclass says how a connection is served (`_serve_wire`, `_poll_wire`), and what a peer is
    told for whom there is no place (`refusal`).

    Args:
        sock: Listening.
        endpoint: Its URL.
        polls: Whether the poller reads; else a task a connection does.
    """

    #: Sent, before anything is read, to whom `Acceptor.reserve` has no place for.
    refusal: bytes = b""

    def __init__(self, sock: socket.socket, endpoint: str, *, polls: bool) -> None:
        self._polls = polls
        sock.setblocking(False)
        self.sock = sock
        self._endpoint = endpoint
        self._refusing = 0
        self._next_log = 0.0

    @property
    def endpoint(self) -> str:
        """The URL, with the real port."""
        return self._endpoint

    async def aclose(self) -> None:
        """Unbind."""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self._end()
            self.sock.close()
        await trio.lowlevel.checkpoint()

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
        poller: Poller | None = None
        if self._polls:
            poller = Poller(accept.flusher, spawn, accept.settings.connect_seconds)
            spawn(poller.run)
        try:
            await self._accept(accept, spawn, poller)
        finally:
            if poller is not None:
                poller.retire()

    async def _accept(self, accept: Acceptor, spawn: Spawn, poller: Poller | None) -> NoReturn:
        while True:
            trouble: OSError | None = None
            # What is posted in one go is sent at its end: the flusher's task need not wake.
            accept.flusher.hold()
            try:
                for _ in range(ACCEPT_BATCH):
                    sock, address = self.sock.accept()
                    if poller is None:
                        spawn(self._serve_socket, sock, address, accept, spawn)
                    else:
                        self._poll_socket(sock, address, accept, spawn, poller)
            except OSError as exc:
                trouble = exc
            finally:
                accept.flusher.flush()
            if trouble is None:
                await trio.lowlevel.checkpoint()
            elif isinstance(trouble, BlockingIOError):
                await trio.lowlevel.wait_readable(self.sock)
            else:
                await self._recover(trouble)

    async def _recover(self, exc: OSError) -> None:
        """Go on accepting after whatever went wrong, unless the socket is closed."""
        if self.sock.fileno() < 0:
            raise trio.ClosedResourceError("this listener is closed") from exc
        if exc.errno in _LOST_IN_QUEUE:
            await trio.lowlevel.checkpoint()
            return
        now = trio.current_time()
        if now >= self._next_log:
            self._next_log = now + EXHAUSTED_LOG_SECONDS
            log.error(
                "%s cannot accept connections at the moment: %s",
                self._endpoint,
                exc.strerror or exc,
                extra={"errno": errno.errorcode.get(exc.errno or 0)},
            )
        await trio.sleep(EXHAUSTED_SECONDS)

    async def _serve_socket(
        self, sock: socket.socket, address: Any, accept: Acceptor, spawn: Spawn
    ) -> None:
        """Serve one connection in a task of its own, or tell it that there is no place."""
        wire = self._make_wire(sock)
        if not accept.reserve():
            await self._refuse(wire)
            return
        try:
            with self.boundary():
                self._set_options(sock)
                await self._serve_wire(wire, self._describe(sock, address), accept, spawn)
        finally:
            accept.release()
            wire.close()

    def _poll_socket(
        self, sock: socket.socket, address: Any, accept: Acceptor, spawn: Spawn, poller: Poller
    ) -> None:
        """Hand one connection to the poller, or tell it that there is no place."""
        wire = self._make_wire(sock)
        if poller.is_closed:
            wire.close()
            return
        if not accept.reserve():
            spawn(self._refuse, wire)
            return
        is_taken = False
        with self.boundary():
            self._set_options(sock)
            self._poll_wire(wire, self._describe(sock, address), accept, spawn, poller)
            is_taken = True
        if not is_taken:
            accept.release()
            wire.close()

    @contextmanager
    def boundary(self) -> Generator[None]:
        """Keep what goes wrong before there is a connection from the others."""
        try:
            yield
        except* (
            trio.BrokenResourceError,
            trio.ClosedResourceError,
            trio.TooSlowError,
            OSError,
        ) as group:
            log.debug("lost in the handshake", extra={"cause": repr(group.exceptions[0])})
        except* Exception:
            log.exception(
                "%s: a connection failed", self._endpoint, extra={"error_id": new_id("err")}
            )

    async def _refuse(self, wire: SocketWire) -> None:
        """Tell a peer that there is no place."""
        try:
            if self._refusing >= MAX_REFUSALS:
                await trio.lowlevel.checkpoint()
                return
            self._refusing += 1
            try:
                with self.boundary(), trio.move_on_after(REFUSAL_SECONDS):
                    await wire.handshake()
                    await answer(wire, self.refusal)
            finally:
                self._refusing -= 1
        finally:
            wire.close()

    def _end(self) -> None:
        """Do what there is to do before the socket is closed."""

    def _set_options(self, sock: socket.socket) -> None:
        """Set what a fresh connection does not have from the listening socket."""

    def _describe(self, sock: socket.socket, address: Any) -> str:
        """Name the peer, for logs."""
        return str(address)

    def _make_wire(self, sock: socket.socket) -> SocketWire:
        """Make the wire of a fresh connection."""
        return SocketWire(sock)

    @abstractmethod
    async def _serve_wire(
        self, wire: SocketWire, address: str, accept: Acceptor, spawn: Spawn
    ) -> None:
        """Do the handshake, make the link, and drive it to its end."""

    @abstractmethod
    def _poll_wire(
        self, wire: SocketWire, address: str, accept: Acceptor, spawn: Spawn, poller: Poller
    ) -> None:
        """Add to the poller what does the same, and gives the place back in the end."""
