"""One run of an agent: the `Turn` that it is given, and what makes it end exactly once."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from . import codec
from ._children import settle_child
from ._clock import utc_now
from ._compacting import CompactingTurn
from ._failures import explain_failure, find_failure
from ._frame import Frame
from ._ids import new_id
from ._spending import find_exceeded
from ._text import LiveMessage
from ._values import check_name, check_text, cut_text, take_object
from .abc import Agent, Span
from .errors import (
    AgentError,
    LocalProtocolError,
    PayloadTooLargeError,
    RequestTimeoutError,
)
from .events import (
    CustomEvent,
    MessageCompleted,
    MessageStarted,
    TurnEnded,
)
from .models import (
    ErrorInfo,
    InputInfo,
    Message,
    MessageKind,
    MessageStatus,
    Outcome,
    SessionConfig,
    TokenUsage,
    ToolCallInfo,
)

if TYPE_CHECKING:
    from ._session import LiveSession

__all__ = ["RunningTurn"]

log = logging.getLogger("trialogue.turn")

#: A full checkpoint (2–5 µs) is made after so many writes, or so much time, whichever is first.
WRITES_PER_CHECKPOINT: Final = 64
SECONDS_PER_CHECKPOINT: Final = 0.001
_KINDS: Final = get_args(MessageKind)

_STATUS: Final[dict[Outcome, MessageStatus]] = {
    "completed": "complete",
    "cancelled": "partial",
    "budgetExceeded": "partial",
    "interrupted": "interrupted",
    "failed": "error",
}


class RunningTurn(CompactingTurn):
    """A turn of a session in this process.

    Attributes:
        scope: Everything the agent does; cancelling it cancels exactly this turn.
        inputs: The ids of the inputs that were delivered into it.
        outcome: None until it is decided. A turn is over when its ``turn.ended`` is published.
    """

    #: What a tracer was told of whoever sent its input.
    trace: Span | None = None
    #: When it was told to stop, if it was.
    cancelled_at: float | None = None
    _has_spoken = False

    def __init__(
        self,
        session: LiveSession,
        turn_id: str,
        first: Message,
        input_ids: Sequence[str],
        *,
        attempt: int = 1,
        config: SessionConfig | None = None,
        usage: TokenUsage | None = None,
    ) -> None:
        super().__init__(session, turn_id, attempt, config, usage)
        self._feed = session.feed
        self._notes = session.notes
        self._input = first
        self.scope = trio.CancelScope()
        self.inputs = list(input_ids)
        self.outcome: Outcome | None = None
        self.cancel_reason: str | None = None
        self._cancel_outcome: Literal["cancelled", "interrupted"] = "cancelled"
        self.message: LiveMessage | None = None
        self.has_acted = False
        self._steering: trio.Event | None = None
        self._handed: deque[Message] = deque()
        self._writes_left = WRITES_PER_CHECKPOINT
        self._checkpoint_at = 0.0
        self._flushes = self._feed.flushes
        self._max_uncommitted_bytes = session.settings.max_uncommitted_bytes

    # -- what the agent reads --------------------------------------------------------------

    @property
    def id(self) -> str:
        return self._id

    @property
    def session_id(self) -> str:
        return self._session.id

    @property
    def metadata(self) -> Mapping[str, Any]:
        metadata: Mapping[str, Any] = self._session.state.metadata
        return metadata

    @property
    def input(self) -> Message:
        return self._input

    @property
    def messages(self) -> Sequence[Message]:
        return self._session.state.model_messages()

    @property
    def attempt(self) -> int:
        return self._attempt

    # -- text --------------------------------------------------------------------------------

    def write_nowait(self, text: str, *, kind: MessageKind = "text") -> None:
        self._write(text, kind)

    async def write(self, text: str, *, kind: MessageKind = "text") -> None:
        self._write(text, kind)
        if self._flushes != self._feed.flushes:
            # Others ran since the last write: an agent that waits by itself is not made to wait
            # a second time, which would be half of what its token costs.
            self._note_checkpoint()
            if self._session.journal.uncommitted_bytes <= self._max_uncommitted_bytes:
                await checkpoint_if_cancelled()
                return
        self._writes_left -= 1
        if self._writes_left <= 0 or perf_counter() >= self._checkpoint_at:
            await self._checkpoint()
        else:
            await checkpoint_if_cancelled()

    def _write(self, text: str, kind: MessageKind) -> None:
        # As a rule a token costs this, and one look each at whether somebody is to be told.
        message = self.message
        if (
            message is None
            or message.kind != kind
            or type(text) is not str
            or not message.write_plain(text)
        ):
            message = self._write_with_care(text, kind)
            if message is None:
                return
        if message.is_live and not self._feed.is_dirty:
            self._feed.text_written()
        notes = self._notes
        if notes is not None and not notes.is_due:
            notes.text_written()

    def _write_with_care(self, text: str, kind: MessageKind) -> LiveMessage | None:
        """Start a message if there is none of this kind, and write within its limit."""
        check_text(text, "what turn.write is given")
        if kind not in _KINDS:
            raise ValueError(f"a message's kind is one of {', '.join(_KINDS)}, and not {kind!r}")
        message = self.message
        if message is None or message.kind != kind:
            if not text:
                return None
            self.complete_message()
            message = self._start_message(kind)
        if not message.fits(text):
            raise PayloadTooLargeError(
                f"A message's text may be {message.max_bytes} bytes",
                data={"limitBytes": message.max_bytes},
            )
        message.write(text)
        return message

    async def _checkpoint(self) -> None:
        await checkpoint()
        journal = self._session.journal
        if journal.uncommitted_bytes > self._max_uncommitted_bytes:
            await journal.wait_room(self._max_uncommitted_bytes)
        self._note_checkpoint()

    def _note_checkpoint(self) -> None:
        self._flushes = self._feed.flushes
        self._writes_left = WRITES_PER_CHECKPOINT
        self._checkpoint_at = perf_counter() + SECONDS_PER_CHECKPOINT

    def _start_message(self, kind: MessageKind) -> LiveMessage:
        self.check_running()
        self.has_acted = True
        session = self._session
        if not self._has_spoken:
            self._has_spoken = True
            session.host.stats.first_token_seconds.observe(self.active_seconds)
        message = LiveMessage(
            session.id,
            new_id("msg"),
            self._id,
            "assistant",
            kind,
            max_bytes=self._max_message_bytes,
        )
        session.journal.stage(
            MessageStarted(message_id=message.id, turn_id=self._id, role="assistant", kind=kind),
            on_publish=lambda: session.feed.start_live(message),
        )
        session.journal.writing[message.id] = message
        self.message = message
        return message

    def complete_message(self, tool_calls: Sequence[ToolCallInfo] = ()) -> Message | None:
        if not tool_calls:
            return self.end_message("complete")
        self.check_running()
        self.end_reasoning()
        taken = self._take_calls(tool_calls)
        with self._session.journal.batch():
            if self.message is None:
                self._start_message("text")
            return self.end_message("complete", taken)

    def end_message(
        self, status: MessageStatus, tool_calls: tuple[ToolCallInfo, ...] | None = None
    ) -> Message | None:
        live, self.message = self.message, None
        if live is None:
            return None
        self._calls_bytes = 0
        session = self._session
        message = Message(
            id=live.id,
            session_id=session.id,
            turn_id=self._id,
            role="assistant",
            kind=live.kind,
            content=live.finish(),
            timestamp=utc_now(),
            status=status,
            tool_calls=tool_calls,
            usage=self.take_message_usage(),
        )
        session.journal.stage(
            MessageCompleted(message=message), on_publish=lambda: session.feed.end_live(live)
        )
        session.journal.writing.pop(live.id, None)
        return message

    # -- events, steering --------------------------------------------------------------------

    def emit(self, name: str, data: Mapping[str, Any], *, durable: bool = False) -> None:
        self.check_running()
        check_name(name, "an event's name")
        if not name.startswith("_"):
            raise LocalProtocolError(f"an agent's own event begins with '_', not {name!r}")
        body = CustomEvent(name, take_object(data, "data", self._max_event_bytes))
        self.has_acted = True
        if durable:
            self._session.journal.stage(body)
        else:
            payload = {"sessionId": self._session.id, "type": name, "data": body.data}
            self._session.journal.publish_transient(
                Frame(
                    codec.encode_json({"version": "1.0", "type": "event", "payload": payload}), name
                )
            )

    @property
    def waiting_steering(self) -> Sequence[InputInfo]:
        return self._session.steering_inputs(self._id)

    @property
    def takes_steering(self) -> bool:
        """Whether the agent is waiting in `next_steering` right now."""
        return self._steering is not None and not self._handed

    def hand_over(self, message: Message) -> None:
        """Give the agent a steered message, whose delivery is durable now."""
        self._handed.append(message)
        if self._steering is not None:
            self._steering.set()

    def wake_steering(self) -> None:
        """Tell the agent that an input waits for it."""
        if self._steering is not None:
            self._steering.set()

    async def next_steering(self) -> Message:
        self.check_running()
        if self._steering is not None:
            raise LocalProtocolError("another task of this turn waits for steering already")
        await checkpoint()
        delivering: str | None = None
        while not self._handed:
            waiting = self.waiting_steering
            if waiting and waiting[0].input_id != delivering:
                # Delivered and durable even if this wait is cancelled: the next call gives it.
                delivering = waiting[0].input_id
                self._session.deliver_steered(self, waiting[0])
                continue
            self._steering = trio.Event()
            try:
                await self._steering.wait()
            finally:
                self._steering = None
        return self._handed.popleft()

    # -- the end -----------------------------------------------------------------------------

    @property
    def is_cancelled(self) -> bool:
        """Whether it was told to stop."""
        return self.cancel_reason is not None

    def cancel(
        self, reason: str, outcome: Literal["cancelled", "interrupted"] = "cancelled"
    ) -> None:
        """Tell the turn to stop. The first reason counts."""
        if self.cancel_reason is None and self.outcome is None:
            self.cancel_reason = reason
            self.cancelled_at = trio.current_time()
            self._cancel_outcome = outcome
            # Nobody is to go on with it.
            self.is_suspended = False
            self.scope.cancel(reason=f"turn {self._id}: {reason}")

    def suspend(self) -> None:
        """Stop the agent, and leave the turn to the server that comes next."""
        if self.outcome is None:
            self.is_suspended = True
            self.scope.cancel(reason=f"turn {self._id}: the server stops while it waits")

    async def run(self, agent: Agent) -> None:
        """Run the agent to its end; ends this turn in any case, and raises nothing of the agent's.

        There is no ``await`` between the decision and the staging of ``turn.ended``: one terminal
        event, without a shield.
        """
        outcome: Outcome = "interrupted"
        error: ErrorInfo | None = None
        returned = False
        self._start_clock(min(self._session.settings.turn_seconds, self.budget_seconds))
        if self._attempt > 1:
            self._tell_above()  # it waits no more
        try:
            if not self.is_cancelled:
                with self.scope:
                    running: Awaitable[object] = agent(self)
                    value = await running
                    returned = True
                    self._check_return(value)
            if returned:
                outcome = "completed"
            elif self.is_cancelled:
                outcome = self._cancel_outcome
            elif (exceeded := self.find_overtime()) is not None:
                outcome, self.stop_reason = "budgetExceeded", str(exceeded)
            else:
                outcome, error = "failed", self._overtime()
        except BaseException as exc:  # noqa: ASYNC103 - raised, if it is no failure
            failure = find_failure(exc)
            if failure is None:
                raise
            outcome = "failed"
            if (exceeded := find_exceeded(failure)) is not None:
                outcome, self.stop_reason = "budgetExceeded", exceeded.message
            elif not self.is_suspended:  # else it did something on its way out: it is called again
                error = explain_failure(failure, self._id, self.session_id)
        finally:
            # Also on the way out of a server that was cancelled from outside.
            self._end(outcome, error)

    def _check_return(self, value: object) -> None:
        """Notice an agent that answered in vain: by its return, or by a write without ``await``."""
        if value is not None:
            kind = type(value).__name__
            raise AgentError(f"The agent returned {kind!r}: what it says it has to turn.write")
        if not self.has_acted:
            log.warning(
                "the agent returned without a word; is an await missing before turn.write?",
                extra={"turn_id": self._id, "session_id": self.session_id},
            )

    def _overtime(self) -> ErrorInfo:
        seconds = self._session.settings.turn_seconds
        timeout = RequestTimeoutError(f"The turn took more than {seconds:g} s")
        return ErrorInfo(code=timeout.code, message=timeout.message)

    def _end(self, outcome: Outcome, error: ErrorInfo | None) -> None:
        session = self._session
        if self.outcome is not None or session.journal.failure is not None:
            return
        if self.is_suspended:
            session.turn_suspended()
            return
        self.outcome = outcome
        if self.stop_reason is not None:
            self.stop_reason = cut_text(self.stop_reason)
        if outcome in ("cancelled", "interrupted") and self.cancel_reason is not None:
            self.stop_reason = self.cancel_reason
        elif outcome == "interrupted":
            self.stop_reason = "shutdown"
        children = [] if self.record is None else self.record.lost_children
        with session.journal.batch():
            self._close_calls()
            session.asks.close_all()
            self.end_message(_STATUS[outcome])
            # What those have spent of whom it did not see the end is told later.
            self._call_spendings.clear()
            session.journal.stage(
                TurnEnded(
                    turn_id=self._id,
                    outcome=outcome,
                    stop_reason=self.stop_reason,
                    error=error,
                    usage=self.usage,
                    duration_ms=self.duration_ms,
                ),
                keys=session.take_cancel_keys(),
                on_publish=lambda: session.turn_ended(self),
            )
        session.turn_ending(self, outcome, self.own_usage)
        for child in children:
            settle_child(session.host, session.id, child, session.state.owner)

    def check_running(self) -> None:
        if self.outcome is not None or self.is_suspended:
            raise LocalProtocolError(f"the turn {self._id} has ended")
