"""The sessions that a node shows and does not have: copies that follow their logs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import trio

from .._feed import PAGE_ENTRIES, make_event
from ..errors import InvalidRequestError, RewoundError, StoreError
from ..events import SessionDeleted
from ..log import Entry, Position
from ..methods import EventList, SessionExport, SessionSubscribe

if TYPE_CHECKING:
    from .._command import Command, Reply
    from .._session import LiveSession
    from .host import ClusterHost

__all__ = ["Follower"]

log = logging.getLogger("trialogue.cluster")


class Follower:
    """Reads the logs of one host's sessions, as others write them.

    Attributes:
        sessions: Those that it follows, by id.
    """

    def __init__(self, host: ClusterHost) -> None:
        self._host = host
        self._cluster = host.cluster
        self.sessions: dict[str, LiveSession] = {}

    async def follow(self, session: LiveSession) -> None:
        """Follow a session that was read just now, from where it is."""
        host, feed = self._host, self._host.feed_of(session)
        self.sessions[session.id] = session

        async def again() -> None:
            try:
                await self._cluster.follow(session.id, feed.known_position)
            except StoreError as exc:
                log.warning("a text has a gap", extra={"error": repr(exc)})

        def mend() -> None:
            if self.sessions.get(session.id) is session:
                host.spawn_writer(again)

        feed.on_gap = mend
        await self._cluster.follow(session.id, feed.known_position)
        if session.state.node != host.node and not host.balancer.is_taking(session.id):
            host.interests.forget(session.id)
        host.interests.moved(feed)

    def unfollow(self, session_id: str) -> None:
        """Follow a session no more."""
        if self.sessions.pop(session_id, None) is not None:
            self._cluster.unfollow(session_id)
            self._host.interests.unfollowed(session_id)

    async def catch_up(self, session: LiveSession) -> None:
        """Publish what the log has by now.

        Raises:
            RewoundError: It has lost what was published.
        """
        feed, store = self._host.feed_of(session), self._host.store
        known = feed.known_position
        page = await store.read(session.id, known.seq - 1, PAGE_ENTRIES)
        if not page or page[0].position != known:
            self.take_rewind(session.id)
            raise RewoundError(f"{session.id} has lost what was published up to {known}")
        feed.take(page, (), session.state)
        # A lease goes by meanwhile: a page that is not full is the last, unless it ends in damage.
        while len(page) == PAGE_ENTRIES or session.id in store.damaged:
            page = await store.read(session.id, feed.known_seq, PAGE_ENTRIES)
            feed.take(page, (), session.state)

    # -- what the cluster tells --------------------------------------------------------------

    def take_news(self, session_id: str, entries: Sequence[Entry], texts: Sequence[bytes]) -> None:
        """As `Member.take_news`."""
        session = self.sessions.get(session_id)
        if session is None:
            return
        feed = self._host.feed_of(session)
        term, active_at = feed.state.term, feed.state.last_activity_at
        feed.take(entries, texts, session.state)
        if feed.state.last_activity_at != active_at:
            session.touch()
        if feed.state.term != term:
            self._host.interests.moved(feed)
        if session_id in self._host.owned and session.state.has_open_work:
            # Whoever had it before, and has written it still, does so no more.
            self._host.with_session(session_id, lambda _: None, lambda _: None, needs_write=True)

    def take_rewind(self, session_id: str) -> None:
        """As `Member.take_rewind`."""
        session = self.sessions.get(session_id)
        self._host.drop(session_id)
        if session is not None:
            feed = self._host.feed_of(session)
            feed.call_waiting()
            # They come back with cursors that do not continue.
            feed.lose_all()

    def take_end(self, session_id: str) -> None:
        """As `Member.take_end`."""
        host, session = self._host, self.sessions.get(session_id)
        host.drop(session_id)
        if session is None:
            return
        feed = host.feed_of(session)
        host.errands.answer_known(session)
        # Nothing is behind this that anybody could be answered first.
        host.errands.holds.release_all(session_id)
        feed.call_waiting()

        async def part() -> None:
            with trio.move_on_after(host.settings.write_timeout_seconds):
                await feed.wait_sent()
            host.subscriptions.detach_all(feed, make_event(session_id, SessionDeleted()))

        host.spawn_writer(part)

    # -- reading -----------------------------------------------------------------------------

    def read(self, session_id: str, command: Command, reply: Reply) -> None:
        """Read from what this node has, or from the log, if its client has seen more than that."""
        host, after = self._host, _find_cursor(command.params)
        if after is None:
            host.carry_out_here(session_id, command, reply)
            return

        def read(session: LiveSession) -> None:
            if after <= session.feed.state.seq:
                host.carry_out_here(session_id, command, reply)
            else:
                host.spawn_writer(lambda: look(session))

        async def look(session: LiveSession) -> None:
            try:
                is_known = await self._look_beyond(session, after)
            except RewoundError:
                is_known = False
            except Exception as exc:  # noqa: BLE001 - ends this request
                reply.fail(exc)
                return
            if is_known:
                feed = host.feed_of(session)
                feed.when_known(min(after, feed.known_seq), go_on, is_published=True)
            else:
                host.with_session(session_id, read, reply.fail)

        def go_on() -> None:
            host.carry_out_here(session_id, command, reply)

        host.with_session(session_id, read, reply.fail)

    async def _look_beyond(self, session: LiveSession, seq: int) -> bool:
        """Look into the log for what this node does not know of a session, up to a seq.

        It may have the session, and be the last to hear that it has it no more. Returns False
        then: it is to be read anew.
        """
        host, feed = self._host, self._host.feed_of(session)
        if not session.journal.is_open:
            # The log alone would be ahead of what comes between its entries.
            await self._cluster.follow(session.id, feed.known_position)
            return True
        known = feed.state.seq
        while known < seq and (page := await host.store.read(session.id, known, PAGE_ENTRIES)):
            known = page[-1].seq
            if page[-1].term > session.state.term:
                host.give_up(session.id, "another node has written it")
                return False
        await session.journal.wait_published()
        return True


def _find_cursor(params: Any) -> int | None:
    """Say up to where a reader has seen a session, if it says so."""
    if not isinstance(params, (SessionSubscribe, EventList, SessionExport)) or params.after is None:
        return None
    try:
        return Position.parse(params.after).seq
    except InvalidRequestError:
        return None
