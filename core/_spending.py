"""A running turn, as far as it spends, and what becomes of it where its budget ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import trio

from ._asking import AskingTurn
from ._budget import RAISE, STOP, Bound, Exceeded, find_bounds
from .errors import BudgetExceededError
from .events import ToolCalled
from .models import SessionConfig, TokenUsage

if TYPE_CHECKING:
    from ._session import LiveSession

__all__ = ["SpendingTurn", "find_exceeded"]

#: Looked at before a model is called, and before a tool is.
_BEFORE_MODEL: Final = ("max_tokens", "max_cost", "max_duration_ms")
_BEFORE_CALL: Final = ("max_tool_calls", "max_duration_ms")
#: Before one that a restart has made necessary again: it was counted.
_BEFORE_REPEAT: Final = ("max_duration_ms",)


class SpendingTurn(AskingTurn):
    """What a running turn does about its usage and its budget. The rest of it is `RunningTurn`.

    Attributes:
        own_usage: By now, without that of its sub-agents.
    """

    def __init__(
        self,
        session: LiveSession,
        turn_id: str,
        attempt: int,
        config: SessionConfig | None,
        usage: TokenUsage | None,
    ) -> None:
        super().__init__(session, turn_id, attempt)
        self._config = session.state.config if config is None else config
        self.own_usage = TokenUsage() if usage is None else usage
        self._message_usage = TokenUsage()
        budget, settings = self._config.budget, session.settings
        self._limits = find_bounds(budget, settings)
        policy = None if budget is None else budget.when_exceeded
        self._asks_for_more = (policy or settings.when_budget_exceeded) == "ask"
        is_bounded = bool(self._limits) or session.state.parent is not None
        self._asking = trio.Lock() if is_bounded else None
        self._refused: BudgetExceededError | None = None

    @property
    def config(self) -> SessionConfig:
        return self._config

    # -- usage -----------------------------------------------------------------------------------

    def report_usage(
        self,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        model: str | None = None,
        cost: float | None = None,
    ) -> None:
        needed = any(member == "max_cost" for _, member, _ in self._limits)
        host = self._session.host
        usage = host.prices.make_usage(input_tokens, output_tokens, model, cost, is_needed=needed)
        host.stats.count_tokens(model, usage)
        self.own_usage = self.own_usage + usage
        self._message_usage = self._message_usage + usage

    def take_message_usage(self) -> TokenUsage | None:
        """Give what a message has cost that is complete now, None if nobody said."""
        usage, self._message_usage = self._message_usage, TokenUsage()
        return usage if usage != TokenUsage() else None

    @property
    def usage(self) -> TokenUsage:
        """Of the turn and of all who work for it, by now."""
        usage = self.own_usage + self._children_usage
        for spent in self._call_spendings.values():
            usage = usage + spent.usage
        return usage

    @property
    def children_calls(self) -> int:
        """How many tools those who work for it now have called."""
        return sum(spent.tool_calls for spent in self._call_spendings.values())

    @property
    def duration_ms(self) -> int:
        """How long it has been at work."""
        return round(self.active_seconds * 1000)

    # -- the budget ------------------------------------------------------------------------------

    async def check_budget(self) -> None:
        self.check_running()
        await trio.lowlevel.checkpoint()
        await self._check_budget()

    async def _check_budget(self) -> None:
        await self._check(_BEFORE_MODEL)

    async def _check_call(self, called: ToolCalled) -> None:
        record = self.record
        is_repeat = record is not None and record.is_repeat(called)
        await self._check(_BEFORE_REPEAT if is_repeat else _BEFORE_CALL)

    async def _check(self, members: tuple[str, ...]) -> None:
        """Make sure that more may be spent, or ask.

        Raises:
            BudgetExceededError: It may not.
        """
        if self._asking is None:
            return
        while (exceeded := await self._find_limit(members)) is not None:
            if self._refused is not None:
                raise self._refused
            if not self._asks_for_more:
                raise BudgetExceededError(str(exceeded))
            # Tools that run side by side ask once.
            async with self._asking:
                is_unanswered = await self._find_limit(members) == exceeded
                if is_unanswered and not self._was_refused:
                    await self._ask_for_more(exceeded)

    async def _find_limit(self, members: tuple[str, ...]) -> Exceeded | None:
        """Say which bound was come to, if any was."""
        return self._find_exceeded(*members)

    @property
    def _was_refused(self) -> bool:
        """Whether somebody has said that this is to be the end."""
        return self._refused is not None

    async def _ask_for_more(self, exceeded: Exceeded) -> None:
        answer = await self.ask(
            f"{exceeded}. Go on?",
            kind="budget",
            detail=f"{RAISE}: the same once more. {STOP}: the turn ends.",
            options=(RAISE, STOP),
            default=STOP,
            expires_seconds=self._session.settings.budget_ask_seconds,
            key=exceeded.ask_key,
        )
        if answer.value == RAISE:
            await self._raise(exceeded, answer.by)
        else:
            self._refused = BudgetExceededError(str(exceeded))

    async def _raise(self, exceeded: Exceeded, by: str | None) -> None:
        """Raise a bound that somebody has allowed to. Our own are, by the answer in the log."""

    @property
    def budget_seconds(self) -> float:
        """How long the turn may go on, if nobody is to be asked then."""
        if self._asks_for_more:
            # It is asked at the next call; until then `Settings.turn_seconds` bounds it.
            return math.inf
        left = [
            (bound.allowed - self._spent(bound)) / 1000 for bound in self._bounds("max_duration_ms")
        ]
        return min(left, default=math.inf)

    def find_overtime(self) -> BudgetExceededError | None:
        """Say which bound of its time a turn has come to that was past its deadline."""
        exceeded = None if self._asks_for_more else self._find_exceeded("max_duration_ms")
        return None if exceeded is None else BudgetExceededError(str(exceeded))

    def _bounds(self, *members: str) -> Iterator[Bound]:
        state = self._session.state
        for scope, member, limit in self._limits:
            if member not in members:
                continue
            granted = state.granted
            if scope == "turn":
                granted = {} if state.record is None else state.record.granted
            yield Bound(scope=scope, member=member, limit=limit, granted=granted.get(member, 0))

    def _find_exceeded(self, *members: str) -> Exceeded | None:
        for bound in self._bounds(*members):
            spent = self._spent(bound)
            if spent >= bound.allowed:
                return Exceeded(bound=bound, spent=spent)
        return None

    def _spent(self, bound: Bound) -> float:
        state, is_turns = self._session.state, bound.scope == "turn"
        usage = self.usage if is_turns else state.usage + self.usage
        match bound.member:
            case "max_tokens":
                return usage.total_tokens
            case "max_cost":
                return usage.cost or 0.0
            case "max_duration_ms":
                return self.duration_ms + (0 if is_turns else state.spent_ms)
            case _:
                record = state.record
                own = 0 if record is None else record.counted_calls
                return (own if is_turns else state.tool_calls) + self.children_calls


def find_exceeded(failure: Exception) -> BudgetExceededError | None:
    """Give the budget's end, if an agent failed of nothing else: perhaps in several tasks."""
    if isinstance(failure, BudgetExceededError):
        return failure
    inner: tuple[Exception, ...] = getattr(failure, "exceptions", ())
    found = [find_exceeded(exc) for exc in inner]
    return found[0] if found and None not in found else None
