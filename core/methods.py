"""Parameters and results of every method of PROTOCOL §4, and the table that names them.

The server dispatches by this table, the client calls by it, and ``server.describe`` prints it.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import attrs

from .codec import NULLS
from .events import LogClass
from .log import KeyRecord
from .models import (
    AskInfo,
    Attachment,
    ClientTool,
    ErrorInfo,
    InProgress,
    InputInfo,
    JsonObject,
    Message,
    MessageRole,
    NodeInfo,
    Outcome,
    ParentRef,
    Session,
    SessionConfig,
    SessionStatus,
    Spending,
    WhenBusy,
)

__all__ = [
    "METHODS",
    "AskAnswer",
    "AskList",
    "AskListResult",
    "ChildCreate",
    "ChildRaise",
    "ChildReport",
    "ChildSettle",
    "ChildSpending",
    "ClientInfo",
    "ConfigUpdate",
    "Credential",
    "Empty",
    "EventList",
    "EventListResult",
    "Health",
    "Hello",
    "HelloResult",
    "InputList",
    "InputListResult",
    "InputWithdraw",
    "LoggedEntry",
    "MessageAdd",
    "MessageList",
    "MessageListResult",
    "MessageSend",
    "MessageSendResult",
    "MessageStream",
    "ProtocolInfo",
    "RequestCancel",
    "RequestCancelResult",
    "ServerInfo",
    "SessionCheckpoint",
    "SessionCheckpointResult",
    "SessionClose",
    "SessionCompact",
    "SessionCompactResult",
    "SessionCreate",
    "SessionDelete",
    "SessionExport",
    "SessionExportResult",
    "SessionFork",
    "SessionGet",
    "SessionList",
    "SessionListResult",
    "SessionSubscribe",
    "SessionSubscribeResult",
    "SessionUnsubscribe",
    "SessionUpdate",
    "TurnCancel",
    "TurnCancelResult",
]


@attrs.frozen(kw_only=True)
class Empty:
    """No parameters, or no result: ``{}``."""


# -- connection and server -----------------------------------------------------------------


@attrs.frozen(kw_only=True)
class ClientInfo:
    name: str
    version: str | None = None


@attrs.frozen(kw_only=True)
class Credential:
    """What ``hello`` or an ``Authorization`` header carries."""

    scheme: Literal["apiKey", "bearer"]
    token: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Hello:
    client: ClientInfo | None = None
    auth: Credential | None = None
    capabilities: JsonObject = attrs.field(factory=dict[str, Any])


@attrs.frozen(kw_only=True)
class ServerInfo:
    name: str
    version: str


@attrs.frozen(kw_only=True)
class ProtocolInfo:
    version: str
    supported: tuple[str, ...]


@attrs.frozen(kw_only=True)
class HelloResult:
    """``limits`` holds all those that apply to this connection, by their names in PROTOCOL §11.

    ``scopes``, ``tenant`` and ``expires_at`` are the credential's. ``node`` is the one of a cluster
    that answers.
    """

    connection_id: str
    server: ServerInfo
    protocol: ProtocolInfo
    principal: str
    capabilities: JsonObject
    limits: JsonObject
    heartbeat_ms: int
    scopes: tuple[str, ...] = ()
    tenant: str | None = None
    expires_at: str | None = None
    node: NodeInfo | None = None


@attrs.frozen(kw_only=True)
class Health:
    status: Literal["ok", "draining", "degraded"]
    version: str
    uptime_ms: int
    sessions: int
    connections: int
    turns: int


@attrs.frozen(kw_only=True)
class RequestCancel:
    id: str | int


@attrs.frozen(kw_only=True)
class RequestCancelResult:
    cancelled: bool


# -- sessions ------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class SessionCreate:
    config: SessionConfig = attrs.field(factory=SessionConfig)
    name: str | None = None
    metadata: JsonObject = attrs.field(factory=dict[str, Any])


@attrs.frozen(kw_only=True)
class ChildCreate(SessionCreate):
    """What a turn says to have a session made for a sub-agent. No client can."""

    session_id: str
    parent: ParentRef


@attrs.frozen(kw_only=True)
class ChildReport:
    """What a child tells its parent's session that it has spent. No client can.

    Attributes:
        spent: By its whole session.
        members: Of a budget, those of which it is asked whether there is more.
    """

    session_id: str
    turn_id: str
    call_id: str
    spent: Spending
    members: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ChildRaise:
    """What a child says to its parent's session when somebody has raised a bound of that one's.

    Attributes:
        allowed: Where the bound stood when it was asked.
    """

    session_id: str
    turn_id: str
    child_session_id: str
    scope: Literal["turn", "session"]
    member: str
    allowed: float
    by: str | None = None


@attrs.frozen(kw_only=True)
class ChildSpending:
    """Asks a session what it has spent, when all that worked for it have told."""

    session_id: str


@attrs.frozen(kw_only=True)
class ChildSettle:
    """Tells a session what a child of it has spent whose end its turn did not see.

    ``spent`` is None if that cannot be found out now.
    """

    session_id: str
    child_session_id: str
    spent: Spending | None


@attrs.frozen(kw_only=True)
class SessionGet:
    session_id: str


@attrs.frozen(kw_only=True)
class ConfigUpdate(SessionConfig):
    """What changes of a configuration: absent members stay, those that are null go.

    Attributes:
        removed: The names of those that go.
    """

    removed: frozenset[str] = attrs.field(default=frozenset(), metadata={NULLS: True})


@attrs.frozen(kw_only=True)
class SessionUpdate:
    """Members that are absent stay as they are; ``config`` is merged member by member."""

    session_id: str
    name: str | None = None
    config: ConfigUpdate | None = None
    summary: str | None = None
    metadata: JsonObject | None = None


@attrs.frozen(kw_only=True)
class SessionClose:
    session_id: str


@attrs.frozen(kw_only=True)
class SessionDelete:
    session_id: str


@attrs.frozen(kw_only=True)
class SessionList:
    status: SessionStatus | None = None
    limit: int = 50
    cursor: str | None = None


@attrs.frozen(kw_only=True)
class SessionListResult:
    sessions: tuple[Session, ...]
    next_cursor: str | None = None


@attrs.frozen(kw_only=True)
class SessionFork:
    session_id: str
    at_message_id: str | None = None


@attrs.frozen(kw_only=True)
class SessionCheckpoint:
    session_id: str
    label: str | None = None


@attrs.frozen(kw_only=True)
class SessionCheckpointResult:
    position: str
    label: str | None = None


@attrs.frozen(kw_only=True)
class SessionCompact:
    """``keep_last`` messages stay as they are, or a few more: turns are not cut."""

    session_id: str
    keep_last: int | None = None


@attrs.frozen(kw_only=True)
class SessionCompactResult:
    """``compacted_count`` messages, counted from the first, are stood in for by ``summary``."""

    compaction_id: str
    summary: str
    compacted_count: int
    position: str


@attrs.frozen(kw_only=True)
class SessionSubscribe:
    """``partial`` maps a message in progress to the code points of it that the client has."""

    session_id: str
    after: str | None = None
    tail: int | None = None
    partial: dict[str, int] = attrs.field(factory=dict)
    tools: tuple[ClientTool, ...] | None = None


@attrs.frozen(kw_only=True)
class SessionSubscribeResult:
    """Consistent at ``position``. Events after ``replay_from`` follow, then ``sync``.

    ``has_more_asks``, ``has_more_inputs``: ``ask.list`` gives those behind the last of ``asks``,
    ``input.list`` those behind the last of ``inputs``.
    """

    session: Session
    position: str
    replay_from: str
    in_progress: tuple[InProgress, ...] = ()
    asks: tuple[AskInfo, ...] = ()
    has_more_asks: bool = False
    inputs: tuple[InputInfo, ...] = ()
    has_more_inputs: bool = False


@attrs.frozen(kw_only=True)
class SessionUnsubscribe:
    session_id: str


@attrs.frozen(kw_only=True)
class EventList:
    session_id: str
    after: str | None = None
    limit: int = 200


@attrs.frozen(kw_only=True)
class EventListResult:
    """Durable events as they were sent: ``{sessionId, position, type, data}`` each."""

    events: tuple[JsonObject, ...]
    has_more: bool


@attrs.frozen(kw_only=True)
class SessionExport:
    session_id: str
    after: str | None = None
    limit: int = 200


@attrs.frozen(kw_only=True)
class LoggedEntry:
    """A line of the log as §8 has it, without its checksum."""

    timestamp: str
    position: str
    type: LogClass
    event: str
    data: Any
    keys: tuple[KeyRecord, ...] = ()


@attrs.frozen(kw_only=True)
class SessionExportResult:
    entries: tuple[LoggedEntry, ...]
    has_more: bool


# -- messages, turns and inputs --------------------------------------------------------------


@attrs.frozen(kw_only=True)
class MessageSend:
    session_id: str
    content: str
    attachments: tuple[Attachment, ...] | None = None
    when_busy: WhenBusy | None = None
    wait: bool = False


@attrs.frozen(kw_only=True)
class MessageStream:
    session_id: str
    content: str
    attachments: tuple[Attachment, ...] | None = None
    when_busy: WhenBusy | None = None


@attrs.frozen(kw_only=True)
class MessageSendResult:
    """At admission; with ``wait``, at the turn's end, then ``outcome`` is there.

    ``message`` is the turn's last assistant message, absent if there was none; ``error`` says why it
    failed.
    """

    input_id: str
    message_id: str
    turn_id: str
    position: str
    state: Literal["started", "queued", "steered"]
    message: Message | None = None
    outcome: Outcome | None = None
    error: ErrorInfo | None = None


@attrs.frozen(kw_only=True)
class MessageAdd:
    session_id: str
    role: MessageRole
    content: str


@attrs.frozen(kw_only=True)
class MessageList:
    session_id: str
    limit: int = 50
    before: str | None = None
    after: str | None = None
    role: MessageRole | None = None


@attrs.frozen(kw_only=True)
class MessageListResult:
    """Oldest first."""

    messages: tuple[Message, ...]
    has_more: bool


@attrs.frozen(kw_only=True)
class TurnCancel:
    session_id: str
    turn_id: str | None = None
    reason: str | None = None


@attrs.frozen(kw_only=True)
class TurnCancelResult:
    cancelled: bool
    turn_id: str | None = None


@attrs.frozen(kw_only=True)
class InputList:
    """``after`` is the id of a queued input: those behind it are listed."""

    session_id: str
    after: str | None = None


@attrs.frozen(kw_only=True)
class InputListResult:
    inputs: tuple[InputInfo, ...]
    has_more: bool = False


@attrs.frozen(kw_only=True)
class InputWithdraw:
    session_id: str
    input_id: str


@attrs.frozen(kw_only=True)
class AskList:
    """``after`` is the id of an open ask: those behind it are listed."""

    session_id: str
    after: str | None = None


@attrs.frozen(kw_only=True)
class AskListResult:
    asks: tuple[AskInfo, ...]
    has_more: bool = False


@attrs.frozen(kw_only=True)
class AskAnswer:
    """``error``, in place of an answer, says that a tool has failed which the client ran."""

    session_id: str
    ask_id: str
    answer: Any = None
    error: str | None = None


#: Method → (parameters, result). ``server.stats`` and ``server.describe`` answer plain objects.
METHODS: Final[dict[str, tuple[type[Any], type[Any] | None]]] = {
    "hello": (Hello, HelloResult),
    "session.create": (SessionCreate, Session),
    "session.get": (SessionGet, Session),
    "session.update": (SessionUpdate, Session),
    "session.close": (SessionClose, Session),
    "session.delete": (SessionDelete, Empty),
    "session.list": (SessionList, SessionListResult),
    "session.fork": (SessionFork, Session),
    "session.checkpoint": (SessionCheckpoint, SessionCheckpointResult),
    "session.compact": (SessionCompact, SessionCompactResult),
    "session.subscribe": (SessionSubscribe, SessionSubscribeResult),
    "session.unsubscribe": (SessionUnsubscribe, Empty),
    "session.export": (SessionExport, SessionExportResult),
    "event.list": (EventList, EventListResult),
    "message.send": (MessageSend, MessageSendResult),
    "message.stream": (MessageStream, MessageSendResult),
    "message.add": (MessageAdd, Message),
    "message.list": (MessageList, MessageListResult),
    "turn.cancel": (TurnCancel, TurnCancelResult),
    "input.list": (InputList, InputListResult),
    "input.withdraw": (InputWithdraw, Empty),
    "ask.list": (AskList, AskListResult),
    "ask.answer": (AskAnswer, Empty),
    "request.cancel": (RequestCancel, RequestCancelResult),
    "server.health": (Empty, Health),
    "server.stats": (Empty, None),
    "server.describe": (Empty, None),
}
