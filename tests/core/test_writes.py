"""How often `turn.write` lets others run: often enough, and no more than that."""

import time

import trio

from trialogue.core.abc import Turn
from trialogue.testing import open_test_server

WRITES = 100


class StepsOfTask(trio.abc.Instrument):
    """Counts how often one task is run."""

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.task = task
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += task is self.task


def work(seconds: float) -> None:
    """Hold the thread, as an agent that computes does, or one of many other tasks."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


async def count_steps(turn: Turn, *, waits: bool) -> int:
    steps = StepsOfTask(trio.lowlevel.current_task())
    trio.lowlevel.add_instrument(steps)
    for _ in range(WRITES):
        await turn.write("token ")
        work(0.0015)
        if waits:
            await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(steps)
    return steps.steps


async def test_agent_that_waits_by_itself_is_not_made_to_wait_again() -> None:
    """Our choice: each full checkpoint costs as much as all else that a token does."""
    counts: list[int] = []

    async def agent(turn: Turn) -> None:
        counts.append(await count_steps(turn, waits=True))

    async with open_test_server(agent) as server:
        session = await server.client.create_session()
        await server.client.send_message(session.id, "go")
    # Not at each: it may be run before the flusher is. But it would be 2 for each.
    assert WRITES <= counts[0] < 1.9 * WRITES


async def test_agent_that_only_computes_lets_others_run_at_each_write() -> None:
    """The contract of `Turn.write`: a full checkpoint at the latest after 1 ms."""
    counts: list[int] = []

    async def agent(turn: Turn) -> None:
        counts.append(await count_steps(turn, waits=False))

    async with open_test_server(agent) as server:
        session = await server.client.create_session()
        await server.client.send_message(session.id, "go")
    assert counts[0] >= WRITES - 2
