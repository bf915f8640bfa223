"""The shapes that cross the wire (PROTOCOL §4), as frozen attrs classes.

Python names are snake_case, the wire's camelCase; `trialogue.core.codec` does the renaming.
A member that is None is absent on the wire. Times are RFC 3339 strings in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import attrs

from ._json import MAX_INTEGER

__all__ = [
    "AskInfo",
    "AskKind",
    "Attachment",
    "Budget",
    "BudgetLimits",
    "ClientTool",
    "Effect",
    "ErrorInfo",
    "ForkedFrom",
    "InProgress",
    "InputInfo",
    "JsonObject",
    "Message",
    "MessageKind",
    "MessageRole",
    "MessageStatus",
    "NodeInfo",
    "Outcome",
    "ParentRef",
    "Session",
    "SessionConfig",
    "SessionStatus",
    "Spending",
    "TokenUsage",
    "ToolCallInfo",
    "WhenBusy",
    "WhenExceeded",
]

JsonObject: TypeAlias = Mapping[str, Any]

SessionStatus: TypeAlias = Literal["idle", "running", "waiting", "closed", "expired"]
MessageRole: TypeAlias = Literal["user", "assistant", "system", "tool"]
MessageKind: TypeAlias = Literal["text", "reasoning"]
#: partial: cut by a cancel. interrupted: the process ended or drained.
MessageStatus: TypeAlias = Literal["streaming", "complete", "partial", "interrupted", "error"]
Outcome: TypeAlias = Literal["completed", "cancelled", "failed", "interrupted", "budgetExceeded"]
#: What is asked: leave to do something, anything else, a tool on the client, more of a budget.
AskKind: TypeAlias = Literal["approval", "question", "tool", "budget"]
#: What a tool does to the world: nothing, the same however often it runs, or who knows.
Effect: TypeAlias = Literal["none", "idempotent", "unsafe"]
#: What an input does that arrives during a turn (PROTOCOL §5.1).
WhenBusy: TypeAlias = Literal["queue", "reject", "interrupt", "steer"]
#: What becomes of a turn that has spent its budget.
WhenExceeded: TypeAlias = Literal["ask", "end"]


@attrs.frozen(kw_only=True)
class TokenUsage:
    """Tokens, summed over whatever it stands on: a message, a turn, a session.

    A sum stops at the largest integer of the protocol: one above it could not be read back.

    Attributes:
        cost: In the currency of the server's price table; None if no model of it has a price.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cost: float | None = None

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            input_tokens=min(self.input_tokens + other.input_tokens, MAX_INTEGER),
            output_tokens=min(self.output_tokens + other.output_tokens, MAX_INTEGER),
            total_tokens=min(self.total_tokens + other.total_tokens, MAX_INTEGER),
            cost=_add_costs(self.cost, other.cost),
        )


def _add_costs(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    # A sum of decimals that is just a budget is not to miss it by the last bit.
    return min(round(one + other, 12), float(MAX_INTEGER))


@attrs.frozen(kw_only=True)
class Spending:
    """What a session has spent of what its sub-agents and it may spend together.

    Attributes:
        is_waiting: It waits for whoever is asked, and its time stands still.
    """

    usage: TokenUsage = attrs.field(factory=TokenUsage)
    tool_calls: int = 0
    is_waiting: bool = False


@attrs.frozen(kw_only=True)
class BudgetLimits:
    """What may be spent; None is no bound, or the server's."""

    max_tokens: int | None = None
    max_cost: float | None = None
    max_duration_ms: int | None = None
    max_tool_calls: int | None = None


@attrs.frozen(kw_only=True)
class Budget(BudgetLimits):
    """What a session may spend in all its turns.

    Attributes:
        per_turn: What each of them may.
        when_exceeded: End the turn, or ask whether the same may be spent once more; None takes the
            server's setting.
    """

    per_turn: BudgetLimits | None = None
    when_exceeded: WhenExceeded | None = None


@attrs.frozen(kw_only=True)
class SessionConfig:
    """How a session's turns are run. A changed config holds from the next turn.

    Attributes:
        agent: The name of one of the server's agents; None is the server's default.
        idle_timeout_ms: Expire after this long without activity; None takes the server's setting.
        when_busy: The default for inputs that do not say.
    """

    agent: str | None = None
    model: str | None = None
    system_prompt: str | None = None
    tools: tuple[str, ...] | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    when_busy: WhenBusy | None = None
    idle_timeout_ms: int | None = None
    budget: Budget | None = None


@attrs.frozen(kw_only=True)
class Attachment:
    """A file that goes with a message: its bytes (base64) or where it is."""

    name: str
    media_type: str
    data: str | None = None
    uri: str | None = None


@attrs.frozen(kw_only=True)
class ToolCallInfo:
    """A tool call as part of an assistant's message."""

    call_id: str
    name: str
    arguments: JsonObject = attrs.field(factory=dict[str, Any])


@attrs.frozen(kw_only=True)
class Message:
    """One utterance of a session."""

    id: str
    session_id: str
    turn_id: str | None = None
    role: MessageRole
    kind: MessageKind = "text"
    content: str
    timestamp: str
    status: MessageStatus = "complete"
    tool_calls: tuple[ToolCallInfo, ...] | None = None
    call_id: str | None = None
    attachments: tuple[Attachment, ...] | None = None
    usage: TokenUsage | None = None


@attrs.frozen(kw_only=True)
class ParentRef:
    """The tool call that opened this session for a sub-agent."""

    session_id: str
    turn_id: str
    call_id: str


@attrs.frozen(kw_only=True)
class ForkedFrom:
    """The session and the message after which this session branched off."""

    session_id: str
    message_id: str | None = None


@attrs.frozen(kw_only=True)
class NodeInfo:
    """A node of a cluster: what it is called, and where clients reach it, if that is known."""

    id: str
    url: str | None = None


@attrs.frozen(kw_only=True)
class Session:
    """A conversation as its readers see it, consistent at ``position``.

    Attributes:
        node: Which node of a cluster writes it, or was the last to do so.
        damaged_at: The seq of the first entry that cannot be read, if there is one: nothing is
            written any more then.
    """

    id: str
    name: str | None = None
    status: SessionStatus
    config: SessionConfig
    created_at: str
    last_activity_at: str
    message_count: int = 0
    token_usage: TokenUsage = attrs.field(factory=TokenUsage)
    position: str
    active_turn_id: str | None = None
    queued_count: int = 0
    summary: str | None = None
    metadata: JsonObject = attrs.field(factory=dict[str, Any])
    parent: ParentRef | None = None
    forked_from: ForkedFrom | None = None
    node: NodeInfo | None = None
    damaged_at: int | None = None


@attrs.frozen(kw_only=True)
class InputInfo:
    """An input that waits for its turn."""

    input_id: str
    message_id: str
    turn_id: str
    content: str
    when_busy: WhenBusy = "queue"
    attachments: tuple[Attachment, ...] | None = None


@attrs.frozen(kw_only=True)
class InProgress:
    """A message that is being written; its text follows as ``message.delta``."""

    message_id: str
    turn_id: str
    role: MessageRole = "assistant"
    kind: MessageKind = "text"


@attrs.frozen(kw_only=True)
class AskInfo:
    """An open question of the server's to whoever is attached (PROTOCOL §9).

    Attributes:
        options: The answers that are allowed.
        schema: JSON Schema of those that are.
        default: Stands in for the answer if none comes before ``expires_at``.
        call_id, name, arguments: Of the tool call that it is about.
        key: The agent's own name of it, by which it is known when the agent is called again.
    """

    ask_id: str
    turn_id: str
    kind: AskKind
    title: str
    detail: str | None = None
    schema: JsonObject | None = None
    options: tuple[str, ...] | None = None
    expires_at: str | None = None
    default: Any = None
    call_id: str | None = None
    name: str | None = None
    arguments: JsonObject | None = None
    key: str | None = None


@attrs.frozen(kw_only=True)
class ClientTool:
    """A tool that a subscriber can run, while its subscription lives.

    Attributes:
        schema: JSON Schema of its arguments, of type object.
    """

    name: str
    description: str = ""
    schema: JsonObject = attrs.field(factory=dict[str, Any])
    effect: Effect = "unsafe"


@attrs.frozen(kw_only=True)
class ErrorInfo:
    """Why a turn failed.

    Attributes:
        error_id: Names the server's log line if it was a bug.
        retryable: The same input may go better another time; None if nobody knows.
        retry_after_ms: When, if that is known, such as of a model that is overloaded.
    """

    code: str
    message: str
    error_id: str | None = None
    retryable: bool | None = None
    retry_after_ms: int | None = None
