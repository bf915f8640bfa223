"""What the log holds of the turn that is at work: its calls, its asks, how each ended. Pure.

It is why an agent that is called again for the same turn does nothing twice (PROTOCOL §9).
"""

from __future__ import annotations

import attrs

from .events import AskClosed, ToolCalled, ToolCompleted
from .models import AskInfo, SessionConfig, TokenUsage, ToolCallInfo

__all__ = ["AskRecord", "CallRecord", "TurnRecord"]


@attrs.define(kw_only=True)
class CallRecord:
    """One time that a tool was called.

    Attributes:
        times: How often the same call has been made by now.
        is_repeat: It is made again since nobody knows how it ended, and so counts once.
        completed: None while it is open.
        message_id: Of the message that its result is.
    """

    called: ToolCalled
    times: int = 1
    is_repeat: bool = False
    completed: ToolCompleted | None = None
    message_id: str | None = None

    @property
    def may_come_again(self) -> bool:
        """Whether it ended without a result, so that the same call can be made once more."""
        return self.completed is not None and self.completed.status in ("cancelled", "unknown")

    def is_same(self, called: ToolCalled) -> bool:
        """Whether a call of this id is this one, made again: many a model uses an id twice."""
        mine = self.called
        return (mine.call_id, mine.name, mine.arguments) == (
            called.call_id,
            called.name,
            called.arguments,
        )


@attrs.define(kw_only=True)
class AskRecord:
    """One ask; ``closed`` is None while it is open."""

    opened: AskInfo
    closed: AskClosed | None = None


@attrs.define(kw_only=True)
class TurnRecord:
    """The calls and asks of one turn, in the order in which they began.

    Attributes:
        config: The session's as it was when the turn started.
        attempt: How often the agent has been called for it.
        pending: Calls that stand in a message and have no result, or an unknown one.
        has_answer: An ask was closed, and the agent has done nothing since then.
        granted: What was granted beyond each bound of the turn's budget.
        compaction_usage: What was spent on summaries.
    """

    config: SessionConfig
    attempt: int = 1
    calls: list[CallRecord] = attrs.field(factory=list[CallRecord])
    asks: list[AskRecord] = attrs.field(factory=list[AskRecord])
    pending: list[ToolCallInfo] = attrs.field(factory=list[ToolCallInfo])
    has_answer: bool = False
    granted: dict[str, float] = attrs.field(factory=dict[str, float])
    compaction_usage: TokenUsage = attrs.field(factory=TokenUsage)

    def copy(self) -> TurnRecord:
        """Copy it as it is now; what is in it and never changes is shared."""
        return attrs.evolve(
            self,
            calls=[attrs.evolve(call) for call in self.calls],
            asks=[attrs.evolve(ask) for ask in self.asks],
            pending=list(self.pending),
            granted=dict(self.granted),
        )

    @property
    def calls_at_clients(self) -> set[str]:
        """The calls that were given to clients to run."""
        return {
            ask.opened.call_id
            for ask in self.asks
            if ask.opened.kind == "tool" and ask.opened.call_id is not None
        }

    @property
    def unknown_calls(self) -> set[str]:
        """Those of the pending calls that have ended, and nobody knows how."""
        last = {call.called.call_id: call.completed for call in self.calls}
        ended = {
            call_id
            for call_id, completed in last.items()
            if completed is not None and completed.status == "unknown"
        }
        return ended.intersection(call.call_id for call in self.pending)

    @property
    def children_usage(self) -> TokenUsage:
        """What sub-agents have spent."""
        usage = TokenUsage()
        for call in self.calls:
            if call.completed is not None and call.completed.usage is not None:
                usage = usage + call.completed.usage
        return usage

    @property
    def counted_calls(self) -> int:
        """How many calls there are, each once however often a restart had it made again.

        Those of sub-agents that have ended are among them.
        """
        own = sum(not call.is_repeat for call in self.calls)
        return own + sum(
            call.completed.tool_calls or 0 for call in self.calls if call.completed is not None
        )

    @property
    def lost_children(self) -> list[str]:
        """The sub-agents that a restart took from the turn, and that it has not come back to."""
        last = {call.called.child_session_id: call.completed for call in self.calls}
        return [
            child
            for child, completed in last.items()
            if child is not None and completed is not None and completed.status == "unknown"
        ]

    def awaits(self, call_id: str) -> bool:
        """Whether a call may still have a result: it runs, or did so before a restart."""
        call = self._find_call(call_id)
        if call is None:
            return False
        return call.completed is None or call.completed.status == "unknown"

    def is_pending(self, call_id: str) -> bool:
        """Whether the call stands in a message already."""
        return any(call.call_id == call_id for call in self.pending)

    def stands(self, called: ToolCalled) -> bool:
        """Whether a call that is to be made stands in a message, so that it needs no other."""
        return self.is_pending(called.call_id) or self._find_earlier(called) is not None

    def begin_call(self, called: ToolCalled) -> None:
        """Note a call."""
        earlier = self._find_earlier(called)
        times = 1 if earlier is None else earlier.times + 1
        self.calls.append(CallRecord(called=called, times=times, is_repeat=self.is_repeat(called)))

    def is_repeat(self, called: ToolCalled) -> bool:
        """Whether a call that is to be made is one of which nobody knows how it ended."""
        earlier = self._find_earlier(called)
        completed = None if earlier is None else earlier.completed
        return completed is not None and completed.status == "unknown"

    def _find_earlier(self, called: ToolCalled) -> CallRecord | None:
        """Find what a call is made again for."""
        earlier = self._find_call(called.call_id)
        if earlier is None or not (earlier.may_come_again and earlier.is_same(called)):
            return None
        return earlier

    def end_call(self, completed: ToolCompleted) -> str | None:
        """Note a call's end. Gives the message with an earlier result that it stands in for."""
        calls = [c for c in self.calls if c.called.call_id == completed.call_id]
        if completed.status != "unknown":
            self.pending = [c for c in self.pending if c.call_id != completed.call_id]
        if not calls:
            return None
        calls[-1].completed = completed
        if len(calls) > 1:
            earlier = calls[-2]
            if earlier.may_come_again and earlier.is_same(calls[-1].called):
                calls[-1].message_id = earlier.message_id
        return calls[-1].message_id

    def set_result(self, call_id: str, message_id: str) -> None:
        """Note which message a call's result is."""
        call = self._find_call(call_id)
        if call is not None:
            call.message_id = message_id

    def end_ask(self, closed: AskClosed) -> None:
        """Note an ask's end."""
        for ask in reversed(self.asks):
            if ask.opened.ask_id == closed.ask_id:
                ask.closed = closed
                return

    def _find_call(self, call_id: str) -> CallRecord | None:
        for call in reversed(self.calls):
            if call.called.call_id == call_id:
                return call
        return None
