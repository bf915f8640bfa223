"""What the clients' channels share: an inbox, and one task that waits for what comes into it."""

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
                await self._fill()
            return self._inbox.popleft()
        except trio.ClosedResourceError as exc:
            raise lost(exc, by_user=self._closed) from None
        finally:
            self._receiving = False

    @abstractmethod
    async def _fill(self) -> None:
        """Wait for bytes, and put the frames that they complete into the inbox.

        Raises:
            trio.EndOfChannel, trio.BrokenResourceError: Nothing more comes, and why.
        """
