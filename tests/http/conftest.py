"""A server over HTTP."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio

from trialogue import Settings, open_server
from trialogue.agents.echo import echo
from trialogue.core import Server
from trialogue.core.abc import Agent
from trialogue.testing._server import split_settings

from .client import HttpClient, open_client

Serve = Callable[..., AbstractAsyncContextManager[tuple[Server, HttpClient]]]


async def wait_until(is_true: Callable[[], bool]) -> None:
    """Look again and again until something is so that nobody says."""
    while not is_true():  # noqa: ASYNC110 - what it waits for has no event
        await trio.sleep(0.005)


@pytest.fixture(params=["auto", "task"])
def driver(request: pytest.FixtureRequest) -> str:
    """Both: what looks at the first request is another."""
    return str(request.param)


@pytest.fixture
def serve() -> Serve:
    """Open a server, and a connection to it."""

    @asynccontextmanager
    async def open_both(
        agent: Agent | Mapping[str, Agent] = echo, **options: Any
    ) -> AsyncGenerator[tuple[Server, HttpClient]]:
        limits, options = split_settings(options)
        with trio.fail_after(30):
            async with (
                open_server(
                    agent,
                    transports=["http://127.0.0.1:0"],
                    settings=Settings(**limits),
                    **options,
                ) as server,
                open_client(server.endpoints[0]) as client,
            ):
                yield server, client

    return open_both
