"""The poller: one task that reads thousands of sockets, on Linux.

A task a connection pays Trio for each wake-up: a registration with its epoll, a switch, and the
flusher's wake besides. Here a private epoll holds all sockets of a listener, Trio waits for that
one descriptor, and what has come is read and fed in a plain loop. What each trick buys:

- The sockets stay registered, so that a read costs one system call and no registration.
- One round is one wake-up, one `Flusher.flush` and one checkpoint, for up to 256 connections.
- An idle connection has no task and no buffer: a few objects, and an entry in a table.
"""

from __future__ import annotations

import os
import select
import sys
from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Final

import trio

from ..core._flusher import Flusher
from ..core.errors import SettingsError
from ._outbox import Spawn

__all__ = ["Polled", "Poller", "wants_poller"]

#: Connections that are read in one round, before other tasks run.
ROUND: Final = 256

# pyright and mypy look at the platform that they run on, too.
if sys.platform == "linux":
    _epoll, _EPOLLIN = select.epoll, select.EPOLLIN


def wants_poller(driver: str, url: str) -> bool:
    """Say whether a listener of sockets uses the poller.

    Args:
        driver: See `Settings.driver`.
        url: For the error.

    Raises:
        SettingsError: It has to, and cannot.
    """
    has_epoll = sys.platform == "linux"
    if driver == "poller" and not has_epoll:
        raise SettingsError(f"{url} cannot use the driver poller: only Linux has epoll")
    return has_epoll and driver != "task"


class Polled(ABC):
    """What reads one socket when the poller says that it can be read. Nothing of it raises.

    Attributes:
        fd: The socket's, as long as the poller knows this.
    """

    __slots__ = ("fd",)

    fd: int

    @abstractmethod
    def read(self) -> None:
        """Read once, and act on it. It may come when there is nothing."""

    @abstractmethod
    def go_on(self) -> None:
        """Act on what was read and left over. See `Poller.call_soon`."""

    @abstractmethod
    def abandon(self) -> None:
        """Close at once. The poller has forgotten this: it ends, or its patience did."""


class Poller:
    """Reads for one listener. Its `run` lives beside the connections.

    Args:
        flusher: Of the server; flushed once a round.
        spawn: Starts tasks beside `run`.
        patience: How long `expect` waits, in seconds.
    """

    def __init__(self, flusher: Flusher, spawn: Spawn, patience: float) -> None:
        self._flusher = flusher
        self._spawn = spawn
        self._patience = patience
        self._epoll = _epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, _EPOLLIN)
        self._polled: dict[int, Polled] = {}
        self._soon: list[Polled] = []
        self._expected: OrderedDict[Polled, float] = OrderedDict()
        self._watching: trio.CancelScope | None = None
        self._is_waiting = self._is_retiring = False
        #: Nothing is read any more.
        self.is_closed = False

    # -- for those who are polled --------------------------------------------------------------

    def add(self, polled: Polled) -> None:
        """Let ``polled`` read from now on, perhaps in the place of another.

        Raises:
            OSError: The system watches so many sockets already.
        """
        if polled.fd not in self._polled:
            self._epoll.register(polled.fd, _EPOLLIN)
        self._polled[polled.fd] = polled

    def pause(self, polled: Polled) -> None:
        """Do not read for now. Epoll would tell of a hang-up even with an empty mask, and spin."""
        self._epoll.unregister(polled.fd)

    def resume(self, polled: Polled) -> None:
        """Read again."""
        self._epoll.register(polled.fd, _EPOLLIN)

    def remove(self, polled: Polled) -> None:
        """Read no more: to be called before the socket is closed. Idempotent."""
        self.release(polled)
        if self._polled.pop(polled.fd, None) is not None and not self.is_closed:
            try:
                self._epoll.unregister(polled.fd)
            except OSError:
                pass  # It was paused, or a send that was cut off has closed it.
            if self._is_retiring and not self._polled:
                self._ring()

    def call_soon(self, polled: Polled) -> None:
        """Have ``polled`` go on in the next round."""
        self._soon.append(polled)
        self._ring()

    def expect(self, polled: Polled) -> None:
        """Abandon ``polled`` if it is not released within the patience.

        All have the same, so their times are up in order: one queue, and one task while it waits.
        """
        self._expected[polled] = trio.current_time() + self._patience
        if self._watching is None:
            self._watching = trio.CancelScope()
            self._spawn(self._watch, self._watching)

    def release(self, polled: Polled) -> None:
        """Expect nothing of ``polled`` any more. Idempotent."""
        self._expected.pop(polled, None)

    async def _watch(self, scope: trio.CancelScope) -> None:
        with scope:
            while self._expected:
                await trio.sleep_until(next(iter(self._expected.values())))
                now = trio.current_time()
                while self._expected and next(iter(self._expected.values())) <= now:
                    polled, _ = self._expected.popitem(last=False)
                    self.remove(polled)
                    polled.abandon()
        self._watching = None

    # -- the loop ------------------------------------------------------------------------------

    def retire(self) -> None:
        """Let `run` end with the last connection: nobody is added any more."""
        self._is_retiring = True
        self._ring()

    def _ring(self) -> None:
        """Wake `run`, if it waits."""
        if self._is_waiting:
            self._is_waiting = False
            os.eventfd_write(self._bell, 1)

    async def run(self) -> None:
        """Read until cancelled, or retired and left by all; then abandon whoever is there."""
        try:
            while self._polled or not self._is_retiring:
                if self._soon:
                    await trio.lowlevel.checkpoint()
                else:
                    self._is_waiting = True
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    self._is_waiting = False
                self._read_round()
        finally:
            self.is_closed = True
            self._is_waiting = False
            for polled in list(self._polled.values()):
                polled.abandon()
            self._polled.clear()
            if self._watching is not None:
                self._watching.cancel(reason="the poller ends")
            self._epoll.close()
            os.close(self._bell)

    def _read_round(self) -> None:
        """Read once from each that has something, and send what came of it."""
        polled_of, bell = self._polled, self._bell
        # What is posted in this round is sent at its end: the flusher's task need not wake.
        self._flusher.hold()
        try:
            for fd, _ in self._epoll.poll(0, ROUND):
                polled = polled_of.get(fd)
                if polled is not None:
                    polled.read()
                elif fd == bell:
                    os.eventfd_read(bell)
            if self._soon:
                soon, self._soon = self._soon, []
                for polled in soon:
                    polled.go_on()
        finally:
            self._flusher.flush()
