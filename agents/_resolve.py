"""Finds the agents that a command line names: ``[NAME=]AGENT``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Final, cast

from ..core._arguments import describe_function, is_function_of
from ..core.abc import Agent
from ..core.errors import SettingsError, TrialogueError
from ..core.plugins import AGENTS, explain_import, list_plugins, load_object, load_plugin
from ._loader import AgentLoader

__all__ = ["list_agents", "resolve_agent", "resolve_agents"]

_NAMED: Final = re.compile(r"([A-Za-z0-9_][\w.-]*)=(.*)", re.DOTALL)
_OWN: Final = "or module:function for one of your own"


def resolve_agents(specs: Iterable[str]) -> dict[str, Agent]:
    """Find several agents, in the order given, each under a name of its own.

    Raises:
        SettingsError: One cannot be found, or two have one name.
    """
    agents: dict[str, Agent] = {}
    for spec in specs:
        name, agent = resolve_agent(spec)
        if name in agents:
            raise SettingsError(
                f"agent {spec!r}: there is a {name!r} already; write OTHER_NAME={_unnamed(spec)}"
            )
        agents[name] = agent
    return agents


def resolve_agent(spec: str) -> tuple[str, Agent]:
    """Find an agent by ``[NAME=]AGENT``, and give it with its name.

    AGENT is the name of an installed one (``demo``), a loader and what it takes
    (``script:FILE``), or ``module:function`` for any other; for that, the current directory is
    made importable. Without NAME the agent is called as the installed one, as the function, or
    as the module where the function is just called ``agent``.

    Raises:
        SettingsError: There is no such agent, or it is none; says what there is.
    """
    match = _NAMED.fullmatch(spec)
    given = match[1] if match else None
    spec = _unnamed(spec)
    head, colon, argument = spec.partition(":")
    installed = list_plugins(AGENTS)
    found: Any = None
    if head in installed:
        found = load_plugin(AGENTS, head)
        if isinstance(found, AgentLoader):
            return given or head, _load(found, head, argument)
        if not colon:
            return given or head, _checked(found, spec)
    if not colon:
        raise SettingsError(f"unknown agent {spec!r}: {_suggest(spec, list(installed))}")
    agent = _checked(_import_own(spec, shadowed=head if found is not None else None), spec)
    module, function = head.rpartition(".")[2], argument.rpartition(".")[2]
    return given or (module if function == "agent" else function), agent


def list_agents() -> list[str]:
    """List the installed agents as they are named, e.g. ``["demo", "echo", "script:FILE"]``."""
    listed: list[str] = []
    for name in sorted(list_plugins(AGENTS)):
        try:
            found = load_plugin(AGENTS, name)
        except SettingsError:
            listed.append(name)  # its library is missing; asking for the agent says so
        else:
            loader = isinstance(found, AgentLoader)
            listed.append(f"{name}:{cast('Any', found).takes}" if loader else name)
    return listed


def _unnamed(spec: str) -> str:
    match = _NAMED.fullmatch(spec)
    return match[2] if match else spec


def _suggest(spec: str, names: list[str]) -> str:
    if spec.endswith(".py"):
        module = spec.removesuffix(".py").removeprefix("./").replace("/", ".")
        return f"for a function in that file write {module}:FUNCTION"
    close = get_close_matches(spec, names, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}there are {', '.join(list_agents())}, {_OWN}"


def _load(loader: AgentLoader[...], name: str, argument: str) -> Agent:
    if not argument:
        raise SettingsError(f"agent {name!r} needs to know more: write {name}:{loader.takes}")
    try:
        made = loader(argument)
    except TrialogueError:
        raise
    except ImportError as exc:
        raise SettingsError(f"agent {name!r} cannot be imported: {explain_import(exc)}") from exc
    return _checked(made, f"{name}:{argument}")


def _import_own(spec: str, *, shadowed: str | None) -> Any:
    try:
        return load_object(spec)
    except SettingsError as exc:
        if shadowed is not None:
            raise SettingsError(f"agent {shadowed!r} takes nothing after a colon; {exc}") from None
        raise SettingsError(f"agent {exc}") from exc.__cause__


def _checked(found: Any, spec: str) -> Agent:
    if not is_function_of(found, "turn"):
        hint = ", and should call turn.write where it yields"
        raise SettingsError(
            f"agent {spec!r} is {describe_function(found)}"
            f"{hint if inspect.isasyncgenfunction(found) else ''}: "
            "an agent is an async function of one turn"
        )
    agent: Agent = found
    return agent
