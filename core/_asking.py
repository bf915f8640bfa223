"""A running turn, as far as it asks clients, and lets them run its tools."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import trio

from ._asks import find_faults
from ._calls import CallingTurn
from ._clock import utc_after
from ._ids import new_id
from ._schema import check_schema, load_validator
from ._values import MAX_SAID, check_name, check_text, take_object, take_value
from .abc import Answer, ToolCall
from .errors import LocalProtocolError, ToolFailedError
from .events import AskClosed, AskOpened
from .models import AskKind, ClientTool

if TYPE_CHECKING:
    from ._session import LiveSession

__all__ = ["AskingTurn"]

_KINDS: Final = get_args(AskKind)
#: Of an ask's title, detail and options together, as JSON, in bytes.
MAX_ASKED: Final = 64 * 1024


class AskingTurn(CallingTurn):
    """What a running turn does about its asks. The rest of it is `RunningTurn`.

    Attributes:
        scope: Everything the agent does.
    """

    scope: trio.CancelScope

    def __init__(self, session: LiveSession, turn_id: str, attempt: int) -> None:
        super().__init__(session, turn_id, attempt)
        self._asks_waited_for = 0
        self._seconds_left = math.inf
        #: For `active_seconds`: since when it runs, and what of that time was not its own.
        self._runs_since = trio.current_time()
        self._stopped_at: float | None = None
        self._stopped_seconds = 0.0

    async def ask(
        self,
        title: str,
        *,
        kind: AskKind = "question",
        detail: str | None = None,
        options: Sequence[str] | None = None,
        schema: Mapping[str, Any] | None = None,
        default: Any = None,
        expires_seconds: float | None = None,
        key: str | None = None,
        call_id: str | None = None,
        name: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Answer:
        limit = self._max_message_bytes
        body = AskOpened(
            ask_id=new_id("ask"),
            turn_id=self._id,
            kind=kind,
            title=title,
            detail=detail,
            schema=None if schema is None else take_object(schema, "schema", limit),
            options=None if options is None else tuple(options),
            expires_at=_expiry(expires_seconds),
            default=take_value(default, "default", limit),
            call_id=call_id,
            name=name,
            arguments=None if arguments is None else take_object(arguments, "arguments", limit),
            key=key,
        )
        _check_ask(body)
        if body.schema is not None:
            await load_validator()
            check_schema(body.schema, "schema")
        if default is not None:
            for fault in find_faults(body, body.default, "default"):
                raise LocalProtocolError(f"{fault['path']}: {fault['message']}")
        closed = await self._ask(body)
        if closed.error is not None:
            raise ToolFailedError(closed.error)
        reason: Literal["answered", "expired"]
        reason = "expired" if closed.reason == "expired" else "answered"
        return Answer(value=closed.answer, by=closed.by, reason=reason)

    async def _ask(self, body: AskOpened) -> AskClosed:
        """Open an ask, unless an earlier attempt has, and wait for its end."""
        self.check_running()
        desk = self._session.asks
        record = None if self._recall is None else self._recall.take_ask(body)
        self.end_message("complete")
        self.has_acted = True
        if record is None:
            record = desk.open(body)
        try:
            with self._clock_stopped():
                closed = await desk.wait_closed(record)
        finally:
            if record.closed is None and not self.is_suspended:
                desk.close(record.opened.ask_id, "cancelled")
        if closed.reason == "cancelled":
            raise LocalProtocolError(f"the ask {closed.ask_id} was closed by the end of its turn")
        return closed

    @contextmanager
    def _clock_stopped(self) -> Generator[None]:
        """Let the turn's time stand still: it is somebody else who takes it."""
        self._asks_waited_for += 1
        self._set_clock()
        self._tell_above()
        try:
            yield
        finally:
            self._asks_waited_for -= 1
            self._set_clock()
            self._tell_above()

    def _start_clock(self, seconds: float) -> None:
        """Begin to count its time, of which it has so much."""
        self._runs_since = trio.current_time()
        self._stopped_at, self._stopped_seconds = None, 0.0
        self.scope.deadline = self._runs_since + seconds
        self._set_clock()

    def _set_clock(self) -> None:
        """Stop its time, or let it go on: it or one that works for it waits for an ask, or not."""
        scope, now, since = self.scope, trio.current_time(), self._stopped_at
        children = self._call_spendings.values()
        stands = self._asks_waited_for > 0 or any(spent.is_waiting for spent in children)
        if stands and since is None:
            self._stopped_at = now
            self._seconds_left = scope.deadline - now
            scope.deadline = math.inf
        elif not stands and since is not None:
            self._stopped_at = None
            self._stopped_seconds += now - since
            scope.deadline = now + self._seconds_left

    @abstractmethod
    def _tell_above(self) -> None:
        """Say to those for whom it works how it stands."""

    @property
    def active_seconds(self) -> float:
        """How long its agent has run by now, without the time in which it waited for an ask."""
        until = trio.current_time() if self._stopped_at is None else self._stopped_at
        return until - self._runs_since - self._stopped_seconds

    # -- tools of clients ------------------------------------------------------------------------

    @property
    def client_tools(self) -> Sequence[ClientTool]:
        return self._session.host.offered_tools(self._session)

    async def call_client_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        call_id: str | None = None,
        key: str | None = None,
        expires_seconds: float | None = None,
    ) -> Any:
        expires_at = _expiry(expires_seconds)

        async def ask_client(call: ToolCall) -> Any:
            closed = await self._ask(
                AskOpened(
                    ask_id=new_id("ask"),
                    turn_id=self._id,
                    kind="tool",
                    title=name,
                    expires_at=expires_at,
                    call_id=call.call_id,
                    name=name,
                    arguments=take_object(arguments, "arguments", self._max_message_bytes),
                    key=f"call {call.call_id}",
                )
            )
            if closed.error is not None:
                raise ToolFailedError(closed.error)
            if closed.reason == "expired":
                raise ToolFailedError(f"Nobody answered for the tool {name!r} in time")
            return closed.answer

        return await self.call_tool(name, arguments, ask_client, call_id=call_id, key=key)

    async def _may_retry(self, call: ToolCall, times: int) -> bool:
        """Ask whether a tool is to run again of which nobody knows what it did."""
        closed = await self._ask(
            AskOpened(
                ask_id=new_id("ask"),
                turn_id=self._id,
                kind="approval",
                title=f"Run {call.name} again?",
                detail="It was running when the server stopped; nobody knows whether it did its "
                "work, and twice may do harm.",
                options=("retry", "skip"),
                call_id=call.call_id,
                name=call.name,
                arguments=call.arguments,
                key=f"retry {times} {call.call_id}",
            )
        )
        return bool(closed.answer == "retry")


def _expiry(seconds: float | None) -> str | None:
    """Say when an ask expires.

    Raises:
        ValueError: That is no time.
    """
    if seconds is None:
        return None
    if not seconds >= 0:
        raise ValueError(f"expires_seconds is 0 or more, and not {seconds!r}")
    return utc_after(seconds)


def _check_ask(body: AskOpened) -> None:
    """Check what is not JSON, which was checked before.

    Raises:
        LocalProtocolError, TypeError, ValueError: Something is wrong; the message says what.
    """
    if body.kind not in _KINDS:
        raise ValueError(f"an ask's kind is one of {', '.join(_KINDS)}, and not {body.kind!r}")
    take_value([body.title, body.detail, *(body.options or ())], "an ask's texts", MAX_ASKED)
    for what, text in (("title", body.title), ("detail", body.detail or "")):
        check_text(text, f"an ask's {what}")
        if len(text) > MAX_SAID:
            raise LocalProtocolError(f"an ask's {what} has at most {MAX_SAID} characters")
    for what, value in (("key", body.key), ("call's id", body.call_id), ("tool's name", body.name)):
        if value is not None:
            check_name(value, f"an ask's {what}")
    if body.options is not None:
        for option in body.options:
            check_text(option, "an option")
            if not 0 < len(option) <= MAX_SAID:
                raise LocalProtocolError(f"an option has 1 to {MAX_SAID} characters")
        if not body.options or len(set(body.options)) < len(body.options):
            raise LocalProtocolError("an ask's options are one or more, and all different")
