"""An agent that takes tools, as ``mcp_agent_for_cli:agent``: it calls the first one that it finds."""

from trialogue.agents.loop import ToolLoop
from trialogue.agents.model import ModelRequest
from trialogue.core.models import ToolCallInfo
from trialogue.testing import ScriptedModel, tool_call


def answer(request: ModelRequest) -> str | ToolCallInfo:
    last = request.messages[-1]
    if last.role == "tool":
        return f"The tool says {last.content}."
    name = next(spec.name for spec in request.tools if spec.name.endswith("_echo"))
    return tool_call(name, text=last.content)


agent = ToolLoop(ScriptedModel(answer))
