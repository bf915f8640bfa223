"""A request as Anthropic's messages want it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from ..core.models import Message
from ._conversation import Answer, Said, Step, arrange, read_file
from .model import ModelRequest

__all__ = ["Block", "build_body"]

Block: TypeAlias = dict[str, Any]

#: An input may be empty, and a block may not.
_EMPTY: Final = "(empty)"
#: A conversation that was compacted may begin with an answer, and a request may not.
_BEFORE: Final = "(What came before is left out.)"


def build_body(
    request: ModelRequest,
    model: str,
    *,
    max_tokens: int,
    thinking: Mapping[str, Any] | None,
    thoughts: Mapping[str, Sequence[Block]],
) -> dict[str, Any]:
    """Make the body of a request.

    Args:
        request: What is to be answered.
        model: Unless the request names another.
        max_tokens: Unless the request has its own; there is no request without.
        thinking: How it is to think.
        thoughts: What it thought before its calls, by the id of the first one. While tools are at
            work it wants that back, signed as it came.
    """
    steps = arrange(request.messages)
    system = [request.system] if request.system else []
    first = steps[0] if steps else None
    if isinstance(first, Said) and first.role == "system":
        # A summary of what was compacted.
        system += [message.content for message in first.messages]
        del steps[0]
    body: dict[str, Any] = {
        "model": request.model or model,
        "max_tokens": request.max_tokens or max_tokens,
        "messages": _messages(steps, thoughts),
        "stream": True,
    }
    if system:
        body["system"] = "\n\n".join(system)
    if request.tools:
        body["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.schema}
            for tool in request.tools
        ]
    if request.temperature is not None:
        # No argument of the SDK's any more, since the newest models choose it themselves.
        body["extra_body"] = {"temperature": request.temperature}
    if thinking is not None and _knows_thoughts(steps, thoughts):
        body["thinking"] = dict(thinking)
    return body


def _messages(steps: list[Step], thoughts: Mapping[str, Sequence[Block]]) -> list[Block]:
    """Alternate between the two roles: results are the user's."""
    messages: list[Block] = []
    if steps and isinstance(steps[0], Answer):
        messages.append({"role": "user", "content": [_text(_BEFORE)]})
    for step in steps:
        if isinstance(step, Said):
            _add(messages, "user", _shown(step.messages))
            continue
        blocks = list(thoughts.get(step.calls[0].info.call_id, ())) if step.calls else []
        if step.text:
            blocks.append(_text(step.text))
        for call in step.calls:
            info = call.info
            use = {"id": info.call_id, "name": info.name, "input": dict(info.arguments)}
            blocks.append({"type": "tool_use", **use})
        _add(messages, "assistant", blocks)
        results: list[Block] = []
        for call in step.calls:
            result: Block = {"type": "tool_result", "tool_use_id": call.info.call_id}
            result["content"] = call.result or ""
            if call.is_error:
                result["is_error"] = True
            results.append(result)
        if results:
            _add(messages, "user", results)
    return messages


def _add(messages: list[Block], role: str, blocks: list[Block]) -> None:
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"] += blocks
    else:
        messages.append({"role": role, "content": blocks})


def _shown(messages: list[Message]) -> list[Block]:
    blocks: list[Block] = []
    for message in messages:
        for attachment in message.attachments or ():
            file = read_file(attachment)
            source: Block = {"type": "url", "url": file.uri}
            if file.data is not None:
                source = {"type": "base64", "media_type": file.media_type, "data": file.data}
            if file.kind == "image":
                blocks.append({"type": "image", "source": source})
            elif file.kind == "pdf":
                blocks.append({"type": "document", "source": source, "title": file.name})
            else:
                blocks.append(_text(file.text))
        if message.content.strip():
            blocks.append(_text(message.content))
    return blocks or [_text(_EMPTY)]


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _knows_thoughts(steps: list[Step], thoughts: Mapping[str, Sequence[Block]]) -> bool:
    """Whether it can go on thinking: after a restart its thoughts before a call are not known."""
    for step in reversed(steps):
        if isinstance(step, Said):
            return True
        if step.calls and step.calls[0].info.call_id not in thoughts:
            return False
    return True
