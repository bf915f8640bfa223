"""An answer of Anthropic's messages, by its events."""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

from ..core._json import as_object
from ..core.errors import as_text
from ..core.models import TokenUsage
from ._anthropic_messages import Block
from ._calls import CallDraft, make_calls
from ._members import read_count, read_index, read_text
from ._sse import ServerEvent
from ._streaming import Reader, StreamFailedError
from .model import ModelReply, StopReason, WriteText

__all__ = ["MessageReader"]

_REASONS: Final[dict[str, StopReason]] = {
    "max_tokens": "maxTokens",
    "model_context_window_exceeded": "maxTokens",
    "refusal": "refusal",
    "tool_use": "toolCalls",
}
#: Kinds of errors that another attempt may not meet.
_PASSING: Final = frozenset({"api_error", "overloaded_error", "rate_limit_error", "timeout_error"})
#: What is read is counted in three parts, by what the provider's cache did with it.
_READ: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


@attrs.define
class _Call:
    draft: CallDraft
    #: Arguments that came with its beginning, as from some servers that speak like Anthropic.
    given: dict[str, Any]


class MessageReader(Reader):
    """Folds events.

    Attributes:
        thoughts: What was thought, as blocks that go back with the next request.
    """

    def __init__(self, write: WriteText, taken: set[str]) -> None:
        self.thoughts: list[Block] = []
        self._write = write
        self._taken = taken
        self._calls: dict[object, _Call] = {}
        self._thinking: dict[object, Block] = {}
        self._counts: dict[str, int] = {}
        self._reason: str | None = None
        self._is_done = False

    @property
    def is_complete(self) -> bool:
        return self._is_done

    async def take(self, event: ServerEvent) -> None:
        data = event.read_object()
        index = read_index(data.get("index"))
        match data.get("type") or event.name:
            case "message_start":
                message = as_object(data.get("message")) or {}
                self._count(message.get("usage"))
            case "content_block_start":
                await self._begin(index, as_object(data.get("content_block")) or {})
            case "content_block_delta":
                await self._go_on(index, as_object(data.get("delta")) or {})
            case "message_delta":
                delta = as_object(data.get("delta")) or {}
                self._reason = read_text(delta.get("stop_reason")) or self._reason
                self._count(data.get("usage"))
            case "message_stop":
                self._is_done = True
            case "error":
                error = as_object(data.get("error")) or {}
                words = str(error.get("message") or "")
                retryable = read_text(error.get("type")) in _PASSING
                raise StreamFailedError(words, retryable=retryable)
            case _:
                pass  # a ping, or what later versions have

    async def _begin(self, index: object, block: Block) -> None:
        match block.get("type"):
            case "text":
                await self._say(block.get("text"))
            case "thinking":
                thought = {"type": "thinking", "thinking": "", "signature": ""}
                self._thinking[index] = thought
                self.thoughts.append(thought)
            case "redacted_thinking":
                self.thoughts.append(block)
            case "tool_use":
                draft = CallDraft(str(block.get("id") or ""), str(block.get("name") or ""))
                self._calls[index] = _Call(draft, as_object(block.get("input")) or {})
            case _:
                pass

    async def _go_on(self, index: object, delta: Block) -> None:
        match delta.get("type"):
            case "text_delta":
                await self._say(delta.get("text"))
            case "thinking_delta" if index in self._thinking:
                text = str(delta.get("thinking") or "")
                self._thinking[index]["thinking"] += text
                if text:
                    await self._write(text, kind="reasoning")
            case "signature_delta" if index in self._thinking:
                self._thinking[index]["signature"] += str(delta.get("signature") or "")
            case "input_json_delta" if index in self._calls:
                self._calls[index].draft.arguments.append(str(delta.get("partial_json") or ""))
            case _:
                pass

    async def _say(self, text: object) -> None:
        if isinstance(text, str) and text:
            await self._write(text)

    def _count(self, usage: object) -> None:
        # Later counts are of all so far, and leave out what has not changed.
        for name, count in (as_object(usage) or {}).items():
            if isinstance(count, int) and count == read_count(count):
                self._counts[name] = count

    def finish(self) -> ModelReply | None:
        if not self._is_done:
            return None
        for thought in self.thoughts:
            thought.update({n: as_text(v) for n, v in thought.items() if isinstance(v, str)})
        drafts: list[CallDraft] = []
        for call in self._calls.values():
            if call.given and not any(call.draft.arguments):
                call.draft.arguments.append(json.dumps(call.given))
            drafts.append(call.draft)
        calls = make_calls(drafts, self._taken)
        reason = _REASONS.get(self._reason or "", "end")
        if reason == "end" and calls:
            reason = "toolCalls"
        read = sum(self._counts.get(name, 0) for name in _READ)
        said = self._counts.get("output_tokens", 0)
        usage = TokenUsage(input_tokens=read, output_tokens=said, total_tokens=read + said)
        return ModelReply(tool_calls=calls, usage=usage, stop_reason=reason)
