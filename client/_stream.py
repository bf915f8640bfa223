"""One input and what comes of it, as chunks: text, tools, asks, and one last chunk that says how it ended.

`ChunkMaker` is pure: events in, chunks out. `MessageStream` is what user code iterates over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal, TypeAlias

import attrs
import trio

from ..core.errors import AgentError, SessionClosedError, WireError, error_from_wire
from ..core.events import (
    AskClosed,
    AskOpened,
    InputDelivered,
    InputReturned,
    InputWithdrawn,
    MessageCompleted,
    MessageDelta,
    MessageStarted,
    Resync,
    SessionDeleted,
    ToolCalled,
    ToolCompleted,
    ToolProgress,
    TurnEnded,
)
from ..core.methods import MessageSendResult, TurnCancelResult
from ..core.models import AskInfo, ErrorInfo, JsonObject, Message, MessageKind, Outcome, TokenUsage
from ._event_stream import EventStream
from ._events import Event

__all__ = [
    "AskChunk",
    "Chunk",
    "ChunkMaker",
    "DoneChunk",
    "ErrorChunk",
    "MessageStream",
    "TextChunk",
    "ToolChunk",
]


@attrs.frozen(kw_only=True)
class TextChunk:
    """A piece of the answer.

    Attributes:
        text: To be put behind what came before.
        offset: The code points of this message before it. It is less than what you have only if
            the server took text back, which it does when it lost some in a crash.
        kind: ``reasoning`` is the model thinking aloud.
    """

    text: str
    message_id: str
    turn_id: str
    offset: int
    kind: MessageKind = "text"


@attrs.frozen(kw_only=True)
class ToolChunk:
    """A tool at work: it was called, it reports (``text``, ``progress``, ``total``), it ended.

    Attributes:
        child_session_id: Where a sub-agent works, as it is called.
    """

    state: Literal["called", "progress", "completed"]
    call_id: str
    turn_id: str
    name: str | None = None
    arguments: JsonObject = attrs.field(factory=dict[str, Any])
    child_session_id: str | None = None
    text: str | None = None
    progress: float | None = None
    total: float | None = None
    status: Literal["ok", "error", "cancelled", "unknown"] | None = None
    result: Any = None
    error: str | None = None


@attrs.frozen(kw_only=True)
class AskChunk:
    """A question of the agent's, opened or closed. `Client.answer_ask` answers it.

    Attributes:
        ask: As it was opened; None if that was not seen.
        answer, by, reason: How it was closed.
    """

    state: Literal["opened", "closed"]
    ask_id: str
    turn_id: str
    ask: AskInfo | None = None
    answer: Any = None
    by: str | None = None
    reason: Literal["answered", "expired", "cancelled"] | None = None


@attrs.frozen(kw_only=True)
class DoneChunk:
    """The last chunk: the turn ended, and not in an error.

    Attributes:
        outcome: ``completed``, ``cancelled``, ``interrupted`` or ``budgetExceeded``.
        message: The turn's last message of the assistant; None if there was none.
    """

    outcome: Outcome
    turn_id: str
    message: Message | None = None
    stop_reason: str | None = None
    usage: TokenUsage = attrs.field(factory=TokenUsage)


@attrs.frozen(kw_only=True)
class ErrorChunk:
    """The last chunk: the turn failed. ``raise chunk.error`` if that is how you like it."""

    error: WireError
    turn_id: str
    message: Message | None = None
    usage: TokenUsage = attrs.field(factory=TokenUsage)


Chunk: TypeAlias = TextChunk | ToolChunk | AskChunk | DoneChunk | ErrorChunk


class ChunkMaker:
    """Makes chunks of the events of one session that one input causes. Pure.

    Attributes:
        turn_id: The input's turn; another one if it was steered and not taken.
        last: The last chunk, once there is one.
    """

    def __init__(self, sent: MessageSendResult) -> None:
        self.input_id = sent.input_id
        self.turn_id = sent.turn_id
        self.last: DoneChunk | ErrorChunk | None = None
        self._is_delivered = False
        self._message: Message | None = None
        self._kinds: dict[str, MessageKind] = {}
        self._tools: dict[str, str] = {}
        self._asks: dict[str, AskInfo] = {}
        #: How much of each message was given; and, after a resync, how much will come again.
        self._given: dict[str, int] = {}
        self._again: dict[str, int] = {}

    def feed(self, event: Event) -> Chunk | None:
        """Take the session's next event; give the chunk that it makes, if any."""
        chunk = self._feed(event)
        if isinstance(chunk, (DoneChunk, ErrorChunk)):
            self.last = chunk
        return chunk

    def _feed(self, event: Event) -> Chunk | None:
        body = event.body
        match body:
            case InputDelivered(input_id=self.input_id):
                self._is_delivered, self.turn_id = True, body.turn_id
                return None
            case InputWithdrawn(input_id=self.input_id):
                return DoneChunk(outcome="cancelled", turn_id=self.turn_id, stop_reason="withdrawn")
            case InputReturned(input_id=self.input_id):
                return self._failed(SessionClosedError("The session closed before the turn began"))
            case SessionDeleted():
                return self._failed(SessionClosedError("The session was deleted"))
            case Resync():
                self._again = dict(self._given)
                if body.session.active_turn_id == self.turn_id:
                    self._is_delivered = True
                return None
            case _:
                if not self._is_delivered or event.turn_id != self.turn_id:
                    return None
        match body:
            case MessageStarted():
                self._kinds[body.message_id] = body.kind
                return None
            case MessageDelta():
                return self._delta(body)
            case MessageCompleted(message=message) if message.role == "assistant":
                if message.kind == "text":
                    self._message = message
                return self.rest_of(message)
            case ToolCalled():
                self._tools[body.call_id] = body.name
                return ToolChunk(
                    state="called",
                    call_id=body.call_id,
                    turn_id=body.turn_id,
                    name=body.name,
                    arguments=body.arguments,
                    child_session_id=body.child_session_id,
                )
            case ToolProgress():
                return ToolChunk(
                    state="progress",
                    call_id=body.call_id,
                    turn_id=body.turn_id,
                    name=self._tools.get(body.call_id),
                    text=body.text,
                    progress=body.progress,
                    total=body.total,
                )
            case ToolCompleted():
                return ToolChunk(
                    state="completed",
                    call_id=body.call_id,
                    turn_id=body.turn_id,
                    name=self._tools.pop(body.call_id, None),
                    status=body.status,
                    result=body.result,
                    error=body.error,
                )
            case AskOpened():
                ask = self._asks[body.ask_id] = body.ask
                return AskChunk(state="opened", ask_id=ask.ask_id, turn_id=ask.turn_id, ask=ask)
            case AskClosed():
                return AskChunk(
                    state="closed",
                    ask_id=body.ask_id,
                    turn_id=body.turn_id,
                    ask=self._asks.pop(body.ask_id, None),
                    answer=body.answer,
                    by=body.by,
                    reason=body.reason,
                )
            case TurnEnded():
                return self._ended(body)
            case _:
                return None

    def _delta(self, body: MessageDelta) -> TextChunk | None:
        offset, text = body.offset, body.delta
        again = self._again.get(body.message_id, 0)
        if offset < again:
            text, offset = text[again - offset :], again
            if not text:
                return None
        self._again.pop(body.message_id, None)
        self._given[body.message_id] = offset + len(text)
        return self._text(body.message_id, offset, text, self._kinds.get(body.message_id, "text"))

    def rest_of(self, message: Message) -> TextChunk | None:
        """Give what was not given of a complete message: a server may send just its end."""
        given = self._given.pop(message.id, 0)
        self._again.pop(message.id, None)
        self._kinds.pop(message.id, None)
        if len(message.content) <= given:
            return None
        return self._text(message.id, given, message.content[given:], message.kind)

    def _text(self, message_id: str, offset: int, text: str, kind: MessageKind) -> TextChunk:
        return TextChunk(
            text=text, message_id=message_id, turn_id=self.turn_id, offset=offset, kind=kind
        )

    def _ended(self, body: TurnEnded) -> Chunk:
        return self._end(body.outcome, body.error, body.stop_reason, body.usage)

    def _failed(self, error: WireError, usage: TokenUsage | None = None) -> ErrorChunk:
        return ErrorChunk(
            error=error,
            turn_id=self.turn_id,
            message=self._message,
            usage=usage or TokenUsage(),
        )

    def _end(
        self,
        outcome: Outcome,
        error: ErrorInfo | None,
        stop_reason: str | None = None,
        usage: TokenUsage | None = None,
    ) -> DoneChunk | ErrorChunk:
        """Make the last chunk."""
        if outcome == "failed":
            failure = AgentError("The turn failed") if error is None else _make_error(error)
            return self._failed(failure, usage)
        return DoneChunk(
            outcome=outcome,
            turn_id=self.turn_id,
            message=self._message,
            stop_reason=stop_reason,
            usage=usage or TokenUsage(),
        )

    def settle(self, answer: MessageSendResult | WireError) -> list[Chunk]:
        """End with what the server says of a turn whose end was not seen."""
        chunks: list[Chunk] = []
        if isinstance(answer, WireError):
            self.last = self._failed(answer)
        else:
            self.turn_id = answer.turn_id
            if answer.message is not None:
                rest = self.rest_of(answer.message)
                chunks += [rest] if rest is not None else []
            self._message = answer.message
            self.last = self._end(answer.outcome or "completed", answer.error)
        chunks.append(self.last)
        return chunks


class MessageStream(AsyncIterator[Chunk]):
    """The chunks that one input causes. From `Client.stream_message`.

    There is exactly one `DoneChunk` or `ErrorChunk`, the last.

    Attributes:
        sent: What the server answered when it admitted the input.
    """

    def __init__(
        self,
        events: EventStream,
        sent: MessageSendResult,
        *,
        settle: Callable[[], Awaitable[MessageSendResult]],
        cancel: Callable[[str, str | None], Awaitable[TurnCancelResult]],
        on_last: Callable[[], None],
    ) -> None:
        self.sent = sent
        self._events = events
        self._settle = settle
        self._cancel = cancel
        self._on_last = on_last
        self._maker = ChunkMaker(sent)
        self._chunks: deque[Chunk] = deque()
        self._must_settle = False

    @property
    def turn_id(self) -> str:
        """The turn that answers."""
        return self._maker.turn_id

    @property
    def last(self) -> DoneChunk | ErrorChunk | None:
        """The last chunk, once it was made."""
        return self._maker.last

    async def cancel(self, reason: str | None = None) -> TurnCancelResult:
        """Cancel the turn, and wait until it has ended. The stream goes on to its last chunk."""
        return await self._cancel(self.turn_id, reason)

    def __aiter__(self) -> MessageStream:
        return self

    async def __anext__(self) -> Chunk:
        await trio.lowlevel.checkpoint()
        while not self._chunks:
            if self._maker.last is not None:
                raise StopAsyncIteration
            if self._must_settle:
                await self._ask_for_end()
                continue
            try:
                event = await anext(self._events)
            except StopAsyncIteration:
                # The session ended and we did not see how our turn did.
                self._must_settle = True
                continue
            chunk = self._maker.feed(event)
            if chunk is not None:
                self._chunks.append(chunk)
            if isinstance(event.body, Resync):
                self._must_settle = not self._is_open(event.body)
            if isinstance(chunk, (DoneChunk, ErrorChunk)):
                self._on_last()
        return self._chunks.popleft()

    def _is_open(self, resync: Resync) -> bool:
        """Whether our input still has its turn before it, or running, as of a resync."""
        if resync.session.active_turn_id == self.turn_id:
            return True
        waiting = self._events.inputs_at_resync
        return any(info.input_id == self.sent.input_id for info in waiting)

    async def _ask_for_end(self) -> None:
        try:
            answer: MessageSendResult | WireError = await self._settle()
        except WireError as exc:
            answer = exc
        self._chunks.extend(self._maker.settle(answer))
        self._on_last()


def _make_error(info: ErrorInfo) -> WireError:
    data = {"errorId": info.error_id, "retryAfterMs": info.retry_after_ms}
    return error_from_wire(
        {
            "code": info.code,
            "message": info.message,
            "retryable": info.retryable,
            "data": {name: value for name, value in data.items() if value is not None},
        }
    )
