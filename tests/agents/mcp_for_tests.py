"""Opens MCP servers for tests, and calls their tools without an agent."""

import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from trialogue.agents.mcp import McpServer, McpTools
from trialogue.agents.tools import Tool
from trialogue.core.abc import ToolCall

FAKE_SERVER = Path(__file__).with_name("fake_mcp_server.py")
#: A machine that is busy with other tests takes seconds to start a process.
PATIENCE = 30.0


def fake_server(*habits: str, **options: Any) -> McpServer:
    """Describe the fake server."""
    command = [sys.executable, "-S", "-E", str(FAKE_SERVER), *habits]
    return McpServer(name="fake", command=command, **options)


@asynccontextmanager
async def open_tools(
    server: McpServer, environ: Mapping[str, str] | None = None
) -> AsyncGenerator[McpTools]:
    """Hold a server, for as long as a test may take."""
    source = McpTools(server, environ=environ)
    with trio.fail_after(PATIENCE):
        async with source.lifespan():
            yield source


def find(source: McpTools, name: str) -> Tool:
    """Find a tool by the name that the model has for it."""
    return next(tool for tool in source.tools if tool.name == name)


async def call(
    source: McpTools,
    name: str,
    report: Callable[..., None] = lambda *_: None,
    /,
    **arguments: Any,
) -> Any:
    """Call one of its tools, by the server's name for it."""
    asked = ToolCall(
        call_id="call_1",
        turn_id="trn_1",
        session_id="ses_1",
        name=name,
        arguments=arguments,
        report_progress=report,
    )
    tool = find(source, f"{source.server.name}_{name}")
    return await tool.call(asked, trio.CapacityLimiter(1))


async def wait_until(is_so: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until something is so; for what another process does."""
    with trio.fail_after(seconds):
        while not is_so():  # noqa: ASYNC110 - another process sets no event
            await trio.sleep(0.01)
