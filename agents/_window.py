"""How much of a model's window a conversation takes, and how its oldest part is summarised."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import attrs
import trio

from ..core._compaction import extract_summary
from ..core._state import SUMMARY_HEADING
from ..core.errors import as_text
from ..core.models import Message, MessageKind, TokenUsage
from .model import Model, ModelRequest, ToolSpec

__all__ = ["Gauge", "summarize"]

#: A token of most texts has about so many bytes, in most tokenisers.
_BYTES: Final = 4
#: What a message takes beside its text.
_AROUND: Final = 8
#: Of what may be taken, what stays as it is.
_KEPT_SHARE: Final = 0.25

_TO_SUMMARISE: Final = (
    "Summarise the conversation so far, for yourself: it will stand in for the messages that you "
    "see now. Keep what was asked, what was found out and decided, and what is still to be done. "
    "Answer with the summary alone."
)


class Gauge:
    """Says when a turn's conversation comes near the end of the model's window.

    Args:
        window_tokens: Into which a request and its reply have to fit.
        share: Of it, what a request may take.
    """

    def __init__(self, window_tokens: int, share: float) -> None:
        self._window = window_tokens
        self._share = share

    def limit(self, max_tokens: int | None) -> int:
        """Say what a request may take whose reply may have so many tokens.

        Half of the window at least: else every turn would begin with a summary of the last.
        """
        most = int(self._window * self._share)
        if max_tokens is not None:
            most = min(most, max(self._window - max_tokens, self._window // 2))
        return most

    def fit(self, request: ModelRequest) -> ModelRequest:
        """Let the reply have no more tokens than the request leaves of the window."""
        left = self._window - self.measure(request)
        if request.max_tokens is None or request.max_tokens <= left:
            return request
        return attrs.evolve(request, max_tokens=max(1, left))

    @property
    def summary_limit(self) -> int:
        """What a request for a summary may take: it is short, so it may come nearer to the end."""
        return int(self._window * (1 + self._share) / 2)

    def is_full(self, request: ModelRequest) -> bool:
        """Whether a request takes more than it may."""
        return self.measure(request) > self.limit(request.max_tokens)

    def measure(self, request: ModelRequest) -> int:
        """Say how many tokens a request has.

        As the provider said of the last one, and of what came since then by its length; all of it
        by its length where the provider said nothing, or not since a compaction.
        """
        later = 0
        for message in reversed(request.messages):
            usage = message.usage
            if usage is not None and usage.input_tokens:
                return usage.total_tokens + later
            later += _estimate(message)
        tools = sum(_estimate_tool(tool) for tool in request.tools)
        return len((request.system or "").encode()) // _BYTES + tools + _sum(request.messages)

    def count_kept(self, request: ModelRequest) -> int:
        """Say how many of the last messages stay as they are; one at least."""
        room = self.limit(request.max_tokens) * _KEPT_SHARE
        count = 0
        for message in reversed(request.messages):
            room -= _estimate(message)
            if room < 0:
                break
            count += 1
        return max(1, count)


def _sum(messages: Iterable[Message]) -> int:
    return sum(map(_estimate, messages))


def _estimate(message: Message) -> int:
    size = len(message.content.encode("utf-8", "replace"))
    for call in message.tool_calls or ():
        size += len(call.name) + len(json.dumps(call.arguments))
    return size // _BYTES + _AROUND


def _estimate_tool(tool: ToolSpec) -> int:
    return (len(tool.name) + len(tool.description) + len(json.dumps(tool.schema))) // _BYTES


async def summarize(
    model: Model,
    messages: Sequence[Message],
    *,
    system: str | None,
    model_name: str | None = None,
    limit: int | None,
    report: Callable[[TokenUsage], object],
    admit: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint,
) -> str:
    """Let a model summarise messages, part after part where they are more than it can take.

    An extract stands in for what it says nothing of: it may only think, call, or be cut off.

    Args:
        model: Who summarises.
        messages: Oldest first.
        system: The system prompt.
        model_name: Of the provider's model, where it is not its own.
        limit: How many tokens a request may have.
        report: Called with what each request took.
        admit: Called before each of them; it raises if there is to be none.

    Raises:
        AgentError: The model failed.
    """
    left = [_flatten(message) for message in messages]
    while True:
        count = len(left) if limit is None else _count_fitting(left, limit)
        part, left = left[:count], left[count:]
        await admit()
        summary = await _summarize_part(model, part, system, model_name, report) or extract_summary(
            part
        )
        if not left:
            return summary
        before = f"{SUMMARY_HEADING}\n{summary}"
        left.insert(0, attrs.evolve(part[0], role="system", kind="text", content=before))


def _count_fitting(messages: Sequence[Message], limit: int) -> int:
    """Say how many of the first messages fit; two at least, or it would have no end."""
    count = 0
    for message in messages:
        limit -= _estimate(message)
        if limit < 0:
            break
        count += 1
    return max(2, count)


def _flatten(message: Message) -> Message:
    """Make a text of calls and results: without the tools some models take none of them."""
    if message.role == "tool":
        return attrs.evolve(
            message, role="user", call_id=None, content=f"[Its result: {message.content}]"
        )
    if not message.tool_calls:
        return message
    calls = [
        f"[Called {call.name} with {json.dumps(call.arguments)}]" for call in message.tool_calls
    ]
    said = [message.content] if message.content else []
    return attrs.evolve(message, tool_calls=None, content="\n".join([*said, *calls]))


async def _summarize_part(
    model: Model,
    messages: Sequence[Message],
    system: str | None,
    model_name: str | None,
    report: Callable[[TokenUsage], object],
) -> str:
    pieces: list[str] = []

    async def write(text: str, *, kind: MessageKind = "text") -> None:
        if kind == "text":
            pieces.append(text)

    last = messages[-1]
    asked = attrs.evolve(
        last,
        id=f"{last.id}_summary",
        role="user",
        kind="text",
        content=_TO_SUMMARISE,
        call_id=None,
        tool_calls=None,
        attachments=None,
        usage=None,
    )
    request = ModelRequest(messages=(*messages, asked), system=system, model=model_name)
    reply = await model.ask(request, write)
    report(reply.usage)
    return as_text("".join(pieces)).strip()
