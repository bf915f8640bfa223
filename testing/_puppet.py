"""An agent that the test leads by hand, for what must happen at one moment of a turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from ..core.abc import Turn

__all__ = ["LedTurn", "Puppet"]

T = TypeVar("T")


class LedTurn:
    """A turn that goes on until the test ends it.

    Attributes:
        turn: Its synchronous methods may be called by the test; for the others see `do`.
        cancelled: Set when the turn was told to stop.
    """

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.cancelled = trio.Event()
        self._steps, self._todo = trio.open_memory_channel[Callable[[Turn], Awaitable[Any]]](8)

    def write(self, text: str) -> None:
        """Write a piece of the answer."""
        self.turn.write_nowait(text)

    def start(self, step: Callable[[Turn], Awaitable[Any]]) -> None:
        """Have an async function of the turn called in the turn's own task, without waiting."""
        self._steps.send_nowait(step)

    async def do(self, step: Callable[[Turn], Awaitable[T]]) -> T:
        """Call an async function of the turn in the turn's own task, and give its result."""
        done = trio.Event()
        result: list[T] = []

        async def run(turn: Turn) -> None:
            try:
                result.append(await step(turn))
            finally:
                done.set()

        self.start(run)
        with trio.fail_after(5):
            await done.wait()
        if not result:
            raise AssertionError("the turn ended before that was done")
        return result[0]

    def finish(self) -> None:
        """Let the agent return."""
        self._steps.close()

    def fail(self, exc: Exception) -> None:
        """Let the agent raise."""

        async def raise_it(_: Turn) -> None:
            await trio.lowlevel.checkpoint()
            raise exc

        self.start(raise_it)

    async def run(self) -> None:
        """Do what the test says. `Puppet` calls it in the turn's task."""
        try:
            async for step in self._todo:
                await step(self.turn)
        except trio.Cancelled:
            self.cancelled.set()
            raise


class Puppet:
    """An agent whose turns wait for the test.

    puppet = Puppet()
    async with open_test_server(puppet) as server:
        ...                               # send something
        led = await puppet.next_turn()
        led.write("Hel")                  # and see what a client sees now
        led.finish()
    """

    def __init__(self) -> None:
        self._arrivals, self._turns = trio.open_memory_channel[LedTurn](100)

    async def __call__(self, turn: Turn) -> None:
        """Be an agent."""
        led = LedTurn(turn)
        self._arrivals.send_nowait(led)
        await led.run()

    async def next_turn(self) -> LedTurn:
        """Wait until the next turn has started, for at most 5 s."""
        with trio.fail_after(5):
            return await self._turns.receive()
