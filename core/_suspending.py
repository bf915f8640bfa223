"""Which turns a server that stops can leave to the next one (PROTOCOL §9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._recovery import MAX_ATTEMPTS, is_resumable

if TYPE_CHECKING:
    from ._session import LiveSession

__all__ = ["can_suspend", "is_alone"]


def can_suspend(session: LiveSession) -> bool:
    """Whether a turn waits for nothing but clients, and its parent, if it has one, for no more.

    Without recursion: an agent may have agents work for it as deep as it likes.
    """
    while (parent := _find_parent(session)) is not None:
        session = parent
    waiting = [session]
    while waiting:
        session = waiting.pop()
        if not _may_rest(session):
            return False
        for child in _find_children(session):
            live = session.host.sessions.get(child)
            if live is None:
                return False
            waiting.append(live)
    return True


def is_alone(session: LiveSession) -> bool:
    """Whether its turn waits for no child, and no parent waits for it here."""
    return not _find_children(session) and _find_parent(session) is None


def _may_rest(session: LiveSession) -> bool:
    """Whether a turn does nothing but wait, and can be taken up: its children aside."""
    turn, state, record = session.turn, session.state, session.state.record
    if turn is None or turn.is_cancelled or not session.host.store.durable:
        return False
    if turn.is_suspended or turn.is_dormant or state.status == "waiting":
        return True
    if record is None or state.in_progress or not _find_children(session):
        return False
    others = {c.call_id for c in state.tools.values() if c.child_session_id is None}
    return (
        others <= record.calls_at_clients
        and record.attempt < MAX_ATTEMPTS
        and is_resumable(session)
    )


def _find_children(session: LiveSession) -> list[str]:
    """Name the children that a turn waits for."""
    calls = session.state.tools.values()
    return [call.child_session_id for call in calls if call.child_session_id is not None]


def _find_parent(session: LiveSession) -> LiveSession | None:
    """Find whose turn waits for this one's."""
    ref = session.state.parent
    parent = None if ref is None else session.host.sessions.get(ref.session_id)
    return parent if parent is not None and session.id in _find_children(parent) else None
