"""Tools that a client runs for the agents of the sessions it follows (PROTOCOL §9)."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import trio

from ..core.codec import encode_json
from ..core.errors import AskClosedError, AskNotFoundError, WireError
from ..core.events import AskClosed, AskOpened, Resync
from ..core.models import AskInfo, ClientTool, JsonObject

if TYPE_CHECKING:
    from ._client import Client
    from ._event_stream import EventStream

__all__ = ["LocalFunction", "LocalTool", "serve_tools"]

log = logging.getLogger("trialogue.client")

#: Takes the arguments as an object, and gives a JSON value. One that is not async runs in a thread.
LocalFunction: TypeAlias = Callable[[JsonObject], Awaitable[Any] | Any]


@attrs.frozen(kw_only=True)
class LocalTool:
    """A tool as it is offered, and the function of this program that it is."""

    tool: ClientTool
    function: LocalFunction

    async def run(self, arguments: JsonObject) -> Any:
        """Run it."""
        if inspect.iscoroutinefunction(self.function):
            return await self.function(arguments)
        result = await trio.to_thread.run_sync(self.function, arguments, abandon_on_cancel=True)
        return await result if inspect.isawaitable(result) else result


class _Runs:
    """The tools at work, by their asks."""

    def __init__(
        self, client: Client, session_id: str, tools: Mapping[str, LocalTool], tasks: trio.Nursery
    ) -> None:
        self._client = client
        self._session_id = session_id
        self._tools = tools
        self._tasks = tasks
        self._scopes: dict[str, trio.CancelScope] = {}

    def begin(self, ask: AskInfo) -> None:
        """Run what an ask is for, if it is ours and does not run yet."""
        tool = self._tools.get(ask.name or "")
        if ask.kind == "tool" and tool is not None and ask.ask_id not in self._scopes:
            scope = self._scopes[ask.ask_id] = trio.CancelScope()
            self._tasks.start_soon(self._run, ask, tool, scope)

    def end(self, ask_id: str) -> None:
        """Stop: somebody else has answered, or nobody waits any more."""
        scope = self._scopes.pop(ask_id, None)
        if scope is not None:
            scope.cancel(reason="the ask was closed")

    async def _run(self, ask: AskInfo, tool: LocalTool, scope: trio.CancelScope) -> None:
        with scope:
            answer: Any = None
            error: str | None = None
            try:
                answer = await tool.run(ask.arguments or {})
                encode_json(answer)
            except Exception as exc:
                log.info("a tool failed", exc_info=True, extra={"tool": ask.name})
                answer, error = None, str(exc) or type(exc).__name__
            try:
                await self._client.answer_ask(self._session_id, ask.ask_id, answer, error=error)
            except (AskClosedError, AskNotFoundError):
                pass  # somebody was faster
            except WireError as exc:
                log.warning(
                    "a tool's result was refused", extra={"tool": ask.name, "error": str(exc)}
                )


async def serve_tools(
    client: Client,
    session_id: str,
    tools: Sequence[LocalTool],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `Client.serve_tools`."""
    offered = tuple(tool.tool for tool in tools)
    by_name = {tool.tool.name: tool for tool in tools}
    async with client.events(session_id, tools=offered) as events, trio.open_nursery() as nursery:
        runs = _Runs(client, session_id, by_name, nursery)
        await _begin_all(client, events, runs)
        task_status.started()
        async for event in events:
            match event.body:
                case AskOpened():
                    runs.begin(event.body)
                case AskClosed():
                    runs.end(event.body.ask_id)
                case Resync():
                    await _begin_all(client, events, runs)
                case _:
                    pass
        nursery.cancel_scope.cancel(reason="the session is over")


async def _begin_all(client: Client, events: EventStream, runs: _Runs) -> None:
    """Run what was asked before we listened."""
    for ask in await client.list_asks(events.session_id):
        runs.begin(ask)
