"""What sub-agents ask, each in a session of its own, for whoever talks to the agent they work for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from ..client import Client
from ..core.errors import SessionNotFoundError, WireError
from ..core.events import AskClosed, AskOpened, EventBody, Sync, ToolCalled, ToolCompleted
from ..core.models import AskInfo
from ._asks import is_for_people

__all__ = ["ChildAsks"]

#: A call stands in the log before the session that it names is there.
_LOOK_AGAIN_SECONDS: Final = 0.1


class ChildAsks:
    """Follows sub-agents while they work, and theirs.

    Args:
        client: Connected.
        opened: Is told of each question to a person, and of the session to answer it in.
        closed: Is told of its end, by its id; None if that is all that is known.
    """

    def __init__(
        self,
        client: Client,
        opened: Callable[[str, AskInfo], None],
        closed: Callable[[str, AskClosed | None], None],
    ) -> None:
        self._client = client
        self._opened = opened
        self._closed = closed
        #: By the session and the id of the call that they work for.
        self._scopes: dict[tuple[str, str], trio.CancelScope] = {}
        self._new: deque[tuple[str, trio.CancelScope]] = deque()
        self._news = trio.Event()
        self._is_closed = False

    def take(self, session_id: str, body: EventBody) -> None:
        """Take an event of a session: another agent may begin to work for it, or have ended."""
        match body:
            case ToolCalled(child_session_id=str(child)):
                self.begin(session_id, body.call_id, child)
            case ToolCompleted():
                self.end(session_id, body.call_id)
            case _:
                pass

    def begin(self, session_id: str, call_id: str, child: str) -> None:
        """Follow a sub-agent."""
        self.end(session_id, call_id)
        scope = self._scopes[session_id, call_id] = trio.CancelScope()
        self._new.append((child, scope))
        self._news.set()

    def end(self, session_id: str, call_id: str) -> None:
        """It works no more."""
        scope = self._scopes.pop((session_id, call_id), None)
        if scope is not None:
            scope.cancel(reason="the sub-agent works no more")

    def clear(self) -> None:
        """None of them is of interest any more."""
        for key in list(self._scopes):
            self.end(*key)

    def close(self) -> None:
        """There are no more."""
        self._is_closed = True
        self.clear()
        self._news.set()

    async def run(self) -> None:
        """Follow them until `close`."""
        async with trio.open_nursery() as nursery:
            while not self._is_closed:
                self._news = trio.Event()
                while self._new:
                    nursery.start_soon(self._follow, *self._new.popleft())
                await self._news.wait()

    async def _follow(self, session_id: str, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    await self._listen(session_id)
                    return
                except SessionNotFoundError:
                    await trio.sleep(_LOOK_AGAIN_SECONDS)
                except WireError:
                    return  # the parent's session says how that ends

    async def _listen(self, session_id: str) -> None:
        """Tell what is asked in a session, and what was before and still is."""
        is_told = False
        asks: dict[str, AskInfo] = {}
        try:
            async with self._client.events(session_id, after="0-0") as events:
                async for event in events:
                    body = event.body
                    self.take(session_id, body)
                    match body:
                        case AskOpened() if is_for_people(body):
                            asks[body.ask_id] = body
                            if is_told:
                                self._opened(session_id, body)
                        case AskClosed():
                            if asks.pop(body.ask_id, None) is not None and is_told:
                                self._closed(body.ask_id, body)
                        case Sync() if not is_told:
                            is_told = True
                            for ask in asks.values():
                                self._opened(session_id, ask)
                        case _:
                            pass
        finally:
            if is_told:
                for ask_id in asks:
                    self._closed(ask_id, None)
