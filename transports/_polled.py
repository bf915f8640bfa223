"""What the poller's connections have in common, and those of lines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from logging import getLogger
from typing import Final

from ..core.abc import Acceptor, Link
from ._connection import (
    FRAMES_PER_CHECKPOINT,
    StreamConnection,
    end_connection,
    report_bug,
    shut_connection,
)
from ._lines import LineSplitter
from ._outbox import Spawn
from ._poller import Polled, Poller
from ._wire import SocketWire

__all__ = ["PolledConnection", "PolledHandshake", "PolledLines"]

log: Final = getLogger("trialogue.transports")


class PolledHandshake(Polled):
    """Reads what comes before a connection, within the poller's patience.

    Args:
        poller: Reads for the listener.
        wire: Does its own handshake first.
        accept: Where the connection's place is given back if nothing comes of it.
        boundary: Where exceptions end.
        go_further: Reads on, or raises BlockingIOError to be called again. In the end it adds to
            the poller what takes the place of this, or removes this.
    """

    __slots__ = ("_accept", "_boundary", "_go_further", "_poller", "_wire")

    def __init__(
        self,
        poller: Poller,
        wire: SocketWire,
        accept: Acceptor,
        boundary: Callable[[], AbstractContextManager[None]],
        go_further: Callable[[], None],
    ) -> None:
        self.fd = wire.sock.fileno()
        self._accept = accept
        self._boundary = boundary
        self._go_further = go_further
        self._poller = poller
        self._wire = wire

    def start(self) -> None:
        """Read what is there already, and from now on.

        Raises:
            OSError: See `Poller.add`.
        """
        if not self._advance():
            self._poller.add(self)
            self._poller.expect(self)

    def read(self) -> None:
        """Go on, as far as what has come allows."""
        if self._advance():
            self._poller.release(self)

    def _advance(self) -> bool:
        """Go as far as what has come allows. Returns False if there is more to come."""
        is_well = is_done = False
        with self._boundary():
            try:
                self._wire.try_handshake()
                self._go_further()
                del self._go_further  # or each connection would leave a circle of objects
                is_done = True
            except BlockingIOError:
                pass
            is_well = True
        if not is_well:
            self._poller.remove(self)
            self.abandon()
        return is_done or not is_well

    def go_on(self) -> None:
        """Nothing is ever left over here."""

    def abandon(self) -> None:
        """Close, and give the place back."""
        self._wire.close()
        self._accept.release()


class PolledConnection(Polled):
    """Drives one connection for the poller: it holds what a task driver has in its frame.

    Its place among the server's connections is given back when it is over.
    """

    __slots__ = (
        "_accept",
        "_early",
        "_is_over",
        "_is_paused",
        "_is_soon",
        "_poller",
        "_spawn",
        "_wire",
        "connection",
        "link",
    )

    def __init__(
        self,
        poller: Poller,
        wire: SocketWire,
        connection: StreamConnection,
        accept: Acceptor,
        spawn: Spawn,
    ) -> None:
        self.fd = wire.sock.fileno()
        self.connection = connection
        self._accept = accept
        self._poller = poller
        self._spawn = spawn
        self._wire = wire
        self._is_over = False
        #: Came before the link was ready.
        self._early = b""
        #: The link said no. The socket is not registered.
        self._is_paused = False
        #: Something that was read is left over. It comes first.
        self._is_soon = False
        self.link: Link

    def start(self, early: bytes = b"") -> None:
        """Open the link, and read from now on.

        Args:
            early: What was read already.

        Raises:
            OSError: See `Poller.add`.
        """
        self._poller.add(self)
        try:
            self.link = self.connection.open_link(self._accept)
        except BaseException:
            self._poller.remove(self)
            raise
        self.link.on_ready = self.ready
        self.connection.on_end = self._end
        if not self.link.is_ready:
            self._early = early
            self._pause()
        elif early:
            self.take(early)

    def read(self) -> None:
        """Read what there is, at most 64 KiB, and feed it."""
        if self._is_soon:
            return
        try:
            data = self._wire.try_receive()
        except BlockingIOError:
            return
        except OSError as exc:
            log.debug("%s went away", self.connection.peer, extra={"cause": repr(exc)})
            data = b""
        if not data or self.connection.closed:
            self._end()
            return
        self.take(data)

    def take(self, data: bytes) -> None:
        """Feed what was read."""
        try:
            self.link.heard()
            self._feed(data)
        except Exception:  # noqa: BLE001 - ends this connection
            self._fail()

    def go_on(self) -> None:
        """Feed what was left over."""
        self._is_soon = False
        if self._is_over:
            return
        if self.connection.closed:
            self._end()
            return
        early, self._early = self._early, b""
        try:
            if early:
                self._feed(early)
            else:
                self._feed_rest()
        except Exception:  # noqa: BLE001 - ends this connection
            self._fail()

    @abstractmethod
    def _feed(self, data: bytes) -> None:
        """Feed the frames in ``data``; keep what may not be fed now, and say why."""

    @abstractmethod
    def _feed_rest(self) -> None:
        """Go on after `_pause` or `_leave_rest`."""

    def _pause(self) -> None:
        """Neither feed nor read until `ready`."""
        self._is_paused = True
        self._poller.pause(self)

    def ready(self) -> None:
        """Go on feeding: the link's ``on_ready``."""
        if self._is_paused and not self._is_over:
            self._is_paused = False
            self._poller.resume(self)
            self._leave_rest()

    def _leave_rest(self) -> None:
        """Let the others have their turn before what is left over."""
        self._is_soon = True
        self._poller.call_soon(self)

    def _fail(self) -> None:
        """End with the bug that is being handled."""
        report_bug(self.connection)
        self._end()

    def _end(self) -> None:
        """Read no more, and let a task say goodbye."""
        if not self._is_over:
            self._is_over = True
            self._poller.remove(self)
            self._spawn(self._see_off)

    async def _see_off(self) -> None:
        try:
            await end_connection(self.connection)
        finally:
            self._accept.release()

    def abandon(self) -> None:
        """Close at once."""
        self._is_over = True
        shut_connection(self.connection)
        self._accept.release()


class PolledLines(PolledConnection):
    """Lines. See `drive_lines`, which does the same in a task."""

    __slots__ = ("_limit", "_rest", "_splitter")

    def __init__(
        self,
        poller: Poller,
        wire: SocketWire,
        connection: StreamConnection,
        accept: Acceptor,
        spawn: Spawn,
    ) -> None:
        self._rest: Iterator[bytes] = iter(())
        self._limit = 0
        self._splitter = LineSplitter()
        super().__init__(poller, wire, connection, accept, spawn)

    def _feed(self, data: bytes) -> None:
        self._limit = self.link.max_frame_bytes
        self._rest = iter(self._splitter.split(data, self._limit))
        self._feed_rest()

    def _feed_rest(self) -> None:
        feed, connection = self.link.feed, self.connection
        budget = FRAMES_PER_CHECKPOINT
        for line in self._rest:
            is_ready = feed(line)
            if connection.closed:
                self._end()
                return
            if not is_ready:
                self._pause()
                return
            budget -= 1
            if not budget:
                self._leave_rest()
                return
        if not self._splitter.oversize:
            return
        limit = self.link.max_frame_bytes
        if limit == self._limit:
            self.link.refuse_oversize()
            self._end()
            return
        # What came before it has brought a credential.
        self._limit = limit
        self._rest = iter(self._splitter.split_again(limit))
        self._leave_rest()
