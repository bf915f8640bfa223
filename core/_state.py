"""What a session is: the fold of its log (DESIGN §4). Pure: no trio, no clock, no second copy.

Two folds of one log are kept for a session in memory. The journal's is ahead: it holds what was
admitted, and decisions read it. The feed's holds what was published, and readers see it. On a
node that only follows a session there is but the second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final

import attrs

from ._budget import MEMBERS, find_raised
from ._record import AskRecord, TurnRecord
from .codec import camel_case
from .events import (
    AskClosed,
    AskOpened,
    BudgetRaised,
    CustomEvent,
    EventBody,
    InputDelivered,
    InputQueued,
    InputReturned,
    InputWithdrawn,
    MessageCompleted,
    MessageCreated,
    MessageStarted,
    SessionClosed,
    SessionCompacted,
    SessionCreated,
    SessionExpired,
    SessionResumed,
    SessionSpent,
    SessionUpdated,
    ToolCalled,
    ToolCompleted,
    TurnEnded,
    TurnResumed,
    TurnStarted,
)
from .log import Entry, KeyRecord, Position, Summary
from .models import (
    AskInfo,
    ErrorInfo,
    ForkedFrom,
    InProgress,
    InputInfo,
    Message,
    MessageStatus,
    NodeInfo,
    Outcome,
    ParentRef,
    Session,
    SessionConfig,
    SessionStatus,
    TokenUsage,
    ToolCallInfo,
)

__all__ = ["SUMMARY_HEADING", "SessionState", "result_text"]

#: How the message begins that stands in for what was compacted (PROTOCOL §8).
SUMMARY_HEADING: Final = "[Previous conversation summary]"


class SessionState:
    """One session at one position of its log.

    Args:
        session_id: The session's.
        keeps_keys: Keep idempotency keys: for whoever decides, not for readers.
    """

    __slots__ = (
        "_derived_ids",
        "_keeps_keys",
        "active_turn_id",
        "asks",
        "closed_asks",
        "compacted_seq",
        "compaction",
        "config",
        "created_at",
        "created_key",
        "ended",
        "errors",
        "forked_from",
        "granted",
        "in_progress",
        "input_turns",
        "inputs",
        "keys",
        "last_activity_at",
        "message_starts",
        "messages",
        "metadata",
        "name",
        "node",
        "outcomes",
        "owner",
        "parent",
        "record",
        "seq",
        "session_id",
        "spent_ms",
        "summary",
        "term",
        "term_starts",
        "tool_calls",
        "tools",
        "unsettled",
        "usage",
    )

    def __init__(self, session_id: str, *, keeps_keys: bool = False) -> None:
        self.session_id = session_id
        self._keeps_keys = keeps_keys
        self.owner: str | None = None
        self.created_key: str | None = None
        self.name: str | None = None
        self.config = SessionConfig()
        self.metadata: Any = {}
        self.summary: str | None = None
        self.parent: ParentRef | None = None
        self.forked_from: ForkedFrom | None = None
        self.node: NodeInfo | None = None
        self.created_at = ""
        self.last_activity_at = ""
        self.term = 1
        self.seq = 0
        #: The seq at which each term began, oldest first: what makes a position checkable.
        self.term_starts: list[tuple[int, int]] = []
        self.messages: list[Message] = []
        #: Of those whose ids follow from a call's.
        self._derived_ids: set[str] = set()
        #: For each of them, the seq of the event that began it.
        self.message_starts: list[int] = []
        #: With the seq of its ``message.started``.
        self.in_progress: dict[str, tuple[InProgress, int]] = {}
        #: Queued inputs in the order in which they will run.
        self.inputs: list[InputInfo] = []
        self.asks: dict[str, AskInfo] = {}
        self.closed_asks: set[str] = set()
        self.tools: dict[str, ToolCalled] = {}
        self.active_turn_id: str | None = None
        #: Of the active turn, once it has called a tool or asked something.
        self.record: TurnRecord | None = None
        self.outcomes: dict[str, Outcome] = {}
        #: Of the turns that failed, why.
        self.errors: dict[str, ErrorInfo] = {}
        self.input_turns: dict[str, str] = {}
        self.usage = TokenUsage()
        #: How long its turns took, how many calls they made, and what was granted beyond each bound
        #: of the session's budget.
        self.spent_ms = 0
        self.tool_calls = 0
        self.granted: dict[str, float] = {}
        #: The sub-agents whose ends its turns did not see, so that what they spent is to be told.
        self.unsettled: set[str] = set()
        #: What stands in for the oldest messages when a model is shown the conversation.
        self.compaction: SessionCompacted | None = None
        self.compacted_seq = 0
        self.ended: SessionStatus | None = None
        self.keys: dict[str, tuple[KeyRecord, str, int]] = {}

    # -- reading ---------------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """Of the last entry folded."""
        return Position(self.term, self.seq)

    @property
    def status(self) -> SessionStatus:
        """As `Session.status`."""
        if self.ended is not None:
            return self.ended
        if self.active_turn_id is None:
            return "idle"
        return "waiting" if self.asks and self.is_only_waiting else "running"

    @property
    def is_only_waiting(self) -> bool:
        """Whether the turn does nothing that the log knows of but wait for clients.

        A call that a client runs is such a wait, too.
        """
        if self.in_progress or self.record is None:
            return False
        return self.tools.keys() <= self.record.calls_at_clients

    def holds(self, position: Position) -> bool:
        """Say whether the log has exactly this position, term and seq (PROTOCOL §6.5)."""
        if position.seq == 0:
            return position.term == 0
        if position.seq > self.seq:
            return False
        return self.term_at(position.seq) == position.term

    def term_at(self, seq: int) -> int:
        """Give the term in which ``seq`` was written; 0 before the first."""
        for term, start in reversed(self.term_starts):
            if seq >= start:
                return term
        return 0

    def session(self) -> Session:
        """Make the wire's shape."""
        return Session(
            id=self.session_id,
            name=self.name,
            status=self.status,
            config=self.config,
            created_at=self.created_at,
            last_activity_at=self.last_activity_at,
            message_count=len(self.messages),
            token_usage=self.usage,
            position=f"{self.term}-{self.seq}",
            active_turn_id=self.active_turn_id,
            queued_count=len(self.inputs),
            summary=self.summary,
            metadata=self.metadata,
            parent=self.parent,
            forked_from=self.forked_from,
            node=self.node,
        )

    def make_summary(self) -> Summary:
        """Make what the store's index keeps."""
        return Summary(
            session=self.session(),
            owner=self.owner,
            created_key=self.created_key,
            has_open_work=self.has_open_work,
        )

    @property
    def has_open_work(self) -> bool:
        """Whether there is something to do that no client need ask for."""
        return self.active_turn_id is not None or bool(self.inputs) or bool(self.unsettled)

    def model_messages(self) -> tuple[Message, ...]:
        """Give the conversation as a model is shown it (PROTOCOL §8).

        What was compacted is one system message with its summary. A message of before has no usage:
        its request had in it what is shown no more.
        """
        compaction = self.compaction
        if compaction is None:
            return tuple(self.messages)
        summary = Message(
            id=f"msg_{compaction.compaction_id}",
            session_id=self.session_id,
            role="system",
            content=f"{SUMMARY_HEADING}\n{compaction.summary}",
            timestamp=self.created_at,
        )
        count = compaction.compacted_count
        kept = [
            attrs.evolve(message, usage=None)
            if begun <= self.compacted_seq and message.usage is not None
            else message
            for message, begun in zip(
                self.messages[count:], self.message_starts[count:], strict=True
            )
        ]
        return (summary, *kept)

    def find_message(self, message_id: str) -> int | None:
        """Give the index of a completed message, newest searched first."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].id == message_id:
                return index
        return None

    def seq_of_tail(self, count: int) -> int:
        """Give the seq before the event that began the ``count``-th last message; 0 is the start."""
        if count <= 0:
            return self.seq
        starts = [*self.message_starts, *(seq for _, seq in self.in_progress.values())]
        return starts[-count] - 1 if count <= len(starts) else 0

    def last_assistant_message(self, turn_id: str) -> Message | None:
        """Give the last text of a turn's assistant, None if it wrote none."""
        is_past_later_turns = False
        for message in reversed(self.messages):
            if message.turn_id == turn_id:
                is_past_later_turns = True
                is_text = message.role == "assistant" and message.kind == "text"
                if is_text and (message.content or not message.tool_calls):
                    return message
            elif is_past_later_turns and message.turn_id is not None:
                break
        return None

    # -- folding ---------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        """Fold the next entry.

        Raises:
            ValueError: It is not the next one.
        """
        if entry.seq != self.seq + 1:
            raise ValueError(f"{entry!r} after {self.position}")
        body = entry.body
        fold = self._folds.get(type(body))
        if fold is not None:
            fold(self, body, entry)
        # Not before: an entry that could not be folded has not been, and its seq is still free.
        self.seq = entry.seq
        if entry.term != self.term or not self.term_starts:
            self.term = entry.term
            self.term_starts.append((entry.term, entry.seq))
        if self._keeps_keys:
            for record in entry.keys:
                self.keys[record.key] = (record, entry.timestamp, entry.seq)

    def restore_keys(self, keys: Iterable[tuple[KeyRecord, str, int]]) -> None:
        """Take the keys of a snapshot, if this state keeps any."""
        if self._keeps_keys:
            self.keys = {record.key: (record, time, seq) for record, time, seq in keys}

    def remember_keys(self, records: tuple[KeyRecord, ...], timestamp: str) -> None:
        """Keep the keys of a request that no entry carries, since it changed nothing.

        They are gone with this state: what they keep from happening is a repeat's surprise, no
        second effect.
        """
        for record in records:
            self.keys.setdefault(record.key, (record, timestamp, self.seq))

    def forget_keys(self, before: str) -> None:
        """Drop idempotency keys of entries older than a time (RFC 3339). Oldest come first."""
        # In one pass: each look for the first item of a dict passes over all that were deleted.
        old: list[str] = []
        for key, (_, timestamp, _) in self.keys.items():
            if timestamp >= before:
                break
            old.append(key)
        for key in old:
            del self.keys[key]

    def _session_created(self, body: SessionCreated, entry: Entry) -> None:
        session = body.session
        self.owner = body.owner
        self.created_key = entry.keys[0].key if entry.keys else None
        self.created_at = session.created_at
        self.last_activity_at = session.last_activity_at
        self.parent = session.parent
        self.forked_from = session.forked_from
        self.node = session.node
        self._take(session)

    def _session_resumed(self, body: SessionResumed, entry: Entry) -> None:
        self.node = body.node

    def _session_updated(self, body: SessionUpdated, entry: Entry) -> None:
        if self.active_turn_id is not None:
            # Its config stays what it was at its start.
            self._turn_record()
        self._take(body.session)

    def _turn_record(self) -> TurnRecord:
        if self.record is None:
            self.record = TurnRecord(config=self.config)
        return self.record

    def _acted(self) -> None:
        """The agent has done something since it was given an answer."""
        if self.record is not None:
            self.record.has_answer = False

    def _take(self, session: Session) -> None:
        for member in MEMBERS:
            if _get_limit(session.config, member) != _get_limit(self.config, member):
                # A bound that is set anew is what it says.
                self.granted.pop(member, None)
        self.name = session.name
        self.config = session.config
        self.metadata = session.metadata
        self.summary = session.summary

    def _session_ended(self, body: SessionClosed | SessionExpired, entry: Entry) -> None:
        self.ended = "closed" if isinstance(body, SessionClosed) else "expired"
        self.unsettled.clear()

    def _session_compacted(self, body: SessionCompacted, entry: Entry) -> None:
        self.compaction = body
        self.compacted_seq = entry.seq
        if body.usage is not None and self.active_turn_id is not None:
            record = self._turn_record()
            record.compaction_usage = record.compaction_usage + body.usage

    def _session_spent(self, body: SessionSpent, entry: Entry) -> None:
        self.usage = self.usage + body.usage
        self.tool_calls += body.tool_calls or 0
        if body.child_session_id is not None:
            self.unsettled.discard(body.child_session_id)

    def _budget_raised(self, body: BudgetRaised, entry: Entry) -> None:
        granted = self.granted if body.scope == "session" else self._turn_record().granted
        for member in MEMBERS:
            if camel_case(member) == body.bound:
                granted[member] = granted.get(member, 0) + body.amount

    def _input_queued(self, body: InputQueued, entry: Entry) -> None:
        info = InputInfo(
            input_id=body.input_id,
            message_id=body.message_id,
            turn_id=body.turn_id,
            content=body.content,
            when_busy=body.when_busy,
            attachments=body.attachments,
        )
        self.last_activity_at = entry.timestamp
        if body.when_busy == "interrupt":
            # Before all others, but behind the interrupts that are there (PROTOCOL §5.1).
            ahead = 0
            while ahead < len(self.inputs) and self.inputs[ahead].when_busy == "interrupt":
                ahead += 1
            self.inputs.insert(ahead, info)
        else:
            self.inputs.append(info)

    def _input_delivered(self, body: InputDelivered, entry: Entry) -> None:
        self._remove_input(body.input_id)
        self.input_turns[body.input_id] = body.turn_id
        if body.as_ == "steer":
            self._acted()
        self.last_activity_at = entry.timestamp

    def _input_gone(self, body: InputWithdrawn | InputReturned, entry: Entry) -> None:
        self._remove_input(body.input_id)

    def _remove_input(self, input_id: str) -> None:
        for index, info in enumerate(self.inputs):
            if info.input_id == input_id:
                del self.inputs[index]
                return

    def _turn_started(self, body: TurnStarted, entry: Entry) -> None:
        self.active_turn_id = body.turn_id
        self.record = None

    def _turn_resumed(self, body: TurnResumed, entry: Entry) -> None:
        self._turn_record().attempt = body.attempt

    def _turn_ended(self, body: TurnEnded, entry: Entry) -> None:
        if self.record is not None:
            self.unsettled.update(self.record.lost_children)
        self.active_turn_id = self.record = None
        self.outcomes[body.turn_id] = body.outcome
        if body.error is not None:
            self.errors[body.turn_id] = body.error
        self.usage = self.usage + body.usage
        self.spent_ms += body.duration_ms or 0
        self.last_activity_at = entry.timestamp

    def _message_created(self, body: MessageCreated, entry: Entry) -> None:
        self._append(body.message, entry.seq)
        self.last_activity_at = entry.timestamp

    def _message_started(self, body: MessageStarted, entry: Entry) -> None:
        message = InProgress(
            message_id=body.message_id, turn_id=body.turn_id, role=body.role, kind=body.kind
        )
        self.in_progress[body.message_id] = (message, entry.seq)
        if self.record is not None:
            self._acted()

    def _message_completed(self, body: MessageCompleted, entry: Entry) -> None:
        message = body.message
        begun = self.in_progress.pop(message.id, None)
        self._append(message, entry.seq if begun is None else begun[1])
        if message.tool_calls and message.turn_id == self.active_turn_id:
            self._turn_record().pending += message.tool_calls

    def _derive_id(self, wanted: str, entry: Entry, turn_id: str) -> str:
        """Give a message an id that follows from the log, and is the session's only one.

        Many a model counts its calls anew in each turn.
        """
        return f"msg_{turn_id}_{entry.seq}" if wanted in self._derived_ids else wanted

    def restore_messages(self, messages: Iterable[Message]) -> None:
        """Take the messages of a snapshot."""
        self.messages = list(messages)
        self._derived_ids = {message.id for message in self.messages if _may_be_derived(message)}

    def _append(self, message: Message, seq: int) -> None:
        self.messages.append(message)
        if _may_be_derived(message):
            self._derived_ids.add(message.id)
        self.message_starts.append(seq)

    def _tool_called(self, body: ToolCalled, entry: Entry) -> None:
        """Keep the call with the assistant's message that made it.

        A call made without any text has no message of its own in the log; a model needs one, so
        the fold makes it: empty, its id derived from the first call's.
        """
        self.tools[body.call_id] = body
        record = self._turn_record()
        self.tool_calls += not record.is_repeat(body)
        record.has_answer = False
        stands = record.stands(body)
        record.begin_call(body)
        if stands:
            return
        record.pending.append(_call_info(body))
        for index in range(len(self.messages) - 1, -1, -1):
            message = self.messages[index]
            if message.turn_id != body.turn_id or message.role not in ("assistant", "tool"):
                break
            if message.role == "tool":
                continue
            if _is_implied(message) and not self._has_results_after(index):
                calls = message.tool_calls or ()
                usage = message.usage
                if body.usage is not None:
                    usage = body.usage if usage is None else usage + body.usage
                self.messages[index] = attrs.evolve(
                    message, tool_calls=(*calls, _call_info(body)), usage=usage
                )
                return
            break
        self._append(
            Message(
                id=self._derive_id(f"msg_{body.call_id}", entry, body.turn_id),
                session_id=self.session_id,
                turn_id=body.turn_id,
                role="assistant",
                content="",
                timestamp=entry.timestamp,
                tool_calls=(_call_info(body),),
                usage=body.usage,
            ),
            entry.seq,
        )

    def _has_results_after(self, index: int) -> bool:
        return any(message.role == "tool" for message in self.messages[index + 1 :])

    def _tool_completed(self, body: ToolCompleted, entry: Entry) -> None:
        text = result_text(body.result) if body.status == "ok" else body.error or body.status
        self.tools.pop(body.call_id, None)
        self.tool_calls += body.tool_calls or 0
        record = self._turn_record()
        record.has_answer = False
        earlier = record.end_call(body)
        if earlier is not None and self._replace_result(earlier, body, text):
            return
        message_id = self._derive_id(f"msg_{body.call_id}_result", entry, body.turn_id)
        record.set_result(body.call_id, message_id)
        self._append(
            Message(
                id=message_id,
                session_id=self.session_id,
                turn_id=body.turn_id,
                role="tool",
                content=text,
                timestamp=entry.timestamp,
                status="complete" if body.status == "ok" else "error",
                call_id=body.call_id,
            ),
            entry.seq,
        )

    def _replace_result(self, message_id: str, body: ToolCompleted, text: str) -> bool:
        """Put a call's later result where an earlier one stands: a model is shown one of each."""
        index = self.find_message(message_id)
        if index is None:
            return False
        status: MessageStatus = "complete" if body.status == "ok" else "error"
        self.messages[index] = attrs.evolve(self.messages[index], content=text, status=status)
        return True

    def _ask_opened(self, body: AskOpened, entry: Entry) -> None:
        self.asks[body.ask_id] = body
        record = self._turn_record()
        record.has_answer = False
        record.asks.append(AskRecord(opened=body))

    def _ask_closed(self, body: AskClosed, entry: Entry) -> None:
        opened = self.asks.pop(body.ask_id, None)
        record = self._turn_record()
        if opened is not None:
            self.closed_asks.add(body.ask_id)
            scope, member, more = find_raised(opened, body.answer)
            granted = self.granted if scope == "session" else record.granted
            if scope is not None:
                granted[member] = granted.get(member, 0) + more
        record.end_ask(body)
        record.has_answer = body.reason != "cancelled"
        self.last_activity_at = entry.timestamp

    def _custom(self, body: CustomEvent, entry: Entry) -> None:
        self._acted()

    _folds: ClassVar[dict[type[EventBody], Callable[[SessionState, Any, Entry], None]]] = {
        SessionCreated: _session_created,
        SessionResumed: _session_resumed,
        SessionUpdated: _session_updated,
        SessionClosed: _session_ended,
        SessionExpired: _session_ended,
        SessionCompacted: _session_compacted,
        SessionSpent: _session_spent,
        BudgetRaised: _budget_raised,
        InputQueued: _input_queued,
        InputDelivered: _input_delivered,
        InputWithdrawn: _input_gone,
        InputReturned: _input_gone,
        TurnStarted: _turn_started,
        TurnResumed: _turn_resumed,
        TurnEnded: _turn_ended,
        MessageCreated: _message_created,
        MessageStarted: _message_started,
        MessageCompleted: _message_completed,
        ToolCalled: _tool_called,
        ToolCompleted: _tool_completed,
        AskOpened: _ask_opened,
        AskClosed: _ask_closed,
        CustomEvent: _custom,
    }


def result_text(result: Any) -> str:
    """Give the text that stands for a tool's result in the history."""
    # Letters stay letters: as six characters each they would not fit into a frame again.
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


def _get_limit(config: SessionConfig, member: str) -> float | None:
    limit: float | None = None if config.budget is None else getattr(config.budget, member)
    return limit


def _is_implied(message: Message) -> bool:
    """Whether the fold made this message to hold tool calls."""
    calls = message.tool_calls
    if not calls:
        return False
    return message.id == f"msg_{calls[0].call_id}" or message.id.startswith(
        f"msg_{message.turn_id}_"
    )


def _may_be_derived(message: Message) -> bool:
    """Whether the fold may have made a message's id of a call's."""
    return message.role == "tool" or bool(message.tool_calls)


def _call_info(body: ToolCalled) -> ToolCallInfo:
    return ToolCallInfo(call_id=body.call_id, name=body.name, arguments=body.arguments)
