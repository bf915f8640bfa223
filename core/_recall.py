"""What an agent that is called again for a turn need not do again (PROTOCOL §9)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ._record import AskRecord, CallRecord, TurnRecord
from .events import ToolCalled
from .models import AskInfo

__all__ = ["Recall"]

T = TypeVar("T")


class Recall:
    """The calls and asks of a turn's earlier attempts; each is given back once.

    Tasks of an agent run in any order, so what has no key is known by what it is, and only among
    its like by its place.
    """

    def __init__(self, record: TurnRecord) -> None:
        self._asks = list(record.asks)
        self._calls: list[CallRecord] = []
        for call in record.calls:
            if call.times > 1:
                # The same call, made once more.
                _take(self._calls, partial(_is_made_again, call.called))
            self._calls.append(call)

    def take_call(self, wanted: ToolCalled, *, has_id: bool) -> CallRecord | None:
        """Give the call that stands for one that is to be made.

        Args:
            wanted: The call. One with a key is known by it.
            has_id: Its id is the agent's own, and it is known by that.
        """

        def is_it(call: CallRecord) -> bool:
            called = call.called
            if wanted.key is not None or called.key is not None:
                return called.key == wanted.key
            if has_id:
                return called.call_id == wanted.call_id
            return called.name == wanted.name and called.arguments == wanted.arguments

        return _take(self._calls, is_it)

    def take_ask(self, wanted: AskInfo) -> AskRecord | None:
        """Give the ask that stands for one that is to be opened."""

        def is_it(ask: AskRecord) -> bool:
            opened = ask.opened
            if ask.closed is not None and ask.closed.reason == "cancelled":
                return False
            if wanted.key is not None or opened.key is not None:
                return opened.key == wanted.key
            return (opened.kind, opened.title) == (wanted.kind, wanted.title)

        return _take(self._asks, is_it)


def _is_made_again(called: ToolCalled, earlier: CallRecord) -> bool:
    return earlier.may_come_again and earlier.is_same(called)


def _take(items: list[T], is_it: Callable[[T], bool]) -> T | None:
    for index, item in enumerate(items):
        if is_it(item):
            return items.pop(index)
    return None
