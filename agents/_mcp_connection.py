"""A connection to an MCP server, as those see it who do not know the SDK."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

import attrs

from ..core.errors import TrialogueError
from ..core.models import JsonObject
from ._mcp_server import McpServer

__all__ = ["McpConnection", "McpLostError", "McpToolInfo", "OpenConnection", "ReportProgress"]

#: ``(text, progress, total)``, as `ToolCall.report_progress`.
ReportProgress: TypeAlias = Callable[[str | None, float | None, float | None], None]


class McpLostError(TrialogueError):
    """A connection to a server has ended, or came to none. The message goes on after its name.

    Attributes:
        is_setup: It cannot become better by itself: there is no such program.
        was_refused: What was asked for is known not to have begun.
    """

    def __init__(self, why: str, *, is_setup: bool = False, was_refused: bool = False) -> None:
        super().__init__(why)
        self.is_setup = is_setup
        self.was_refused = was_refused


@attrs.frozen(kw_only=True)
class McpToolInfo:
    """A tool as its server tells of it.

    Attributes:
        reads_only: Its ``readOnlyHint``.
        is_idempotent: Its ``idempotentHint``.
    """

    name: str
    description: str = ""
    schema: JsonObject
    reads_only: bool = False
    is_idempotent: bool = False


class McpConnection(ABC):
    """One session with a server, from its beginning to its end."""

    @abstractmethod
    async def list_tools(self) -> Sequence[McpToolInfo]:
        """Ask which tools there are.

        Raises:
            McpLostError: It does not say.
        """

    @abstractmethod
    async def call_tool(
        self, name: str, arguments: Mapping[str, Any], report_progress: ReportProgress
    ) -> Any:
        """Run a tool, and give its result, a JSON value. Cancelling it tells the server.

        Raises:
            ToolError: The server refused, or the tool failed; for the model.
            McpLostError: The connection ended.
        """

    @abstractmethod
    async def wait_changed(self) -> None:
        """Wait until the tools may be others, or somebody is in doubt whether all is well.

        Raises:
            McpLostError: The connection ended.
        """

    @abstractmethod
    def doubt(self) -> None:
        """Let `wait_changed` return, so that the server is asked for its tools again."""


class OpenConnection(Protocol):
    """How a connection comes about."""

    def __call__(
        self, server: McpServer, environ: Mapping[str, str], /
    ) -> AbstractAsyncContextManager[McpConnection]:
        """Connect for as long as the block lasts.

        Raises:
            McpLostError: There is no connection, or it has ended.
            SettingsError: A secret is not there.
        """
        ...
