"""The seam to model providers: one request, text as it comes, one reply.

A provider is a `Model`, one module each (`openai.py`, `anthropic.py`, `local.py`); who calls it is
`ToolLoop`, or an agent of one's own. Push and not an async generator, as `Turn` is: no stream is
left open across a ``yield``, and cancelling the call closes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final, Literal, Protocol, TypeAlias

import attrs

from ..core._tracing import open_span
from ..core.models import JsonObject, Message, MessageKind, TokenUsage, ToolCallInfo

__all__ = [
    "MALFORMED",
    "Model",
    "ModelReply",
    "ModelRequest",
    "StopReason",
    "ToolSpec",
    "WriteText",
    "malformed_arguments",
]

#: Why a model stopped: it was done, wants tools, came to its limit, or would not answer.
StopReason: TypeAlias = Literal["end", "toolCalls", "maxTokens", "refusal"]

#: The only argument of a call whose arguments were no JSON object: the text that the model gave.
#: It stands among the arguments, so that the log has it too: a call that is taken up after a
#: restart must not be run without arguments either.
MALFORMED: Final = "_malformed"


def malformed_arguments(call: ToolCallInfo) -> str | None:
    """Give what a model said in place of a JSON object, None if the arguments are good.

    Whoever runs calls does not run such a one, but gives the model an error as its result.
    """
    text = call.arguments.get(MALFORMED)
    return text if isinstance(text, str) else None


@attrs.frozen(kw_only=True)
class ToolSpec:
    """A tool as a model is told of it.

    Attributes:
        schema: JSON Schema of its arguments, of type object.
    """

    name: str
    description: str = ""
    schema: JsonObject


@attrs.frozen(kw_only=True)
class ModelRequest:
    """What a model is to answer.

    Attributes:
        messages: The conversation, oldest first, as `Turn.messages` gives it. Tool calls stand on
            the assistant's messages, each result is a message of role ``tool`` with its ``call_id``.
        system: The system prompt, before all of them.
        model: Another model of the same provider than the one it was made for.
        max_tokens: Of the reply.
    """

    messages: Sequence[Message]
    system: str | None = None
    tools: Sequence[ToolSpec] = ()
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None


@attrs.frozen(kw_only=True)
class ModelReply:
    """How a model's answer ended; its text has been written.

    Attributes:
        tool_calls: What it wants called, in its order, each with an id that no call of the
            request has. Arguments that are no JSON object are its text under `MALFORMED`.
        usage: Of this call; zeros where the provider does not say.
    """

    tool_calls: tuple[ToolCallInfo, ...] = ()
    usage: TokenUsage = attrs.field(factory=TokenUsage)
    stop_reason: StopReason = "end"


class WriteText(Protocol):
    """Where a model's text goes; `Turn.write` is one."""

    async def __call__(self, text: str, *, kind: MessageKind = "text") -> None:
        """Take the next piece."""


class Model(ABC):
    """A language model that can be asked.

    Attributes:
        name: As the provider calls it.
        window_tokens: How many tokens fit into a request and its reply; None if it is not known.
        has_siblings: A request may name another model of the same provider.
    """

    name: str
    window_tokens: int | None = None
    has_siblings: bool = True

    @abstractmethod
    async def generate(self, request: ModelRequest, write: WriteText) -> ModelReply:
        """Answer one request. Cancelling it closes the provider's stream.

        It is tried again only as long as nothing was written.

        Raises:
            AgentError: The provider failed; its message can be shown, and holds no secret.
        """

    async def ask(self, request: ModelRequest, write: WriteText) -> ModelReply:
        """Answer one request as `generate` does, and tell a tracer of it."""
        name = request.model or self.name
        with open_span("model", name, {}) as noted:
            reply = await self.generate(request, write)
            noted["inputTokens"] = reply.usage.input_tokens
            noted["outputTokens"] = reply.usage.output_tokens
        return reply

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Hold what outlives a call, such as connections; entered once, round all calls."""
        return nullcontext()
