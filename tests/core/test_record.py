"""What the fold keeps of a turn's calls and asks, and what a snapshot keeps of that."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from trialogue.core._recall import Recall
from trialogue.core._snapshot import encode_snapshot, restore, take_snapshot
from trialogue.core._state import SessionState
from trialogue.core.events import (
    AskClosed,
    AskOpened,
    BudgetRaised,
    EventBody,
    InputDelivered,
    MessageCompleted,
    MessageCreated,
    SessionCompacted,
    SessionCreated,
    SessionSpent,
    SessionUpdated,
    ToolCalled,
    ToolCompleted,
    TurnEnded,
    TurnStarted,
)
from trialogue.core.log import Entry
from trialogue.core.models import Message, Session, SessionConfig, TokenUsage, ToolCallInfo

WHEN = "2030-01-01T00:00:00.000Z"


class Folded:
    """A session's state, one event after another."""

    def __init__(self) -> None:
        self.state = SessionState("ses_1")
        session = Session(
            id="ses_1",
            status="idle",
            config=SessionConfig(model="old"),
            created_at=WHEN,
            last_activity_at=WHEN,
            position="1-1",
        )
        self.session = session
        self.take(
            SessionCreated(session=session),
            InputDelivered(input_id="inp_1", turn_id="trn_1", as_="start"),
            TurnStarted(turn_id="trn_1", input_id="inp_1"),
            MessageCreated(message=message("msg_1", "user", "go")),
        )

    def take(self, *bodies: EventBody) -> None:
        for body in bodies:
            self.state.apply(
                Entry(
                    session_id="ses_1",
                    term=1,
                    seq=self.state.seq + 1,
                    timestamp=WHEN,
                    event=body.type,
                    log_class=body.log_class or "metadata",
                    data=b"",
                    parsed=body,
                )
            )

    def from_snapshot(self) -> SessionState:
        """Give the state as the next process restores it."""
        other = SessionState("ses_1")
        assert restore(other, encode_snapshot(take_snapshot(self.state), WHEN))
        return other

    @property
    def pending(self) -> list[str]:
        record = self.state.record
        return [] if record is None else [call.call_id for call in record.pending]


def message(message_id: str, role: Any, content: str, **more: Any) -> Message:
    return Message(
        id=message_id,
        session_id="ses_1",
        turn_id="trn_1",
        role=role,
        content=content,
        timestamp=WHEN,
        **more,
    )


def called(call_id: str, **more: Any) -> ToolCalled:
    told: dict[str, Any] = {"name": "t", **more}
    return ToolCalled(call_id=call_id, turn_id="trn_1", **told)


def completed(call_id: str, status: Any, **more: Any) -> ToolCompleted:
    return ToolCompleted(call_id=call_id, turn_id="trn_1", status=status, **more)


def opened(ask_id: str, **more: Any) -> AskOpened:
    told: dict[str, Any] = {"kind": "question", "title": "?", **more}
    return AskOpened(ask_id=ask_id, turn_id="trn_1", **told)


def closed(ask_id: str, reason: Any = "answered", **more: Any) -> AskClosed:
    return AskClosed(ask_id=ask_id, turn_id="trn_1", reason=reason, **more)


def test_snapshot_in_the_middle_of_a_turn_keeps_all_of_its_record() -> None:
    """§9: a state that is restored decides as the one that was folded."""
    folded = Folded()
    calls = tuple(ToolCallInfo(call_id=name, name="t") for name in ("c1", "c2", "c3"))
    folded.take(
        MessageCompleted(message=message("msg_2", "assistant", "", tool_calls=calls)),
        called("c1"),
        completed("c1", "ok", result={"n": 1}),
        called("c2", key="k"),
        completed("c2", "unknown"),
        opened("ask_1", key="q", options=("a", "b")),
        SessionUpdated(session=attrs.evolve(folded.session, config=SessionConfig(model="new"))),
        closed("ask_1", answer="a"),
        opened("ask_2", kind="tool", call_id="c3", name="t", arguments={"x": 1}),
    )
    state = folded.state
    assert folded.pending == ["c2", "c3"]
    assert state.record is not None
    assert (state.record.config.model, state.config.model) == ("old", "new")
    restored = folded.from_snapshot()
    assert restored.record is not None
    assert [attrs.asdict(call) for call in restored.record.calls] == [
        attrs.asdict(call) for call in state.record.calls
    ]
    assert [attrs.asdict(ask) for ask in restored.record.asks] == [
        attrs.asdict(ask) for ask in state.record.asks
    ]
    assert restored.record.pending == state.record.pending
    assert restored.record.config == state.record.config
    assert restored.closed_asks == {"ask_1"}
    assert list(restored.asks) == ["ask_2"]
    assert restored.status == state.status


def granted(scope: Literal["turn", "session"], bound: str, amount: float) -> BudgetRaised:
    return BudgetRaised(
        turn_id="trn_2", scope=scope, bound=bound, amount=amount, child_session_id="ses_c"
    )


def test_snapshot_keeps_whose_spending_is_to_be_told() -> None:
    """§5.7: of a sub-agent that a restart took from its parent's turn."""
    folded = Folded()
    folded.take(
        attrs.evolve(called("c1"), child_session_id="ses_c"),
        completed("c1", "unknown"),
        TurnEnded(turn_id="trn_1", outcome="interrupted", usage=TokenUsage()),
    )
    for state in (folded.state, folded.from_snapshot()):
        assert (state.unsettled, state.make_summary().has_open_work) == ({"ses_c"}, True)
    folded.take(SessionSpent(usage=TokenUsage(), child_session_id="ses_c"))
    assert (folded.state.unsettled, folded.state.make_summary().has_open_work) == (set(), False)


def test_snapshot_keeps_what_was_spent_and_what_was_granted() -> None:
    """§5.6: of earlier turns and of this one."""
    folded = Folded()
    usage = TokenUsage(input_tokens=1, output_tokens=2, total_tokens=3, cost=0.5)
    raised = {"kind": "budget", "options": ("raise", "stop")}
    folded.take(
        called("c1"),
        completed("c1", "ok"),
        TurnEnded(turn_id="trn_1", outcome="completed", usage=usage, duration_ms=70),
        TurnStarted(turn_id="trn_2", input_id="inp_2"),
        called("c2"),
        opened("ask_1", key="budget session max_tokens 20 20", **raised),
        closed("ask_1", answer="raise"),
        opened("ask_2", key="budget turn max_cost 0.5 0.25", **raised),
        closed("ask_2", answer="raise"),
        opened("ask_3", key="budget turn max_cost 0.75 0.25", **raised),
        closed("ask_3", answer="stop"),
        opened("ask_4", key="budget of my own", **raised),
        closed("ask_4", answer="raise"),
        opened("ask_5", key="budget turn of my own", **raised),
        closed("ask_5", answer="raise"),
        opened("ask_6", key="budget turn max_cost 1 nan", **raised),
        closed("ask_6", answer="raise"),
        *(granted("session", "maxToolCalls", 3), granted("turn", "maxTokens", 5)),
        SessionSpent(usage=usage, tool_calls=2, child_session_id="ses_c"),
    )
    snapshot = take_snapshot(folded.state)
    for state in (folded.state, folded.from_snapshot()):
        assert state.record is not None
        assert (state.usage, state.spent_ms, state.tool_calls) == (usage + usage, 70, 4)
        assert state.granted == {"max_tokens": 20, "max_tool_calls": 3}
        assert state.record.granted == {"max_cost": 0.25, "max_tokens": 5}
    folded.take(
        opened("ask_7", key="budget session max_tokens 40 20", **raised),
        closed("ask_7", answer="raise"),
        opened("ask_8", key="budget turn max_cost 0.75 0.25", **raised),
        closed("ask_8", answer="raise"),
    )
    assert snapshot.record is not None
    assert snapshot.granted == {"max_tokens": 20, "max_tool_calls": 3}
    assert snapshot.record.granted == {"max_cost": 0.25, "max_tokens": 5}


def test_snapshot_keeps_whose_usage_a_compaction_made_void() -> None:
    folded = Folded()
    used = TokenUsage(input_tokens=5, total_tokens=5)

    def say(name: str) -> None:
        said = Message(
            id=name, session_id="s", role="assistant", content=name, timestamp=WHEN, usage=used
        )
        folded.take(MessageCompleted(message=said))

    for name in ("one", "two"):
        say(name)
    folded.take(SessionCompacted(compaction_id="c", summary="one", compacted_count=1))
    say("three")
    for state in (folded.state, folded.from_snapshot()):
        assert [m.usage for m in state.model_messages()] == [None, None, None, used]
        assert [m.usage for m in state.messages] == [None, used, used, used]


def test_snapshot_does_not_change_with_the_state_it_was_taken_of() -> None:
    """It is written down by a thread, while the turn goes on."""
    folded = Folded()
    folded.take(called("c1"), opened("ask_1"))
    snapshot = take_snapshot(folded.state)
    folded.take(completed("c1", "ok"), closed("ask_1"), called("c2"))
    assert snapshot.record is not None
    assert [call.completed for call in snapshot.record.calls] == [None]
    assert [ask.closed for ask in snapshot.record.asks] == [None]
    assert [call.call_id for call in snapshot.record.pending] == ["c1"]


def test_record_is_that_of_one_turn() -> None:
    """What a turn did is nothing to the next one."""
    folded = Folded()
    folded.take(called("c1"), completed("c1", "ok"), opened("ask_1"), closed("ask_1"))
    before = folded.state.record
    folded.take(TurnEnded(turn_id="trn_1", outcome="completed"))
    assert before is not None
    assert folded.state.record is None
    assert folded.state.closed_asks == {"ask_1"}


def test_later_result_of_a_call_stands_in_the_place_of_the_unknown_one() -> None:
    """§4: a model is shown one result of each call; another call of that id has its own."""
    folded = Folded()
    folded.take(
        called("c1"),
        completed("c1", "unknown", error="who knows"),
        called("c2"),
        completed("c2", "ok", result="two"),
        called("c1"),
        completed("c1", "ok", result="one"),
    )
    messages = folded.state.messages
    assert [m.role for m in messages] == ["user", "assistant", "tool", "assistant", "tool"]
    assert (messages[2].content, messages[2].status) == ("one", "complete")
    assert folded.pending == []
    folded.take(called("c1", arguments={"other": True}), completed("c1", "ok", result="three"))
    assert [m.content for m in folded.state.messages if m.role == "tool"] == ["one", "two", "three"]


def test_recall_gives_each_once_and_the_last_of_what_was_made_again() -> None:
    """§9.4: by key, by id, and without either by name and arguments, in their order."""
    folded = Folded()
    folded.take(
        called("x1", arguments={"n": 1}),
        completed("x1", "ok", result="first"),
        called("x2", arguments={"n": 1}),
        completed("x2", "ok", result="second"),
        called("x3", key="k"),
        completed("x3", "unknown"),
        called("x3", key="k"),
        completed("x3", "ok", result="again"),
    )
    assert folded.state.record is not None
    recall = Recall(folded.state.record)

    def result(call_id: str | None = None, **members: Any) -> Any:
        wanted = called(call_id or "new", **members)
        found = recall.take_call(wanted, has_id=call_id is not None)
        return None if found is None or found.completed is None else found.completed.result

    assert result(arguments={"n": 2}) is None
    assert result(name="other", arguments={"n": 1}) is None
    assert result(key="other") is None
    assert result(arguments={"n": 1}) == "first"
    assert result("x2", arguments={"n": 9}) == "second"
    assert result(arguments={"n": 1}) is None
    assert result(key="k", name="whatever") == "again"
    assert result(key="k") is None


def test_recall_forgets_asks_that_the_agent_gave_up() -> None:
    """§9.4: one that was closed by the agent is asked anew, and one that is open is waited for."""
    folded = Folded()
    folded.take(opened("ask_1"), closed("ask_1", "cancelled"), opened("ask_2"))
    assert folded.state.record is not None
    recall = Recall(folded.state.record)
    found = recall.take_ask(opened("new"))
    assert found is not None
    assert found.opened.ask_id == "ask_2"
    assert recall.take_ask(opened("new")) is None
