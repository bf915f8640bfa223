"""The core's connections that stand for HTTP requests.

A request is one connection with one link: what is posted to it becomes the answer. So who may do
what, how often and how much is the core's own affair, as everywhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from ...core._flusher import Flusher
from ...core._frame import Frame
from ...core._json import decode_any
from ...core._protocol import make_response
from ...core.abc import Acceptor, CloseReason, Connection, Link, PeerInfo
from ...core.codec import encode_json
from ...core.events import (
    InputDelivered,
    InputReturned,
    InputWithdrawn,
    SessionClosed,
    SessionDeleted,
    SessionExpired,
    Sync,
    TurnEnded,
)
from .._outbox import Outbox, Spawn
from .routes import REQUEST_ID
from .sse import COMMENT, frame_chunk, frame_event, write_event

__all__ = [
    "EventConnection",
    "Exchange",
    "FrameConnection",
    "HttpConnection",
    "Pipe",
    "Streamed",
    "TurnConnection",
    "is_at_end",
]

#: The last event of a stream that was meant to end.
END_EVENT: Final = "end"
#: Behind them nothing comes in a session.
_LAST_EVENTS: Final = frozenset({SessionClosed.type, SessionExpired.type, SessionDeleted.type})
#: What ends an input, or says which turn it gets.
_ABOUT_INPUTS: Final = frozenset(
    {TurnEnded.type, InputDelivered.type, InputWithdrawn.type, InputReturned.type}
)
_PING: Final = b'{"version":"1.0","type":"ping"'
#: What stands before the data in the answer to a request of ours, which ends with ``}}``.
_SUCCESS: Final = make_response(REQUEST_ID, b"").payload[:-2]


class HttpConnection(Connection):
    """What each of them has: somebody there, a link, and one answer.

    Args:
        peer: Who is there.
        group: The network's connection, of which this is a part.
    """

    def __init__(self, peer: PeerInfo, group: object) -> None:
        self._peer = peer
        self.group = group
        self.link: Link
        #: The first response: its frame's payload. None: there was none before the end.
        self.response: bytes | None = None
        self.answered = trio.Event()
        self._ready: trio.Event | None = None

    @property
    def peer(self) -> PeerInfo:
        """Who is there."""
        return self._peer

    @property
    def data(self) -> bytes | None:
        """The data of the answer to a request of `make_request`; None if it is an error."""
        response = self.response
        if response is None or not response.startswith(_SUCCESS):
            return None
        return response[len(_SUCCESS) : -2]

    def open_link(self, accept: Acceptor) -> Link:
        """Make the core's end."""
        self.link = accept.link(self)
        self.link.on_ready = self._be_ready
        return self.link

    def close_link(self) -> None:
        """Tell the core that it is over."""
        self.link.on_ready = None
        self.link.close()

    def _be_ready(self) -> None:
        event, self._ready = self._ready, None
        if event is not None:
            event.set()

    async def wait_ready(self) -> None:
        """Wait, after the link said no, until it may be fed, or is over."""
        if self.answered.is_set():
            await trio.lowlevel.checkpoint()
            return
        self._ready = trio.Event()
        await self._ready.wait()

    def _take_response(self, payload: bytes) -> None:
        if self.response is None:
            self.response = payload
            self.answered.set()


class Exchange(HttpConnection):
    """A request that is answered at once, as a whole.

    Args:
        peer, group: As of `HttpConnection`.
        flusher: The server's.
    """

    def __init__(self, peer: PeerInfo, group: object, flusher: Flusher) -> None:
        super().__init__(peer, group)
        self._flusher = flusher
        self._callbacks: list[Callable[[], None]] = []

    @property
    def outbound_bytes(self) -> int:
        """None: the one answer is taken at once."""
        return 0

    def post(self, frame: Frame) -> None:
        """Take the answer. Events are for those that last."""
        if frame.event is not None:
            return
        if frame.payload.startswith(_PING):
            # Nobody can answer it. That the client waits shows in its connection.
            self.call_when_drained(self.link.heard)
        else:
            self._take_response(frame.payload)

    def call_when_drained(self, callback: Callable[[], None]) -> None:
        """Call it in the flusher's next pass."""
        if not self._callbacks:
            self._flusher.mark_outbox(self)
        self._callbacks.append(callback)

    def flush(self) -> None:
        """Make the calls that were asked for."""
        callbacks, self._callbacks = self._callbacks, []
        for call in callbacks:
            call()

    async def wait_drained(self) -> None:
        """Nothing waits here."""
        await trio.lowlevel.checkpoint()

    def close_soon(self, reason: CloseReason) -> None:
        """End, with the answer that came."""
        self.answered.set()
        self.call_when_drained(self._be_ready)

    async def aclose(self) -> None:
        """End."""
        self.close_soon(CloseReason.NORMAL)
        await trio.lowlevel.checkpoint()


class Pipe:
    """The way of an answer's body to the client: one of these calls for each chunk.

    Args:
        try_send: Of the wire, where chunks of HTTP/1.1 go right onto it, past hypercorn.
        send_some: Likewise; else it sends all.
    """

    def __init__(
        self,
        try_send: Callable[[bytes], int] | None,
        send_some: Callable[[bytes | memoryview], Awaitable[int]],
    ) -> None:
        self._try_send = try_send
        self._send_some = send_some
        self._opened = trio.Event()

    @property
    def is_chunked(self) -> bool:
        """Whether what is sent has to be in chunks of HTTP/1.1."""
        return self._try_send is not None

    def open(self) -> None:
        """Let the body through: the head has been sent."""
        self._opened.set()

    def try_send(self, data: bytes) -> int:
        """Send what goes at once."""
        if self._try_send is None or not self._opened.is_set():
            raise BlockingIOError
        return self._try_send(data)

    async def send_some(self, data: bytes | memoryview) -> int:
        """Wait until a part could be sent."""
        await self._opened.wait()
        return await self._send_some(data)


class Streamed(Outbox, HttpConnection):
    """A request whose answer is a stream of events.

    Args:
        peer, group: As of `HttpConnection`.
        accept: The server.
        spawn: Of the request's nursery.
        pipe: The way to the client.
    """

    def __init__(
        self, peer: PeerInfo, group: object, accept: Acceptor, spawn: Spawn, pipe: Pipe
    ) -> None:
        HttpConnection.__init__(self, peer, group)
        Outbox.__init__(
            self,
            flusher=accept.flusher,
            settings=accept.settings,
            spawn=spawn,
            framing=self._encode,
            try_send=pipe.try_send,
            send_some=pipe.send_some,
        )
        self._is_chunked = pipe.is_chunked
        self.over = trio.Event()

    def _encode(self, frame: Frame) -> bytes:
        return self._wrap(self._write_text(frame))

    def _wrap(self, text: bytes) -> bytes:
        return frame_chunk(text) if self._is_chunked else text

    def _write_text(self, frame: Frame) -> bytes:
        """Write a frame as an event of the stream."""
        raise NotImplementedError

    def say(self, text: bytes) -> None:
        """Put an event, or a comment, behind what was posted before."""
        self.raw(self._wrap(text))

    def close_soon(self, reason: CloseReason) -> None:
        """Send what was posted, then end the answer."""
        self.finish()

    async def aclose(self) -> None:
        """End at once."""
        self.kill()
        await trio.lowlevel.checkpoint()

    def _ended(self) -> None:
        self.over.set()
        self.answered.set()
        self._be_ready()


class FrameConnection(Streamed):
    """A connection of a client's channel: each event is a frame, what it sends comes elsewhere."""

    def __init__(
        self, peer: PeerInfo, group: object, accept: Acceptor, spawn: Spawn, pipe: Pipe
    ) -> None:
        super().__init__(peer, group, accept, spawn, pipe)
        #: Held by the request whose frames are fed.
        self.taking = trio.Lock()

    async def wait_fed(self) -> None:
        """Wait until the link takes more, or nothing counts any more. Returns at once, or later."""
        while not self.link.is_ready and not self.closed:
            await self.wait_ready()

    def _write_text(self, frame: Frame) -> bytes:
        return b"data: %b\n\n" % frame.payload


class EventConnection(Streamed):
    """The events of a session."""

    def __init__(
        self, peer: PeerInfo, group: object, accept: Acceptor, spawn: Spawn, pipe: Pipe
    ) -> None:
        super().__init__(peer, group, accept, spawn, pipe)
        self._was_pinged = False
        #: What ended a session that is over, and has no more events behind the cursor.
        self._was_ended_by: str | None = None

    def _write_text(self, frame: Frame) -> bytes:
        return frame_event(frame)

    def post(self, frame: Frame) -> None:
        """Write an event; the answer to the request is the first one."""
        if frame.event is not None:
            super().post(frame)
            last = self._find_end(frame)
            if last is not None:
                self.end(last)
        elif frame.payload.startswith(_PING):
            # That the client is there shows in its taking this.
            self._was_pinged = True
            self.say(COMMENT)
        else:
            self._take_response(frame.payload)
            if self.data is not None:
                self.say(write_event("response", self.data))
                self._begin(decode_any(self.data))

    def flush(self) -> None:
        """See `Outbox.flush`."""
        super().flush()
        if self._was_pinged and not self.ended:
            self._was_pinged = False
            self.link.heard()

    def _begin(self, answer: dict[str, Any]) -> None:
        """Look at the answer, before the events."""
        if is_at_end(answer):
            self._was_ended_by = f"session.{answer['session']['status']}"

    def _find_end(self, frame: Frame) -> str | None:
        """Say why nothing comes behind this event, if nothing does."""
        if frame.event == Sync.type:
            return self._was_ended_by
        return frame.event if frame.event in _LAST_EVENTS else None

    def end(self, reason: str) -> None:
        """Say that this is the end, and why."""
        self.say(write_event(END_EVENT, encode_json({"reason": reason})))
        self.finish()

    def close_soon(self, reason: CloseReason) -> None:
        """Send what was posted and the end."""
        self.end(reason.value)


class TurnConnection(EventConnection):
    """The events of a session up to the end of the turn that an input gets."""

    _input_id = ""
    #: Known when the input is delivered: one that the running turn does not take gets another
    #: than was said at first.
    _turn_id: str | None = None

    def _begin(self, answer: dict[str, Any]) -> None:
        self._input_id = answer["inputId"]

    def _find_end(self, frame: Frame) -> str | None:
        if frame.event in _ABOUT_INPUTS:
            data = decode_any(frame.payload)["payload"]["data"]
            if frame.event == TurnEnded.type:
                return frame.event if data["turnId"] == self._turn_id else None
            if data["inputId"] != self._input_id:
                return None
            if frame.event != InputDelivered.type:
                return frame.event
            self._turn_id = data["turnId"]
        return super()._find_end(frame)


def is_at_end(answer: dict[str, Any]) -> bool:
    """Whether a subscription will bring no event: the session is over, and all was seen."""
    session = answer["session"]
    return session["status"] in {"closed", "expired"} and answer["replayFrom"] == answer["position"]
