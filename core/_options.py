"""What an agent takes of a session's configuration, and the check of that. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

import attrs

from .codec import camel_case
from .errors import invalid_request
from .models import SessionConfig

__all__ = ["AgentOptions", "OptionName", "check_options", "describe_options"]

OptionName: TypeAlias = Literal["model", "system_prompt", "tools", "temperature", "max_tokens"]


@attrs.frozen(kw_only=True)
class AgentOptions:
    """What an agent takes of `SessionConfig`, as its attribute ``options``.

    An agent without one is given whatever a client says. Of one that has it, any other member is
    refused, at its place, when a session is made or changed; ``server.describe`` shows it.

    Attributes:
        names: The members that it takes.
        tools: What ``tools`` may name, with a line on each. They may come and go.
    """

    names: frozenset[OptionName] = frozenset()
    tools: Mapping[str, str] = attrs.field(factory=dict[str, str])


def _find_options(agent: object) -> AgentOptions | None:
    options: Any = getattr(agent, "options", None)
    return options if isinstance(options, AgentOptions) else None


def check_options(agent: object, name: str, config: SessionConfig, changed: SessionConfig) -> None:
    """Check that an agent takes what a configuration says.

    Args:
        agent: Whose ``options`` hold, if it has any.
        name: The agent's.
        config: What would hold.
        changed: What was said just now. The rest was checked when it was said, unless the agent
            is another now.

    Raises:
        InvalidRequestError: It does not; the issues name each place.
    """
    options = _find_options(agent)
    if options is None:
        return
    issues = [
        {"path": f"params.config.{path}", "message": message}
        for path, message in _find_issues(
            options, name, config if changed.agent is not None else changed
        )
    ]
    if issues:
        raise invalid_request(issues)


def _find_issues(
    options: AgentOptions, name: str, config: SessionConfig
) -> Iterator[tuple[str, str]]:
    for member, check in _CHECKS.items():
        value = getattr(config, member)
        if value is None:
            continue
        if member not in options.names:
            yield camel_case(member), f"the agent {name!r} takes none"
        elif check is not None and not check(value):
            yield camel_case(member), _EXPECTED[member]
    if "tools" in options.names:
        for index, tool in enumerate(config.tools or ()):
            if tool not in options.tools:
                there = ", ".join(sorted(options.tools)) or "none"
                yield f"tools[{index}]", f"unknown tool {tool!r}: there are {there}"


_CHECKS: Final[Mapping[OptionName, Callable[[Any], bool] | None]] = {
    "model": bool,
    "system_prompt": None,
    "tools": None,
    "temperature": lambda value: 0 <= value < math.inf,
    "max_tokens": lambda value: 1 <= value < 2**53,
}
_EXPECTED: Final[Mapping[OptionName, str]] = {
    "model": "expected a name",
    "temperature": "expected 0 or more",
    "max_tokens": "expected 1 or more",
}


def describe_options(agent: object) -> dict[str, Any]:
    """Give what ``server.describe`` says of them: nothing, if the agent has none."""
    options = _find_options(agent)
    if options is None:
        return {}
    described: dict[str, Any] = {"config": sorted(map(camel_case, options.names))}
    if "tools" in options.names:
        described["tools"] = [
            {"name": name, "description": line} for name, line in options.tools.items()
        ]
    return {"options": described}
