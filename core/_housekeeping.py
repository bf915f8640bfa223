"""What leaves memory, what expires, and what is pruned."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import trio

from .errors import CapacityExceededError

if TYPE_CHECKING:
    from ._host import LocalHost
    from ._session import LiveSession

__all__ = ["Housekeeper"]

log = logging.getLogger("trialogue.session")


class Housekeeper:
    """Looks after the sessions of one host. A session has one timer."""

    def __init__(self, host: LocalHost) -> None:
        self._host = host
        self._idle_seconds = host.settings.idle_seconds(durable=host.store.durable)
        self._is_pruning = False
        self._wants_pruning = False

    # -- out of use ------------------------------------------------------------------------

    def look_after(self, session: LiveSession, due: float | None = None) -> None:
        """Set when to see whether a session is out of use; from now, if ``due`` is not given."""
        if due is None:
            idle = min(self._idle_time(session), self._host.settings.evict_after_seconds)
            due = trio.current_time() + idle
        if session.timer is not None:
            session.timer.cancel()
        session.timer = None
        if due < math.inf:
            session.timer = self._host.timers.at(due, lambda: self._see_to(session))

    def _idle_time(self, session: LiveSession) -> float:
        own = session.state.config.idle_timeout_ms
        return self._idle_seconds if own is None else own / 1000

    def _see_to(self, session: LiveSession) -> None:
        """Expire or evict a session that is out of use for long enough, or look again later."""
        host = self._host
        if host.sessions.get(session.id) is not session:
            return
        now = trio.current_time()
        idle = math.inf if session.state.ended is not None else self._idle_time(session)
        evict = host.settings.evict_after_seconds
        if host.is_needed(session):
            # When the use ends, idle times count from there: nothing can be due earlier.
            due = now + min(idle, evict)
        elif now >= session.used_at + idle:
            host.with_session(session.id, self._expire, lambda _: None, needs_write=True)
            due = now + evict
        elif now >= session.used_at + evict:
            host.evict(session)
            return
        else:
            due = session.used_at + min(idle, evict)
        self.look_after(session, due)

    def _expire(self, session: LiveSession) -> None:
        if session.state.ended is None and not session.is_in_use:
            session.expire()

    def make_room(self) -> None:
        """Make sure that one more session may be in memory.

        Raises:
            CapacityExceededError: All of them are in use, or live nowhere else.
        """
        host = self._host
        if len(host.sessions) < host.settings.max_sessions:
            return
        for session in host.sessions.values():
            lives_elsewhere = host.store.durable or session.state.ended is not None
            if lives_elsewhere and not host.is_needed(session):
                host.evict(session)
                return
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
                host.sessions.pop(session_id, None)
            if pruned:
                log.info("pruned", extra={"sessions": len(pruned)})
        except Exception:
            log.exception("pruning failed")
