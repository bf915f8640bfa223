"""The tools that a turn may use, and how the calls of one step are run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, TypeAlias

import trio

from ..core._failures import find_failure
from ..core.abc import ToolCall, Turn
from ..core.errors import (
    SettingsError,
    ToolFailedError,
    ToolOutcomeUnknownError,
)
from ..core.models import ClientTool, ToolCallInfo
from ._subagents import SubAgents
from .model import ToolSpec, malformed_arguments
from .tools import ApprovalPolicy, Tool, ToolError, ToolSource, tool

__all__ = ["ToolLike", "Toolbox"]

#: What a loop is given as its tools. A function that is none yet becomes one, and is ``unsafe``.
ToolLike: TypeAlias = Tool | ToolSource | Callable[..., Any]

_UNKNOWN: Final = (
    "The server stopped while the tool was running, and nobody knows whether it did its work. "
    "It was not run again:"
)


class Toolbox:
    """All tools of a loop.

    Args:
        given: The tools.
        policy: Which ones somebody is asked about.
        policies: The same of single tools, by name; they go before a tool's own.
        approval_seconds: How long an approval is waited for; None is for ever.
        client_tool_seconds: The same of the answer to a call of a client's tool.
        max_threads: How many functions that block may run at once.

    Raises:
        SettingsError: Two have one name, or a policy is of a tool that there cannot be.
    """

    def __init__(
        self,
        given: Iterable[ToolLike],
        *,
        policy: ApprovalPolicy,
        policies: Mapping[str, ApprovalPolicy],
        approval_seconds: float | None,
        client_tool_seconds: float | None,
        max_threads: int,
    ) -> None:
        self.sources: list[ToolSource] = []
        self._fixed: dict[str, Tool] = {}
        for one in given:
            if isinstance(one, ToolSource):
                self.sources.append(one)
                continue
            made = one if isinstance(one, Tool) else tool(one)
            if self._fixed.setdefault(made.name, made) is not made:
                raise SettingsError(f"there are two tools {made.name!r}")
        unknown = [name for name in policies if name not in self._fixed]
        if unknown and not self.sources:
            raise SettingsError(f"approvals are of a tool {unknown[0]!r} that there is not")
        self._policy: ApprovalPolicy = policy
        self._policies = dict(policies)
        self._approval_seconds = approval_seconds
        self._client_tool_seconds = client_tool_seconds
        self._threads = trio.CapacityLimiter(max_threads)

    def find_tools(self) -> dict[str, Tool]:
        """Give those that there are now, by name; of two with one name, the first's."""
        tools = dict(self._fixed)
        for source in self.sources:
            for one in source.tools:
                tools.setdefault(one.name, one)
        return tools

    def open(self, turn: Turn) -> ToolStep:
        """Take out what a turn may use in its next step."""
        names = turn.config.tools
        tools: dict[str, Tool | ClientTool] = {
            name: found
            for name, found in self.find_tools().items()
            if names is None or name in names
        }
        for offered in turn.client_tools:
            tools.setdefault(offered.name, offered)
        return ToolStep(self, turn, tools)

    def asks_for(self, found: Tool) -> bool:
        """Whether somebody is asked before a tool is run."""
        policy = self._policies.get(found.name) or found.approval or self._policy
        return policy == "always" or (policy == "unsafe" and found.effect == "unsafe")

    async def ask(self, turn: Turn, call: ToolCallInfo) -> bool:
        """Ask whether a call may be made."""
        answer = await turn.ask(
            f"Run {call.name}?",
            kind="approval",
            options=("approve", "deny"),
            default="deny",
            expires_seconds=self._approval_seconds,
            key=call.call_id,
            call_id=call.call_id,
            name=call.name,
            arguments=call.arguments,
        )
        return bool(answer.value == "approve")

    async def run_at_client(self, turn: Turn, call: ToolCallInfo) -> None:
        """Let a client run its tool."""
        await turn.call_client_tool(
            call.name,
            call.arguments,
            call_id=call.call_id,
            expires_seconds=self._client_tool_seconds,
        )

    async def run(self, found: Tool, call: ToolCall) -> Any:
        """Run a tool."""
        return await found.call(call, self._threads)


class ToolStep:
    """The tools of one step of a turn, and the calls that the model makes of them."""

    def __init__(self, box: Toolbox, turn: Turn, tools: Mapping[str, Tool | ClientTool]) -> None:
        self._box = box
        self._turn = turn
        self._tools = tools

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is told."""
        return tuple(
            found.spec
            if isinstance(found, Tool)
            else ToolSpec(name=found.name, description=found.description, schema=found.schema)
            for found in self._tools.values()
        )

    async def run_all(self, calls: Sequence[ToolCallInfo]) -> None:
        """Run calls in their order; those in a row that may run beside others do so."""
        for together in self._group(calls):
            if len(together) == 1:
                await self._run(together[0])
                continue
            async with trio.open_nursery() as nursery:
                for call in together:
                    nursery.start_soon(self._run, call, name=f"tool {call.name}")

    def _group(self, calls: Sequence[ToolCallInfo]) -> Iterator[list[ToolCallInfo]]:
        def is_parallel(call: ToolCallInfo) -> bool:
            return getattr(self._tools.get(call.name), "parallel", False)

        for parallel, group in groupby(calls, is_parallel):
            if parallel:
                yield list(group)
            else:
                yield from ([call] for call in group)

    async def _run(self, call: ToolCallInfo) -> None:
        """Run one call to its result in the log, whatever that is."""
        turn, found = self._turn, self._tools.get(call.name)
        try:
            # One that a client was given before a restart is there, whoever offers what now.
            if call.call_id in turn.calls_at_clients or (
                isinstance(found, ClientTool) and malformed_arguments(call) is None
            ):
                await self._box.run_at_client(turn, call)
                return
            refusal = await self._find_refusal(call, found)
            if isinstance(found, SubAgents) and refusal is None:
                agent, told = found.read(call.arguments)
                await turn.run_child(agent, told, call_id=call.call_id)
                return
        except ToolError as exc:
            refusal = exc.message
        except (ToolFailedError, ToolOutcomeUnknownError):
            return
        if refusal is not None or not isinstance(found, Tool):
            await self.refuse(call, refusal or "It cannot be run.")
            return
        began = False

        async def run(given: ToolCall) -> Any:
            nonlocal began
            began = True
            return await self._box.run(found, given)

        try:
            await turn.call_tool(
                call.name, call.arguments, run, call_id=call.call_id, effect=found.effect
            )
        except (ToolFailedError, ToolOutcomeUnknownError):
            pass  # of an earlier attempt; the log has it, and the model is told by it
        except BaseException as exc:  # noqa: ASYNC103 - raised, if it is no failure
            # A tool that failed is the model's business; a call that could not be made is not.
            if not began or find_failure(exc) is None:
                raise

    async def _find_refusal(
        self, call: ToolCallInfo, found: Tool | ClientTool | None
    ) -> str | None:
        """Say why a call is not made, None if it is."""
        said = malformed_arguments(call)
        if said is not None:
            return f"The arguments are no JSON object: {said}"
        if not isinstance(found, Tool):
            there = ", ".join(self._tools) or "none"
            return f"There is no tool {call.name!r}; there are {there}."
        asks = self._box.asks_for(found)
        if not asks and call.call_id not in self._turn.unknown_calls:
            return None
        try:
            found.check(call.arguments)  # nobody is asked about what fails anyway
        except ToolError as exc:
            return exc.message
        if asks and not await self._box.ask(self._turn, call):
            return "It was not allowed to run; whoever was asked denied it, or nobody answered."
        return None

    async def refuse(self, call: ToolCallInfo, why: str) -> None:
        """Give a call an error as its result, without running it.

        One that ran when the server stopped stays ``unknown``: it may have done its work.
        """
        is_unknown = call.call_id in self._turn.unknown_calls

        async def fail(_: ToolCall) -> None:
            await trio.lowlevel.checkpoint()
            if is_unknown:
                raise ToolOutcomeUnknownError(f"{_UNKNOWN} {why}")
            raise ToolError(why)

        try:
            await self._turn.call_tool(
                call.name, call.arguments, fail, call_id=call.call_id, effect="none"
            )
        except (ToolError, ToolFailedError, ToolOutcomeUnknownError):
            pass
