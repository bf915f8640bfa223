"""What leaves memory, what expires, and what is pruned."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import trio

from ._clock import seconds_since
from .errors import CapacityExceededError
from .log import Summary
from .models import SessionConfig

if TYPE_CHECKING:
    from ._host import LocalHost
    from ._session import LiveSession
    from ._timers import Timer

__all__ = ["Housekeeper"]

log = logging.getLogger("trialogue.session")


class Housekeeper:
    """Looks after the sessions of one host. A session has one timer."""

    def __init__(self, host: LocalHost) -> None:
        self._host = host
        self._idle_seconds = host.settings.idle_seconds(durable=host.store.durable)
        #: Sessions that left memory and will expire: since when nobody used them, and the timer.
        self._resting: dict[str, tuple[float, Timer]] = {}
        #: Sessions in memory that may leave it for another, since when they were last used: all
        #: that may, and some that are in use again.
        self._leavers: dict[str, None] = {}
        self._is_pruning = False
        self._wants_pruning = False

    # -- out of use ------------------------------------------------------------------------

    def look_after(self, session: LiveSession, due: float | None = None) -> None:
        """Set when to see whether a session is out of use; as it is now, if ``due`` is not given."""
        if due is None:
            due = max(trio.current_time(), min(self._times(session)))
        if session.timer is not None:
            session.timer.cancel()
        session.timer = None
        if due < math.inf:
            session.timer = self._host.timers.at(due, lambda: self._see_to(session))

    def _idle_time(self, config: SessionConfig) -> float:
        own = config.idle_timeout_ms
        return self._idle_seconds if own is None else own / 1000

    def rest(self, session: LiveSession) -> None:
        """Remember of a session that leaves memory when it expires."""
        self.forget(session.id)
        idle = self._idle_time(session.state.config)
        if session.state.ended is not None or idle == math.inf:
            return
        due = max(session.used_at + idle, trio.current_time())
        timer = self._host.timers.at(due, lambda: self._wake(session.id))
        self._resting[session.id] = (session.used_at, timer)

    def forget(self, session_id: str) -> None:
        """Expect nothing of a session any more: it is gone."""
        self._leavers.pop(session_id, None)
        resting = self._resting.pop(session_id, None)
        if resting is not None:
            resting[1].cancel()

    def _wake(self, session_id: str) -> None:
        """Load a session that has to expire: that does it."""

        def failed(exc: Exception) -> None:
            log.warning(
                "a session could not expire",
                extra={"session_id": session_id, "error": repr(exc)},
            )

        self._host.with_session(session_id, lambda _: None, failed)

    def was_loaded(self, session: LiveSession) -> bool:
        """Take up a session's idle time where it was, and say whether it is over.

        This process knows it of a session that it held before, else the log does.
        """
        resting = self._resting.get(session.id)
        self.forget(session.id)
        state, now = session.state, trio.current_time()
        session.used_at = (
            now - seconds_since(state.last_activity_at) if resting is None else resting[0]
        )
        return (
            state.ended is None
            and session.feed.damage is None
            and not session.is_in_use
            and state.active_turn_id is None
            and now >= session.used_at + self._idle_time(state.config)
        )

    def find_late(self, summaries: Iterable[Summary]) -> list[str]:
        """Find those that no timer is set for, and that are idle for too long."""
        return [
            summary.session.id
            for summary in summaries
            if summary.session.status == "idle"
            and not summary.has_open_work
            and summary.session.id not in self._resting
            and summary.session.id not in self._host.sessions
            and summary.session.id not in self._host.store.damaged
            and (idle := self._idle_time(summary.session.config)) < math.inf
            and seconds_since(summary.session.last_activity_at) >= idle
        ]

    async def expire_late(self, session_ids: Iterable[str]) -> None:
        """Load sessions that are idle for too long, which expires them, one after another."""
        for session_id in session_ids:
            done = trio.Event()
            self._when_tried(session_id, done.set)
            await done.wait()

    def _see_to(self, session: LiveSession) -> None:
        """Expire or evict a session that is out of use for long enough, or look again later."""
        host = self._host
        if host.sessions.get(session.id) is not session:
            return
        now = trio.current_time()
        expires_at, leaves_at = self._times(session)
        if host.is_needed(session):
            # When the use ends, idle times count from there: nothing can be due earlier.
            due = now + min(expires_at, leaves_at) - session.used_at
        elif now >= expires_at:
            host.with_session(session.id, self._expire, lambda _: None, needs_write=True)
            due = now + host.settings.evict_after_seconds
        elif now >= leaves_at:
            host.evict(session)
            return
        else:
            due = min(expires_at, leaves_at)
        self.look_after(session, due)

    def _times(self, session: LiveSession) -> tuple[float, float]:
        """Say when a session expires, and when it leaves memory, if nobody uses it until then."""
        state = session.state
        idle = math.inf if state.ended is not None else self._idle_time(state.config)
        held_at = max(session.used_at, session.held_at)
        return session.used_at + idle, held_at + self._host.settings.evict_after_seconds

    def _expire(self, session: LiveSession) -> None:
        if session.state.ended is None and not session.is_in_use:
            session.expire()

    def _when_tried(self, session_id: str, done: Callable[[], None]) -> None:
        self._host.with_session(session_id, lambda _: done(), lambda _: done())

    def may_leave(self, session_id: str) -> None:
        """Note a session that was in use a moment ago, if it could make room for another now."""
        session = self._host.sessions.get(session_id)
        if session is not None and self._can_leave(session):
            # The last of them, where it was one already.
            self._leavers.pop(session_id, None)
            self._leavers[session_id] = None

    def _can_leave(self, session: LiveSession) -> bool:
        host = self._host
        lives_elsewhere = host.store.durable or session.state.ended is not None
        return lives_elsewhere and not host.is_needed(session)

    def make_room(self) -> None:
        """Make sure that one more session may be in memory.

        Looks at each session at most once between two uses of it, so that a refusal costs the
        same however many there are.

        Raises:
            CapacityExceededError: All of them are in use, or live nowhere else.
        """
        host = self._host
        if len(host.sessions) < host.settings.max_sessions:
            return
        while self._leavers:
            session = host.sessions[next(iter(self._leavers))]
            if self._can_leave(session):
                host.evict(session)
                return
            # In use again: it is noted anew when that ends.
            del self._leavers[session.id]
        raise CapacityExceededError(
            f"{len(host.sessions)} sessions are live", data={"retryAfterMs": 5000}
        )

    # -- pruning ---------------------------------------------------------------------------

    def start(self) -> None:
        """Prune now, and then from time to time."""
        settings = self._host.settings
        self.prune_soon()
        if settings.max_stored_seconds is not None or settings.max_stored_bytes is not None:
            self._host.timers.at(trio.current_time() + settings.prune_every_seconds, self.start)

    def prune_soon(self) -> None:
        """Delete what is stored beyond the limits, if there are any."""
        settings = self._host.settings
        limits = (
            settings.max_stored_sessions,
            settings.max_stored_seconds,
            settings.max_stored_bytes,
        )
        if any(limit is not None for limit in limits):
            # What is new since it looked has to be looked at too.
            self._wants_pruning = True
            if not self._is_pruning:
                self._is_pruning = True
                self._host.spawn_writer(self._prune)

    async def _prune(self) -> None:
        try:
            while self._wants_pruning:
                self._wants_pruning = False
                await self._prune_once()
        finally:
            self._is_pruning = False

    async def _prune_once(self) -> None:
        host, settings = self._host, self._host.settings
        try:
            pruned = await host.store.prune(
                keep=settings.max_stored_sessions,
                older_seconds=settings.max_stored_seconds,
                keep_bytes=settings.max_stored_bytes,
                protect=host.needed_ids(),
            )
            for session_id in pruned:
                host.drop(session_id)
            if pruned:
                log.info("pruned", extra={"sessions": len(pruned)})
        except Exception:
            log.exception("pruning failed")
