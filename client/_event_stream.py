"""What user code iterates over: the events of one session, or of all that the client follows."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from ..core.errors import WireError
from ..core.methods import EventListResult
from ..core.models import InProgress, InputInfo, Session
from ._events import Event
from ._reader import Reader
from ._subscription import Subscription

__all__ = ["AllEvents", "EventStream"]

log = logging.getLogger("trialogue.client")

Fetch = Callable[[str], Awaitable[EventListResult]]


class _Bell:
    """Wakes the one task that waits. A ring that nobody waited for is kept."""

    def __init__(self) -> None:
        self._rung = trio.Event()
        self._is_waiting = False

    def ring(self) -> None:
        self._rung.set()

    async def wait(self) -> None:
        if self._is_waiting:
            raise trio.BusyResourceError("another task is reading these events")
        self._is_waiting = True
        try:
            await self._rung.wait()
        finally:
            self._is_waiting = False
        self._rung = trio.Event()


class EventStream(AsyncIterator[Event]):
    """The events of one session. From `Client.events`.

    It ends after ``session.closed``, ``session.expired`` or ``session.deleted``.

    Attributes:
        position: Of the last durable event that was given, or where it starts. Keep it to go on
            from there another time.
    """

    def __init__(
        self,
        subscription: Subscription,
        fetch: Fetch,
        *,
        wanted: str | None = None,
        from_start: bool = False,
    ) -> None:
        self._bell = _Bell()
        self.position: str | None = None
        self.reader = Reader(
            subscription,
            fetch=fetch,
            notify=self._bell.ring,
            wanted=wanted,
            from_start=from_start,
        )

    @property
    def session_id(self) -> str:
        """Whose events these are."""
        return self.reader.subscription.session_id

    @property
    def session(self) -> Session:
        """The session as the server described it last; `Client.get_session` asks anew."""
        session = self.reader.subscription.session
        assert session is not None
        return session

    @property
    def in_progress(self) -> tuple[InProgress, ...]:
        """Messages that were being written when this client attached; their text follows."""
        return tuple(self.reader.subscription.in_progress.values())

    @property
    def inputs_at_resync(self) -> tuple[InputInfo, ...]:
        """The inputs that were queued at the position of the last `Resync`."""
        return self.reader.subscription.inputs_at_resync

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        await trio.lowlevel.checkpoint()
        reader = self.reader
        while True:
            event = reader.pop()
            if event is not None:
                self.position = event.position or self.position
                return event
            if reader.must_catch_up:
                await reader.catch_up()
                continue
            if reader.is_over or reader.is_at_end:
                if reader.failure is not None:
                    raise reader.failure
                raise StopAsyncIteration
            await self._bell.wait()


class AllEvents(AsyncIterator[Event]):
    """The events of every session that the client follows. From `Client.all_events`.

    Those of one session come once and in order; no order is promised between sessions.
    """

    def __init__(self) -> None:
        self._bell = _Bell()
        #: Those that may have something, in the order in which they will be asked.
        self._ready: dict[Reader, None] = {}
        self._readers: dict[Reader, None] = {}
        self._is_over = False
        self._failure: Exception | None = None

    def watch(self, subscription: Subscription, fetch: Fetch, *, from_start: bool) -> None:
        """Read a session's events too."""

        def notify() -> None:
            self._ready[reader] = None
            self._bell.ring()

        reader = Reader(subscription, fetch=fetch, notify=notify, from_start=from_start)
        self._readers[reader] = None
        subscription.add(reader)

    def end(self, failure: Exception | None = None) -> None:
        """Let the iteration end."""
        self._is_over, self._failure = True, failure
        self._bell.ring()

    def close(self) -> None:
        """Let go of every session."""
        for reader in self._readers:
            reader.subscription.remove(reader)
        self._readers.clear()
        self._ready.clear()
        self.end()

    def __aiter__(self) -> AllEvents:
        return self

    async def __anext__(self) -> Event:
        await trio.lowlevel.checkpoint()
        while True:
            while self._ready:
                reader = next(iter(self._ready))
                event = reader.pop()
                if event is not None:
                    # To the end of the line, so that one busy session does not hide the others.
                    del self._ready[reader]
                    self._ready[reader] = None
                    return event
                if reader.must_catch_up:
                    await self._catch_up(reader)
                else:
                    del self._ready[reader]
                    if reader.is_over:
                        self._readers.pop(reader, None)
            if self._is_over:
                if self._failure is not None:
                    raise self._failure
                raise StopAsyncIteration
            await self._bell.wait()

    async def _catch_up(self, reader: Reader) -> None:
        try:
            await reader.catch_up()
        except WireError as exc:
            # One session is gone; the others are not.
            log.info(
                "a session cannot be followed any more",
                extra={"session_id": reader.subscription.session_id, "error": str(exc)},
            )
            reader.subscription.remove(reader)
            reader.end(exc)
            self._ready.pop(reader, None)
            self._readers.pop(reader, None)
