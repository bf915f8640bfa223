"""What an agent or an authenticator holds as long as the server runs: a model's connections, say."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import trio

from ._failures import find_failure
from ._nursery import open_plain_nursery
from .abc import Agent, Authenticator
from .errors import SettingsError, TrialogueError

__all__ = ["hold_lifespans"]

log = logging.getLogger("trialogue.server")

#: For one of them to give back what it holds, when the server ends.
LIFESPAN_END_SECONDS: Final = 5.0


@asynccontextmanager
async def hold_lifespans(
    agents: Mapping[str, Agent], authenticate: Authenticator | None = None
) -> AsyncGenerator[None]:
    """Hold the lifespans of the authenticator and of all agents, if they have one.

    They are entered in order, each in a task of its own. They end after the block and not before,
    whoever cancels the program around it: turns that end need them. That is bounded.

    Raises:
        SettingsError: One cannot start; says which.
    """
    over = trio.Event()
    async with open_plain_nursery() as nursery:
        entered: set[int] = set()
        try:
            named = [(f"the agent {name!r}", agent) for name, agent in agents.items()]
            for what, holder in [("the authenticator", authenticate), *named]:
                # One agent may have several names.
                if hasattr(holder, "lifespan") and id(holder) not in entered:
                    entered.add(id(holder))
                    await nursery.start(_hold, what, holder, over)
            yield
        finally:
            over.set()


async def _hold(
    what: str, holder: Any, over: trio.Event, *, task_status: trio.TaskStatus[None]
) -> None:
    """Hold one lifespan until it is over."""
    with trio.CancelScope() as scope:
        is_open = False
        try:
            lifespan = holder.lifespan()
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
                f"{what} cannot start: {said}"
            ) from exc
    if scope.cancelled_caught:
        log.warning("%s did not end within %g s, and was cut", what, LIFESPAN_END_SECONDS)
