"""Names of tools as providers accept them, and back again. Pure.

Ours may hold any text: those of MCP servers have dots, those that clients offer are theirs. OpenAI
and Anthropic refuse a whole request for one name with more than letters, digits, ``_`` and ``-``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import attrs

from ..core.models import Message, ToolCallInfo
from .model import ModelReply, ModelRequest

__all__ = ["restore_names", "send_names"]

_LONGEST: Final = 64
_REFUSED: Final = re.compile(r"[^A-Za-z0-9_-]")


def send_names(request: ModelRequest) -> tuple[ModelRequest, Mapping[str, str]]:
    """Give a request in which every tool has a name that is not refused, and no two the same.

    Calls that stand in the conversation are told by the same names as the tools.

    Returns:
        The request, and what each name that was made stands for: for `restore_names`.
    """
    named = dict.fromkeys(tool.name for tool in request.tools)
    named |= dict.fromkeys(c.name for m in request.messages for c in m.tool_calls or ())
    sent = _choose(list(named))
    if not sent:
        return request, {}

    def rename_calls(message: Message) -> Message:
        calls = [attrs.evolve(c, name=sent.get(c.name, c.name)) for c in message.tool_calls or ()]
        return attrs.evolve(message, tool_calls=tuple(calls)) if calls else message

    renamed = attrs.evolve(
        request,
        tools=[attrs.evolve(tool, name=sent.get(tool.name, tool.name)) for tool in request.tools],
        messages=[rename_calls(message) for message in request.messages],
    )
    return renamed, {made: name for name, made in sent.items()}


def restore_names(reply: ModelReply, names: Mapping[str, str]) -> ModelReply:
    """Give a reply whose calls name the tools as we do."""

    def restore(call: ToolCallInfo) -> ToolCallInfo:
        return attrs.evolve(call, name=names.get(call.name, call.name))

    return attrs.evolve(reply, tool_calls=tuple(map(restore, reply.tool_calls)))


def _choose(names: list[str]) -> dict[str, str]:
    """Make another name for each that would be refused."""
    used = {name for name in names if _is_good(name)}
    sent: dict[str, str] = {}
    for name in names:
        if name in used:
            continue
        wish = made = _REFUSED.sub("_", name)[:_LONGEST] or "_"
        number = 1
        while made in used:
            number += 1
            end = f"_{number}"
            made = wish[: _LONGEST - len(end)] + end
        used.add(made)
        sent[name] = made
    return sent


def _is_good(name: str) -> bool:
    return 0 < len(name) <= _LONGEST and _REFUSED.search(name) is None
