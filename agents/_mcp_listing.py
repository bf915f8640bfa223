"""What a server lists as its tools, looked over before the SDK does: that refuses all for one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from ..core._json import as_array, as_object

__all__ = ["ListingSieve"]


class ListingSieve:
    """A stream of messages as it was, but for the tools in them that are left out.

    Args:
        inner: The stream.
        read_result: Gives the result that a message has, None if it has none.
        is_good: Is given the result with each of its tools alone. It tells of those that are not.
    """

    def __init__(
        self,
        inner: Any,
        read_result: Callable[[Any], dict[str, Any] | None],
        is_good: Callable[[dict[str, Any]], bool],
    ) -> None:
        self._inner = inner
        self._read_result = read_result
        self._is_good = is_good

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> ListingSieve:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: Any) -> bool | None:
        result: bool | None = await self._inner.__aexit__(*exc_info)  # noqa: ASYNC102 - its own
        return result

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return self._sift(await self._inner.__anext__())

    async def receive(self) -> Any:
        """Give the next message."""
        return self._sift(await self._inner.receive())

    def _sift(self, message: Any) -> Any:
        result = as_object(self._read_result(message))
        tools = None if result is None else as_array(result.get("tools"))
        if result is not None and tools is not None:
            result["tools"] = [tool for tool in tools if self._is_good({**result, "tools": [tool]})]
        return message
