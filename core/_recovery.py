"""What a session's next owner writes first: the end of what its last owner left open.

Or it goes on with it: a turn that waited for clients waits on, and its agent is called again when
one has answered (PROTOCOL §9).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from ._children import settle_child
from ._clock import utc_now
from ._turn import RunningTurn
from .events import MessageCompleted, SessionResumed, ToolCompleted, TurnEnded, TurnResumed
from .models import Message, TokenUsage

if TYPE_CHECKING:
    from ._session import LiveSession
    from ._state import SessionState

__all__ = ["MAX_ATTEMPTS", "call_again", "is_resumable", "keep_turn", "recover"]

#: An agent that nobody has answered is called so often for one turn: perhaps it is what ends the
#: process each time.
MAX_ATTEMPTS: Final = 5

#: It goes on waiting, its agent is called again at once, or it is over.
_Fate: TypeAlias = Literal["waits", "resumes", "ends"]


def recover(session: LiveSession) -> bool:
    """Close what was open when the last process that wrote this session ended.

    A turn that was running is ``interrupted``, its message too, a tool's end is ``unknown``, and
    nobody is asked any more. What was said of the message is kept as far as it was saved. Queued
    inputs then run, or wait for the next input, as the setting says. Source: DESIGN §4.

    Returns:
        Whether a turn was interrupted, which is an activity.
    """
    state, journal = session.state, session.journal
    turn_id = state.active_turn_id
    fate = _decide(session)
    is_over = turn_id is not None and fate == "ends"
    with journal.batch():
        if journal.next_position.term > state.term:
            journal.stage(
                SessionResumed(
                    term=journal.next_position.term,
                    node=session.host.node,
                    interrupted_turn_id=turn_id if is_over else None,
                )
            )
        if is_over and turn_id is not None:
            spent = TokenUsage() if state.record is None else state.record.children_usage
            _end_calls(session, set())
            for message, _ in list(state.in_progress.values()):
                journal.stage(
                    MessageCompleted(
                        message=Message(
                            id=message.message_id,
                            session_id=session.id,
                            turn_id=message.turn_id,
                            role=message.role,
                            kind=message.kind,
                            content=session.texts.get(message.message_id, ""),
                            timestamp=utc_now(),
                            status="interrupted",
                        )
                    )
                )
            session.asks.close_all()
            journal.stage(
                TurnEnded(
                    turn_id=turn_id,
                    outcome="interrupted",
                    stop_reason="restart",
                    usage=_sum_usage(state, turn_id) + spent,
                )
            )
        elif turn_id is not None and state.record is not None:
            has_answer = state.record.has_answer
            _end_calls(session, state.record.calls_at_clients)
            state.record.has_answer = has_answer
            session.asks.restore()
            turn = keep_turn(session)
            if fate == "resumes" and not session.host.is_draining:
                call_again(session, turn)
    for child in state.unsettled:
        settle_child(session.host, session.id, child, state.owner)
    if session.settings.resume_inputs:
        session.start_next()
    return is_over


def _decide(session: LiveSession) -> _Fate:
    """Say what becomes of the turn that was running."""
    state = session.state
    record, turn_id = state.record, state.active_turn_id
    if record is None or turn_id is None or state.in_progress:
        return "ends"
    runs = state.tools.keys() - record.calls_at_clients
    if not runs and state.asks and not record.has_answer:
        return "waits"
    if record.attempt >= MAX_ATTEMPTS:
        return "ends"
    if not runs and record.has_answer:
        return "resumes"
    return "resumes" if (runs or record.pending) and is_resumable(session) else "ends"


def is_resumable(session: LiveSession) -> bool:
    """Whether the agent of the turn at work may be called again in the middle of its calls."""
    record = session.state.record
    if record is None:
        return False
    return getattr(session.host.find_agent(record.config), "resumable", False) is True


def _end_calls(session: LiveSession, kept: set[str]) -> None:
    """Nobody knows how the calls ended that ran in the last process."""
    for call in list(session.state.tools.values()):
        if call.call_id not in kept:
            session.journal.stage(
                ToolCompleted(
                    call_id=call.call_id,
                    turn_id=call.turn_id,
                    status="unknown",
                    error="The server stopped while the tool was running",
                )
            )


def keep_turn(session: LiveSession) -> RunningTurn:
    """Take up a turn whose agent is not running, until `call_again`."""
    state = session.state
    turn_id, record = state.active_turn_id, state.record
    assert turn_id is not None
    assert record is not None
    turn = session.turn = RunningTurn(
        session,
        turn_id,
        _find_input(state, turn_id),
        [input_id for input_id, taker in state.input_turns.items() if taker == turn_id],
        attempt=record.attempt + 1,
        config=record.config,
        usage=_sum_usage(state, turn_id),
    )
    turn.is_dormant = True
    return turn


def call_again(session: LiveSession, turn: RunningTurn) -> None:
    """Call the agent again for a turn that an earlier one has left."""
    turn.is_dormant = False
    session.journal.stage(TurnResumed(turn_id=turn.id, attempt=turn.attempt))
    if session.journal.failure is None:
        session.host.spawn_turn(session, turn)


def _find_input(state: SessionState, turn_id: str) -> Message:
    return next(m for m in state.messages if m.turn_id == turn_id and m.role == "user")


def _sum_usage(state: SessionState, turn_id: str) -> TokenUsage:
    usage = TokenUsage()
    for message in state.messages:
        if message.turn_id == turn_id and message.usage is not None:
            usage = usage + message.usage
    return usage if state.record is None else usage + state.record.compaction_usage
