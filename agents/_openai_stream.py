"""An answer of chat completions, by its chunks, as OpenAI and those that speak like it send them."""

from __future__ import annotations

import json
from typing import Any, Final

from ..core._json import as_array, as_object
from ..core.models import TokenUsage
from ._calls import CallDraft, make_calls
from ._members import read_count, read_index, read_text
from ._sse import ServerEvent
from ._streaming import Reader, StreamFailedError
from .model import ModelReply, StopReason, WriteText

__all__ = ["ChatReader"]

_REASONS: Final[dict[str, StopReason]] = {
    "content_filter": "refusal",
    "function_call": "toolCalls",
    "length": "maxTokens",
    "tool_calls": "toolCalls",
}
#: Where servers put a model's reasoning: DeepSeek, llama.cpp and others; Ollama and OpenRouter.
_REASONING: Final = ("reasoning_content", "reasoning")
#: Kinds and codes of errors within a stream that another attempt may not meet.
_PASSING: Final = frozenset(
    {"429", "500", "502", "503", "overloaded", "rate_limit_exceeded", "server_error", "timeout"}
)


class ChatReader(Reader):
    """Folds chunks. Members that other servers leave out, send as null or twice are no matter."""

    def __init__(self, write: WriteText, taken: set[str]) -> None:
        self._write = write
        self._taken = taken
        self._drafts: list[CallDraft] = []
        self._by_index: dict[object, CallDraft] = {}
        self._usage = TokenUsage()
        self._reason: str | None = None
        self._refused = False
        self._is_done = False

    @property
    def is_complete(self) -> bool:
        # Behind the reason may come the usage.
        return self._is_done

    async def take(self, event: ServerEvent) -> None:
        if event.data.strip() == "[DONE]":
            self._is_done = True
            return
        chunk = event.read_object()
        if chunk.get("error"):
            raise _failure(chunk["error"])
        usage = as_object(chunk.get("usage"))
        if usage is not None:
            self._usage = _read_usage(usage)
        for choice in map(as_object, as_array(chunk.get("choices")) or ()):
            if choice is None:
                continue
            await self._take_delta(as_object(choice.get("delta")) or {})
            self._reason = read_text(choice.get("finish_reason")) or self._reason

    async def _take_delta(self, delta: dict[str, Any]) -> None:
        for name in _REASONING:
            if text := read_text(delta.get(name)):
                await self._write(text, kind="reasoning")
                break
        if text := read_text(delta.get("content")):
            await self._write(text)
        if text := read_text(delta.get("refusal")):
            self._refused = True
            await self._write(text)
        for call in map(as_object, as_array(delta.get("tool_calls")) or ()):
            if call is not None:
                self._take_call(call)

    def _take_call(self, call: dict[str, Any]) -> None:
        function = as_object(call.get("function")) or {}
        call_id, name = read_text(call.get("id")), read_text(function.get("name"))
        index = read_index(call.get("index"))
        draft = self._by_index.get(index)
        # Some servers give all calls one index, or none, but each its id.
        if draft is None or (call_id and draft.call_id and call_id != draft.call_id):
            draft = self._by_index[index] = CallDraft()
            self._drafts.append(draft)
        draft.call_id = draft.call_id or call_id
        draft.name = draft.name or name
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            # Not as text, but made already.
            arguments = json.dumps(arguments)
        draft.arguments.append(read_text(arguments))

    def finish(self) -> ModelReply | None:
        if not self._is_done and self._reason is None:
            return None
        reason = _REASONS.get(self._reason or "", "end")
        # One that was cut may not have come to its name.
        is_cut = self._refused or reason not in ("end", "toolCalls")
        drafts = [draft for draft in self._drafts if draft.name or not is_cut]
        calls = make_calls(drafts, self._taken)
        if self._refused:
            reason = "refusal"
        elif reason in ("end", "toolCalls"):
            # Several servers say "stop" and mean the calls.
            reason = "toolCalls" if calls else "end"
        return ModelReply(tool_calls=calls, usage=self._usage, stop_reason=reason)


def _read_usage(usage: dict[str, Any]) -> TokenUsage:
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    read, said, total = map(read_count, counts)
    return TokenUsage(input_tokens=read, output_tokens=said, total_tokens=total or read + said)


def _failure(error: Any) -> StreamFailedError:
    known = as_object(error) or {"message": error}
    kinds = {str(known.get("type")), str(known.get("code"))}
    return StreamFailedError(
        read_text(known.get("message")), retryable=not kinds.isdisjoint(_PASSING)
    )
