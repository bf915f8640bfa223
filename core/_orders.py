"""What a turn or a session asks of other sessions, wherever they live: commands to their host."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from . import codec
from ._command import Reply

if TYPE_CHECKING:
    from ._feed import SessionFeed

__all__ = ["Order", "carry_out"]


async def carry_out(submit: Callable[[Reply], object]) -> Any:
    """Carry out a command, and give its result or raise its error.

    Cancelling gives the command up.
    """
    order = Order()
    submit(order)
    return await order.wait()


class Order(Reply):
    """Where the answer to a command of ours goes."""

    def __init__(self) -> None:
        self.is_answered = False
        self._done = trio.Event()
        self._result: Any = None
        self._failure: Exception | None = None
        self._abandon: Callable[[str], None] | None = None

    async def wait(self) -> Any:
        """Wait for the answer, and give it as `result` does."""
        try:
            await self._done.wait()
        except trio.Cancelled:
            self.is_answered = True
            if self._abandon is not None:
                self._abandon("nobody waits for it any more")
            raise
        return self.result()

    def result(self) -> Any:
        """Give what was answered, or raise its error."""
        if self._failure is not None:
            raise self._failure
        return self._result

    def when_abandoned(self, abandon: Callable[[str], None] | None) -> None:
        if self.is_answered and abandon is not None:
            abandon("nobody waits for it any more")
        else:
            self._abandon = abandon

    def succeed(self, result: Any) -> bool:
        self._answer(result, None)
        return True

    def succeed_after(self, feed: SessionFeed, result: Any) -> None:
        self._answer(result, None)

    def succeed_encoded(self, data: bytes) -> bool:
        self._answer(codec.decode_json(data), None)
        return True

    def fail(self, exc: Exception) -> None:
        self._answer(None, exc)

    def _answer(self, result: Any, failure: Exception | None) -> None:
        if not self.is_answered:
            self.is_answered = True
            self._result, self._failure = result, failure
            self._done.set()
