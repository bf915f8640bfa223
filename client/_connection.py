"""One connection to a server: requests and their answers, pings, and what the server tells us.

Two tasks touch the channel: one sends what was posted, one receives. Everybody else posts, which
never waits, so that a task that is being cancelled can still say so to the server.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import attrs
import trio

from ..core import codec
from ..core.abc import Channel
from ..core.errors import (
    ConnectionLostError,
    InvalidRequestError,
    PayloadTooLargeError,
    RemoteProtocolError,
    TrialogueError,
    WireError,
)
from ..core.methods import Hello, HelloResult, RequestCancel
from ._state import FINAL_ERRORS
from ._wire import (
    Response,
    build_ping,
    build_pong,
    build_request,
    decode_envelope,
    read_response,
)

__all__ = ["NO_TRACE", "Connection", "LostError"]

log = logging.getLogger("trialogue.client")

T = TypeVar("T")

#: Of a call that belongs to nothing.
NO_TRACE: Final[Mapping[str, str]] = {}
#: Requests that the server does not count as in flight (§11), so neither do we.
_UNCOUNTED: Final = frozenset(
    {"hello", "request.cancel", "turn.cancel", "ask.answer", "input.withdraw"}
)
#: Silence of so many heartbeats is a dead connection (§3.3).
SILENT_HEARTBEATS: Final = 1.5
#: A program that was busy for long hears late what came long ago: a last look before giving up.
LAST_LOOK_SECONDS: Final = 0.05
#: Pongs that wait to be sent; a server that asks faster than it reads gets no more.
MAX_POSTED: Final = 4096
#: What holds until ``hello`` says otherwise, and where it says nothing.
HANDSHAKE_FRAME_BYTES: Final = 8 * 1024
DEFAULT_FRAME_BYTES: Final = 256 * 1024
DEFAULT_IN_FLIGHT: Final = 32
#: A week: servers refuse what is longer.
MAX_TIMEOUT_MS: Final = 7 * 24 * 3600 * 1000


class LostError(ConnectionLostError):
    """The connection went before the answer came. ``is_sent``: the request may have arrived."""

    def __init__(self, reason: str, *, is_sent: bool) -> None:
        super().__init__(reason)
        self.is_sent = is_sent


@attrs.define(eq=False, kw_only=True)
class _Call:
    """A request without its answer."""

    id: int
    result: type[Any] | None
    on_result: Callable[[Any], None] | None
    is_counted: bool
    is_sent: bool = False
    is_abandoned: bool = False
    is_lost: bool = False
    data: Any = None
    error: TrialogueError | None = None
    answered: trio.Event = attrs.field(factory=trio.Event)


class Connection:
    """One connection, from its first frame to its last. `run` it, and use it meanwhile.

    Args:
        channel: Owned by whoever opened it.
        hello: The first request.
        on_welcome: Called when it was answered.
        on_event: Called with the payload of each event and the size of its frame, in order.
        on_idle: Called when the last unanswered request was answered.

    Attributes:
        welcome: The answer to ``hello``.
        is_draining: The server said goaway: it takes no new work.
        reason: Why it is over.
    """

    welcome: HelloResult

    def __init__(
        self,
        channel: Channel,
        hello: Hello,
        *,
        on_welcome: Callable[[Connection], None],
        on_event: Callable[[Mapping[str, Any], int], None],
        on_idle: Callable[[], None],
    ) -> None:
        self.is_draining = False
        self.is_over = False
        self.reason: Exception | None = None
        self._channel = channel
        self._hello = hello
        self._on_welcome = on_welcome
        self._on_event = on_event
        self._on_idle = on_idle
        self._scope = trio.CancelScope()
        self._ids = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._pings: dict[str, trio.Event] = {}
        self._outbox: deque[tuple[bytes, _Call | None]] = deque()
        self._posted = trio.Event()
        self._flushed = trio.Event()
        self._max_frame_bytes = HANDSHAKE_FRAME_BYTES
        self._slots = trio.Semaphore(DEFAULT_IN_FLIGHT)
        self._heard_at = trio.current_time()

    # -- its life --------------------------------------------------------------------------

    async def run(self) -> None:
        """Converse until the connection is over; `reason` says why. A lost peer is no error."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send_posted)
                    nursery.start_soon(self._greet)
                    await self._receive()
        finally:
            self.end("the client left")
            for call in list(self._calls.values()):
                call.is_lost = True
                self._answer(call)
            for pong in self._pings.values():
                pong.set()
            # Whoever waits for a slot has to see that there will be none.
            for _ in range(self._slots.statistics().tasks_waiting):
                self._slots.release()

    def end(self, reason: str | Exception) -> None:
        """Let `run` return. The first reason counts."""
        if self.is_over:
            return
        self.is_over = True
        self.reason = ConnectionLostError(reason) if isinstance(reason, str) else reason
        self._flushed.set()
        self._scope.cancel(reason=str(reason))

    async def flush(self) -> None:
        """Wait until everything posted was sent, or the connection is over."""
        await trio.lowlevel.checkpoint()
        await self._flushed.wait()

    @property
    def is_idle(self) -> bool:
        """Whether every request was answered."""
        return not self._calls

    async def _greet(self) -> None:
        try:
            self.welcome = await self.request("hello", self._hello, result=HelloResult)
        except LostError:
            return
        except (WireError, RemoteProtocolError) as exc:
            self.end(exc)
            return
        limits = self.welcome.limits
        self._max_frame_bytes = _limit(limits, "maxFrameBytes", DEFAULT_FRAME_BYTES)
        in_flight = _limit(limits, "maxInFlight", DEFAULT_IN_FLIGHT)
        self._slots = trio.Semaphore(in_flight)
        self._on_welcome(self)
        if self.welcome.heartbeat_ms > 0:
            await self._watch(SILENT_HEARTBEATS * self.welcome.heartbeat_ms / 1000)

    async def _watch(self, silence_seconds: float) -> None:
        """End the connection when nothing at all has come for too long."""
        while True:
            await trio.sleep_until(self._heard_at + silence_seconds)
            if trio.current_time() < self._heard_at + silence_seconds:
                continue
            heard_at = self._heard_at
            await trio.sleep(LAST_LOOK_SECONDS)
            if self._heard_at == heard_at:
                self.end(f"nothing came for {silence_seconds:g} s")
                return

    # -- sending ---------------------------------------------------------------------------

    def _post(self, payload: bytes, call: _Call | None = None) -> None:
        self._outbox.append((payload, call))
        if self._flushed.is_set() and not self.is_over:
            self._flushed = trio.Event()
        self._posted.set()

    async def _send_posted(self) -> None:
        try:
            while True:
                while self._outbox:
                    payload, call = self._outbox.popleft()
                    if call is not None:
                        if call.is_abandoned:
                            continue
                        call.is_sent = True
                    await self._channel.send(payload)
                self._flushed.set()
                self._posted = trio.Event()
                await self._posted.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.end(f"sending failed: {exc!r}")

    # -- receiving -------------------------------------------------------------------------

    async def _receive(self) -> None:
        try:
            while True:
                frame = await self._channel.receive()
                self._heard_at = trio.current_time()
                self._take(frame)
        except trio.EndOfChannel:
            self.end("the server closed the connection")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.end(f"the connection broke: {exc!r}")
        except RemoteProtocolError as exc:
            if hasattr(self, "welcome"):
                log.warning("the server broke the protocol", extra={"error": str(exc)})
            self.end(exc)

    def _take(self, frame: bytes) -> None:
        envelope = decode_envelope(frame)
        payload = envelope.payload
        match envelope.type:
            case "event":
                self._on_event(payload, len(frame))
            case "response":
                self._take_response(read_response(payload))
            case "ping":
                if len(self._outbox) < MAX_POSTED:
                    self._post(build_pong(payload))
            case "pong":
                nonce = payload.get("nonce")
                if isinstance(nonce, str) and nonce in self._pings:
                    self._pings[nonce].set()
            case _:
                log.debug("a frame of an unknown type", extra={"type": envelope.type})

    def _take_response(self, response: Response) -> None:
        if response.id is None:
            # Something of ours could not be read. Which request it was cannot be known.
            if isinstance(response.error, FINAL_ERRORS):
                self.end(response.error)
            else:
                log.warning("the server refused a frame", extra={"error": str(response.error)})
            return
        call = self._calls.get(response.id) if isinstance(response.id, int) else None
        if call is None:
            return  # to a request.cancel: nobody waits for these
        call.error = response.error
        if call.error is None and not call.is_abandoned:
            try:
                data = response.data
                call.data = data if call.result is None else codec.structure(data, call.result)
                if call.on_result is not None:
                    call.on_result(call.data)
            except InvalidRequestError as exc:
                call.error = RemoteProtocolError(f"the server's answer has another form: {exc}")
        elif isinstance(call.error, FINAL_ERRORS) and not hasattr(self, "welcome"):
            self.end(call.error)
        self._answer(call)

    def _answer(self, call: _Call) -> None:
        del self._calls[call.id]
        call.answered.set()
        if call.is_counted:
            self._slots.release()
        if not self._calls:
            self._on_idle()

    # -- requests --------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        params: Any = None,
        *,
        result: type[T] | None = None,
        key: str | None = None,
        deadline: float = math.inf,
        on_result: Callable[[T], None] | None = None,
        trace: Mapping[str, str] = NO_TRACE,
    ) -> Any:
        """Send a request, and wait for its answer.

        Args:
            method: Its name on the wire.
            params: See `build_request`.
            result: What to make of the answer; None gives the JSON value.
            key: Idempotency key.
            deadline: Told to the server as ``timeoutMs``. The caller's scope is what ends the
                wait here.
            on_result: Called with the result before anything that follows it on the connection
                is looked at.
            trace: ``traceparent`` and ``tracestate`` of what it belongs to.

        Raises:
            WireError: The server's answer.
            PayloadTooLargeError: The frame is larger than the server takes. Nothing was sent.
            LocalProtocolError: The parameters are no JSON. Nothing was sent.
            RemoteProtocolError: The answer has another form than it should.
            LostError: The connection went.

        Cancelling sends ``request.cancel`` for it.
        """
        if self.is_over:
            raise LostError(str(self.reason), is_sent=False)
        slots = self._slots
        is_counted = method not in _UNCOUNTED
        if is_counted:
            # Above the limit the server would answer OVERLOADED.
            await slots.acquire()
        try:
            if self.is_over:
                raise LostError(str(self.reason), is_sent=False)
            call = _Call(
                id=next(self._ids), result=result, on_result=on_result, is_counted=is_counted
            )
            payload = build_request(
                method,
                params,
                id=call.id,
                idempotency_key=key,
                timeout_ms=_timeout_ms(deadline),
                traceparent=trace.get("traceparent"),
                tracestate=trace.get("tracestate"),
            )
            self._check_size(payload)
        except BaseException:
            if is_counted:
                slots.release()
            raise
        self._calls[call.id] = call
        self._post(payload, call)
        try:
            await call.answered.wait()
        finally:
            if not call.answered.is_set():
                self._abandon(call)
        if call.is_lost:
            raise LostError(str(self.reason), is_sent=call.is_sent)
        if call.error is not None:
            raise call.error
        return call.data

    def _check_size(self, payload: bytes) -> None:
        limit = self._max_frame_bytes
        if len(payload) > limit:
            raise PayloadTooLargeError(
                f"The request has {len(payload)} bytes, the server takes {limit}",
                data={"limitBytes": limit},
            )

    def _abandon(self, call: _Call) -> None:
        """Nobody waits any more: take the request back, or ask the server to stop."""
        call.is_abandoned = True
        if not call.is_sent:
            call.is_lost = True
            self._answer(call)
        elif not self.is_over:
            # It stays among the calls until it is answered: the server counts it until then.
            self.post("request.cancel", RequestCancel(id=call.id))

    def abandon_all(self) -> None:
        """Ask the server to stop all that is unanswered: nobody will be here for it."""
        for call in list(self._calls.values()):
            if not call.is_abandoned:
                self._abandon(call)

    def post(self, method: str, params: Any = None) -> None:
        """Send a request whose answer nobody waits for. Never waits."""
        if not self.is_over:
            self._post(build_request(method, params, id=next(self._ids)))

    async def ping(self) -> float:
        """Ask for a sign of life, and give the seconds that it took.

        Raises:
            LostError: There was none.
        """
        if self.is_over:
            raise LostError(str(self.reason), is_sent=False)
        nonce = f"c{next(self._ids)}"
        pong = self._pings[nonce] = trio.Event()
        started = trio.current_time()
        self._post(build_ping(nonce))
        try:
            await pong.wait()
        finally:
            del self._pings[nonce]
        if self.is_over:
            raise LostError(str(self.reason), is_sent=True)
        return trio.current_time() - started


def _limit(limits: Mapping[str, Any], name: str, default: int) -> int:
    value = limits.get(name)
    return value if isinstance(value, int) and value > 0 else default


def _timeout_ms(deadline: float) -> int | None:
    if deadline == math.inf:
        return None
    return min(MAX_TIMEOUT_MS, max(1, math.ceil((deadline - trio.current_time()) * 1000)))
