"""Iteration over lists that come in pages."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import trio

__all__ = ["Pages"]

T = TypeVar("T")


class Pages(AsyncIterator[T]):
    """Gives every item of a list, asking for its pages as they are needed. Needs no closing.

    Args:
        fetch: Gives the items of the page that a cursor names (None: the first), and the next
            cursor, None after the last page.
    """

    def __init__(
        self, fetch: Callable[[str | None], Awaitable[tuple[Sequence[T], str | None]]]
    ) -> None:
        self._fetch = fetch
        self._items: deque[T] = deque()
        self._cursor: str | None = None
        self._is_last = False

    def __aiter__(self) -> Pages[T]:
        return self

    async def __anext__(self) -> T:
        await trio.lowlevel.checkpoint()
        while not self._items:
            if self._is_last:
                raise StopAsyncIteration
            items, self._cursor = await self._fetch(self._cursor)
            self._items.extend(items)
            self._is_last = self._cursor is None
        return self._items.popleft()
