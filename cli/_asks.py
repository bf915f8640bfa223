"""How a chat puts an agent's question, and what it makes of the person's answer. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..core.events import AskClosed
from ..core.models import AskInfo

__all__ = [
    "is_for_people",
    "read_answer",
    "write_call",
    "write_closed",
    "write_options",
    "write_value",
]


def is_for_people(ask: AskInfo) -> bool:
    """Whether a person can answer it: a tool is for a program to run."""
    return ask.kind != "tool"


def read_answer(ask: AskInfo, text: str) -> Any:
    """Make an answer of what was typed.

    An option may be named by its number, or so far that there is only one; where there is a schema,
    what is JSON is taken as that. Nothing is the default, if there is one.
    """
    typed = text.strip()
    if not typed and ask.default is not None:
        return ask.default
    if ask.options is not None:
        return _find_option(ask.options, typed)
    if ask.schema is None or ask.schema.get("type") == "string":
        return text
    try:
        return json.loads(typed)
    except ValueError:
        return text


def _find_option(options: tuple[str, ...], typed: str) -> str:
    if typed in options:
        return typed
    if typed.isascii() and typed.isdigit() and 0 < int(typed) <= len(options):
        return options[int(typed) - 1]
    matching = [option for option in options if option.lower().startswith(typed.lower())]
    return matching[0] if typed and len(matching) == 1 else typed


def write_options(ask: AskInfo) -> str:
    """Say what may be answered; empty if anything."""
    parts: list[str] = []
    if ask.options is not None:
        parts = [f"{number} {option}" for number, option in enumerate(ask.options, 1)]
    elif ask.schema is not None:
        parts = [f"fits {write_value(dict(ask.schema))}"]
    if ask.default is not None:
        parts.append(f"nothing is {write_value(ask.default)}")
    return " · ".join(parts)


def write_closed(closed: AskClosed) -> str:
    """Say what became of a question."""
    if closed.reason == "cancelled":
        return "not asked any more"
    answer = "no answer" if closed.answer is None else write_value(closed.answer)
    if closed.reason == "expired":
        return f"nobody answered in time: {answer}"
    by = "" if closed.by in (None, "anonymous") else f" ({closed.by})"
    return f"{answer}{by}"


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Write a tool's call as people write one: ``add(a=2, b=3)``."""
    inside = ", ".join(f"{key}={write_value(value)}" for key, value in arguments.items())
    return f"{name}({inside})"


def write_value(value: Any) -> str:
    """Write a JSON value; a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
