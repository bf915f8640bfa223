"""Who is answered first: what comes of an errand is shown behind its answer (PROTOCOL §2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .errand import Errand
    from .host import ClusterHost

__all__ = ["Holds"]


class Holds:
    """The errands of one node that hold feeds back."""

    def __init__(self, host: ClusterHost) -> None:
        self._host = host
        #: In the order in which they are carried out, by session.
        self._errands: dict[str, dict[Errand, None]] = {}

    def list(self, session_id: str) -> Sequence[Errand]:
        """Give those of a session, in their order."""
        return [*self._errands.get(session_id, ())]

    def has_before(self, errand: Errand) -> bool:
        """Whether others are to be answered before one that holds its feed back."""
        return (
            errand.held is not None and next(iter(self._errands[errand.session_id])) is not errand
        )

    def hold(self, errand: Errand) -> None:
        """Let nobody here see what comes of an errand before it is answered (PROTOCOL §2.2)."""
        session = self._host.sessions.get(errand.session_id)
        if session is not None and session.journal.is_open and session.journal.failure is None:
            return  # this node decides what comes when: to wait for others is to come too late
        if errand.is_answered_first and session is not None and errand.held is None:
            errand.held = self._host.feed_of(session)
            errand.held.hold()
            self._errands.setdefault(errand.session_id, {})[errand] = None

    def release(self, errand: Errand) -> None:
        """Let all see what comes of it."""
        held, errand.held = errand.held, None
        if held is None:
            return
        holding = self._errands[errand.session_id]
        del holding[errand]
        held.release()
        if not holding:
            del self._errands[errand.session_id]
            return
        first = next(iter(holding))
        answer, first.answer = first.answer, None
        if answer is not None:
            answer()

    def release_soon(self, errand: Errand) -> None:
        """Let all see what comes of it, in a moment."""
        if errand.held is not None:

            async def release() -> None:
                await trio.lowlevel.checkpoint()
                self.release(errand)

            self._host.spawn_writer(release)

    def release_all(self, session_id: str) -> None:
        """Hold nothing back any more: from here on this node decides what comes when."""
        holding = self._errands.pop(session_id, {})
        for errand in holding:
            held, errand.held = errand.held, None
            assert held is not None
            held.release()
        for errand in holding:
            answer, errand.answer = errand.answer, None
            if answer is not None:
                answer()
