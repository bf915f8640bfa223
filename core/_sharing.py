"""A running turn, as far as it spends what others have: those for which it works.

What is left of a budget is one for all who work under it. A sub-agent tells its parent what it has
spent, as it happens, and is told whether there is more; so does the parent tell its own, as far up
as that goes. Only commands go between them, so that each may live on another node.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import attrs

from ._budget import Exceeded
from ._command import Command, Reply
from ._orders import Order, carry_out
from ._spending import SpendingTurn
from .codec import camel_case
from .errors import TurnNotFoundError, WireError
from .events import BudgetRaised, SessionSpent, ToolCalled
from .methods import ChildRaise, ChildReport, ChildSettle, ChildSpending, Empty
from .models import ParentRef, Spending

if TYPE_CHECKING:
    from ._session import LiveSession

__all__ = ["SharingTurn", "answer_child"]


@attrs.frozen(kw_only=True)
class _Standing:
    """What a child is told of its parent's budget.

    Attributes:
        exceeded: The bound that was come to, if one was.
        parent: For whom this one works.
        spent: What it has spent by now.
    """

    exceeded: Exceeded | None = None
    parent: ParentRef | None = None
    spent: Spending = attrs.field(factory=Spending)


class SharingTurn(SpendingTurn):
    """What a running turn does about the budgets above its own. The rest of it is `RunningTurn`.

    Attributes:
        is_dormant: Its agent has not been called: it waits for an answer first.
    """

    is_dormant = False

    @property
    def session_spending(self) -> Spending:
        """What its session has spent by now, in all its turns."""
        state = self._session.state
        return Spending(
            usage=state.usage + self.usage,
            tool_calls=state.tool_calls + self.children_calls,
            is_waiting=self.is_dormant or self._stopped_at is not None,
        )

    def report_usage(self, **usage: Any) -> None:
        super().report_usage(**usage)
        self._tell_above()

    def _begin_call(self, body: ToolCalled) -> None:
        super()._begin_call(body)
        self._tell_above()

    async def _find_limit(self, members: tuple[str, ...]) -> Exceeded | None:
        """Say which bound was come to, those above last. Waits for other nodes only."""
        own = await super()._find_limit(members)
        if own is not None:
            return own
        climb = self._climb(members)
        while True:
            try:
                order = next(climb)
            except StopIteration as end:
                found: Exceeded | None = end.value
                return found
            try:
                await order.wait()
            except WireError:
                pass  # as the climb will see

    async def _raise(self, exceeded: Exceeded, by: str | None) -> None:
        parent, bound = exceeded.above, exceeded.bound
        if parent is None:
            return
        params = ChildRaise(
            session_id=parent.session_id,
            turn_id=parent.turn_id,
            child_session_id=self.session_id,
            scope=bound.scope,
            member=bound.member,
            allowed=bound.allowed,
            by=by,
        )
        host, owner = self._session.host, self._session.state.owner
        command = Command(params=params, principal=owner)
        try:
            await carry_out(lambda reply: host.submit(parent.session_id, command, reply))
        except TurnNotFoundError:
            pass  # it is over, and so are we in a moment

    def _tell_above(self) -> None:
        """Say what was spent, and whether it waits, as far up as is told at once."""
        if self._session.state.parent is not None and not self.is_suspended:
            next(self._climb(()), None)

    def _take_spending(self, call_id: str, spent: Spending) -> None:
        """Note what a child has spent by now."""
        self._call_spendings[call_id] = spent
        self._set_clock()

    def _climb(self, members: tuple[str, ...]) -> Generator[Order, None, Exceeded | None]:
        """Tell one after the other what was spent; yields the orders that have to be waited for."""
        state, host = self._session.state, self._session.host
        standing = _Standing(parent=state.parent, spent=self.session_spending)
        while (parent := standing.parent) is not None:
            params = ChildReport(
                session_id=parent.session_id,
                turn_id=parent.turn_id,
                call_id=parent.call_id,
                spent=standing.spent,
                members=members,
            )
            order = Order()
            command = Command(params=params, principal=state.owner)
            host.submit(parent.session_id, command, order)
            if not order.is_answered:
                yield order
            try:
                standing = order.result()
            except WireError:
                return None  # it waits for us no more, and bounds us no more
            exceeded: Exceeded | None = standing.exceeded
            if exceeded is not None:
                return attrs.evolve(exceeded, above=parent)
        return None

    def take_report(self, report: ChildReport) -> _Standing:
        """Take what a child has spent, and say how that stands.

        Raises:
            TurnNotFoundError: Nothing waits for that child any more.
        """
        if self.record is None or not self.record.awaits(report.call_id):
            raise TurnNotFoundError(f"Nobody waits for the call {report.call_id}")
        self._take_spending(report.call_id, report.spent)
        return _Standing(
            exceeded=self._find_exceeded(*report.members),
            parent=self._session.state.parent,
            spent=self.session_spending,
        )

    def grant(self, params: ChildRaise, reply: Reply) -> None:
        """Raise a bound of ours that a child was stopped by, unless that was done."""
        for bound in self._bounds(params.member):
            if bound.scope == params.scope and bound.allowed == params.allowed:
                self._session.journal.stage(
                    BudgetRaised(
                        turn_id=self._id,
                        scope=bound.scope,
                        bound=camel_case(bound.member),
                        amount=bound.limit,
                        child_session_id=params.child_session_id,
                        by=params.by,
                    ),
                    on_commit=lambda: reply.succeed(Empty()),
                    on_failure=reply.fail,
                )
                return
        reply.succeed(Empty())


def answer_child(
    session: LiveSession,
    params: ChildReport | ChildRaise | ChildSettle | ChildSpending,
    reply: Reply,
) -> None:
    """Carry out what a session is asked by one that works for it, or by one for which it works.

    Raises:
        TurnNotFoundError: The turn is over.
    """
    turn, state = session.turn, session.state
    match params:
        case ChildSpending():
            session.when_settled(reply, lambda: _spent(session))
        case ChildSettle(spent=spent):
            is_owed = params.child_session_id in state.unsettled
            if spent is None or not is_owed or session.closing.has_begun:
                # Nobody is to wait for what will not come.
                session.answer_settled()
                reply.succeed(Empty())
                return
            session.journal.stage(
                SessionSpent(
                    usage=spent.usage,
                    tool_calls=spent.tool_calls or None,
                    child_session_id=params.child_session_id,
                ),
                on_commit=lambda: reply.succeed(Empty()),
                on_publish=lambda: None if state.unsettled else session.answer_settled(),
                on_failure=reply.fail,
            )
        case _ if turn is None or turn.id != params.turn_id or turn.outcome is not None:
            raise TurnNotFoundError(f"Turn not found: {params.turn_id}")
        case ChildReport():
            reply.succeed(turn.take_report(params))
        case ChildRaise():
            turn.grant(params, reply)


def _spent(session: LiveSession) -> Spending:
    if session.turn is not None and session.turn.outcome is None:
        return session.turn.session_spending
    return Spending(usage=session.state.usage, tool_calls=session.state.tool_calls)
