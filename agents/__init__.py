"""Who answers: the built-in agents, one module each, and how the command line finds one."""

if __name__ != "trialogue.agents":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.agents', not as {__name__!r}")

# The agents themselves are not here: `trialogue.agents.demo` is the module, and must stay it.
from ._loader import AgentLoader as AgentLoader
from ._loader import agent_loader as agent_loader
from ._resolve import list_agents as list_agents
from ._resolve import resolve_agent as resolve_agent
from ._resolve import resolve_agents as resolve_agents
