"""Tools of MCP servers: programs that are talked to in lines, or URLs (streamable HTTP).

    files = McpTools(McpServer(name="files", command=["mcp-files", "/srv"]))
    agent = ToolLoop(model, tools=[files])

As long as the agent's lifespan lasts, the server runs: it is started again when it dies, what it
tells of changes is followed, and each of its tools is one of the model's, as ``files_read``. The
extra ``mcp`` brings what this needs, imported when the first server is reached.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from ..core._nursery import open_plain_nursery
from ..core.abc import ToolCall
from ..core.errors import SettingsError
from ..core.models import Effect
from ._mcp_connection import McpConnection, McpLostError, McpToolInfo, OpenConnection
from ._mcp_server import McpServer, McpToolOptions
from .model import ToolSpec
from .tools import Tool, ToolError, ToolSource

__all__ = ["McpServer", "McpToolOptions", "McpTools"]

log = logging.getLogger("trialogue.mcp")

#: A call's, where nothing else is said.
TIMEOUT_SECONDS: Final = 60.0
#: Before a server that died is started again: at first, doubled each time, and at most.
RESTART_SECONDS: Final = 0.5
MAX_RESTART_SECONDS: Final = 30.0
#: A server that was up so long has not died of what the start did.
_STEADY_SECONDS: Final = 60.0
#: Between two listings, however often a server says that its list is another.
_LIST_AGAIN_SECONDS: Final = 0.2
#: Of a tool's name, as all providers take it.
_MAX_NAME_CHARS: Final = 64
_MAX_DESCRIPTION_CHARS: Final = 8000


class McpTools(ToolSource):
    """The tools of one MCP server.

    While the server is away, its tools stay those that it listed last. A call that was under way
    fails, and says that nobody knows what became of it; a later one waits until the server is
    there again, for ``connect_seconds``.

    Args:
        server: Which one, and how it is reached.
        environ: Where ``env:VARIABLE`` is looked up; the process's own by default.
        open_connection: How it is reached, for tests.
    """

    def __init__(
        self,
        server: McpServer,
        *,
        environ: Mapping[str, str] | None = None,
        open_connection: OpenConnection | None = None,
    ) -> None:
        self.server = server
        self._environ = os.environ if environ is None else environ
        self._open = open_connection
        self._tools: tuple[McpTool, ...] = ()
        self._connection: McpConnection | None = None
        self._connected = trio.Event()
        self._why = "was not started"

    def __repr__(self) -> str:
        return f"<McpTools {self.server.name}: {'up' if self._connection else self._why}>"

    @property
    def tools(self) -> Sequence[Tool]:
        return self._tools

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Hold the server.

        Raises:
            SettingsError: It is ``required``, and there is no connection within
                ``connect_seconds``; or it can never be, such as a program that is not there.
        """
        if self._open is None:
            self._open = _import_connection()
        async with open_plain_nursery() as nursery:
            await nursery.start(self._hold, self._open)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel(reason="the agent's lifespan is over")

    # -- the connection, again and again -------------------------------------------------------

    async def _hold(
        self, open_connection: OpenConnection, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Connect, and connect again whenever that ends."""
        name, delay, is_started = self.server.name, RESTART_SECONDS, False
        if not self.server.required:
            task_status.started()
            is_started = True
        while True:
            since = None
            try:
                with trio.CancelScope() as scope:
                    scope.deadline = trio.current_time() + self.server.connect_seconds
                    async with open_connection(self.server, self._environ) as connection:
                        self._take(await connection.list_tools())
                        scope.deadline = math.inf
                        since = trio.current_time()
                        log.info(
                            "the MCP server %s is there", name, extra={"tools": len(self._tools)}
                        )
                        self._connection = connection
                        self._connected.set()
                        if not is_started:
                            task_status.started()
                            is_started = True
                        await self._follow(connection, scope)
                why = f"did not answer within {self.server.connect_seconds:g} s"
            except McpLostError as exc:
                if exc.is_setup and not is_started:
                    raise SettingsError(f"the MCP server {name} {exc}") from exc
                why = str(exc)
            finally:
                if self._connection is not None:
                    self._connection, self._connected = None, trio.Event()
            self._why = why
            if not is_started:
                raise SettingsError(f"the MCP server {name} {why}")
            if since is not None and trio.current_time() - since >= _STEADY_SECONDS:
                delay = RESTART_SECONDS
            log.warning("the MCP server %s %s; it is tried again in %g s", name, why, delay)
            await trio.sleep(delay)
            delay = min(delay * 2, MAX_RESTART_SECONDS)

    async def _follow(self, connection: McpConnection, scope: trio.CancelScope) -> None:
        """List the tools again whenever they may be others, for as long as the connection is."""
        while True:
            await connection.wait_changed()
            scope.deadline = trio.current_time() + self.server.connect_seconds
            self._take(await connection.list_tools())
            scope.deadline = math.inf
            await trio.sleep(_LIST_AGAIN_SECONDS)

    def _take(self, listed: Sequence[McpToolInfo]) -> None:
        server = self.server
        known = {info.name for info in listed}
        expected = {*(server.only or ()), *server.tools}
        if missing := sorted(expected - known):
            log.warning("the MCP server %s has no tool %s", server.name, ", ".join(missing))
        self._tools = tuple(
            McpTool(self, info)
            for info in listed
            if server.only is None or info.name in server.only
        )

    # -- calls ---------------------------------------------------------------------------------

    async def call(self, name: str, call: ToolCall) -> Any:
        """Run one of the server's tools, by the server's name for it.

        Raises:
            ToolError: It failed, or the server is not there, or went.
        """
        lost: McpConnection | None = None
        while True:
            connection = await self._wait_connection(other_than=lost)
            try:
                return await connection.call_tool(name, call.arguments, call.report_progress)
            except McpLostError as exc:
                if not exc.was_refused or lost is not None:
                    raise ToolError(
                        f"The MCP server {self.server.name} {exc}. Whether {name} was done is not "
                        "known. The server is being started again."
                    ) from exc
                lost = connection

    async def _wait_connection(self, *, other_than: McpConnection | None) -> McpConnection:
        with trio.move_on_after(self.server.connect_seconds):
            while True:
                await self._connected.wait()
                connection = self._connection
                if connection is not None and connection is not other_than:
                    return connection
                await trio.sleep(_LIST_AGAIN_SECONDS)  # it is about to be noticed
        raise ToolError(
            f"The MCP server {self.server.name} is not there: it {self._why}. "
            "It is being tried again; the call was not made."
        )

    def doubt(self) -> None:
        """Ask the server whether it still answers; if not, it is started again."""
        if self._connection is not None:
            self._connection.doubt()


class McpTool(Tool):
    """One tool of a server."""

    def __init__(self, source: McpTools, info: McpToolInfo) -> None:
        options = source.server.options_of(info.name)
        effect = options.effect or _effect_of(info)
        super().__init__(
            ToolSpec(
                name=_name_of(source.server.name, info.name),
                description=info.description[:_MAX_DESCRIPTION_CHARS],
                schema=info.schema,
            ),
            effect=effect,
            parallel=effect == "none" if options.parallel is None else options.parallel,
            timeout_seconds=options.timeout_seconds or TIMEOUT_SECONDS,
            approval=options.approval,
        )
        self._source = source
        self._remote_name = info.name

    async def run(self, call: ToolCall, threads: trio.CapacityLimiter) -> Any:
        return await self._source.call(self._remote_name, call)

    async def call(self, call: ToolCall, threads: trio.CapacityLimiter) -> Any:
        deadline = trio.current_time() + self.timeout_seconds
        try:
            return await super().call(call, threads)
        except ToolError:
            if trio.current_time() >= deadline:
                self._source.doubt()
            raise


def _effect_of(info: McpToolInfo) -> Effect:
    if info.reads_only:
        return "none"
    return "idempotent" if info.is_idempotent else "unsafe"


def _name_of(server: str, tool: str) -> str:
    """Make a name that all providers take, and no other tool of any server has."""
    name = f"{server}_{re.sub(r'[^A-Za-z0-9_-]', '_', tool)}"
    if name == f"{server}_{tool}" and len(name) <= _MAX_NAME_CHARS:
        return name
    mark = hashlib.sha256(tool.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: _MAX_NAME_CHARS - len(mark) - 1]}_{mark}"


def _import_connection() -> OpenConnection:
    try:
        from ._mcp_session import open_connection
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in {"anyio", "httpx2", "mcp", "mcp_types"}:
            raise
        raise SettingsError(
            "MCP servers need the extra `mcp`: pip install 'trialogue[mcp]'"
        ) from exc
    return open_connection
