"""What an agent is given that makes a summary between two turns, for ``session.compact``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, overload

import trio

from ._budget import Bound, Exceeded, find_bounds
from .abc import Excerpt
from .errors import BudgetExceededError
from .events import SessionSpent
from .models import Message, SessionConfig

if TYPE_CHECKING:
    from ._session import LiveSession

__all__ = ["SessionExcerpt"]

#: A summary calls no tools, and its time is that of whoever waits for it.
_BOUNDED: Final = ("max_tokens", "max_cost")


class SessionExcerpt(Excerpt):
    """The oldest messages of a session. No turn is answerable for what is spent on them."""

    def __init__(self, session: LiveSession, messages: Sequence[Message]) -> None:
        self._session = session
        self._messages = messages
        self._config = session.state.config

    @property
    def config(self) -> SessionConfig:
        return self._config

    def report_usage(
        self,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        model: str | None = None,
        cost: float | None = None,
    ) -> None:
        session = self._session
        usage = session.host.prices.make_usage(input_tokens, output_tokens, model, cost)
        session.host.stats.count_usage(usage)
        session.host.stats.count_tokens(model, usage)
        # At once: it is spent, whatever becomes of the summary.
        if session.state.ended is None and session.journal.failure is None:
            session.journal.stage(SessionSpent(usage=usage))

    async def check_budget(self) -> None:
        await trio.lowlevel.checkpoint()
        state, turn = self._session.state, self._session.turn
        usage = state.usage if turn is None else state.usage + turn.usage
        for scope, member, limit in find_bounds(self._config.budget, self._session.settings):
            if scope == "session" and member in _BOUNDED:
                bound = Bound(
                    scope=scope, member=member, limit=limit, granted=state.granted.get(member, 0)
                )
                spent = usage.total_tokens if member == "max_tokens" else usage.cost or 0.0
                if spent >= bound.allowed:
                    raise BudgetExceededError(str(Exceeded(bound=bound, spent=spent)))

    # -- a sequence ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        return self._messages[index]
