"""A request as chat completions want it. Pure."""

from __future__ import annotations

from typing import Any

from ..core._json import encode_json
from ..core.models import Message
from ._conversation import Call, Said, arrange, read_file
from .model import ModelRequest, malformed_arguments

__all__ = ["build_body"]


def build_body(request: ModelRequest, model: str, *, limit_name: str) -> dict[str, Any]:
    """Make the body of a request.

    Args:
        request: What is to be answered.
        model: Unless the request names another.
        limit_name: How this server calls the most tokens of a reply.
    """
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": request.system})
    for step in arrange(request.messages):
        if isinstance(step, Said):
            messages.append({"role": step.role, "content": _content(step.messages)})
            continue
        said: dict[str, Any] = {"role": "assistant", "content": step.text}
        if step.calls:
            said["content"] = step.text or None
            said["tool_calls"] = [_call(call) for call in step.calls]
        messages.append(said)
        messages.extend(
            {"role": "tool", "tool_call_id": call.info.call_id, "content": call.result or ""}
            for call in step.calls
        )
    body: dict[str, Any] = {
        "model": request.model or model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.schema,
                },
            }
            for tool in request.tools
        ]
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.max_tokens is not None:
        body[limit_name] = request.max_tokens
    return body


def _call(call: Call) -> dict[str, Any]:
    # What was no JSON goes back as it came, so that the model sees its mistake.
    arguments = malformed_arguments(call.info)
    if arguments is None:
        arguments = encode_json(call.info.arguments).decode()
    return {
        "id": call.info.call_id,
        "type": "function",
        "function": {"name": call.info.name, "arguments": arguments},
    }


def _content(messages: list[Message]) -> str | list[dict[str, Any]]:
    texts: list[str] = []
    parts: list[dict[str, Any]] = []
    for message in messages:
        if message.content:
            texts.append(message.content)
        for attachment in message.attachments or ():
            file = read_file(attachment)
            source = file.uri or f"data:{file.media_type};base64,{file.data}"
            if file.kind == "image":
                parts.append({"type": "image_url", "image_url": {"url": source}})
            elif file.kind == "pdf" and file.data is not None:
                held = {"filename": file.name, "file_data": source}
                parts.append({"type": "file", "file": held})
            else:
                texts.append(file.text or f"{file.name}: {file.uri}")
    text = "\n\n".join(texts)
    # A list only where there is more than text: many servers know nothing else.
    return [{"type": "text", "text": text}, *parts] if parts else text
