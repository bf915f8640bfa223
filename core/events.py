"""The events of PROTOCOL §6.8, as attrs classes named for what happened.

A class carries its wire name in ``type`` and, for a durable one, the coarse class under which the
session log files it in ``log_class``. An agent's own events, whose names begin with ``_``, are
`CustomEvent`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal, TypeAlias

import attrs

from .models import (
    AskInfo,
    Attachment,
    ErrorInfo,
    JsonObject,
    Message,
    MessageKind,
    MessageRole,
    NodeInfo,
    Outcome,
    Session,
    TokenUsage,
    WhenBusy,
)

__all__ = [
    "DURABLE_EVENTS",
    "EVENTS",
    "TRANSIENT_EVENTS",
    "AskClosed",
    "AskOpened",
    "BudgetRaised",
    "CustomEvent",
    "EventBody",
    "Goaway",
    "InputDelivered",
    "InputQueued",
    "InputReturned",
    "InputWithdrawn",
    "LogClass",
    "MessageCompleted",
    "MessageCreated",
    "MessageDelta",
    "MessageStarted",
    "Resync",
    "SessionCheckpointed",
    "SessionClosed",
    "SessionCompacted",
    "SessionCreated",
    "SessionDeleted",
    "SessionExpired",
    "SessionResumed",
    "SessionSpent",
    "SessionUpdated",
    "Sync",
    "ToolCalled",
    "ToolCompleted",
    "ToolProgress",
    "TurnEnded",
    "TurnResumed",
    "TurnStarted",
]

#: The log's coarse classes (PROTOCOL §8).
LogClass: TypeAlias = Literal[
    "message",
    "tool_call",
    "tool_result",
    "checkpoint",
    "compaction",
    "metadata",
    "turn",
    "input",
    "ask",
]


class EventBody:
    """What every event class has.

    Attributes:
        type: The event's name on the wire.
        log_class: The coarse class in the session log; None if the event is transient.
    """

    __slots__ = ()
    type: ClassVar[str] = ""
    log_class: ClassVar[LogClass | None] = None


@attrs.frozen(kw_only=True)
class SessionCreated(EventBody):
    """``owner`` is the principal; absent where no credential was asked for."""

    type = "session.created"
    log_class = "metadata"
    session: Session
    owner: str | None = None


@attrs.frozen(kw_only=True)
class SessionUpdated(EventBody):
    type = "session.updated"
    log_class = "metadata"
    session: Session


@attrs.frozen(kw_only=True)
class SessionResumed(EventBody):
    """Another process began to write; ``term`` is its term, ``node`` which one of a cluster it is."""

    type = "session.resumed"
    log_class = "metadata"
    term: int
    node: NodeInfo | None = None
    interrupted_turn_id: str | None = None


@attrs.frozen(kw_only=True)
class SessionCheckpointed(EventBody):
    type = "session.checkpointed"
    log_class = "checkpoint"
    label: str | None = None


@attrs.frozen(kw_only=True)
class SessionCompacted(EventBody):
    type = "session.compacted"
    log_class = "compaction"
    compaction_id: str
    summary: str
    compacted_count: int
    usage: TokenUsage | None = None


@attrs.frozen(kw_only=True)
class SessionSpent(EventBody):
    """What was spent outside of turns.

    On a summary that a client asked for, or by a sub-agent whose end its parent's turn did not see.
    """

    type = "session.spent"
    log_class = "metadata"
    usage: TokenUsage
    tool_calls: int | None = None
    child_session_id: str | None = None


@attrs.frozen(kw_only=True)
class BudgetRaised(EventBody):
    """Somebody whom a sub-agent has asked has granted ``amount`` beyond a bound.

    Attributes:
        bound: The member of the budget, such as ``maxTokens``.
        by: The principal.
    """

    type = "budget.raised"
    log_class = "turn"
    turn_id: str
    scope: Literal["turn", "session"]
    bound: str
    amount: float
    child_session_id: str
    by: str | None = None


@attrs.frozen(kw_only=True)
class SessionClosed(EventBody):
    type = "session.closed"
    log_class = "metadata"
    reason: str | None = None


@attrs.frozen(kw_only=True)
class SessionExpired(EventBody):
    type = "session.expired"
    log_class = "metadata"
    reason: str | None = None


@attrs.frozen(kw_only=True)
class InputQueued(EventBody):
    type = "input.queued"
    log_class = "input"
    input_id: str
    message_id: str
    turn_id: str
    content: str
    when_busy: WhenBusy
    attachments: tuple[Attachment, ...] | None = None


@attrs.frozen(kw_only=True)
class InputDelivered(EventBody):
    type = "input.delivered"
    log_class = "input"
    input_id: str
    turn_id: str
    as_: Literal["start", "steer"]


@attrs.frozen(kw_only=True)
class InputWithdrawn(EventBody):
    type = "input.withdrawn"
    log_class = "input"
    input_id: str
    reason: str | None = None


@attrs.frozen(kw_only=True)
class InputReturned(EventBody):
    """The session closed before the input's turn came."""

    type = "input.returned"
    log_class = "input"
    input_id: str
    reason: str | None = None


@attrs.frozen(kw_only=True)
class TurnStarted(EventBody):
    type = "turn.started"
    log_class = "turn"
    turn_id: str
    input_id: str


@attrs.frozen(kw_only=True)
class TurnResumed(EventBody):
    """The agent is called again for a turn that an earlier process left; ``attempt`` is 2 or more."""

    type = "turn.resumed"
    log_class = "turn"
    turn_id: str
    attempt: int


@attrs.frozen(kw_only=True)
class TurnEnded(EventBody):
    """``duration_ms`` is what it took, without the time in which it waited for an ask."""

    type = "turn.ended"
    log_class = "turn"
    turn_id: str
    outcome: Outcome
    stop_reason: str | None = None
    error: ErrorInfo | None = None
    usage: TokenUsage = attrs.field(factory=TokenUsage)
    duration_ms: int | None = None


@attrs.frozen(kw_only=True)
class MessageCreated(EventBody):
    """A message that comes whole: a user's, or an added one."""

    type = "message.created"
    log_class = "message"
    message: Message


@attrs.frozen(kw_only=True)
class MessageStarted(EventBody):
    type = "message.started"
    log_class = "message"
    message_id: str
    turn_id: str
    role: MessageRole = "assistant"
    kind: MessageKind = "text"


@attrs.frozen(kw_only=True)
class MessageCompleted(EventBody):
    """The message whole and authoritative; its status says how it ended."""

    type = "message.completed"
    log_class = "message"
    message: Message


@attrs.frozen(kw_only=True)
class ToolCalled(EventBody):
    """``usage`` is of the message that the call stands in, where the log has no other of it."""

    type = "tool.called"
    log_class = "tool_call"
    call_id: str
    turn_id: str
    name: str
    arguments: JsonObject = attrs.field(factory=dict[str, Any])
    child_session_id: str | None = None
    key: str | None = None
    usage: TokenUsage | None = None


@attrs.frozen(kw_only=True)
class ToolCompleted(EventBody):
    """``usage`` and ``tool_calls`` are those of a sub-agent, which count to its parent's."""

    type = "tool.completed"
    log_class = "tool_result"
    call_id: str
    turn_id: str
    status: Literal["ok", "error", "cancelled", "unknown"]
    result: Any = None
    error: str | None = None
    usage: TokenUsage | None = None
    tool_calls: int | None = None


@attrs.frozen(kw_only=True)
class AskOpened(AskInfo, EventBody):
    """The event's data is the ask itself."""

    type = "ask.opened"
    log_class = "ask"

    @property
    def ask(self) -> AskInfo:
        """The ask, equal to what ``ask.list`` has of it."""
        return AskInfo(**attrs.asdict(self, recurse=False))


@attrs.frozen(kw_only=True)
class AskClosed(EventBody):
    """``answer`` is the ask's default if it expired; ``error`` says how a client's tool failed."""

    type = "ask.closed"
    log_class = "ask"
    ask_id: str
    turn_id: str
    answer: Any = None
    error: str | None = None
    by: str | None = None
    reason: Literal["answered", "expired", "cancelled"]


@attrs.frozen(kw_only=True)
class MessageDelta(EventBody):
    """Transient. ``offset`` counts the Unicode code points before ``delta``."""

    type = "message.delta"
    message_id: str
    turn_id: str
    offset: int
    delta: str


@attrs.frozen(kw_only=True)
class ToolProgress(EventBody):
    """Transient, and may be dropped."""

    type = "tool.progress"
    call_id: str
    turn_id: str
    text: str | None = None
    progress: float | None = None
    total: float | None = None


@attrs.frozen(kw_only=True)
class Sync(EventBody):
    """Everything after the cursor has been sent; what follows is live."""

    type = "sync"
    position: str


@attrs.frozen(kw_only=True)
class Resync(EventBody):
    """The cursor does not continue: replace what you had by this (PROTOCOL §6.5)."""

    type = "resync"
    reason: str
    session: Session
    messages: tuple[Message, ...] = ()
    has_more: bool = False
    position: str


@attrs.frozen(kw_only=True)
class SessionDeleted(EventBody):
    """Transient: the session is gone, and this subscription has ended."""

    type = "session.deleted"


@attrs.frozen(kw_only=True)
class Goaway(EventBody):
    """The server drains (PROTOCOL §3.4). An event without a session."""

    type = "goaway"
    reason: str
    retry_after_ms: int | None = None


@attrs.frozen
class CustomEvent(EventBody):
    """An agent's own event, or one of a later version of the protocol. ``name`` is its type."""

    name: str
    data: JsonObject = attrs.field(factory=dict[str, Any])


DURABLE_EVENTS: Final[tuple[type[EventBody], ...]] = (
    SessionCreated,
    SessionUpdated,
    SessionResumed,
    SessionCheckpointed,
    SessionCompacted,
    SessionSpent,
    BudgetRaised,
    SessionClosed,
    SessionExpired,
    InputQueued,
    InputDelivered,
    InputWithdrawn,
    InputReturned,
    TurnStarted,
    TurnResumed,
    TurnEnded,
    MessageCreated,
    MessageStarted,
    MessageCompleted,
    ToolCalled,
    ToolCompleted,
    AskOpened,
    AskClosed,
)
TRANSIENT_EVENTS: Final[tuple[type[EventBody], ...]] = (
    MessageDelta,
    ToolProgress,
    Sync,
    Resync,
    SessionDeleted,
    Goaway,
)
EVENTS: Final[dict[str, type[EventBody]]] = {
    cls.type: cls for cls in DURABLE_EVENTS + TRANSIENT_EVENTS
}
