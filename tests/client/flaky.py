"""A transport that loses connections at random moments, in front of a real one."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from trialogue.core.abc import Channel, ConnectOptions, Listener, ListenOptions, Transport


class FlakyChannel(Channel):
    """Breaks at a random frame: before it is passed on, or just after."""

    def __init__(self, channel: Channel, owner: FlakyTransport) -> None:
        self._channel = channel
        self._owner = owner
        self._broken = False

    async def send(self, payload: bytes) -> None:
        self._maybe_break("before a send")
        await self._channel.send(payload)
        request = json.loads(payload)["payload"]
        self._maybe_break(f"after {request.get('method', 'pong')}")

    async def receive(self) -> bytes:
        frame = await self._channel.receive()
        if self._broken:
            raise trio.BrokenResourceError("broken by the test")
        envelope = json.loads(frame)
        what = envelope["payload"].get("type", envelope["type"])
        # The frame is lost with the connection: the server thinks that we have it.
        self._maybe_break(f"at {what}")
        return frame

    def _maybe_break(self, where: str) -> None:
        owner = self._owner
        if self._broken or (owner.is_flaky and owner.rng.random() < owner.rate):
            if not self._broken:
                owner.hits[where] += 1
            self._broken = True
            raise trio.BrokenResourceError("broken by the test")

    async def aclose(self) -> None:
        await self._channel.aclose()


class FlakyTransport(Transport):
    """A real transport, except when it is not there.

    Args:
        transport: The real one.
        rng: Draws the moments.
        rate: How likely each frame is to be the last.

    Attributes:
        is_flaky: Set it to False to have peace.
        hits: What was cut, and how often.
    """

    schemes = ("flaky",)

    def __init__(self, transport: Transport, rng: random.Random, rate: float) -> None:
        self._transport = transport
        self.rng = rng
        self.rate = rate
        self.is_flaky = True
        self.hits: Counter[str] = Counter()

    def found(self, _url: str) -> FlakyTransport:
        """Stand in for `find_transport`."""
        return self

    async def open_listener(self, url: str, options: ListenOptions) -> Listener:
        return await self._transport.open_listener(url, options)

    @asynccontextmanager
    async def open_channel(self, url: str, options: ConnectOptions) -> AsyncGenerator[Channel]:
        if self.is_flaky and self.rng.random() < 0.1:
            self.hits["connecting"] += 1
            raise ConnectionRefusedError("refused by the test")
        async with self._transport.open_channel(url, options) as channel:
            yield FlakyChannel(channel, self)
