"""Tool calls as a model says them, piece by piece, made into calls of ours. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from ..core._ids import new_id
from ..core._json import MAX_VALUE_DEPTH, JsonError, as_object, decode_strict, json_depth
from ..core._values import MAX_NAME, check_name
from ..core.errors import LocalProtocolError, as_text
from ..core.models import ToolCallInfo
from ._sse import BadEventError
from .model import MALFORMED

__all__ = ["CallDraft", "make_calls", "make_loggable"]


@attrs.define
class CallDraft:
    """A call that is being said."""

    call_id: str = ""
    name: str = ""
    arguments: list[str] = attrs.Factory(list[str])


def make_calls(drafts: list[CallDraft], taken: set[str]) -> tuple[ToolCallInfo, ...]:
    """Make calls of what was said.

    Args:
        drafts: In their order.
        taken: Ids that calls of the conversation have. Some servers count from 0 in each answer,
            or give no ids: such calls get one of ours, since by its id a call's result is known.

    Raises:
        BadEventError: One has no name: nobody could be told of its result.
    """
    calls: list[ToolCallInfo] = []
    taken = set(taken)
    for draft in drafts:
        call_id = as_text(draft.call_id)
        if not call_id or call_id in taken:
            call_id = new_id("call")
        taken.add(call_id)
        name = as_text(draft.name)
        if not name:
            raise BadEventError("a call names no tool")
        arguments = _read_arguments(as_text("".join(draft.arguments)))
        calls.append(ToolCallInfo(call_id=call_id, name=name, arguments=arguments))
    return tuple(calls)


def make_loggable(calls: Iterable[ToolCallInfo]) -> tuple[ToolCallInfo, ...]:
    """Give calls that a log takes, whatever a model says.

    An id that is none, too long, or another call's, becomes one of ours. A name that no tool can
    have is only made fit to be shown: the model is told that there is no such tool.
    """
    made: dict[str, ToolCallInfo] = {}
    for call in calls:
        call_id, name = call.call_id, call.name
        if not call_id or call_id in made or not _is_name(call_id):
            call_id = new_id("call")
        if not _is_name(name):
            name = "".join(char if char.isprintable() else "\ufffd" for char in name[:MAX_NAME])
            if len(call.name) > MAX_NAME:
                name = name[:-1] + "…"
        made[call_id] = attrs.evolve(call, call_id=call_id, name=name)
    return tuple(made.values())


def _is_name(text: str) -> bool:
    try:
        check_name(text, "")
    except LocalProtocolError:
        return False
    return True


def _read_arguments(text: str) -> dict[str, Any]:
    if text.strip() in ("", "null"):
        return {}  # of a tool that takes none
    try:
        found = as_object(decode_strict(text.encode()))
    except JsonError:
        found = None
    # A deeper one could be in no message of ours.
    if found is None or json_depth(found) > MAX_VALUE_DEPTH:
        return {MALFORMED: text}
    return found
