"""What a session's next owner writes first: the end of what its last owner left open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._clock import utc_now
from .events import MessageCompleted, SessionResumed, ToolCompleted, TurnEnded
from .models import Message

if TYPE_CHECKING:
    from ._session import LiveSession

__all__ = ["recover"]


def recover(session: LiveSession) -> bool:
    """Close what was open when the last process that wrote this session ended.

    A turn that was running is ``interrupted``, its message too, a tool's end is ``unknown``.
    What was said of the message is kept as far as it was saved. Queued inputs then run, or wait
    for the next input, as the setting says. Source: DESIGN §4.

    Returns:
        Whether a turn was interrupted, which is an activity.
    """
    state, journal = session.state, session.journal
    turn_id = state.active_turn_id
    with journal.batch():
        if journal.next_position.term > state.term:
            journal.stage(
                SessionResumed(term=journal.next_position.term, interrupted_turn_id=turn_id)
            )
        if turn_id is not None:
            for call in list(state.tools.values()):
                journal.stage(
                    ToolCompleted(
                        call_id=call.call_id,
                        turn_id=call.turn_id,
                        status="unknown",
                        error="The server stopped while the tool was running",
                    )
                )
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
            journal.stage(TurnEnded(turn_id=turn_id, outcome="interrupted", stop_reason="restart"))
    if session.settings.resume_inputs:
        session.start_next()
    return turn_id is not None
