"""How a session ends for good: its turn is cancelled, its inputs are returned, then nothing follows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import trio

from ._command import Reply
from .errors import SessionClosedError
from .events import InputReturned, SessionClosed

if TYPE_CHECKING:
    from ._session import LiveSession

__all__ = ["Closing", "only_stop_waiting"]

#: Called when all is published, or with the error if it never will be.
Done: TypeAlias = Callable[[Exception | None], None]


class Closing:
    """The closing of one session, which may have to wait for a turn to end.

    Attributes:
        summaries: Those of ``session.compact`` that the agent is at; they end with the session.
    """

    def __init__(self, session: LiveSession) -> None:
        self._session = session
        self._waiting: list[Done] | None = None
        self._reason = ""
        self.summaries: set[trio.CancelScope] = set()

    @property
    def has_begun(self) -> bool:
        """Whether it waits for the turn's end."""
        return self._waiting is not None

    def answer(self, reply: Reply) -> None:
        """Carry out ``session.close``."""
        feed = self._session.feed

        def closed(failure: Exception | None) -> None:
            if failure is not None:
                reply.fail(failure)
            else:
                reply.succeed_after(feed, feed.session())

        reply.when_abandoned(only_stop_waiting)
        self.begin("closed by a client", closed)

    def begin(self, reason: str, done: Done) -> None:
        """Cancel the turn, return queued inputs, and write ``session.closed``, the last event.

        Args:
            reason: For the events.
            done: See `Done`.
        """
        session = self._session
        if session.state.ended is not None:
            session.journal.when_published(session.state.seq, lambda: done(None), done)
            return
        if self._waiting is not None:
            self._waiting.append(done)
            return
        self._waiting = [done]
        self._reason = reason
        for scope in self.summaries:
            scope.cancel()
        if session.turn is not None:
            session.cancel_turn(session.turn, reason)
        else:
            self.finish()

    def finish(self) -> None:
        """Return the inputs, and write the end: there is no turn any more."""
        session, reason = self._session, self._reason
        waiting, self._waiting = self._waiting or [], None

        def tell(failure: Exception | None) -> None:
            for done in waiting:
                done(failure)

        why = SessionClosedError("The session closed before the input's turn came")
        with session.journal.batch():
            for info in list(session.state.inputs):
                session.journal.stage(
                    InputReturned(input_id=info.input_id, reason=reason),
                    on_publish=partial(session.input_gone, info.input_id, why),
                )
            session.journal.stage(
                SessionClosed(reason=reason), on_publish=lambda: tell(None), on_failure=tell
            )

    def fail(self, why: Exception) -> None:
        """Tell who waits that there will be no end: the log takes nothing more."""
        waiting, self._waiting = self._waiting or [], None
        for done in waiting:
            done(why)


def only_stop_waiting(reason: str) -> None:
    """What a request does whose work goes on when it is given up."""
