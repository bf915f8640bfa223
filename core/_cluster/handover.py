"""How a node that drains hands its sessions over: each as soon as nothing of it is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .._session import LiveSession
    from .host import ClusterHost

__all__ = ["Handover", "is_at_rest"]

_REASON: Final = "the server drains"


class Handover:
    """Of one host."""

    def __init__(self, host: ClusterHost) -> None:
        self._host = host

    def begin(self) -> None:
        """Hand over what rests; the others follow when their turns do."""
        host = self._host
        for session in list(host.sessions.values()):
            self.hand_over_soon(session)
        for session_id in list(host.owned):
            known = host.sessions.get(session_id)
            if known is None or not known.journal.is_open:
                host.let_go(session_id)

    def suspend_turns(self) -> None:
        """Stop the turns with which another node can go on."""
        for session in list(self._host.running):
            turn = session.turn
            if turn is not None and not turn.is_suspended and session.can_suspend:
                session.stop_turn(_REASON)

    def hand_over_soon(self, session: LiveSession) -> None:
        """Let another node have a session, unless something of it is under way here."""
        host = self._host

        async def hand_over() -> None:
            await session.journal.wait_published()
            if is_at_rest(host, session):
                host.give_up(session.id, _REASON, is_meant=True)

        if session.journal.is_open:
            host.spawn_writer(hand_over)


def is_at_rest(host: ClusterHost, session: LiveSession) -> bool:
    """Whether nothing of a session is under way at a node: another one can go on with it."""
    return (
        host.sessions.get(session.id) is session
        and (session.turn is None or session.turn.is_dormant)
        and not session.closing.has_begun
        and session.journal.is_idle
    )
