"""A running turn, as far as it calls tools."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import attrs
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from . import codec
from ._failures import describe_failure, find_failure
from ._feed import make_event
from ._ids import new_id
from ._recall import Recall
from ._record import TurnRecord
from ._state import result_text
from ._text import MAX_ESCAPED
from ._tracing import open_span
from ._values import check_name, cut_text, take_object, take_value
from .abc import ToolCall, ToolFunction, Turn
from .errors import (
    LocalProtocolError,
    PayloadTooLargeError,
    ToolFailedError,
    ToolOutcomeUnknownError,
)
from .events import ToolCalled, ToolCompleted, ToolProgress
from .models import Effect, Message, MessageStatus, Spending, TokenUsage, ToolCallInfo

if TYPE_CHECKING:
    from ._session import LiveSession
    from ._text import LiveMessage

__all__ = ["CallingTurn"]

_EFFECTS = get_args(Effect)


class CallingTurn(Turn):
    """What a running turn does about its tool calls. The rest of it is `RunningTurn`.

    Attributes:
        message: The one in progress.
        has_acted: The agent has done something.
        is_suspended: The server stops while it waits for clients: the next one goes on with it.
    """

    message: LiveMessage | None
    has_acted: bool

    def __init__(self, session: LiveSession, turn_id: str, attempt: int) -> None:
        self._session = session
        self._id = turn_id
        self._attempt = attempt
        self.is_suspended = False
        record = session.state.record
        self._recall = Recall(record) if attempt > 1 and record is not None else None
        self._open_calls: dict[str, ToolCall] = {}
        #: What their sub-agents have spent by now, until that is in the log.
        self._call_spendings: dict[str, Spending] = {}
        self._children_usage = TokenUsage() if record is None else record.children_usage
        #: Of the calls that stand in one message without text, where a further one would too.
        self._calls_bytes = 0
        self._max_message_bytes = session.settings.max_message_bytes
        self._max_event_bytes = session.settings.max_event_bytes

    @property
    def record(self) -> TurnRecord | None:
        """What the log holds of its calls and asks, if there are any."""
        return self._session.state.record

    @abstractmethod
    def check_running(self) -> None:
        """Refuse what an ended turn is told.

        Raises:
            LocalProtocolError: It has ended.
        """

    @abstractmethod
    def end_message(
        self, status: MessageStatus, tool_calls: tuple[ToolCallInfo, ...] | None = None
    ) -> Message | None:
        """Complete the message in progress, if there is one."""

    @abstractmethod
    def take_message_usage(self) -> TokenUsage | None:
        """Give what a message has cost that is complete now, None if nobody said."""

    def end_reasoning(self) -> None:
        """Complete what is being thought: calls stand in what is said, which a model is shown."""
        if self.message is not None and self.message.kind == "reasoning":
            self.end_message("complete")

    @abstractmethod
    async def _may_retry(self, call: ToolCall, times: int) -> bool:
        """Ask whether a tool is to run again of which nobody knows what it did."""

    @abstractmethod
    async def _check_call(self, called: ToolCalled) -> None:
        """Make sure that the budget allows a call."""

    @property
    def pending_calls(self) -> Sequence[ToolCallInfo]:
        record = self.record
        return () if record is None else tuple(record.pending)

    @property
    def calls_at_clients(self) -> Collection[str]:
        record = self.record
        return () if record is None else record.calls_at_clients & self._session.state.tools.keys()

    @property
    def unknown_calls(self) -> Collection[str]:
        record = self.record
        return () if record is None else record.unknown_calls

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        function: ToolFunction,
        *,
        call_id: str | None = None,
        key: str | None = None,
        effect: Effect = "unsafe",
    ) -> Any:
        self.check_running()
        check_name(name, "a tool's name")
        if call_id:
            check_name(call_id, "a call's id")
        if key is not None:
            check_name(key, "a call's key")
        if effect not in _EFFECTS:
            raise ValueError(f"an effect is one of {', '.join(_EFFECTS)}, and not {effect!r}")
        if not callable(function):
            raise TypeError(f"the tool {name!r} is no function, but {function!r:.80}")
        body = ToolCalled(
            call_id=call_id or new_id("call"),
            turn_id=self._id,
            name=name,
            arguments=take_object(arguments, "arguments", self._max_message_bytes),
            key=key,
        )
        return await self._call(
            body, function, effect=effect, has_id=bool(call_id), arguments=arguments
        )

    async def _call(
        self,
        body: ToolCalled,
        function: ToolFunction,
        *,
        effect: Effect,
        has_id: bool,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        """Carry out `Turn.call_tool`.

        Args:
            body: The call as the log is to have it; what it is about is checked.
            function: What runs.
            effect: As there.
            has_id: The call's id is the agent's own.
            arguments: What the function is given, if not those of the log.
        """
        session, name = self._session, body.name
        recall = self._recall
        earlier = None if recall is None else recall.take_call(body, has_id=has_id)
        if earlier is not None:
            called = earlier.called
            body = attrs.evolve(
                body, call_id=called.call_id, child_session_id=called.child_session_id
            )
        call_id = body.call_id
        self._check_not_open(call_id)
        call = ToolCall(
            call_id=call_id,
            turn_id=self._id,
            session_id=session.id,
            name=name,
            arguments=body.arguments if arguments is None else arguments,
            report_progress=self._make_progress(call_id),
        )
        if earlier is not None and earlier.completed is not None:
            # It has ended in an earlier attempt.
            ended = earlier.completed
            self.end_message("complete")
            if ended.status == "ok":
                await checkpoint()
                return ended.result
            if ended.status == "error":
                await checkpoint()
                raise ToolFailedError(ended.error or f"the tool {name!r} failed")
            if effect == "unsafe" and not await self._may_retry(call, earlier.times):
                raise ToolOutcomeUnknownError(
                    f"Nobody knows whether the tool {name!r} did its work, and it was skipped"
                )
        if earlier is None or earlier.completed is not None:
            await self._check_call(body)
            self._check_not_open(call_id)
            self._begin_call(body)
        self._open_calls[call_id] = call
        try:
            if earlier is None or body.child_session_id is None:
                # Not before a child that there is already: it is what is to be cancelled.
                await checkpoint_if_cancelled()
            with open_span("tool", name, {"callId": call_id}):
                running: Any = cast("Callable[[ToolCall], Any]", function)(call)
                if not hasattr(running, "__await__"):
                    kind = type(running).__name__
                    raise TypeError(f"the tool {name!r} is not async: it returned {kind!r} at once")
                result = await running
            kept_result = take_value(result, "result", self._max_message_bytes)
            self._check_result(kept_result)
        except BaseException as exc:  # noqa: ASYNC103 - raised, if it is no failure
            failure = find_failure(exc)
            if failure is None:
                self._close_call(call_id, "cancelled")
            else:
                error = describe_failure(failure, f"the tool {name!r}", self._id)
                is_unknown = isinstance(failure, ToolOutcomeUnknownError)
                self._close_call(call_id, "unknown" if is_unknown else "error", error=error)
            raise
        self._close_call(call_id, "ok", result=kept_result)
        return result

    def _check_not_open(self, call_id: str) -> None:
        if call_id in self._open_calls:
            raise LocalProtocolError(f"the tool call {call_id!r} is open already")

    def _begin_call(self, body: ToolCalled) -> None:
        """Put a call into the log, and into a message if it stands in none."""
        journal = self._session.journal
        info = ToolCallInfo(call_id=body.call_id, name=body.name, arguments=body.arguments)
        stands = self.record is not None and self.record.stands(body)
        if not stands:
            self.end_reasoning()
            self._make_room(info)
        self.has_acted = True
        with journal.batch():
            self.end_message("complete", None if stands else (info,))
            if not stands:
                # Of a model that called without a word: what it cost is not to wait for the next.
                body = attrs.evolve(body, usage=self.take_message_usage())
            journal.stage(body)

    def _take_calls(self, calls: Sequence[ToolCallInfo]) -> tuple[ToolCallInfo, ...]:
        """Check the calls that a message is to be completed with, and give them as they are kept.

        Raises:
            LocalProtocolError, PayloadTooLargeError: As `Turn.complete_message`.
        """
        record, taken = self.record, list[ToolCallInfo]()
        for call in calls:
            check_name(call.name, "a tool's name")
            check_name(call.call_id, "a call's id")
            if any(call.call_id == other.call_id for other in taken) or (
                record is not None and record.is_pending(call.call_id)
            ):
                raise LocalProtocolError(f"the call {call.call_id!r} stands in a message already")
            arguments = take_object(call.arguments, "arguments", self._max_message_bytes)
            taken.append(ToolCallInfo(call_id=call.call_id, name=call.name, arguments=arguments))
        self._make_room(*taken)
        return tuple(taken)

    def _make_room(self, *infos: ToolCallInfo) -> None:
        """Count calls to the message that they will stand in.

        Raises:
            PayloadTooLargeError: No frame could hold them together.
        """
        size = sum(len(codec.encode_json(codec.unstructure(info))) for info in infos)
        message, limit = self.message, self._max_event_bytes
        beside = self._calls_bytes if message is None else message.max_json_bytes
        if message is not None and beside + size > limit:
            beside = len(codec.encode_json(message.text()))
        if beside + size > limit:
            raise PayloadTooLargeError(
                f"A message may have {limit} bytes with its tool calls", data={"limitBytes": limit}
            )
        if message is None:
            self._calls_bytes += size

    def _check_result(self, result: Any) -> None:
        """Check that a frame can hold the text that a result has in the history, too.

        Raises:
            PayloadTooLargeError: It is one that nearly doubles as a text.
        """
        text, limit = result_text(result), self._max_event_bytes
        if len(text) * MAX_ESCAPED > limit and len(codec.encode_json(text)) > limit:
            raise PayloadTooLargeError(
                f"A tool's result may have {limit} bytes as a text", data={"limitBytes": limit}
            )

    def _make_progress(self, call_id: str) -> Any:
        session, turn_id = self._session, self._id

        def report_progress(
            text: str | None = None, progress: float | None = None, total: float | None = None
        ) -> None:
            if call_id in self._open_calls:
                body = ToolProgress(
                    call_id=call_id,
                    turn_id=turn_id,
                    text=None if text is None else cut_text(text),
                    progress=progress,
                    total=total,
                )
                session.journal.publish_transient(make_event(session.id, body))

        return report_progress

    def _close_call(
        self,
        call_id: str,
        status: Literal["ok", "error", "cancelled", "unknown"],
        *,
        result: Any = None,
        error: str | None = None,
    ) -> None:
        """Put a call's end into the log, unless it has one."""
        # A call whose turn was ended under it was closed by that end already.
        if self._open_calls.pop(call_id, None) is None or self.is_suspended:
            return
        if self._session.journal.failure is not None:
            return
        self._calls_bytes = 0
        spent = self._call_spendings.pop(call_id, None)
        if spent is not None:
            self._children_usage = self._children_usage + spent.usage
        self._session.journal.stage(
            ToolCompleted(
                call_id=call_id,
                turn_id=self._id,
                status=status,
                result=result,
                error=error,
                usage=None if spent is None else spent.usage,
                tool_calls=None if spent is None else spent.tool_calls or None,
            )
        )

    def _close_calls(self) -> None:
        """The turn ends: so do its calls, and those that clients had and it has not made again."""
        for call_id in list(self._open_calls):
            self._close_call(call_id, "cancelled")
        for call_id in list(self._session.state.tools):
            self._session.journal.stage(
                ToolCompleted(call_id=call_id, turn_id=self._id, status="cancelled")
            )
