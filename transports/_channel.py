"""What the clients' channels share: an inbox, one task that waits for it, and one that sends."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque

import trio

from ..core.abc import Channel
from ._wire import lost

__all__ = ["InboxChannel"]


class InboxChannel(Channel):
    """A channel whose reads bring any number of frames."""

    def __init__(self) -> None:
        self._inbox: deque[bytes] = deque()
        self._sending = self._receiving = self._closed = False
        #: Why nothing more comes, once that is so.
        self._end: Exception | None = None

    async def send(self, payload: bytes) -> None:
        """Send one frame."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this channel")
        if self._closed:
            raise trio.ClosedResourceError("this channel is closed")
        if self._end is not None:
            raise trio.BrokenResourceError("the server has closed the connection")
        self._sending = True
        try:
            await self._send(payload)
        except trio.ClosedResourceError as exc:
            raise lost(exc, by_user=self._closed) from None
        finally:
            self._sending = False

    async def receive(self) -> bytes:
        """Wait for the next frame."""
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this channel")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._closed:
                raise trio.ClosedResourceError("this channel is closed")
            if self._inbox:
                await trio.lowlevel.cancel_shielded_checkpoint()
            while not self._inbox:
                if self._end is not None:
                    raise self._end
                await self._fill()
            return self._inbox.popleft()
        except trio.ClosedResourceError as exc:
            raise lost(exc, by_user=self._closed) from None
        finally:
            self._receiving = False

    @abstractmethod
    async def _send(self, payload: bytes) -> None:
        """Send a frame, while no other task does."""

    @abstractmethod
    async def _fill(self) -> None:
        """Wait for bytes, and put the frames that they complete into the inbox.

        What says that nothing comes behind them is kept as `_end`, or raised.

        Raises:
            trio.EndOfChannel, trio.BrokenResourceError: Nothing more comes, and why.
        """
