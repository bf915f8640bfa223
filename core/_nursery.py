"""Nurseries and scopes of which those need not know who use what is made with them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

__all__ = ["give_up_when", "open_plain_nursery"]


@asynccontextmanager
async def open_plain_nursery() -> AsyncGenerator[trio.Nursery]:
    """Open a nursery that its user's callers do not see: the block's exception leaves it as raised."""
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as exc:
                failure = exc
                raise
    except BaseExceptionGroup as group:
        only = group.exceptions[0]
        # Trio makes a new group of one that it looked for cancellations in.
        is_of_the_block = only is failure or (
            isinstance(only, BaseExceptionGroup) and isinstance(failure, BaseExceptionGroup)
        )
        if len(group.exceptions) == 1 and is_of_the_block:
            raise only from only.__cause__  # noqa: ASYNC123 - its own cause is kept
        raise


@asynccontextmanager
async def give_up_when(
    wait: Callable[[], Awaitable[object]], reason: str
) -> AsyncGenerator[tuple[trio.CancelScope, Callable[[], None]]]:
    """Cancel the block as soon as ``wait`` returns, unless it has called what it is given.

    Gives the scope, which knows whether it was cancelled, and that function: from then on the block
    goes on whatever is waited for.
    """
    watching = trio.CancelScope()
    with trio.CancelScope() as scope:
        async with open_plain_nursery() as nursery:

            async def watch() -> None:
                with watching:
                    await wait()
                    scope.cancel(reason=reason)

            nursery.start_soon(watch)
            try:
                yield scope, watching.cancel
            finally:
                watching.cancel()
