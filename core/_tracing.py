"""Spans, from a request over its turn to its tools and models: what a `Tracer` is told.

Which span something belongs to goes with the context of the task (`contextvars`), so that whatever
an agent starts is under its turn. A request and its turn are in different tasks: what connects them
is the command. Without a tracer all of it is a look at None.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from .abc import Agent, Span, SpanKind, Tracer

if TYPE_CHECKING:
    from ._turn import RunningTurn

__all__ = ["current_span", "open_span", "run_traced", "run_within"]

T = TypeVar("T")

current_span: Final[ContextVar[Span | None]] = ContextVar("trialogue_span", default=None)


@contextmanager
def _activate(span: Span) -> Generator[None]:
    """Have what is begun in this block, also by its tasks, belong to a span."""
    token = current_span.set(span)
    try:
        with span.activate():
            yield
    finally:
        current_span.reset(token)


@contextmanager
def open_span(
    kind: SpanKind, name: str, attributes: Mapping[str, Any]
) -> Generator[dict[str, Any]]:
    """Tell of what this block does, if it belongs to something that a tracer was told of.

    Gives a dict for what is known of it at its end.
    """
    noted: dict[str, Any] = {}
    parent = current_span.get()
    if parent is None:
        yield noted
        return
    span = parent.start(kind, name, attributes)
    error: str | None = None
    try:
        with _activate(span):
            yield noted
    except BaseException as exc:
        error = "cancelled" if isinstance(exc, trio.Cancelled) else type(exc).__name__
        raise
    finally:
        span.end(error, noted)


async def run_within(span: Span, running: Awaitable[T]) -> T:
    """Run something that belongs to a span."""
    with _activate(span):
        return await running


async def run_traced(turn: RunningTurn, agent: Agent, name: str, tracer: Tracer) -> None:
    """Run a turn, and tell of it.

    Args:
        turn: Belongs to `RunningTurn.trace`, if there is that.
        agent: As of `RunningTurn.run`.
        name: Of the agent.
        tracer: Is told.
    """
    attributes = {"sessionId": turn.session_id, "turnId": turn.id, "attempt": turn.attempt}
    span = (turn.trace or tracer).start("turn", name, attributes)
    try:
        with _activate(span):
            await turn.run(agent)
    finally:
        outcome = turn.outcome or ("suspended" if turn.is_suspended else "interrupted")
        usage = turn.usage
        noted = {
            "outcome": outcome,
            "inputTokens": usage.input_tokens,
            "outputTokens": usage.output_tokens,
        }
        span.end("failed" if outcome == "failed" else None, noted)
