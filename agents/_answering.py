"""An agent that asks a model once, and has no tools."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from ..core.abc import Agent, Turn
from .model import Model, ModelRequest

__all__ = ["answer_with"]


def answer_with(model: Model) -> Agent:
    """Make an agent that answers with what a model says of the conversation."""
    return _Answering(model)


class _Answering:
    def __init__(self, model: Model) -> None:
        self._model = model

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        return self._model.lifespan()

    async def __call__(self, turn: Turn) -> None:
        config = turn.config
        request = ModelRequest(
            messages=turn.messages,
            system=config.system_prompt,
            model=config.model,
            temperature=config.temperature,
            max_tokens=config.max_tokens,
        )
        reply = await self._model.generate(request, turn.write)
        turn.report_usage(
            input_tokens=reply.usage.input_tokens, output_tokens=reply.usage.output_tokens
        )
        if reply.stop_reason != "end":
            turn.stop_reason = reply.stop_reason
