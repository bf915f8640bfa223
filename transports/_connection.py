"""A server-side connection over a wire, and its end: what every driver does the same way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from logging import getLogger
from typing import Final

import trio

from ..core._ids import new_id
from ..core.abc import Acceptor, CloseReason, Connection, Link, PeerInfo
from ._outbox import Framing, Outbox, Spawn
from ._wire import Wire

__all__ = [
    "FRAMES_PER_CHECKPOINT",
    "LINGER_SECONDS",
    "StreamConnection",
    "end_connection",
    "report_bug",
    "run_connection",
    "shut_connection",
]

log: Final = getLogger("trialogue.transports")

#: How many frames of one read are fed before other tasks run: about 1 ms of the cheapest requests.
FRAMES_PER_CHECKPOINT: Final = 32
#: How long, after our end, we wait for the peer to have read it and close. Closing with unread
#: input would send a reset, which destroys what the peer has not read yet: the answer that says
#: why. Nobody waits for this but the peer's own socket.
LINGER_SECONDS: Final = 1.0


class StreamConnection(Outbox, Connection):
    """An outbox over a `Wire`, with what a driver needs to pause and to end.

    One in a task of its own feeds the link, waits in `wait_ready` when that says no, and stops
    when `closed`. The poller takes the place of `Link.on_ready`, and is told by `on_end`.
    """

    __slots__ = ("_link", "_peer", "_ready", "on_end", "wire")

    def __init__(
        self, wire: Wire, peer: PeerInfo, accept: Acceptor, spawn: Spawn, framing: Framing
    ) -> None:
        super().__init__(
            flusher=accept.flusher,
            settings=accept.settings,
            spawn=spawn,
            framing=framing,
            try_send=wire.try_send,
            send_some=wire.send_some,
        )
        self.wire = wire
        self._peer = peer
        self._ready: trio.Event | None = None
        self._link: Link | None = None
        #: Called once, when the outbox has ended and before the wire is closed.
        self.on_end: Callable[[], None] | None = None

    @property
    def peer(self) -> PeerInfo:
        """Who is there."""
        return self._peer

    def open_link(self, accept: Acceptor) -> Link:
        """Make the core's end. Posts come from now on."""
        link = self._link = accept.link(self)
        link.on_ready = self.ready
        return link

    def close_link(self) -> None:
        """Tell the core that it is over. Idempotent."""
        link, self._link = self._link, None
        if link is not None:
            link.on_ready = None  # or the two would be a circle, for the garbage collector
            link.close()

    def close_soon(self, reason: CloseReason) -> None:
        """Send what was posted, then close. Lines cannot say why."""
        self.finish()

    async def aclose(self) -> None:
        """Close at once."""
        self.kill()
        await trio.lowlevel.checkpoint()

    def ready(self) -> None:
        """Go on feeding: the link's ``on_ready``."""
        event, self._ready = self._ready, None
        if event is not None:
            event.set()

    async def wait_ready(self) -> None:
        """Wait, after the link said no, until feeding may go on or there is nothing to go on with.

        Await it at once: what `ready` says before it has begun is not heard.
        """
        if self.ended:
            await trio.lowlevel.checkpoint()
            return
        if self._ready is None:
            self._ready = trio.Event()
        await self._ready.wait()

    async def say_goodbye(self) -> None:
        """Send what was posted and the end, and give the peer the time to read it. Bounded."""
        self.finish()
        await self.wait_drained()
        if self.killed:
            return
        with trio.move_on_after(LINGER_SECONDS):
            await self.wire.send_end()
            await self.wire.discard_input()

    def _ended(self) -> None:
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end()
        if self.killed:
            self.wire.close(abort=self.stuck)
        else:
            self.wire.interrupt()
        self.ready()


async def run_connection(
    connection: StreamConnection, drive: Callable[[], Awaitable[object]]
) -> None:
    """Drive a connection to its end, and see it closed. Nothing but a cancel leaves this.

    Args:
        connection: Fresh.
        drive: Opens the link and feeds it, until the peer or the core ends it.
    """
    try:
        with connection_boundary(connection):
            await drive()
        await end_connection(connection)
    finally:
        shut_connection(connection)


async def end_connection(connection: StreamConnection) -> None:
    """See a connection to its end that nothing reads from any more."""
    try:
        with connection_boundary(connection):
            await connection.say_goodbye()
    finally:
        shut_connection(connection)


def shut_connection(connection: StreamConnection) -> None:
    """Close all that belongs to a connection, at once. Idempotent."""
    connection.wire.close()
    connection.kill()
    with connection_boundary(connection):
        # Last: a server that shuts down waits for its links, and then ends the tasks.
        connection.close_link()


@contextmanager
def connection_boundary(connection: StreamConnection) -> Generator[None]:
    """Keep what goes wrong with one connection from the others.

    A lost peer is its normal end. Anything else is a bug, and the peer is told so where its
    protocol can say it.
    """
    try:
        yield
    except* (trio.BrokenResourceError, trio.ClosedResourceError) as group:
        log.debug("%s went away", connection.peer, extra={"cause": repr(group.exceptions[0])})
    except* Exception:  # noqa: BLE001 - ends this connection
        report_bug(connection)


def report_bug(connection: StreamConnection) -> None:
    """Log the exception that is being handled, and tell the peer."""
    log.exception("%s failed", connection.peer, extra={"error_id": new_id("err")})  # noqa: LOG004 - in its except
    connection.close_soon(CloseReason.SERVER_ERROR)
