"""The asks of a session: opened by its turn, answered by clients, closed when their time is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import trio

from ._clock import seconds_until
from ._command import Command, Reply, record_key
from ._identity import principal_of
from ._queries import check_depth, check_size, find_ask, refuse_params
from ._record import AskRecord
from ._schema import find_issues, load_validator
from .errors import OverloadedError
from .events import AskClosed, AskOpened
from .log import KeyRecord
from .methods import AskAnswer, Empty
from .models import AskInfo

if TYPE_CHECKING:
    from ._session import LiveSession
    from ._timers import Timer

__all__ = ["AskDesk", "find_faults"]


class AskDesk:
    """Where a session's asks are open in this process. The first valid answer of each counts."""

    def __init__(self, session: LiveSession) -> None:
        self._session = session
        #: Until its end is published: nobody acts on it before.
        self._watched: dict[str, tuple[trio.Event, Timer | None]] = {}

    def open(self, body: AskOpened) -> AskRecord:
        """Open an ask.

        Raises:
            OverloadedError: As many are open as may be.
        """
        session = self._session
        limit = session.settings.max_open_asks
        if len(session.state.asks) >= limit:
            raise OverloadedError(f"{limit} asks are open already", data={"retryAfterMs": 1000})
        session.journal.stage(body)
        self._watch(body)
        session.host.turn_rests()
        assert session.state.record is not None
        return session.state.record.asks[-1]

    def restore(self) -> None:
        """Take up the asks that an earlier process left open."""
        asks = self._session.state.asks.values()
        for ask in asks:
            self._watch(ask)
        if any(ask.schema is not None for ask in asks):
            self._session.host.spawn_writer(load_validator)

    def stop(self) -> None:
        """Let no more time run out: the session's log takes nothing more."""
        for _, timer in self._watched.values():
            if timer is not None:
                timer.cancel()

    def _watch(self, ask: AskInfo) -> None:
        def expire() -> None:
            self.close(ask.ask_id, "expired", answer=ask.default)

        timer: Timer | None = None
        if ask.expires_at is not None:
            deadline = trio.current_time() + seconds_until(ask.expires_at)
            timer = self._session.host.timers.at(deadline, expire)
        self._watched[ask.ask_id] = (trio.Event(), timer)

    async def wait_closed(self, ask: AskRecord) -> AskClosed:
        """Wait until an ask is closed, and everybody could know it."""
        watched = self._watched.get(ask.opened.ask_id)
        if watched is None:
            await trio.lowlevel.checkpoint()
        else:
            await watched[0].wait()
        assert ask.closed is not None
        return ask.closed

    # -- answers ---------------------------------------------------------------------------------

    def answer(self, command: Command, params: AskAnswer, reply: Reply) -> None:
        """Carry out ``ask.answer``.

        Raises:
            AskNotFoundError, AskClosedError: There is no such ask, or none any more.
            InvalidRequestError: It is not among the answers that are allowed.
        """
        session = self._session
        session.check_open()
        ask = find_ask(session.state, params.ask_id)
        check_size("params.answer", params.answer, session.settings.max_message_bytes)
        check_depth("params.answer", params.answer)
        if params.error is None:
            refuse_params(find_faults(ask, params.answer, "params.answer"))
        elif ask.kind != "tool":
            refuse_params([{"path": "params.error", "message": "only a tool can fail"}])
        else:
            check_size("params.error", params.error, session.settings.max_message_bytes)
        self.close(
            ask.ask_id,
            "answered",
            answer=params.answer,
            error=params.error,
            by=principal_of(command.principal),
            keys=record_key(command.claim, Empty()),
            reply=reply,
        )

    def close(
        self,
        ask_id: str,
        reason: Literal["answered", "expired", "cancelled"],
        *,
        answer: Any = None,
        error: str | None = None,
        by: str | None = None,
        keys: tuple[KeyRecord, ...] = (),
        reply: Reply | None = None,
    ) -> None:
        """Close an ask, if it is open still."""
        session = self._session
        ask = session.state.asks.get(ask_id)
        if ask is None or session.journal.failure is not None:
            return
        session.journal.stage(
            AskClosed(
                ask_id=ask_id,
                turn_id=ask.turn_id,
                answer=answer,
                error=error,
                by=by,
                reason=reason,
            ),
            keys=keys,
            on_commit=None if reply is None else lambda: reply.succeed(Empty()),
            on_publish=lambda: self._published(ask_id),
            on_failure=None if reply is None else reply.fail,
        )

    def _published(self, ask_id: str) -> None:
        watched = self._watched.pop(ask_id, None)
        if watched is not None:
            closed, timer = watched
            closed.set()
            if timer is not None:
                timer.cancel()
        self._session.touch()
        self._session.ask_closed()

    def close_all(self) -> None:
        """The turn ends: nobody needs an answer any more."""
        for ask_id in list(self._session.state.asks):
            self.close(ask_id, "cancelled")


def find_faults(ask: AskInfo, answer: Any, place: str) -> list[dict[str, str]]:
    """Say why an answer is not allowed; nothing if it is."""
    if ask.options is not None and answer not in ask.options:
        return [{"path": place, "message": f"expected one of {', '.join(ask.options)}"}]
    return [] if ask.schema is None else find_issues(answer, ask.schema, place)
