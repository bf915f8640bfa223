"""One request from its frame to its only response."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from . import _audit, codec
from ._command import Command, make_claim
from ._failures import explain_refusal, hide_failure, is_of_store
from ._identity import SCOPES
from ._protocol import RequestEnvelope, make_error, make_response
from ._values import check_error, encode_value
from .errors import (
    ForbiddenError,
    PayloadTooLargeError,
    RequestCancelledError,
    RequestTimeoutError,
    WireError,
)

if TYPE_CHECKING:
    from ._feed import SessionFeed
    from ._link import ServerLink
    from ._registry import Method
    from ._stats import MethodStats
    from ._timers import Timer
    from .abc import Span

__all__ = ["Request"]


class Request(msgspec.Struct, eq=False):
    """A request that is being worked on. Handlers get it, and it is the `Reply` they give.

    A `msgspec.Struct`, since one is made for each request, in a sixth of the time of a class.

    Attributes:
        stats: Of its method.
        received_at: When it came, or rather what was read together with it.
        is_answered: Its response was posted.
        is_waiting: It was not answered at once: its link knows it.
        scope: Of the task that runs its handler, if it has one.
        stop: Why it is to stop, or would have been.
        error: What it was answered, if that was an error.
        result: What it was answered, if that was an object and somebody follows it.
        is_lost: Its connection went before.
        span: What a tracer was told of it.
    """

    link: ServerLink
    envelope: RequestEnvelope
    method: Method
    stats: MethodStats
    received_at: float
    is_answered: bool = False
    is_waiting: bool = False
    scope: trio.CancelScope | None = None
    stop: WireError | None = None
    error: WireError | None = None
    result: Any = None
    is_lost: bool = False
    timer: Timer | None = None
    span: Span | None = None
    _abandon: Callable[[str], None] | None = None
    _followers: list[Callable[[], object]] | None = None

    def command(self, params: Any) -> Command:
        """Make the command that stands for this request."""
        envelope = self.envelope
        key = envelope.idempotency_key
        return Command(
            params=params,
            principal=self.link.owner,
            claim=None if key is None else make_claim(key, envelope.method, params),
            connection=self.link.connection,
            trace=self.span,
        )

    def require(self, scopes: frozenset[str]) -> None:
        """Refuse what the credential does not allow.

        Raises:
            ForbiddenError: It lacks one of these.
        """
        allowed = self.link.scopes
        if allowed is None or scopes <= allowed:
            return
        lacking = [scope for scope in SCOPES if scope in scopes - allowed]
        _audit.note(self.link, self.method.name, outcome=ForbiddenError.code)
        raise ForbiddenError(
            f"The credential does not allow to {' and '.join(lacking)}", data={"scopes": lacking}
        )

    # -- answering -------------------------------------------------------------------------

    def succeed(self, result: Any) -> bool:
        """Answer with an attrs object or a JSON value. The first answer counts."""
        if self.is_answered:
            return False
        if self._followers is not None:
            self.result = result
        try:
            value = codec.unstructure(result)
            if self.method.is_free:
                data = encode_value(value, "result", self.link.settings.max_send_frame_bytes)
            else:
                data = codec.encode_json(value)
        except Exception as exc:  # noqa: BLE001 - ends this request
            self.fail(exc)
            return False
        return self.succeed_encoded(data)

    def succeed_after(self, feed: SessionFeed, result: Any) -> None:
        """See `trialogue.core._command.Reply`."""
        # Its work is done: what it is answered from here on is what came of it.
        self._abandon = None
        feed.when_sent(self.link.connection, lambda: self.succeed(result))

    def succeed_encoded(self, data: bytes) -> bool:
        """Answer with JSON that was made before."""
        if self.is_answered:
            return False
        limit = self.link.settings.max_send_frame_bytes
        frame = make_response(self.envelope.id, data)
        if len(frame.payload) > limit:
            self.fail(
                PayloadTooLargeError(
                    f"The answer has {len(frame.payload)} bytes", data={"limitBytes": limit}
                )
            )
            return False
        self._answer(frame)
        return True

    def fail(self, exc: Exception) -> None:
        """Answer with an error. What is not a `WireError` is only logged, and shows an id."""
        if self.is_answered:
            return
        error = exc if isinstance(exc, WireError) else self._explain(exc)
        try:
            check_error(error, self.link.settings.max_event_bytes)
        except Exception as fault:  # noqa: BLE001 - ends this request
            error = hide_failure(fault, self.method.name)
        self.error = error
        self.link.stats.errors[error.code] += 1
        self.stats.failed[error.code] += 1
        self._answer(make_error(self.envelope.id, error))

    def _explain(self, exc: Exception) -> WireError:
        is_known = is_of_store(exc) and self.link.server.has_told_store_failure()
        return explain_refusal(exc, self.method.name, is_known=is_known)

    def _answer(self, frame: Any) -> None:
        self.is_answered = True
        link = self.link
        if self.is_waiting:
            if self.timer is not None:
                self.timer.cancel()
            link.answered(self)
        if self.span is not None:
            self.span.end(None if self.error is None else self.error.code)
        self.stats.seconds.observe(link.server.time() - self.received_at)
        link.connection.post(frame)
        if self._followers is not None:
            self._be_over()

    # -- stopping --------------------------------------------------------------------------

    def when_abandoned(self, abandon: Callable[[str], None] | None) -> None:
        """See `trialogue.core._command.Reply`."""
        self._abandon = abandon
        if self.stop is not None and abandon is not None:
            self._stop(self.stop)

    def when_over(self, followed: Callable[[], object]) -> None:
        """Call once, when it was answered or its connection is gone."""
        if self._followers is None:
            self._followers = []
        self._followers.append(followed)

    def abort(self, error: WireError) -> None:
        """Answer at once, and stop the task if there is one. What it has begun goes on."""
        self.fail(error)
        if self.scope is not None:
            self.scope.cancel(reason=error.message)

    def drop(self) -> None:
        """Stop at the end of its connection: nobody is there to be answered."""
        self.is_lost = not self.is_answered
        self.is_answered = True
        if self.span is not None:
            self.span.end("the connection is gone")
        if self.timer is not None:
            self.timer.cancel()
        if self.scope is not None:
            self.scope.cancel(reason="the connection is gone")
        self._be_over()

    @property
    def outcome(self) -> str:
        """What has become of it: ``ok``, an error's code, or ``lost``, which nobody heard of."""
        if self.error is not None:
            return self.error.code
        return "lost" if self.is_lost else "ok"

    def _be_over(self) -> None:
        for followed in self._followers or ():
            followed()

    def cancel(self, done: Callable[[bool], object]) -> None:
        """Stop the work for ``request.cancel``; call ``done`` after the response was posted.

        What only waits for its commit is not stopped: it is answered with its result. What goes
        on to wait for something else then is.
        """
        error = RequestCancelledError("The request was cancelled")
        self._stop(error)
        if self.is_answered:
            done(self.error is error)
            return
        self.when_over(lambda: done(self.error is error))

    def expire(self) -> None:
        """Stop the work at the request's deadline."""
        timeout_ms = self.envelope.timeout_ms
        self._stop(RequestTimeoutError(f"Not done within {timeout_ms} ms"))

    def _stop(self, error: WireError) -> None:
        if self.is_answered:
            return
        # The first reason counts.
        error = self.stop = self.stop or error
        if self.scope is not None:
            # The task answers when it has really ended.
            self.scope.cancel(reason=error.message)
        elif self._abandon is not None:
            abandon, self._abandon = self._abandon, None
            timed_out = isinstance(error, RequestTimeoutError)
            self.fail(error)
            abandon("request timed out" if timed_out else "request cancelled")
