"""What a tool of an MCP server gave, as a JSON value for the log and the model. Pure.

A model that takes pictures in a tool's result is not supposed: what is no text is named, with its
kind and size, so that the model knows that there is something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .tools import ToolError

__all__ = ["read_result"]

#: Of an error, which a model reads.
_MAX_ERROR_CHARS: Final = 4000


def read_result(result: Mapping[str, Any]) -> Any:
    """Take the value out of a ``CallToolResult``, as it is on the wire.

    Returns:
        The structured content, if there is one and nothing but its text beside it. Else the text;
        both, where there is more than text.

    Raises:
        ToolError: It says that the tool failed.
    """
    blocks: Sequence[Mapping[str, Any]] = result.get("content") or ()
    text = "\n".join(_write_block(block) for block in blocks)
    if result.get("isError"):
        raise ToolError(text[:_MAX_ERROR_CHARS] or "The tool failed, and did not say why.")
    if "structuredContent" not in result:
        return text
    structured = result["structuredContent"]
    if all(block["type"] == "text" for block in blocks):
        return structured
    return {"structuredContent": structured, "content": text}


def _write_block(block: Mapping[str, Any]) -> str:
    match block:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image" | "audio" as kind, "data": str(data)}:
            return f"[{kind}: {block.get('mimeType')}, {_count_bytes(data)} bytes]"
        case {"type": "resource_link", "uri": uri}:
            told = [str(block[key]) for key in ("title", "description") if block.get(key)]
            name = str(block.get("name", ""))
            return f"[resource: {', '.join([name, *told, _with_kind(uri, block)])}]"
        case {"type": "resource", "resource": {"text": str(text), "uri": uri}}:
            return f"[resource: {uri}]\n{text}"
        case {"type": "resource", "resource": {"blob": str(data), "uri": uri} as resource}:
            return f"[resource: {_with_kind(uri, resource)}, {_count_bytes(data)} bytes]"
        case _:
            return f"[{block.get('type')}]"


def _with_kind(uri: Any, told: Mapping[str, Any]) -> str:
    return f"{uri}, {told['mimeType']}" if told.get("mimeType") else str(uri)


def _count_bytes(base64: str) -> int:
    return len(base64) * 3 // 4 - base64[-2:].count("=")
