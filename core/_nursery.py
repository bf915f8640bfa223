"""A nursery inside a context manager, of which whoever uses that one need not know."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

__all__ = ["open_plain_nursery"]


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
