"""What an agent holds as long as the server runs: a model's connections, a tool's process."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import trio

from ._failures import find_failure
from ._nursery import open_plain_nursery
from .abc import Agent
from .errors import SettingsError, TrialogueError

__all__ = ["open_agents"]

log = logging.getLogger("trialogue.server")

#: For an agent to give back what it holds, when the server ends.
LIFESPAN_END_SECONDS: Final = 5.0


@asynccontextmanager
async def open_agents(agents: Mapping[str, Agent]) -> AsyncGenerator[None]:
    """Hold the lifespans of all agents that have one, as long as the block lasts.

    They are entered in order, each in a task of its own. They end after the block and not before,
    whoever cancels the program around it: turns that end need them. That is bounded.

    Raises:
        SettingsError: One cannot start; says which.
    """
    over = trio.Event()
    async with open_plain_nursery() as nursery:
        entered: set[int] = set()
        try:
            for name, agent in agents.items():
                # One agent may have several names.
                if hasattr(agent, "lifespan") and id(agent) not in entered:
                    entered.add(id(agent))
                    await nursery.start(_hold, name, agent, over)
            yield
        finally:
            over.set()


async def _hold(
    name: str, agent: Any, over: trio.Event, *, task_status: trio.TaskStatus[None]
) -> None:
    """Hold one agent's lifespan until it is over."""
    with trio.CancelScope() as scope:
        is_open = False
        try:
            lifespan = agent.lifespan()
            if not isinstance(lifespan, AbstractAsyncContextManager):
                raise TypeError(f"lifespan() gave {lifespan!r:.80}, and no async context manager")
            async with lifespan:
                is_open = True
                scope.shield = True
                task_status.started()
                await over.wait()
                scope.deadline = trio.current_time() + LIFESPAN_END_SECONDS
        except BaseException as exc:
            failure = find_failure(exc)
            if is_open or failure is None:
                raise
            said = str(failure) if isinstance(failure, TrialogueError) else repr(failure)
            raise SettingsError(  # noqa: ASYNC104 - what is no failure was raised above
                f"the agent {name!r} cannot start: {said}"
            ) from exc
    if scope.cancelled_caught:
        log.warning("the agent %r did not end within %g s, and was cut", name, LIFESPAN_END_SECONDS)
