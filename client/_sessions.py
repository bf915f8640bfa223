"""The sessions that a client follows, and the local readers of each.

Several readers of one session share its subscription; the last one to go ends it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import trio

from ..core.errors import RequestTimeoutError, TrialogueError
from ..core.methods import EventList, EventListResult, SessionSubscribe, SessionSubscribeResult
from ..core.models import ClientTool
from ._event_stream import AllEvents, EventStream
from ._events import Event
from ._reconnect import Uplink, same_error
from ._subscription import Subscription

__all__ = ["FollowedSessions"]

log = logging.getLogger("trialogue.client")

#: Offers the tools of `Client.subscribe`.
_PINNED: Final = object()
#: Events that a reader who fell behind asks for at a time. The server cuts a page at 512 KiB too.
PAGE_EVENTS: Final = 200


class FollowedSessions:
    """The registry. One a client.

    Args:
        uplink: Carries the requests.
        spawn: Starts a task under the client: a subscription outlives the reader that was first.
        request_seconds: How long a reader waits to be attached.
    """

    def __init__(
        self,
        uplink: Uplink,
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
        request_seconds: float,
    ) -> None:
        self._uplink = uplink
        self._spawn = spawn
        self._request_seconds = request_seconds
        self._subscriptions: dict[str, Subscription] = {}
        self._watchers: dict[AllEvents, None] = {}
        self._listeners: dict[object, Callable[[Event], object]] = {}
        uplink.on_event, uplink.on_lost, uplink.on_over = self.take, self.lost, self.fail

    # -- from the connection -----------------------------------------------------------------

    def take(self, payload: Mapping[str, Any], size: int) -> None:
        """Take the payload of an event that names a session."""
        subscription = self._subscriptions.get(payload["sessionId"])
        if subscription is not None:
            subscription.take(payload, size)
            if subscription.was_left:
                self._forget(subscription)

    def lost(self) -> None:
        """The connection is over."""
        for subscription in self._subscriptions.values():
            subscription.detach()

    def fail(self, failure: Exception) -> None:
        """The client is over, and so is every reader."""
        for subscription in list(self._subscriptions.values()):
            subscription.fail(failure)
        for watcher in self._watchers:
            watcher.end(failure)

    # -- readers of one session --------------------------------------------------------------

    @asynccontextmanager
    async def open_stream(
        self,
        session_id: str,
        *,
        after: str | None = None,
        tail: int | None = None,
        tools: tuple[ClientTool, ...] = (),
    ) -> AsyncGenerator[EventStream]:
        """Follow a session with one more reader. See `Client.events`."""
        subscription, is_first = self._hold(session_id, after, tail)
        stream, offer = None, object()
        try:
            if tools:
                subscription.offers[offer] = tools
            if not is_first and after is None and tail is not None:
                after = await self._find_tail(subscription, tail)
            stream = EventStream(
                subscription,
                self._fetcher(session_id),
                wanted=None if is_first else after,
                from_start=is_first,
            )
            subscription.add(stream.reader)
            await self._wait_ready(subscription)
            stream.position = stream.reader.start
            if tools and not is_first:
                await self._offer(subscription)
            yield stream
        finally:
            if stream is not None:
                subscription.remove(stream.reader)
                stream.reader.end()
            self._withdraw(subscription, offer)
            self._release(subscription)

    async def subscribe(
        self,
        session_id: str,
        after: str | None,
        tail: int | None,
        tools: tuple[ClientTool, ...] | None,
    ) -> SessionSubscribeResult:
        """Follow a session without reading it, until `unsubscribe`."""
        subscription, is_first = self._hold(session_id, after, tail)
        try:
            if tools is not None:
                subscription.offers[_PINNED] = tools
            await self._wait_ready(subscription)
            if tools is not None and not is_first:
                await self._offer(subscription)
        except BaseException:
            if not subscription.pins:
                subscription.offers.pop(_PINNED, None)
            self._release(subscription)
            raise
        subscription.pins += 1
        assert subscription.answer is not None
        return subscription.answer

    def unsubscribe(self, session_id: str) -> None:
        """Take back one `subscribe`."""
        subscription = self._subscriptions.get(session_id)
        if subscription is not None and subscription.pins:
            subscription.pins -= 1
            if not subscription.pins:
                self._withdraw(subscription, _PINNED)
            self._release(subscription)

    async def _offer(self, subscription: Subscription) -> None:
        """Tell the server what tools are offered now, on a subscription that there is."""
        await self._uplink.request(
            "session.subscribe",
            SessionSubscribe(session_id=subscription.session_id, tools=subscription.tools),
            result=SessionSubscribeResult,
            seconds=self._request_seconds,
        )

    def _withdraw(self, subscription: Subscription, offer: object) -> None:
        """Offer tools no longer. Whoever did need not wait until the server knows."""
        if subscription.offers.pop(offer, None) and subscription.holds > 1:

            async def tell() -> None:
                try:
                    await self._offer(subscription)
                except TrialogueError:
                    log.info("tools could not be withdrawn", exc_info=True)

            if self._uplink.failure is None:
                self._spawn(tell)

    def _hold(
        self, session_id: str, after: str | None, tail: int | None
    ) -> tuple[Subscription, bool]:
        """Find the session's subscription, or begin one; it lasts until each hold is released."""
        if self._uplink.failure is not None:
            raise same_error(self._uplink.failure)
        subscription = self._subscriptions.get(session_id)
        is_first = subscription is None
        if subscription is None:
            subscription = Subscription(session_id, after=after, tail=tail, tell=self._tell)
            self._subscriptions[session_id] = subscription
            for watcher in self._watchers:
                watcher.watch(subscription, self._fetcher(session_id), from_start=True)
            following = subscription
            self._spawn(lambda: self._follow(following))
        subscription.holds += 1
        return subscription, is_first

    async def _follow(self, subscription: Subscription) -> None:
        await subscription.keep(self._uplink)
        if subscription.failure is not None:
            self._forget(subscription)

    def _release(self, subscription: Subscription) -> None:
        subscription.holds -= 1
        if subscription.holds == 0 and not subscription.was_left:
            subscription.leave()
            self._forget(subscription)

    def _forget(self, subscription: Subscription) -> None:
        if self._subscriptions.get(subscription.session_id) is subscription:
            del self._subscriptions[subscription.session_id]

    async def _wait_ready(self, subscription: Subscription) -> None:
        with trio.move_on_after(self._request_seconds):
            await subscription.wait_ready()
            return
        raise RequestTimeoutError(f"session.subscribe: no answer in {self._request_seconds:g} s")

    async def _find_tail(self, subscription: Subscription, tail: int) -> str:
        """Ask where the tail begins.

        That makes the server start our one subscription there again. What it then sends twice is
        dropped, and what it should skip is noticed, and asked for.
        """
        answer: SessionSubscribeResult = await self._uplink.request(
            "session.subscribe",
            SessionSubscribe(
                session_id=subscription.session_id, tail=tail, partial=subscription.partial
            ),
            result=SessionSubscribeResult,
            seconds=self._request_seconds,
        )
        return answer.replay_from

    def _fetcher(self, session_id: str) -> Callable[[str], Awaitable[EventListResult]]:
        async def fetch(after: str) -> EventListResult:
            params = EventList(session_id=session_id, after=after, limit=PAGE_EVENTS)
            page: EventListResult = await self._uplink.request(
                "event.list", params, result=EventListResult, seconds=math.inf
            )
            return page

        return fetch

    # -- readers of all ----------------------------------------------------------------------

    @asynccontextmanager
    async def open_all(self) -> AsyncGenerator[AllEvents]:
        """Read the events of every session. See `Client.all_events`."""
        await trio.lowlevel.checkpoint()
        watcher = AllEvents()
        for session_id, subscription in self._subscriptions.items():
            watcher.watch(subscription, self._fetcher(session_id), from_start=False)
        self._watchers[watcher] = None
        try:
            yield watcher
        finally:
            del self._watchers[watcher]
            watcher.close()

    @contextmanager
    def listening(self, callback: Callable[[Event], object]) -> Generator[None]:
        """Call back for every event. See `Client.listening`."""
        token = object()
        self._listeners[token] = callback
        try:
            yield
        finally:
            del self._listeners[token]

    def _tell(self, event: Event) -> None:
        for callback in list(self._listeners.values()):
            try:
                callback(event)
            except Exception as exc:
                level = logging.WARNING if isinstance(exc, TrialogueError) else logging.ERROR
                log.log(level, "a listener failed", exc_info=True, extra={"event": event.type})
