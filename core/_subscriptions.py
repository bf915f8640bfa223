"""Who follows which sessions: the subscriptions of every connection of one host."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ._command import Command, Reply
from ._feed import SessionFeed
from ._frame import Frame
from ._queries import find_start, make_snapshot, take_tools
from .abc import Connection
from .errors import InvalidRequestError, OverloadedError
from .methods import SessionSubscribe
from .models import ClientTool

if TYPE_CHECKING:
    from ._session import LiveSession

__all__ = ["Subscriptions"]


class Subscriptions:
    """The feeds that each connection follows.

    Args:
        limit: How many a connection may have.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._subscribed: dict[Connection, dict[str, SessionFeed]] = {}
        #: The tools that subscribers offer, by session; few do.
        self._tools: dict[str, dict[Connection, tuple[ClientTool, ...]]] = {}
        #: Called when a session is followed, or not any more, or others offer it tools.
        self.on_change: Callable[[SessionFeed], None] | None = None

    def subscribe(
        self, session: LiveSession, command: Command, params: SessionSubscribe, reply: Reply
    ) -> None:
        """Answer ``session.subscribe``, and then send what it asks for."""
        connection, feed = command.connection, session.feed
        if connection is None:
            raise InvalidRequestError("This transport has no subscriptions")
        start, resync_reason = find_start(feed, params)
        restart = params.after is not None or params.tail is not None
        tools = None if params.tools is None else take_tools(params.tools, session.settings)
        if connection in feed.cursors and not restart:
            if reply.succeed(make_snapshot(feed, start)):
                self._offer(feed, connection, tools)
            return
        self.check_room(session.id, connection)
        if not reply.succeed(make_snapshot(feed, start)):
            return
        # After a resync the client has nothing, whatever it said that it has.
        self.attach(
            feed,
            connection,
            after=start.seq,
            offsets=params.partial if resync_reason is None else {},
            resync_reason=resync_reason,
        )
        self._offer(feed, connection, tools)

    def _offer(
        self, feed: SessionFeed, connection: Connection, tools: tuple[ClientTool, ...] | None
    ) -> None:
        """Note what a subscriber offers from now on; None is what it did before."""
        if tools is not None and connection in feed.cursors:
            self._tools.setdefault(feed.session_id, {})[connection] = tools
            self._changed(feed)

    def _changed(self, feed: SessionFeed) -> None:
        if self.on_change is not None:
            self.on_change(feed)

    def offered_tools(self, feed: SessionFeed) -> tuple[ClientTool, ...]:
        """Give the tools that a session's subscribers offer, one of each name."""
        tools: dict[str, ClientTool] = {}
        for connection, offered in self._tools.get(feed.session_id, {}).items():
            if connection in feed.cursors:
                for tool in offered:
                    tools.setdefault(tool.name, tool)
        return tuple(tools.values())

    def _withdraw(self, feed: SessionFeed, connection: Connection) -> None:
        """Forget what a subscriber has offered."""
        offers = self._tools.get(feed.session_id)
        if offers is not None and offers.pop(connection, None) is not None and not offers:
            del self._tools[feed.session_id]
        self._changed(feed)

    def attach(
        self,
        feed: SessionFeed,
        connection: Connection,
        *,
        after: int,
        offsets: dict[str, int],
        resync_reason: str | None = None,
    ) -> None:
        """Subscribe a connection after a seq, if it is still there."""
        subscribed = self._subscribed.get(connection)
        # It may have gone while its request waited for a load or a commit.
        if subscribed is not None:
            subscribed[feed.session_id] = feed
            feed.attach(connection, after=after, offsets=offsets, resync_reason=resync_reason)
            self._changed(feed)

    def check_room(self, session_id: str, connection: Connection) -> None:
        """Check that a connection may follow one more session.

        Raises:
            OverloadedError: It follows as many as it may.
        """
        limit = self._limit
        subscribed = self._subscribed.get(connection, {})
        if session_id not in subscribed and len(subscribed) >= limit:
            raise OverloadedError(
                f"A connection may have {limit} subscriptions", data={"retryAfterMs": 1000}
            )

    def detach_all(self, feed: SessionFeed, last: Frame, *, is_resync: bool = False) -> None:
        """End every subscription to a session with one more frame."""
        for connection in list(feed.cursors):
            self._subscribed.get(connection, {}).pop(feed.session_id, None)
        self._tools.pop(feed.session_id, None)
        feed.detach_all(last, is_resync=is_resync)

    def unsubscribe(self, feed: SessionFeed, connection: Connection) -> None:
        """End one subscription, if there is it."""
        feed.detach(connection)
        self._withdraw(feed, connection)
        self._subscribed.get(connection, {}).pop(feed.session_id, None)

    def admit(self, connection: Connection) -> None:
        """As `SessionHost.admit`."""
        self._subscribed[connection] = {}

    def detach(self, connection: Connection) -> None:
        """As `SessionHost.detach`."""
        for feed in self._subscribed.pop(connection, {}).values():
            feed.detach(connection)
            self._withdraw(feed, connection)
