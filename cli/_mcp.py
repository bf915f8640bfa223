"""The MCP servers that a configuration names (``[mcp.NAME]``), and who gets their tools."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, cast

from ..agents.tools import TakesTools
from ._values import (
    parse_choice,
    parse_flag,
    parse_seconds,
    parse_size,
    parse_text,
    write_seconds,
    write_size,
)

if TYPE_CHECKING:
    from ..agents.mcp import McpServer

__all__ = ["find_takers", "open_mcp_tools", "parse_mcp", "show_mcp", "write_mcp"]

Parse = Callable[[Any], Any]

#: Arguments by which programs are given what nobody should see: ``--api-key=x``, ``--token x``.
_SECRET_NAME: Final = re.compile(r"(?i)key|token|secret|passw|credential|auth")
_MASK: Final = "***"


def parse_mcp(value: Any) -> tuple[McpServer, ...]:
    """Read the tables of all servers.

    Raises:
        ValueError: Begins with the place: ``mcp.files.command: …``.
    """
    return tuple(
        _parse_server(f"mcp.{name}", name, table)
        for name, table in _take_table("mcp", value).items()
    )


def _parse_server(place: str, name: str, value: Any) -> McpServer:
    from ..agents.mcp import McpServer, McpToolOptions  # only where there is one

    said = _parse_keys(place, value, _SERVER)
    tools = {
        tool: McpToolOptions(**_parse_keys(f"{place}.tools.{tool}", table, _TOOL))
        for tool, table in said.pop("tools", {}).items()
    }
    try:
        return McpServer(name=name, tools=tools, **said)
    except ValueError as exc:
        raise ValueError(f"{place}.{exc}") from None


def _parse_keys(place: str, value: Any, known: Mapping[str, Parse]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for key, each in _take_table(place, value).items():
        name = key.replace("-", "_")
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{place}.{key} is no setting{hint}")
        try:
            said[name] = known[name](each)
        except ValueError as exc:
            raise ValueError(f"{place}.{key}: {exc}") from None
    return said


def _take_table(place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        message = f"{place} is a table"
        raise ValueError(message)  # noqa: TRY004 - one kind for whoever names the setting
    return cast("dict[str, Any]", value)


def _parse_texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        message = 'it is a list of texts: ["npx", "-y", "some-server"]'
        raise ValueError(message)  # noqa: TRY004 - one kind for whoever names the setting
    return tuple(parse_text(item) for item in cast("Iterable[Any]", value))


def _parse_sources(value: Any) -> dict[str, str]:
    """Read where values are: a table, or a list of variables that are passed on as they are."""
    if isinstance(value, list):
        return {name: f"env:{name}" for name in _parse_texts(value)}
    if not isinstance(value, dict):
        message = 'it is a table: { NAME = "env:VARIABLE" }'
        raise ValueError(message)  # noqa: TRY004 - one kind for whoever names the setting
    sources: dict[str, str] = {}
    for name, source in cast("dict[str, Any]", value).items():
        if not isinstance(source, str):  # and is not shown: it may be the secret
            message = f"{name}: write env:VARIABLE or file:PATH"
            raise ValueError(message)  # noqa: TRY004 - one kind for whoever names the setting
        sources[name] = source
    return sources


_TOOL: Final[dict[str, Parse]] = {
    "effect": parse_choice("none", "idempotent", "unsafe"),
    "approval": parse_choice("never", "unsafe", "always"),
    "parallel": parse_flag,
    "timeout_seconds": parse_seconds,
}
_SERVER: Final[dict[str, Parse]] = {
    "command": _parse_texts,
    "url": parse_text,
    "env": _parse_sources,
    "cwd": parse_text,
    "headers": _parse_sources,
    "bearer_token": parse_text,
    "connect_seconds": parse_seconds,
    "max_answer_bytes": parse_size,
    "required": parse_flag,
    "only": _parse_texts,
    "tools": lambda value: _take_table("it", value),
    **_TOOL,
}


def write_mcp(servers: Iterable[McpServer]) -> dict[str, Any]:
    """Write servers as the table that `parse_mcp` reads."""
    return {server.name: _write_server(server) for server in servers}


def _write_server(server: McpServer) -> dict[str, Any]:
    table = _write_keys(server, (name for name in _SERVER if name != "tools"))
    if server.tools:
        table["tools"] = {name: _write_keys(tool, _TOOL) for name, tool in server.tools.items()}
    return table


def _write_keys(said: Any, names: Iterable[str]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name in names:
        value = getattr(said, name)
        if value is None or (not value and isinstance(value, (tuple, dict))):
            continue
        if name.endswith("_seconds"):
            value = write_seconds(value)
        elif name.endswith("_bytes"):
            value = write_size(value)
        table[name] = list(cast("Iterable[Any]", value)) if isinstance(value, tuple) else value
    return table


def show_mcp(servers: Iterable[McpServer]) -> dict[str, Any]:
    """As `write_mcp`, without what may be secret: in a URL, and in arguments."""
    from ..agents._mcp_server import find_hidden  # only where there is one

    tables = write_mcp(servers)
    for table in tables.values():
        if "url" in table:
            url = re.sub(r"(?<=[?&=])[^&=#]+(?=&|#|$)", _MASK, table["url"])
            for hidden in find_hidden(url):
                url = url.replace(hidden, _MASK)
            table["url"] = url
        if "command" in table:
            table["command"] = _mask_arguments(table["command"])
    return tables


def _mask_arguments(command: Iterable[str]) -> list[str]:
    shown: list[str] = []
    hides_next = False
    for word in command:
        name, equals, _ = word.partition("=")
        is_secret = word.startswith("-") and bool(_SECRET_NAME.search(name))
        if hides_next and not word.startswith("-"):
            shown.append(_MASK)
        else:
            is_pair = equals and _SECRET_NAME.search(name)
            shown.append(f"{name}={_MASK}" if is_pair else word)
        hides_next = is_secret and not equals
    return shown


def find_takers(agents: Mapping[str, Any]) -> list[TakesTools]:
    """Find the agents that can be given tools, each once, however many names it has."""
    found = {id(agent): agent for agent in agents.values() if isinstance(agent, TakesTools)}
    return list(found.values())


@asynccontextmanager
async def open_mcp_tools(
    servers: Iterable[McpServer], takers: Iterable[TakesTools], environ: Mapping[str, str]
) -> AsyncGenerator[None]:
    """Hold the servers round the block, one of each for all agents together."""
    takers = tuple(takers)
    async with AsyncExitStack() as stack:
        for server in servers if takers else ():
            from ..agents.mcp import McpTools

            source = McpTools(server, environ=environ)
            await stack.enter_async_context(source.lifespan())
            for taker in takers:
                taker.add_source(source)
        yield
