"""The core's end of one connection: who is there, what is in flight, what may be asked.

`ServerLink.feed` is the hot path: a handler that does not wait is answered within it, one that
waits for a commit or for a turn's end is answered by callback, and only one that really waits
gets a task.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from . import _audit
from ._clock import seconds_until_epoch
from ._failures import find_failure
from ._identity import ALL_SCOPES, ANONYMOUS, Identity
from ._ids import new_id
from ._protocol import (
    MAX_ID_LENGTH,
    Heartbeat,
    Refusal,
    RequestEnvelope,
    RequestId,
    decode_envelope,
    make_error,
    make_ping,
    make_pong,
)
from ._ratelimit import RateLimiter, whole_ms
from ._registry import LATER
from ._request import Request
from ._stats import OTHER_METHODS
from .abc import CloseReason, Connection, Link, Span, Tracer
from .errors import (
    ForbiddenError,
    InvalidRequestError,
    MethodNotFoundError,
    OverloadedError,
    PayloadTooLargeError,
    RateLimitedError,
    RequestCancelledError,
    RequestTimeoutError,
    ShuttingDownError,
    UnauthorizedError,
    WireError,
)
from .methods import Credential

if TYPE_CHECKING:
    from ._server import Server
    from ._stats import MethodStats
    from ._timers import Timer

__all__ = ["ServerLink"]

log = logging.getLogger("trialogue.connection")

#: By how much of its interval a heartbeat is late where the event loop, or the machine, stood still.
_STOOD_STILL: Final = 0.1


class ServerLink(Link):
    """See `Link`.

    Attributes:
        principal: Who it is; None until it is authenticated.
        owner: The same as sessions are marked with it: None for anonymous.
        credential: By which it came in, if one was asked for.
        identity: What that says.
        scopes: What it may do; None is everything.
    """

    __slots__ = (
        "_check",
        "_expiry",
        "_first",
        "_heard_at",
        "_heartbeat",
        "_in_flight",
        "_is_closed",
        "_is_ending",
        "_limiter",
        "_methods",
        "_now",
        "_paused",
        "_pinged_at",
        "_requests",
        "connection",
        "credential",
        "id",
        "identity",
        "owner",
        "principal",
        "scopes",
        "server",
        "settings",
        "stats",
    )

    def __init__(self, server: Server, connection: Connection) -> None:
        super().__init__()
        self.server = server
        self.settings = server.settings
        self.stats = server.counters
        self.connection = connection
        self.id = new_id("con")
        self.principal: str | None = None if server.authenticate is not None else ANONYMOUS
        self.owner: str | None = None
        self.credential: Credential | None = None
        self.identity: Identity | None = None
        self.scopes: frozenset[str] | None = None
        self._expiry: Timer | None = None
        self._methods = server.registry.methods
        self._requests: dict[RequestId, Request] = {}
        self._in_flight = 0
        self._limiter: RateLimiter | None = None
        self._first = connection.first_frame_must_parse
        self._paused = False
        self._check: trio.CancelScope | None = None
        self._is_ending = False
        self._is_closed = False
        server.host.admit(connection)
        now = trio.current_time()
        self._heard_at = self._now = now
        self._pinged_at = -math.inf
        if self.principal is not None:
            self._limiter = server.limiter(None, connection.group)
            # At a random point, so that connections made together are not pinged together.
            first = now + random.random() * self.settings.heartbeat_seconds
            self._heartbeat: Timer = server.timers.at(first, self._beat)
        else:
            self._heartbeat = server.timers.at(
                now + self.settings.connect_seconds, self._not_authenticated
            )
            if connection.peer.credential is not None:
                self.check(connection.peer.credential, self._checked_header)

    @property
    def max_frame_bytes(self) -> int:
        if self.principal is None:
            return self.settings.max_handshake_frame_bytes
        return self.settings.max_frame_bytes

    @property
    def is_ready(self) -> bool:
        return not self._paused

    # -- frames ----------------------------------------------------------------------------

    def feed(self, payload: bytes) -> bool:
        if self._is_ending:
            return True
        self.stats.frames_received += 1
        try:
            envelope = decode_envelope(payload)
        except Refusal as exc:
            self._refuse(exc)
        else:
            self._first = False
            if isinstance(envelope, RequestEnvelope):
                self._request(envelope)
            elif envelope.type == "ping":
                self._answer_ping(envelope)
        # A pong has done its work by being heard.
        return self._may_read()

    def heard(self) -> None:
        # What this read brought is charged as of now, so that the clock is asked once a read.
        self._heard_at = self._now = self.server.time()

    def _may_read(self) -> bool:
        if self._paused:
            return False
        if self.connection.outbound_bytes >= self.settings.high_water_bytes:
            self._paused = True
            self.connection.call_when_drained(self.resume)
            return False
        return True

    def end(self, reason: CloseReason) -> None:
        """Close the connection once what was posted is sent; what still arrives is ignored."""
        self._is_ending = True
        self.connection.close_soon(reason)

    def resume(self) -> None:
        """Read on."""
        self._paused = False
        self._now = trio.current_time()
        if self.on_ready is not None and not self._is_closed:
            self.on_ready()

    def _refuse(self, refusal: Refusal) -> None:
        self.stats.frames_refused += 1
        self.stats.errors[refusal.error.code] += 1
        limited = self._charge(reserved=False)
        self.connection.post(make_error(refusal.request_id, limited or refusal.error))
        if self._first:
            # Whatever this is, it is no client of ours.
            self.end(CloseReason.PROTOCOL_ERROR)
        elif self.principal is None:
            self.end(CloseReason.UNAUTHORIZED)

    def refuse_oversize(self) -> None:
        self.stats.frames_refused += 1
        limit = self.max_frame_bytes
        error = PayloadTooLargeError(f"A frame may have {limit} bytes", data={"limitBytes": limit})
        self.stats.errors[error.code] += 1
        self.connection.post(make_error(None, error))
        self.end(CloseReason.PROTOCOL_ERROR)

    def _answer_ping(self, envelope: Heartbeat) -> None:
        limited = self._charge(reserved=True)
        if limited is not None:
            self.connection.post(make_error(None, limited))
        else:
            self.connection.post(make_pong(envelope.payload))

    def _charge(self, *, reserved: bool) -> RateLimitedError | None:
        """Charge a frame to the principal's rate. Returns the error if it is above it."""
        limiter = self._limiter
        if limiter is None:
            return None
        wait = (limiter.reserve if reserved else limiter.ordinary).take(self._now)
        if not wait:
            return None
        self.stats.rate_limited += 1
        retry_after_ms = whole_ms(wait)
        return RateLimitedError(
            f"Too many requests; try again in {retry_after_ms} ms",
            data={"retryAfterMs": retry_after_ms},
        )

    # -- requests --------------------------------------------------------------------------

    def _request(self, envelope: RequestEnvelope) -> None:
        name = envelope.method
        method = self._methods.get(name)
        stats = self.stats.methods[name if method is not None else OTHER_METHODS]
        stats.received += 1
        if method is None or (self.principal is None and name != "hello"):
            self._turn_away(envelope, stats)
            return
        request = Request(self, envelope, method, stats, self._now)
        if self.server.tracer is not None:
            request.span = self._start_span(self.server.tracer, envelope)
        try:
            limited = self._charge(reserved=method.is_reserved)
            if limited is not None:
                raise limited
            if self.scopes is not None:
                request.require(method.scopes)
            if envelope.id in self._requests:
                raise InvalidRequestError(
                    f"The id {envelope.id!r} is that of an unanswered request",
                    data={"issues": [{"path": "payload.id", "message": "in use"}]},
                )
            if self.server.is_draining and not method.while_draining:
                raise self._shutting_down()
            if self._in_flight >= self.settings.max_in_flight and method.is_counted:
                raise OverloadedError(
                    f"{self._in_flight} requests of this connection are unanswered",
                    data={"retryAfterMs": 100},
                )
            params = method.read_params(envelope.params)
            if method.is_async:
                self._start(request, params)
                return
            result = method.handler(request, params)
            if result is not LATER:
                request.succeed(result)
            elif not request.is_answered:
                self._wait_for(request)
        except BaseException as exc:  # noqa: ASYNC103 - raised, if it is no failure
            failure = find_failure(exc)
            if failure is None:
                raise
            request.fail(failure)
            if self.principal is None:
                self._end_unauthenticated(failure)

    def _start_span(self, tracer: Tracer, envelope: RequestEnvelope) -> Span:
        peer = self.connection.peer
        attributes = {"connectionId": self.id, "transport": peer.transport}
        session_id = envelope.params.get("sessionId")
        if isinstance(session_id, str):
            attributes["sessionId"] = session_id[:MAX_ID_LENGTH]
        origin = peer if envelope.traceparent is None else envelope
        return tracer.start(
            "request",
            envelope.method,
            attributes,
            traceparent=origin.traceparent,
            tracestate=origin.tracestate,
        )

    def _shutting_down(self) -> ShuttingDownError:
        return ShuttingDownError(
            "The server is shutting down", data={"retryAfterMs": self.server.retry_after_ms}
        )

    def say_goodbye(self) -> None:
        """Answer every request that still waits, and close.

        What a method of one's own was doing is cut in its midst: nobody should just repeat it.
        """
        for request in list(self._requests.values()):
            if request.scope is not None and not request.method.while_draining:
                request.abort(RequestCancelledError("The server is shutting down"))
            else:
                request.abort(self._shutting_down())
        self.end(CloseReason.GOING_AWAY)

    def _turn_away(self, envelope: RequestEnvelope, stats: MethodStats) -> None:
        """Answer a request that no handler gets to see."""
        if self.principal is None:
            error: WireError = UnauthorizedError("Say hello with a credential first")
        else:
            limited = self._charge(reserved=False)
            error = limited or MethodNotFoundError(f"No such method: {envelope.method[:64]}")
        self.stats.errors[error.code] += 1
        stats.failed[error.code] += 1
        stats.seconds.observe(self.server.time() - self._now)
        self.connection.post(make_error(envelope.id, error))
        if self.principal is None:
            self.end(CloseReason.UNAUTHORIZED)

    def _start(self, request: Request, params: Any) -> None:
        """Run a handler that waits, as a task under this connection."""
        self._wait_for(request)
        self.server.spawn_request(request, params)

    def _wait_for(self, request: Request) -> None:
        request.is_waiting = True
        self._requests[request.envelope.id] = request
        if request.method.is_counted:
            self._in_flight += 1
        timeout_ms = request.envelope.timeout_ms
        if timeout_ms is not None:
            deadline = trio.current_time() + timeout_ms / 1000
            request.timer = self.server.timers.at(deadline, request.expire)

    def answered(self, request: Request) -> None:
        """Forget a request that waited: its response is being posted."""
        if request.method.is_counted:
            self._in_flight -= 1
        del self._requests[request.envelope.id]

    def unanswered(self, request_id: RequestId) -> Request | None:
        """Find a request by its id."""
        return self._requests.get(request_id)

    # -- who is there ------------------------------------------------------------------------

    def check(self, credential: Credential, checked: Callable[[WireError | None], object]) -> None:
        """Find out whom a credential names. Until then nothing is read: it is judged by the answer.

        Args:
            credential: Of a ``hello``, or of the transport's own handshake.
            checked: Called once, unless `end_check` is: with the refusal, if there is one. After
                that the connection is closed, unless it has another credential that holds.
        """
        self._paused = True
        scope = self._check = trio.CancelScope()
        if self.principal is not None:
            scope.deadline = trio.current_time() + self.settings.connect_seconds

        async def check() -> None:
            refusal: WireError | None = None
            try:
                identity = await self.server.check_credential(credential, self, scope)
                if self._check is scope:
                    self._authenticated(identity, credential)
            except WireError as exc:
                refusal = exc
            if self._check is not scope:
                return
            if refusal is not None:
                _audit.note_refusal(self, refusal)
            self._check = None
            # Meanwhile nothing was read.
            self._heard_at = trio.current_time()
            checked(refusal)
            if refusal is not None and self.principal is None:
                self._end_unauthenticated(refusal)
            self.resume()

        self.server.spawn_check(check)

    def end_check(self, reason: str) -> None:
        """Stop the check of a credential, if there is one; whoever waits for it has his answer."""
        scope, self._check = self._check, None
        if scope is not None:
            scope.cancel(reason=reason)
            self.resume()

    def _checked_header(self, refusal: WireError | None) -> None:
        if refusal is not None:
            self.stats.errors[refusal.code] += 1
            self.connection.post(make_error(None, refusal))

    def _authenticated(self, identity: Identity, credential: Credential) -> None:
        """From now on it may do what this identity may, as long as its credential holds.

        Raises:
            UnauthorizedError: It does not any more.
            ForbiddenError: The connection is somebody else's, or may do more. It goes on as it was:
                what it follows and has begun was allowed to it.
        """
        now, revocation = trio.current_time(), identity.revocation
        seconds = math.inf
        if identity.expires_at is not None:
            seconds = seconds_until_epoch(identity.expires_at)
        if not seconds or (revocation is not None and revocation.is_revoked):
            raise UnauthorizedError("The credential does not hold any more")
        if self.principal is None:
            self.principal, self.owner = identity.principal, identity.owner
            self._limiter = self.server.limiter(self.owner, self.connection.group)
            self._heartbeat.cancel()
            first = now + random.random() * self.settings.heartbeat_seconds
            self._heartbeat = self.server.timers.at(first, self._beat)
        elif (identity.principal, identity.owner) != (self.principal, self.owner):
            raise ForbiddenError("The credential is another principal's: connect anew for that")
        elif not identity.scopes >= (ALL_SCOPES if self.scopes is None else self.scopes):
            raise ForbiddenError("The credential allows less: connect anew for that")
        self._let_go()
        is_renewed = self.identity is not None
        self.credential, self.identity = credential, identity
        self.scopes = None if identity.scopes == ALL_SCOPES else identity.scopes
        if seconds < math.inf:
            self._expiry = self.server.timers.at(now + seconds, self._expired)
        if revocation is not None:
            revocation.watch(self._revoked)
        if is_renewed:
            _audit.note(self, "credential.renewed")
        else:
            _audit.note_acceptance(self)

    def _let_go(self) -> None:
        """Rely on the credential no more."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self.identity is not None and self.identity.revocation is not None:
            self.identity.revocation.unwatch(self._revoked)

    def _expired(self) -> None:
        self._lose("credential.expired", "The credential has expired")

    def _revoked(self) -> None:
        self._lose("credential.revoked", "The credential was revoked")

    def _lose(self, deed: str, message: str) -> None:
        """Close, since the credential holds no more. Turns go on: they are their sessions'."""
        if self._is_ending:
            return
        _audit.note(self, deed)
        error = UnauthorizedError(message)
        for request in list(self._requests.values()):
            request.abort(error)
        self._checked_header(error)
        self.end(CloseReason.UNAUTHORIZED)
        self.end_check(message)

    def _end_unauthenticated(self, error: Exception) -> None:
        """Close for want of a valid credential."""
        match error:
            case UnauthorizedError() | ForbiddenError() | InvalidRequestError():
                self.end(CloseReason.UNAUTHORIZED)
            case RequestTimeoutError():
                self.end(CloseReason.TIMEOUT)
            case _:
                self.end(CloseReason.SERVER_ERROR)

    def _not_authenticated(self) -> None:
        """Close at the end of the time for it."""
        error: WireError = UnauthorizedError("No credential in time")
        if self._check is not None:
            # Which is not the peer's fault: it may come again.
            log.info("a credential was not checked in time", extra={"peer": str(self)})
            error = RequestTimeoutError("The credential could not be checked in time")
        waiting = list(self._requests.values())
        for request in waiting:
            request.fail(error)
        if not waiting:
            self._checked_header(error)
        self._end_unauthenticated(error)
        self.end_check("no credential in time")

    # -- time ------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Ping, and drop a peer from which nothing came for one interval and a half."""
        if self._is_closed:
            return
        interval = self.settings.heartbeat_seconds
        now = trio.current_time()
        # While a credential is checked nothing is read.
        heard_at = self._heard_at if self._check is None else now
        dead_at = heard_at + 1.5 * interval
        if now - dead_at > _STOOD_STILL * interval:
            # It is this server that stood still: what has come meanwhile is yet to be read.
            self._heard_at = now - interval
            dead_at = now + 0.5 * interval
        if now >= dead_at:
            self.stats.heartbeats_missed += 1
            log.info("nothing came for %g s", 1.5 * interval, extra={"peer": str(self)})
            self.end(CloseReason.TIMEOUT)
            return
        if now >= self._next_ping():
            self.connection.post(make_ping(new_id("png")))
            self._pinged_at = now
        due = min(self._next_ping(), dead_at)
        self._heartbeat = self.server.timers.at(max(due, now + 0.001), self._beat)

    def _next_ping(self) -> float:
        return self._pinged_at + self.settings.heartbeat_seconds

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = self._is_ending = True
        self._heartbeat.cancel()
        self._let_go()
        self.server.host.detach(self.connection)
        self.end_check("the connection is gone")
        for request in list(self._requests.values()):
            # Requests are under their connection; turns and inputs are not.
            request.drop()
        self._requests.clear()
        self.server.unlinked(self)

    def __str__(self) -> str:
        return f"{self.id} {self.connection.peer}"
