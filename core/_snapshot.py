"""A session's state as one JSON value, so that opening a long log need not fold all of it.

Pure: no trio, no clock.
"""

from __future__ import annotations

import json
from typing import Final

import attrs

from . import codec
from ._record import TurnRecord
from ._state import SessionState
from .errors import InvalidRequestError, StoreError
from .events import SessionCompacted, ToolCalled
from .log import KeyRecord, Note, Position
from .models import (
    AskInfo,
    ErrorInfo,
    ForkedFrom,
    InProgress,
    InputInfo,
    JsonObject,
    Message,
    NodeInfo,
    Outcome,
    ParentRef,
    SessionConfig,
    SessionStatus,
    TokenUsage,
)

__all__ = ["Snapshot", "encode_snapshot", "restore", "take_snapshot", "wants_snapshot"]

#: Entries since the last snapshot after which there is to be another.
SNAPSHOT_ENTRIES: Final = 1000
#: A snapshot holds the whole history, so one every 1,000 entries would make a long log quadratic:
#: the log has to have grown by a quarter as well.
SNAPSHOT_GROWTH: Final = 0.25
#: Of the snapshot's form. One of another version is passed over, and the log is folded instead.
VERSION: Final = 3


@attrs.frozen(kw_only=True)
class _Term:
    term: int
    seq: int


@attrs.frozen(kw_only=True)
class _Begun:
    message: InProgress
    seq: int


@attrs.frozen(kw_only=True)
class _Key:
    record: KeyRecord
    timestamp: str
    seq: int


@attrs.frozen(kw_only=True)
class Snapshot:
    """The state at one position. Its parts are immutable, so any thread may write it down."""

    session_id: str
    after: Position
    version: int
    owner: str | None = None
    created_key: str | None = None
    name: str | None = None
    config: SessionConfig
    metadata: JsonObject
    summary: str | None = None
    parent: ParentRef | None = None
    forked_from: ForkedFrom | None = None
    node: NodeInfo | None = None
    created_at: str
    last_activity_at: str
    terms: tuple[_Term, ...]
    messages: tuple[Message, ...]
    message_starts: tuple[int, ...]
    in_progress: tuple[_Begun, ...]
    inputs: tuple[InputInfo, ...]
    asks: tuple[AskInfo, ...]
    closed_asks: tuple[str, ...] = ()
    tools: tuple[ToolCalled, ...]
    active_turn_id: str | None = None
    record: TurnRecord | None = None
    outcomes: dict[str, Outcome]
    errors: dict[str, ErrorInfo] = attrs.field(factory=dict[str, ErrorInfo])
    input_turns: dict[str, str]
    usage: TokenUsage
    spent_ms: int = 0
    tool_calls: int = 0
    granted: dict[str, float] = attrs.field(factory=dict[str, float])
    unsettled: tuple[str, ...] = ()
    compaction: SessionCompacted | None = None
    compacted_seq: int = 0
    ended: SessionStatus | None = None
    keys: tuple[_Key, ...]


def wants_snapshot(seq: int, last: int) -> bool:
    """Say whether a log that has reached ``seq`` should get another snapshot after ``last``."""
    return seq - last >= max(SNAPSHOT_ENTRIES, last * SNAPSHOT_GROWTH)


def take_snapshot(state: SessionState) -> Snapshot:
    """Copy a state, which is quick; writing it down is not."""
    return Snapshot(
        session_id=state.session_id,
        after=state.position,
        version=VERSION,
        owner=state.owner,
        created_key=state.created_key,
        name=state.name,
        config=state.config,
        metadata=state.metadata,
        summary=state.summary,
        parent=state.parent,
        forked_from=state.forked_from,
        node=state.node,
        created_at=state.created_at,
        last_activity_at=state.last_activity_at,
        terms=tuple(_Term(term=term, seq=seq) for term, seq in state.term_starts),
        messages=tuple(state.messages),
        message_starts=tuple(state.message_starts),
        in_progress=tuple(
            _Begun(message=message, seq=seq) for message, seq in state.in_progress.values()
        ),
        inputs=tuple(state.inputs),
        asks=tuple(state.asks.values()),
        closed_asks=tuple(state.closed_asks),
        tools=tuple(state.tools.values()),
        active_turn_id=state.active_turn_id,
        record=None if state.record is None else state.record.copy(),
        outcomes=dict(state.outcomes),
        errors=dict(state.errors),
        input_turns=dict(state.input_turns),
        usage=state.usage,
        spent_ms=state.spent_ms,
        tool_calls=state.tool_calls,
        granted=dict(state.granted),
        unsettled=tuple(state.unsettled),
        compaction=state.compaction,
        compacted_seq=state.compacted_seq,
        ended=state.ended,
        keys=tuple(
            _Key(record=record, timestamp=time, seq=seq)
            for record, time, seq in state.keys.values()
        ),
    )


def encode_snapshot(snapshot: Snapshot, timestamp: str) -> Note:
    """Write a snapshot down. It holds all messages: give a large one to a thread."""
    return Note(
        session_id=snapshot.session_id,
        type="snapshot",
        after=snapshot.after,
        timestamp=timestamp,
        data=codec.encode_json(codec.unstructure(snapshot)),
    )


def restore(state: SessionState, note: Note) -> bool:
    """Bring a fresh state to a snapshot's position. False if the snapshot cannot be used.

    Raises:
        StoreError: It is another session's.
    """
    if note.session_id != state.session_id:
        raise StoreError(f"a snapshot of {note.session_id} in the log of {state.session_id}")
    try:
        snapshot = codec.structure(json.loads(note.data), Snapshot)
    except (InvalidRequestError, ValueError):
        return False
    if snapshot.version != VERSION or snapshot.after != note.after:
        return False
    state.owner = snapshot.owner
    state.created_key = snapshot.created_key
    state.name = snapshot.name
    state.config = snapshot.config
    state.metadata = snapshot.metadata
    state.summary = snapshot.summary
    state.parent = snapshot.parent
    state.forked_from = snapshot.forked_from
    state.node = snapshot.node
    state.created_at = snapshot.created_at
    state.last_activity_at = snapshot.last_activity_at
    state.term, state.seq = note.after.term, note.after.seq
    state.term_starts = [(item.term, item.seq) for item in snapshot.terms]
    state.restore_messages(snapshot.messages)
    state.message_starts = list(snapshot.message_starts)
    state.in_progress = {
        begun.message.message_id: (begun.message, begun.seq) for begun in snapshot.in_progress
    }
    state.inputs = list(snapshot.inputs)
    state.asks = {ask.ask_id: ask for ask in snapshot.asks}
    state.closed_asks = set(snapshot.closed_asks)
    state.tools = {tool.call_id: tool for tool in snapshot.tools}
    state.active_turn_id = snapshot.active_turn_id
    # Two states are restored from one snapshot, and this is what they change in place.
    state.record = None if snapshot.record is None else snapshot.record.copy()
    state.outcomes = dict(snapshot.outcomes)
    state.errors = dict(snapshot.errors)
    state.input_turns = dict(snapshot.input_turns)
    state.usage = snapshot.usage
    state.spent_ms = snapshot.spent_ms
    state.tool_calls = snapshot.tool_calls
    state.granted = dict(snapshot.granted)
    state.unsettled = set(snapshot.unsettled)
    state.compaction = snapshot.compaction
    state.compacted_seq = snapshot.compacted_seq
    state.ended = snapshot.ended
    state.restore_keys((key.record, key.timestamp, key.seq) for key in snapshot.keys)
    return True
