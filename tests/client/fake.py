"""A server that says what a test tells it to, over an in-memory channel."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from trialogue.core.abc import Channel, ConnectOptions, Listener, ListenOptions, Transport

#: What `FakePeer.welcome` announces, unless it is told otherwise.
LIMITS = {"maxFrameBytes": 64 * 1024, "maxInFlight": 4}


class FakeChannel(Channel):
    """The client's end."""

    def __init__(self, peer: FakePeer) -> None:
        self._peer = peer

    async def send(self, payload: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self._peer.is_gone:
            raise trio.BrokenResourceError("the fake server is gone")
        self._peer.arrived(payload)

    async def receive(self) -> bytes:
        try:
            frame = await self._peer.to_client.receive()
        except trio.EndOfChannel:
            if self._peer.was_dropped:
                raise trio.BrokenResourceError("the fake server dropped us") from None
            raise
        return frame

    async def aclose(self) -> None:
        self._peer.leave()
        await trio.lowlevel.checkpoint()


class FakePeer:
    """The server's end of one connection.

    Attributes:
        received: Every request that came and was not taken by `expect` yet, oldest first.
        log: Every envelope that came, in order.
        options: What the client connected with.
    """

    def __init__(self, options: ConnectOptions) -> None:
        self.options = options
        # Scripts do not wait for the client.
        self._out, self.to_client = trio.open_memory_channel[bytes](math.inf)
        self.received: deque[dict[str, Any]] = deque()
        self.log: list[dict[str, Any]] = []
        self.is_gone = False
        self.was_dropped = False
        self._arrival = trio.Event()
        self.left = trio.Event()

    # -- what came ---------------------------------------------------------------------------

    def arrived(self, payload: bytes) -> None:
        envelope = json.loads(payload)
        self.log.append(envelope)
        if envelope["type"] == "request":
            self.received.append(envelope["payload"])
        self._arrival.set()
        self._arrival = trio.Event()

    async def expect(self, method: str) -> dict[str, Any]:
        """Take the next request, which must be of this method."""
        with trio.fail_after(100):
            while not self.received:
                await self._arrival.wait()
        request = self.received.popleft()
        assert request["method"] == method, request
        return request

    async def wait_received(self, count: int) -> None:
        """Wait until so many requests have come that nobody took."""
        with trio.fail_after(100):
            while len(self.received) < count:
                await self._arrival.wait()

    async def wait_logged(self, kind: str) -> dict[str, Any]:
        """Wait for an envelope of this type, and give its payload."""
        with trio.fail_after(100):
            while True:
                for envelope in self.log:
                    if envelope["type"] == kind:
                        payload: dict[str, Any] = envelope["payload"]
                        return payload
                await self._arrival.wait()

    def methods(self) -> list[str]:
        """The methods of all requests that came."""
        return [e["payload"]["method"] for e in self.log if e["type"] == "request"]

    # -- what is said ------------------------------------------------------------------------

    def send(self, kind: str, payload: dict[str, Any]) -> None:
        self.send_raw(json.dumps({"version": "1.0", "type": kind, "payload": payload}).encode())

    def send_raw(self, frame: bytes) -> None:
        if not self.is_gone:
            self._out.send_nowait(frame)

    def answer(self, request: dict[str, Any], data: Any = None) -> None:
        data = {} if data is None else data
        self.send("response", {"id": request["id"], "success": True, "data": data})

    def refuse(self, request: dict[str, Any] | None, code: str, **data: Any) -> None:
        error = {"code": code, "message": f"no: {code}", "retryable": False, "data": data}
        request_id = None if request is None else request["id"]
        self.send("response", {"id": request_id, "success": False, "error": error})

    def event(self, name: str, data: Any = None, *, seq: int | None = None) -> None:
        """Send an event of session ``s``, durable if it has a seq."""
        payload: dict[str, Any] = {"sessionId": "s", "type": name, "data": data or {}}
        if seq is not None:
            payload["position"] = f"1-{seq}"
        self.send("event", payload)

    def delta(self, offset: int, text: str, message_id: str = "m") -> None:
        data = {"messageId": message_id, "turnId": "t", "offset": offset, "delta": text}
        self.event("message.delta", data)

    async def welcome(self, heartbeat_ms: int = 0, **limits: int) -> dict[str, Any]:
        """Answer the hello."""
        request = await self.expect("hello")
        self.answer(
            request,
            {
                "connectionId": "c",
                "server": {"name": "fake", "version": "0"},
                "protocol": {"version": "1.0", "supported": ["1.0"]},
                "principal": "anonymous",
                "capabilities": {},
                "limits": {**LIMITS, **limits},
                "heartbeatMs": heartbeat_ms,
            },
        )
        return request

    async def attach(
        self, position: int = 0, *, in_progress: Sequence[str] = (), **session: Any
    ) -> dict[str, Any]:
        """Answer a subscription to session ``s``: it goes on from its cursor, or from here."""
        request = await self.expect("session.subscribe")
        after = request["params"].get("after", f"1-{position}")
        self.answer(
            request,
            {
                "session": make_session(position=f"1-{position}", **session),
                "position": f"1-{position}",
                "replayFrom": after,
                "inProgress": [
                    {"messageId": message_id, "turnId": "t", "role": "assistant"}
                    for message_id in in_progress
                ],
                "asks": [],
                "inputs": [],
            },
        )
        return request

    def drop(self) -> None:
        """Break the connection."""
        self.was_dropped = True
        self.end()

    def end(self) -> None:
        """End it properly."""
        self.is_gone = True
        self._out.close()

    def leave(self) -> None:
        """The client closed its end."""
        self.is_gone = True
        self._out.close()
        self.left.set()


class FakeTransport(Transport):
    """Every URL leads to the test.

    Attributes:
        refusals: Raised by the next attempts to connect, one each.
        attempts: When each attempt was made.
    """

    schemes = ("fake",)

    def __init__(self) -> None:
        self.refusals: deque[Exception] = deque()
        self.attempts: list[float] = []
        self.last: FakePeer
        self._arrivals, self._peers = trio.open_memory_channel[FakePeer](math.inf)

    async def open_listener(self, url: str, options: ListenOptions) -> Listener:
        raise NotImplementedError

    @asynccontextmanager
    async def open_channel(self, url: str, options: ConnectOptions) -> AsyncGenerator[Channel]:
        await trio.lowlevel.checkpoint()
        self.attempts.append(trio.current_time())
        if self.refusals:
            raise self.refusals.popleft()
        peer = FakePeer(options)
        channel = FakeChannel(peer)
        self._arrivals.send_nowait(peer)
        try:
            yield channel
        finally:
            await channel.aclose()

    async def accept(self) -> FakePeer:
        """Wait for the next connection."""
        with trio.fail_after(100):
            return await self._peers.receive()


def make_session(**members: Any) -> dict[str, Any]:
    """Make a session as the wire has it."""
    return {
        "id": "s",
        "status": "idle",
        "config": {},
        "createdAt": "2026-01-01T00:00:00.000Z",
        "lastActivityAt": "2026-01-01T00:00:00.000Z",
        "messageCount": 0,
        "tokenUsage": {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0},
        "position": "1-0",
        "queuedCount": 0,
        "metadata": {},
        **members,
    }


def make_sent(**members: Any) -> dict[str, Any]:
    """Make the answer of ``message.send`` as the wire has it."""
    return {
        "inputId": "i",
        "messageId": "u",
        "turnId": "t",
        "position": "1-1",
        "state": "started",
        **members,
    }


def make_message(message_id: str = "m", content: str = "", **members: Any) -> dict[str, Any]:
    """Make an assistant's message as the wire has it."""
    return {
        "id": message_id,
        "sessionId": "s",
        "turnId": "t",
        "role": "assistant",
        "kind": "text",
        "content": content,
        "timestamp": "2026-01-01T00:00:00.000Z",
        "status": "complete",
        **members,
    }
