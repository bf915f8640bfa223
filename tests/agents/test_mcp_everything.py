"""An MCP server that nobody here wrote: @modelcontextprotocol/server-everything, from npm.

It is skipped where the server is not: `npm install -g @modelcontextprotocol/server-everything`, or
its program named by MCP_SERVER_EVERYTHING.
"""

import os
import re
import shutil
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from subprocess import DEVNULL
from typing import Any

import pytest
import trio

from trialogue.agents.mcp import McpServer, McpTools
from trialogue.agents.tools import ToolError

from .mcp_for_tests import call, find, open_tools, wait_until

PROGRAM = os.environ.get("MCP_SERVER_EVERYTHING") or shutil.which("mcp-server-everything")
pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="the npm package is not installed"),
    pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def program(*arguments: str) -> tuple[str, ...]:
    assert PROGRAM is not None
    return (PROGRAM, *arguments)


@asynccontextmanager
async def open_everything(
    transport: str, environ: Mapping[str, str] | None = None, **options: Any
) -> AsyncGenerator[McpTools]:
    """Start it, and hold its tools."""
    if transport == "stdio":
        server = McpServer(name="all", command=program(), **options)
        async with open_tools(server, environ) as source:
            yield source
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with trio.open_nursery() as nursery:
        run = partial(
            trio.run_process,
            program("streamableHttp"),
            env={**os.environ, "PORT": str(port)},
            stdout=DEVNULL,
            stderr=DEVNULL,
            check=False,
        )
        process = await nursery.start(run)
        await wait_until(lambda: can_connect(port))
        server = McpServer(name="all", url=f"http://127.0.0.1:{port}/mcp", **options)
        async with open_tools(server, environ) as source:
            yield source
        process.kill()


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_everything_works_with_it(transport: str) -> None:
    said: list[tuple[Any, ...]] = []
    async with open_everything(transport) as source:
        assert await call(source, "echo", message="good day") == "Echo: good day"
        assert await call(source, "get-sum", a=2, b=3) == "The sum of 2 and 3 is 5."
        picture = await call(source, "get-tiny-image")
        assert re.search(r"\[image: image/png, \d{4} bytes\]", picture)
        weather = await call(source, "get-structured-content", location="Chicago")
        assert set(weather) == {"temperature", "conditions", "humidity"}
        blob = await call(source, "get-resource-reference", resourceType="Blob", resourceId=1)
        assert re.search(r"\[resource: demo://resource/dynamic/blob/1, text/plain, \d+ b", blob)
        with pytest.raises(ToolError, match="Input validation error"):
            await call(source, "echo")
        name = "trigger-long-running-operation"
        await call(source, name, lambda *told: said.append(told), duration=1, steps=4)
        assert [told[2] for told in said] == [4.0] * len(said)
        assert said[-1][1] >= 3  # the last may come with the answer, and be late
        with trio.move_on_after(0.3) as scope:
            await call(source, name, duration=60, steps=2)
        assert scope.cancelled_caught
        assert await call(source, "echo", message="still good") == "Echo: still good"
        assert find(source, "all_get-sum").effect == "none"
        assert find(source, "all_gzip-file-as-resource").effect == "idempotent"
        assert find(source, "all_toggle-simulated-logging").effect == "unsafe"


async def test_it_sees_no_variables_but_those_it_is_given() -> None:
    environ = {**os.environ, "OPENAI_API_KEY": "sk-not-for-it", "MINE": "for-it-alone"}
    async with open_everything("stdio", environ, env={"FOR_IT": "env:MINE"}) as source:
        seen = await call(source, "get-env")
    assert '"FOR_IT": "***"' in seen
    assert "sk-not-for-it" not in seen
    assert "OPENAI" not in seen
