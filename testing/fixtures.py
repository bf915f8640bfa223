"""The pytest plugin: fixtures for the tests of agents.

pytest imports this module at every start, in every project that has trialogue installed. So
nothing heavy is imported at the top: each fixture imports what it needs when it is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    import trio

    from ..core.abc import Agent
    from ._server import ServerInTest

__all__ = ["ServeAgent", "serve_agent"]

if "trialogue.testing.transport_kit" not in sys.modules:
    # So that a failed check shows what it compared, as a test does.
    pytest.register_assert_rewrite("trialogue.testing.transport_kit")

#: The type of the fixture `serve_agent`, for annotations.
ServeAgent: TypeAlias = "Callable[..., Awaitable[ServerInTest]]"


@pytest.fixture
async def serve_agent() -> AsyncGenerator[ServeAgent]:
    """Serve agents for as long as the test lasts, as `open_test_server` does.

    async def test_it_greets(serve_agent, autojump_clock):
        test = await serve_agent(my_agent)
        session = await test.client.create_session()
        answer = await test.client.send_message(session.id, "Hello!")
        assert answer.message.content == "Hello to you."
    """
    import trio

    from ._server import open_test_server

    done = trio.Event()

    async def run(
        agent: Agent,
        options: dict[str, Any],
        *,
        task_status: trio.TaskStatus[ServerInTest] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with open_test_server(agent, **options) as test:
            task_status.started(test)
            await done.wait()

    async with trio.open_nursery() as nursery:

        async def serve(agent: Agent, **options: Any) -> ServerInTest:
            # In a task of its own, since a test is not the task that its fixtures end in.
            test: ServerInTest = await nursery.start(run, agent, options)
            return test

        yield serve
        done.set()
