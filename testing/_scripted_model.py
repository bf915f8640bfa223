"""A model that answers as it is told, for tests of tools and of what is built on models."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias

import attrs
import trio

from ..agents.model import Model, ModelReply, ModelRequest, StopReason, WriteText
from ..core._ids import new_id
from ..core.models import TokenUsage, ToolCallInfo

__all__ = ["ModelAnswer", "ModelStep", "ScriptedModel", "tool_call"]


def tool_call(name: str, /, call_id: str | None = None, **arguments: Any) -> ToolCallInfo:
    """Make a call for a `ModelAnswer`: ``tool_call("read_file", path="a.txt")``."""
    return ToolCallInfo(call_id=call_id or new_id("call"), name=name, arguments=arguments)


@attrs.frozen
class ModelAnswer:
    """What a scripted model does when it is asked once, in this order.

    Attributes:
        text: A text, or the pieces in which it comes.
        calls: The tools it calls, by `tool_call`.
        reasoning: What it thinks before.
        pause_seconds: Before each piece.
        error: What is raised in the end, as after a connection that breaks.
        stalls: It never ends.
    """

    text: str | Sequence[str] = ""
    calls: Sequence[ToolCallInfo] = attrs.field(default=(), converter=tuple[ToolCallInfo, ...])
    reasoning: str = attrs.field(default="", kw_only=True)
    usage: TokenUsage = attrs.field(factory=TokenUsage, kw_only=True)
    stop_reason: StopReason | None = attrs.field(default=None, kw_only=True)
    pause_seconds: float = attrs.field(default=0.0, kw_only=True)
    error: Exception | None = attrs.field(default=None, kw_only=True)
    stalls: bool = attrs.field(default=False, kw_only=True)


#: A text is an answer, a call or several are one without text, an exception is one that fails.
ModelStep: TypeAlias = ModelAnswer | str | ToolCallInfo | Sequence[ToolCallInfo] | Exception


class ScriptedModel(Model):
    """A model for tests: it answers with texts, calls, failures and silence, as it is told.

    model = ScriptedModel([tool_call("add", a=2, b=3), "It is 5."])
    async with open_test_server(ToolLoop(model, tools=[add])) as test:
        ...
    assert model.requests[1].messages[-1].content == "5"

    Args:
        steps: What it does each time it is asked, whoever asks; or a function of the request,
            async or not, that says so. Asked once more than there are steps, it raises.
        window_tokens: As `Model.window_tokens`.

    Attributes:
        requests: What it was asked.
        cancelled: How often it was cancelled while it answered.
        open_calls: How many answers are under way now: none, if nothing leaks.
    """

    def __init__(
        self,
        steps: Iterable[ModelStep] | Callable[[ModelRequest], ModelStep | Awaitable[ModelStep]],
        *,
        name: str = "scripted",
        window_tokens: int | None = None,
    ) -> None:
        self.name = name
        self.window_tokens = window_tokens
        self._steps = steps if callable(steps) else iter(list(steps))
        self.requests: list[ModelRequest] = []
        self.cancelled = 0
        self.open_calls = 0

    async def generate(self, request: ModelRequest, write: WriteText) -> ModelReply:
        """Do the next step."""
        self.requests.append(request)
        self.open_calls += 1
        try:
            return await _answer(await self._next(request), write)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.open_calls -= 1

    async def _next(self, request: ModelRequest) -> ModelAnswer:
        await trio.lowlevel.checkpoint()
        step: Any
        if callable(self._steps):
            step = self._steps(request)
            if inspect.isawaitable(step):
                step = await step
        else:
            step = next(self._steps, None)
        match step:
            case None:
                raise AssertionError(f"{self.name} was asked {len(self.requests)} times")
            case ModelAnswer():
                return step
            case str():
                return ModelAnswer(step)
            case ToolCallInfo():
                return ModelAnswer(calls=(step,))
            case Exception():
                return ModelAnswer(error=step)
            case _:
                return ModelAnswer(calls=step)


async def _answer(answer: ModelAnswer, write: WriteText) -> ModelReply:
    if answer.reasoning:
        await trio.sleep(answer.pause_seconds)
        await write(answer.reasoning, kind="reasoning")
    for piece in [answer.text] if isinstance(answer.text, str) else answer.text:
        await trio.sleep(answer.pause_seconds)
        await write(piece)
    if answer.stalls:
        await trio.sleep_forever()
    if answer.error is not None:
        raise answer.error
    return ModelReply(
        tool_calls=tuple(answer.calls),
        usage=answer.usage,
        stop_reason=answer.stop_reason or ("toolCalls" if answer.calls else "end"),
    )
