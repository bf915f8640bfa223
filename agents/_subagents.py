"""Other agents of the server as a tool: what they do is in sessions of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from ..core.abc import ToolCall
from ..core.models import JsonObject
from .model import ToolSpec
from .tools import Tool, ToolError

__all__ = ["SubAgents"]

_DESCRIPTION = (
    "Have another agent do something by itself, and get what it said in the end. It knows nothing "
    "of this conversation but what you tell it. Several may work side by side."
)


class SubAgents(Tool):
    """The tool by which a model has other agents work for it, one `Turn.run_child` a call.

    It is called as that stands in the log. Whatever an agent does that somebody should be asked
    about is asked in its own session, so that running it is not.

    Args:
        agents: What each is good for, by their names on the server.
    """

    def __init__(self, agents: Mapping[str, str]) -> None:
        listed = "\n".join(f"- {name}: {good_for}" for name, good_for in agents.items())
        schema = {
            "type": "object",
            "properties": {
                "agent": {"type": "string", "enum": list(agents)},
                "input": {"type": "string", "description": "All that it has to know."},
            },
            "required": ["agent", "input"],
            "additionalProperties": False,
        }
        spec = ToolSpec(name="run_child", description=f"{_DESCRIPTION}\n\n{listed}", schema=schema)
        super().__init__(spec, effect="idempotent", parallel=True)
        self._agents = frozenset(agents)

    def check(self, arguments: JsonObject) -> None:
        self.read(arguments)

    def read(self, arguments: JsonObject) -> tuple[str, str]:
        """Give the name of the agent and what it is told.

        Raises:
            ToolError: The arguments are others.
        """
        agent, told = arguments.get("agent"), arguments.get("input")
        if not isinstance(agent, str) or agent not in self._agents:
            raise ToolError(f"agent: there are {', '.join(sorted(self._agents))}")
        if not isinstance(told, str) or not told or set(arguments) != {"agent", "input"}:
            raise ToolError("It takes an agent and an input, which is a text.")
        return agent, told

    async def run(self, call: ToolCall, threads: trio.CapacityLimiter) -> Any:
        raise NotImplementedError("a turn runs its children itself")
