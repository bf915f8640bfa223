"""The sessions of one node of a cluster: those that it has, and those that it follows.

Any node serves any client. What a session is asked for is read here, from a copy that follows its
log; what writes goes to the node that has the session, which is this one if none has it
(`errands.py`, `inbox.py`). A lease says who has it; the store alone keeps others
from writing it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import count
from typing import Any, Final, cast

import attrs
import trio
from msgspec import structs

from .._command import Command, Reply
from .._feed import SessionFeed
from .._host import READS, LocalHost, Work
from .._journal import Journal
from .._notes import join_partials
from .._recovery import recover
from .._session import LiveSession
from .._stats import ClusterStats
from ..abc import Cluster, Connection
from ..errors import FencedError, RewoundError, WireError
from ..methods import MessageStream, TurnCancel
from ..models import ClientTool, NodeInfo
from .balance import Balancer
from .errand import Errand
from .errands import ErrandDesk
from .feed import ClusterFeed, ClusterJournal
from .following import Follower
from .handover import Handover
from .inbox import Inbox, RemoteReply
from .interest import Interests
from .member import HostMember
from .rates import Rates
from .seam import ElsewhereError, MovedError
from .sweep import Sweeper

__all__ = ["ClusterHost"]

log = logging.getLogger("trialogue.cluster")

#: For what is on its way to other nodes, when the server ends.
LEAVE_SECONDS: Final = 2.0


class ClusterHost(LocalHost):
    """See `LocalHost`; this one has others around it.

    Attributes:
        owned: The sessions that this node has.
        counted: See `cluster_stats`.
    """

    journal_class = ClusterJournal

    def __init__(self, cluster: Cluster, **more: Any) -> None:
        super().__init__(**more)
        self.cluster = cluster
        self.node = NodeInfo(id=cluster.node, url=cluster.url)
        self.owned: set[str] = set()
        self.counted = ClusterStats(node=cluster.node)
        self.errands = ErrandDesk(self)
        self.inbox = Inbox(self)
        self.follower = Follower(self)
        self.interests = Interests(self)
        self.sweeper = Sweeper(self)
        self.rates = Rates(cluster, self.settings.rate_limit)
        self.balancer = Balancer(self)
        self._handover = Handover(self)
        #: Of sessions that this node had: those who follow them here go on.
        self._carried: dict[str, ClusterFeed] = {}
        #: What wrote sessions that this node had, as long as something may be on its way.
        self._ending: dict[str, Journal] = {}
        #: The turns that ran when sessions were taken over, until what waited for that is done.
        self._inherited: dict[str, str] = {}
        #: Those that had lost something when this node wanted to write them.
        self._read_anew: set[str] = set()
        self._running = trio.CancelScope()
        self._transients = count(1)
        self.subscriptions.on_change = self.interests.changed

    async def start(self) -> None:
        await self._writers.start(self._run)
        self.housekeeper.start()

    async def _run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self._running:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.cluster.run, HostMember(self))
                nursery.start_soon(self.sweeper.run)
                nursery.start_soon(self.rates.run)
                if self.settings.max_moved_sessions:
                    nursery.start_soon(self.balancer.run)
                task_status.started()

    # -- commands ----------------------------------------------------------------------------

    def submit(self, session_id: str, command: Command, reply: Reply) -> None:
        params = command.params
        if type(params) in READS:
            self.errands.after_others(
                session_id, command, lambda: self.follower.read(session_id, command, reply)
            )
            return
        try:
            if isinstance(params, MessageStream) and command.connection is not None:
                self.subscriptions.check_room(session_id, command.connection)
        except WireError as exc:
            reply.fail(exc)
        else:
            self.errands.submit(session_id, command, reply)

    def create(self, command: Command, reply: Reply) -> None:
        node = self.cluster.place()
        if node == self.cluster.node:
            super().create(command, reply)
        else:
            self.errands.create(command, reply, node)

    def carry_out(self, errand: Errand) -> None:
        """Carry out a command of a client of ours."""
        super().submit(errand.session_id, errand.command, errand)

    def carry_out_here(self, session_id: str, command: Command, reply: Reply) -> None:
        """Carry out a command that came to a session of this node."""
        super().submit(session_id, command, reply)

    def create_here(self, command: Command, reply: Reply) -> None:
        """Carry out a ``session.create`` that came to this node."""
        super().create(command, reply)

    def _execute(self, session: LiveSession, command: Command, reply: Reply) -> None:
        params = command.params
        if isinstance(reply, RemoteReply) and not reply.begin():
            return
        if isinstance(params, TurnCancel) and params.turn_id is None:
            # It means the turn that runs now, or ran when its node was lost: whoever carries it out
            # next is not to stop another one.
            turn_id = self._inherited.get(
                session.id, None if session.turn is None else session.turn.id
            )
            command = structs.replace(command, params=attrs.evolve(params, turn_id=turn_id))
            if isinstance(reply, Errand):
                reply.command = command
        super()._execute(session, command, reply)

    def has(self, session_id: str) -> bool:
        """Whether this node decides what becomes of a session; of one that is over, each may."""
        if session_id in self.owned:
            return True
        session = self.sessions.get(session_id)
        return session is not None and session.state.ended is not None

    def detach(self, connection: Connection) -> None:
        super().detach(connection)
        self.errands.detach(connection)

    def _ready(self, session_id: str, *, needs_write: bool) -> LiveSession | None:
        session = self.sessions.get(session_id)
        if session is None or session_id in self._opening:
            return None
        if session.journal.is_open or session.state.ended is not None or not needs_write:
            return session
        return None

    @property
    def is_ending(self) -> bool:
        """Whether something that was given up is still on its way to the store."""
        return any(journal.is_appending for journal in self._ending.values())

    def is_opening(self, session_id: str) -> bool:
        """Whether a session is on its way here."""
        return session_id in self._opening

    # -- taking a session --------------------------------------------------------------------

    async def claim(self, session_id: str) -> str:
        """Take a session if nobody has it, and name the node that has it."""
        node = await self.cluster.claim(session_id)
        if node == self.cluster.node:
            self.owned.add(session_id)
        return node

    async def take_up(self, session_id: str) -> None:
        """Go on with what is open of a session that this node has just claimed, if anything is."""
        session, needs_write = self.sessions.get(session_id), False
        if session is not None and not session.journal.is_open:
            try:
                await self.cluster.follow(session_id, self.feed_of(session).known_position)
            except BaseException:
                self.let_go(session_id)  # else nobody would go on with it
                raise
            needs_write = session.state.has_open_work
        self.with_session(
            session_id,
            lambda _: self.let_go_unused(session_id),
            lambda _: None,
            needs_write=needs_write,
        )

    def begin(self, session: LiveSession) -> None:
        self.cluster.adopt(session.id)
        self.owned.add(session.id)
        self.feed_of(session).lead(1)
        super().begin(session)

    async def _open(self, session_id: str) -> None:
        await super()._open(session_id)
        self._inherited.pop(session_id, None)
        self.let_go_unused(session_id)

    def _give_back(self, session_id: str, works: Sequence[Work], exc: Exception) -> None:
        if isinstance(exc, FencedError):
            # Another node was faster: it is read as that one has it.
            for work in works:
                if not work.needs_write:
                    self.with_session(session_id, work.run, work.fail)
            works = [work for work in works if work.needs_write]
        elif isinstance(exc, RewoundError) and session_id not in self._read_anew:
            # What this node had of it was dropped: it is read anew, by all who waited. Once: a
            # store that contradicts itself would be read for ever.
            self._read_anew.add(session_id)
            for work in works:
                self.with_session(session_id, **attrs.asdict(work))
            works = ()
        else:
            self._read_anew.discard(session_id)
        super()._give_back(session_id, works, exc)

    async def _expire(self, session: LiveSession) -> None:
        if self.interests.is_wanted(session.id):
            session.touch()  # it is in use elsewhere, whatever its log says
        else:
            await super()._expire(session)

    async def _load(self, session_id: str) -> LiveSession:
        carried = self._carried.pop(session_id, None)
        try:
            session = await super()._load(session_id)
            feed = self.feed_of(session)
            if carried is not None and carried.state.seq <= session.state.seq:
                feed = carried
                session.continue_feed(feed)
            elif carried is not None:
                carried.lose_all()  # what they have seen is gone
            feed.follow(session.texts)
            # Also where it is this node's: nobody knows whether it is when it has been read.
            # It is refused where the log has something else by now than what the feed has shown.
            await self.follower.follow(session)
        except BaseException:
            if carried is not None:
                carried.lose_all()
            self.follower.unfollow(session_id)
            raise
        return session

    async def _take_over(self, session: LiveSession) -> None:
        session_id = session.id
        if session_id not in self.owned and (
            self.is_draining or await self.claim(session_id) != self.cluster.node
        ):
            raise ElsewhereError(f"{session_id} is another node's")
        try:
            ending = self._ending.pop(session_id, None)
            if ending is not None:
                # In the term that this node has had it would still come there.
                await ending.wait_appended()
            session_log = await self.store.open(session_id)
            # From here on nobody else writes it.
            await self.follower.catch_up(session)
            session.texts = join_partials((await self.store.recall(session_id)).partials)
            if session_id not in self.owned:
                raise ElsewhereError(f"the lease of {session_id} is over")
        except BaseException:
            self.let_go(session_id)
            raise
        self._read_anew.discard(session_id)
        self.follower.unfollow(session_id)
        self.errands.answer_known(session)
        self.feed_of(session).lead(session_log.term)
        self.errands.holds.release_all(session_id)
        if session_log.term > session.state.term:
            self.counted.takeovers += 1
        session.journal.open(session_log)
        session.taken_at = session.state.seq
        if session.state.active_turn_id is not None:
            self._inherited[session_id] = session.state.active_turn_id
        if recover(session):
            session.touch()
        await session.journal.wait_published()
        if session.journal.failure is not None:
            raise session.journal.failure

    # -- letting go of a session -------------------------------------------------------------

    def let_go_unused(self, session_id: str) -> None:
        """Let go of a session that this node has, does not write, and that nobody follows."""
        session = self.sessions.get(session_id)
        if session_id in self._opening:
            return  # it is seen to at the end of that
        if not self.interests.is_wanted(session_id) and (
            session is None or not (session.journal.is_open or session.feed.cursors)
        ):
            self.let_go(session_id)

    def let_go(self, session_id: str) -> None:
        """Have a session no more, if this node has it."""
        if session_id in self.owned:
            self.owned.discard(session_id)
            self.cluster.release(session_id)

    def lose(
        self, session_id: str, reason: str = "its lease is over", *, is_meant: bool = False
    ) -> None:
        """As `Member.lose`: this node has a session no more, whoever has it."""
        self.owned.discard(session_id)
        self.inbox.leave(session_id)
        self.give_up(session_id, reason, is_meant=is_meant)
        session = self.sessions.get(session_id)
        if session is not None:
            self.interests.moved(session.feed)

    def give_up(self, session_id: str, reason: str, *, is_meant: bool = False) -> None:
        """Write a session no more, without another word; it is meant if another one is to have it."""
        session = self.sessions.get(session_id)
        if session is not None and session.journal.is_open:
            exc = MovedError(f"{session_id} was given up: {reason}")
            session.journal.give_up(exc, is_meant=is_meant)

    def lose_readers(self, session: LiveSession) -> None:
        """They go on following, as soon as it is known what the log has."""

    def session_failed(self, session: LiveSession, exc: Exception) -> None:
        session_id, feed = session.id, self.feed_of(session)
        self.errands.hold_pending(session_id)
        self.running.discard(session)
        if self.sessions.get(session_id) is session:
            del self.sessions[session_id]
            self.housekeeper.rest(session)
        self.let_go(session_id)
        self.turn_rests()
        if session.journal.is_appending:
            ending = {name: other for name, other in self._ending.items() if other.is_appending}
            self._ending = {**ending, session_id: session.journal}
        if feed.damage is None and (feed.cursors or feed.is_held):
            self._carried[session_id] = feed

            def failed(exc: Exception) -> None:
                carried = self._carried.pop(session_id, None)
                if carried is not None:
                    carried.lose_all()

            self.with_session(session_id, lambda _: None, failed)

    def is_needed(self, session: LiveSession) -> bool:
        return (
            super().is_needed(session)
            or self.feed_of(session).is_held
            or self.interests.is_wanted(session.id)
        )

    def needed_ids(self) -> set[str]:
        return super().needed_ids() | self.interests.wanted_ids()

    def evict(self, session: LiveSession) -> None:
        super().evict(session)
        self.follower.unfollow(session.id)
        self.let_go(session.id)

    def drop(self, session_id: str) -> None:
        super().drop(session_id)
        self.follower.unfollow(session_id)
        self.interests.forget(session_id)
        self.let_go(session_id)

    # -- draining ----------------------------------------------------------------------------

    def drain(self) -> None:
        super().drain()
        self.balancer.leave()
        self._handover.begin()
        self.turn_rests()

    def turn_rests(self) -> None:
        super().turn_rests()
        if self.is_draining:
            self._handover.suspend_turns()

    def turn_ended(self, session: LiveSession) -> None:
        super().turn_ended(session)
        if self.is_draining:
            self._handover.hand_over_soon(session)

    async def leave(self) -> None:
        await super().leave()
        with trio.move_on_after(LEAVE_SECONDS):
            await self.wait_written()
        self._running.cancel(reason="the server ends")

    # -- following ---------------------------------------------------------------------------

    def feed_of(self, session: LiveSession) -> ClusterFeed:
        """Give its feed, which is one of a cluster here."""
        return cast("ClusterFeed", session.feed)

    def make_feed(self, session_id: str) -> SessionFeed:
        return ClusterFeed(
            session_id,
            cluster=self.cluster,
            numbers=self._transients,
            max_message_bytes=self.settings.max_message_bytes,
            store=self.store,
            flusher=self._flusher,
            settings=self.settings,
            stats=self.stats,
            spawn=self.spawn_writer,
        )

    def offered_tools(self, session: LiveSession) -> tuple[ClientTool, ...]:
        tools = {tool.name: tool for tool in super().offered_tools(session)}
        for tool in self.interests.offered_tools(session.id):
            tools.setdefault(tool.name, tool)
        return tuple(tools.values())

    @property
    def cluster_stats(self) -> ClusterStats:
        self.counted.owned, self.counted.followed = len(self.owned), len(self.follower.sessions)
        self.counted.principals = self.rates.count
        return self.counted
