"""What a session and a turn may spend (PROTOCOL §5): bounds, and the answers that raise them. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias

import attrs

from .codec import camel_case
from .models import AskInfo, Budget, BudgetLimits, ParentRef
from .settings import Settings

__all__ = [
    "MEMBERS",
    "RAISE",
    "STOP",
    "Bound",
    "Exceeded",
    "Scope",
    "find_bounds",
    "find_issues",
    "find_raised",
]

#: What a bound is of.
Scope: TypeAlias = Literal["turn", "session"]

#: The answers to an ask of kind ``budget``.
RAISE: Final = "raise"
STOP: Final = "stop"

MEMBERS: Final = ("max_tokens", "max_cost", "max_duration_ms", "max_tool_calls")
_SCOPES: Final[tuple[Scope, ...]] = ("turn", "session")
_UNITS: Final[Mapping[str, str]] = {
    "max_tokens": "tokens",
    "max_cost": "of its cost",
    "max_duration_ms": "ms",
    "max_tool_calls": "tool calls",
}
#: Costs are counted in these: a bound below would be none.
SMALLEST_COST: Final = 1e-12
#: Before the key of an ask that the server opens about a budget.
_KEY: Final = "budget"
_NUMBER: Final = re.compile(r"\d{1,17}(\.\d{1,17})?(e[+-]?\d{1,2})?")


@attrs.frozen(kw_only=True)
class Bound:
    """One bound of a budget.

    Attributes:
        limit: What the budget says.
        granted: What was granted beyond it.
    """

    scope: Scope
    member: str
    limit: float
    granted: float = 0

    @property
    def allowed(self) -> float:
        """What may be spent by now."""
        return round(self.limit + self.granted, 12)

    @property
    def ask_key(self) -> str:
        """By which an agent that is called again finds the ask about it, and a fold what it grants.

        That is the bound as it stood when it was asked, whatever stands later.
        """
        return f"{_KEY} {self.scope} {self.member} {self.allowed!r} {self.limit!r}"


@attrs.frozen(kw_only=True)
class Exceeded:
    """A bound that was come to.

    Attributes:
        spent: What was spent of it.
        above: Whose it is, if it is not the turn's own.
    """

    bound: Bound
    spent: float
    above: ParentRef | None = None

    def __str__(self) -> str:
        bound, which = self.bound, "" if self.above is None else " that it works for"
        return (
            f"The {bound.scope}{which} has spent {self.spent:,.12g} of {bound.allowed:,.12g} "
            f"{_UNITS[bound.member]} (budget: {camel_case(bound.member)})"
        )

    @property
    def ask_key(self) -> str:
        """Of the ask about it. `find_raised` finds nothing in one about a bound of others."""
        own = self.bound.ask_key
        return own if self.above is None else f"above {self.above.session_id} {own}"


def find_bounds(budget: Budget | None, settings: Settings) -> tuple[tuple[Scope, str, float], ...]:
    """Give every bound that there is, those of the turn first.

    A member of the session's own goes before the server's default.
    """
    found: list[tuple[Scope, str, float]] = []
    for scope in _SCOPES:
        own: BudgetLimits | None = budget
        if budget is not None and scope == "turn":
            own = budget.per_turn
        for member in MEMBERS:
            limit = None if own is None else getattr(own, member)
            if limit is None:
                limit = settings.budget_default(scope, member)
            if limit is not None and limit < math.inf:
                found.append((scope, member, limit))
    return tuple(found)


def find_raised(ask: AskInfo, answer: object) -> tuple[Scope | None, str, float]:
    """Say which bound an answer has raised, and by what; no scope if it has raised none."""
    if ask.kind == "budget" and answer == RAISE and ask.key is not None:
        match ask.key.split(" "):
            case [kind, ("turn" | "session") as scope, member, _, limit] if (
                kind == _KEY and member in MEMBERS and _NUMBER.fullmatch(limit)
            ):
                return scope, member, float(limit)
            case _:  # an agent's own
                pass
    return None, "", 0.0


def find_issues(limits: BudgetLimits | None, path: str) -> Iterator[dict[str, str]]:
    """Say what is wrong with the budget of a configuration, and where."""
    for member in MEMBERS if limits is not None else ():
        limit = getattr(limits, member)
        low = SMALLEST_COST if member == "max_cost" else 1
        if limit is not None and not low <= limit <= 2**53 - 1:
            message = f"expected {low:g} or more"
            yield {"path": f"{path}.{camel_case(member)}", "message": message}
    if isinstance(limits, Budget):
        yield from find_issues(limits.per_turn, f"{path}.perTurn")
