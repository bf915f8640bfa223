"""The sessions of this process: finds, loads, creates, lists, forks, evicts and expires them.

Handlers reach sessions only through `SessionHost`: this process's host is its first
implementation, one that reaches other nodes the second (`_cluster/host.py`).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import attrs
import trio

from ._budget import find_issues
from ._clock import utc_now
from ._command import Command, Reply
from ._creation import SessionMaker
from ._feed import PAGE_ENTRIES, SessionFeed, make_event
from ._flusher import Flusher
from ._housekeeping import Housekeeper
from ._journal import Journal
from ._listing import check_whole, list_entries, list_sessions
from ._notes import join_partials
from ._options import check_options
from ._prices import PriceList
from ._queries import check_range, list_asks, list_inputs, list_messages, refuse_params
from ._recovery import recover
from ._session import LiveSession
from ._snapshot import restore
from ._stats import ClusterStats, Stats
from ._subscriptions import Subscriptions
from ._timers import Timers
from ._tracing import run_traced
from ._turn import RunningTurn
from ._writers import Writers
from .abc import Agent, Connection, SessionStore, Tracer, Turn
from .errors import (
    AgentError,
    DamagedError,
    FencedError,
    InvalidRequestError,
    OverloadedError,
    SessionNotFoundError,
    StoreError,
    WireError,
)
from .events import SessionDeleted
from .log import Recollection
from .methods import (
    AskList,
    Empty,
    EventList,
    InputList,
    MessageAdd,
    MessageList,
    MessageSend,
    MessageStream,
    SessionDelete,
    SessionExport,
    SessionFork,
    SessionGet,
    SessionList,
    SessionListResult,
    SessionSubscribe,
    SessionUnsubscribe,
)
from .models import ClientTool, NodeInfo, SessionConfig
from .settings import Settings

#: Between two attempts to go on with a session whose log failed.
REOPEN_SECONDS: Final = 5.0

__all__ = ["READS", "LocalHost", "SessionHost", "Work"]

log = logging.getLogger("trialogue.session")

#: Reads of a session that need no right to write it.
READS: Final = (
    SessionGet,
    MessageList,
    InputList,
    AskList,
    EventList,
    SessionExport,
    SessionSubscribe,
    SessionUnsubscribe,
    SessionFork,
)
#: What begins or ends a subscription, at once.
_ATTACHING: Final = (SessionSubscribe, SessionUnsubscribe)
#: What can be done with a session of which not even the first entry can be read.
_WITHOUT_ENTRIES: Final = (SessionDelete, SessionUnsubscribe)


class SessionHost(ABC):
    """Where handlers send what concerns sessions."""

    @abstractmethod
    def submit(self, session_id: str, command: Command, reply: Reply) -> None:
        """Carry out a command or query on a session, behind those submitted to it before.

        Never raises and never waits; ``reply`` may be answered within.
        """

    @abstractmethod
    def create(self, command: Command, reply: Reply) -> None:
        """Create a session (``session.create``)."""

    @abstractmethod
    async def list(self, params: SessionList, principal: str | None) -> SessionListResult:
        """List a principal's sessions."""

    @abstractmethod
    def admit(self, connection: Connection) -> None:
        """Let a connection subscribe, until it is detached."""

    @abstractmethod
    def detach(self, connection: Connection) -> None:
        """End every subscription of a connection. What still waits gives it no new one."""


@attrs.frozen
class Work:
    """Something that waits for its session to be loaded, or to be opened for writing.

    With `even_unwritable` it is done, too, if the session cannot be opened, since it is damaged or
    there is no room to write what became of its work.
    """

    needs_write: bool
    run: Callable[[LiveSession], None]
    fail: Callable[[Exception], None]
    even_unwritable: bool = False


class LocalHost(SessionHost):
    """Sessions held, written and run by this process."""

    #: What writes its sessions.
    journal_class: type[Journal] = Journal
    #: Which one of a cluster this process is; None if it is none.
    node: NodeInfo | None = None

    def __init__(
        self,
        *,
        agents: Mapping[str, Agent],
        store: SessionStore,
        settings: Settings,
        flusher: Flusher,
        timers: Timers,
        stats: Stats,
        tracer: Tracer | None,
        writers: trio.Nursery,
        turns: trio.Nursery,
    ) -> None:
        self.agents = dict(agents)
        self.default_agent = next(iter(self.agents))
        self.settings = settings
        self.stats = stats
        self._tracer = tracer
        self.prices = PriceList(settings.prices)
        self.sessions: dict[str, LiveSession] = {}
        self.running: set[LiveSession] = set()
        self.is_draining = False
        #: No turn runs any more, and none will: what is open is for the next process.
        self.has_ended = False
        self.store = store
        self._flusher = flusher
        self.timers = timers
        self._writers = writers
        writing = Writers(writers)
        #: Runs something that outlives requests and turns.
        self.spawn_writer = writing.spawn
        self.append = writing.append
        #: Waits until nothing is on its way to or from the store.
        self.wait_written = writing.wait_done
        self._turns = turns
        self._opening: dict[str, deque[Work]] = {}
        self.subscriptions = Subscriptions(settings.max_subscriptions)
        self._all_ended: trio.Event | None = None
        self.maker = SessionMaker(self)
        self.housekeeper = Housekeeper(self)

    async def start(self) -> None:
        """Take up what the last process left open: only those sessions are read."""
        for session_id in await self.store.list_open_work():
            if session_id in self._opening or session_id in self.sessions:
                continue
            self._opening[session_id] = deque([Work(True, lambda _: None, lambda _: None)])
            await self._open(session_id)
        self.housekeeper.start()

    # -- finding sessions --------------------------------------------------------------------

    def submit(self, session_id: str, command: Command, reply: Reply) -> None:
        needs_write = type(command.params) not in READS
        session = self._ready(session_id, needs_write=needs_write)
        if session is not None:
            # As a rule it is here: nothing is made for it that would only wait.
            self._execute(session, command, reply)
            return
        self.with_session(
            session_id,
            lambda session: self._execute(session, command, reply),
            reply.fail,
            needs_write=needs_write,
            even_unwritable=isinstance(command.params, SessionDelete),
        )

    def _ready(self, session_id: str, *, needs_write: bool) -> LiveSession | None:
        """Give a session with which something can be done at once, None if that has to wait."""
        session = self.sessions.get(session_id)
        if session is None or session_id in self._opening:
            return None
        if session.journal.is_open or session.state.ended is not None:
            return session
        if needs_write or (_has_open_work(session) and session.feed.damage is None):
            return None
        return session

    def with_session(
        self,
        session_id: str,
        run: Callable[[LiveSession], None],
        fail: Callable[[Exception], None],
        *,
        needs_write: bool = False,
        even_unwritable: bool = False,
    ) -> None:
        """Do something with a session, at once if it is here, else when it has been loaded.

        Args:
            session_id: The session's.
            run: What to do; behind what waits for the session already.
            fail: Called instead if there is no such session, or it cannot be read or written.
            needs_write: The session has to be this process's to write.
            even_unwritable: Or it cannot be written, since it is damaged or there is no room.
        """
        session = self._ready(session_id, needs_write=needs_write)
        if session is not None:
            run(session)
            return
        work = Work(needs_write, run, fail, even_unwritable)
        waiting = self._opening.get(session_id)
        if waiting is not None:
            waiting.append(work)
            return
        self._opening[session_id] = deque([work])
        self.spawn_writer(lambda: self._open(session_id))

    async def _open(self, session_id: str) -> None:
        """Load a session, open it for writing if need be, and do what waited, in order."""
        waiting = self._opening[session_id]
        try:
            while waiting:
                session = self.sessions.get(session_id)
                if session is None:
                    session = await self._load(session_id)
                    if self.housekeeper.was_loaded(session):
                        await self._expire(session)
                    self.keep(session)
                work = waiting[0]
                needs_write = work.needs_write or _has_open_work(session)
                # Nothing is written behind the end of a session, whatever is asked of it.
                needs_write = needs_write and session.state.ended is None
                if needs_write and not session.journal.is_open:
                    try:
                        await self._take_over(session)
                    except (DamagedError, FencedError, OverloadedError) as exc:
                        is_full = isinstance(exc, OverloadedError)
                        if not work.even_unwritable if is_full else session.journal.is_open:
                            raise
                        # It is read as far as it goes, with what it left open.
                        is_passable = work.even_unwritable and not isinstance(exc, FencedError)
                        if work.needs_write and not is_passable:
                            if isinstance(exc, FencedError):
                                _refuse_writes(waiting, exc)
                            else:
                                waiting.popleft().fail(exc)
                            continue
                waiting.popleft().run(session)
        except Exception as exc:  # noqa: BLE001 - ends those requests
            works = list(waiting)
            waiting.clear()
            self._give_back(session_id, works, exc)
        finally:
            del self._opening[session_id]
            self.housekeeper.may_leave(session_id)
            self.turn_rests()
        if waiting:
            # What came when the others were told that they had waited in vain.
            self._opening[session_id] = waiting
            self.spawn_writer(lambda: self._open(session_id))

    def _give_back(self, session_id: str, works: Sequence[Work], exc: Exception) -> None:
        """Tell what waited for a session that it could not be opened."""
        for work in works:
            work.fail(exc)

    async def _take_over(self, session: LiveSession) -> None:
        """Take the right to write a session, and end what its last owner left open."""
        session.journal.open(await self.store.open(session.id))
        if recover(session):
            session.touch()
        # Nobody sees a turn as running that was interrupted.
        await _wait_written(session)

    async def _expire(self, session: LiveSession) -> None:
        """Let a session expire whose time was over before it was loaded."""
        try:
            await self._take_over(session)
        except (StoreError, FencedError, OSError) as exc:
            if session.journal.is_open:
                raise
            # It cannot be written, and can still be read.
            log.warning(
                "a session could not expire",
                extra={"session_id": session.id, "error": repr(exc)},
            )
            return
        session.expire()
        await _wait_written(session)

    async def _load(self, session_id: str) -> LiveSession:
        """Fold a session from its newest snapshot and what its log has after it.

        Of one that is damaged, that is as far as it is whole.
        """
        session = self.make_session(session_id)
        try:
            recollection = await self.store.recall(session_id)
        except DamagedError:
            recollection = Recollection()
        session.texts = join_partials(recollection.partials)
        after = 0
        snapshot = recollection.snapshot
        if snapshot is not None and restore(session.state, snapshot):
            restore(session.feed.state, snapshot)
            after = snapshot.after.seq
            if session.notes is not None:
                session.notes.last_snapshot = after
        try:
            while page := await self.store.read(session_id, after, PAGE_ENTRIES):
                for entry in page:
                    session.feed.load(entry)
                    session.state.apply(entry)
                after = page[-1].seq
        except DamagedError:
            if not after:
                # Whose it is only lists know now, if they do.
                summary = await self.store.summary(session_id)
                session.state.last_activity_at = utc_now()
                session.state.owner = None if summary is None else summary.owner
        else:
            if not after:
                raise SessionNotFoundError(f"Session not found: {session_id}")
        self.stats.sessions_loaded += 1
        return session

    def make_session(self, session_id: str) -> LiveSession:
        """Make one that has nothing in it yet."""
        return LiveSession(self, session_id, self.make_feed(session_id))

    def make_feed(self, session_id: str) -> SessionFeed:
        """Make the published half of one."""
        return SessionFeed(
            session_id,
            store=self.store,
            flusher=self._flusher,
            settings=self.settings,
            stats=self.stats,
            spawn=self.spawn_writer,
        )

    def begin(self, session: LiveSession) -> None:
        """Take the right to write a session that is new."""
        session.journal.open(self.store.create(session.id))

    def _execute(self, session: LiveSession, command: Command, reply: Reply) -> None:
        try:
            if session.state.owner != command.principal:
                raise SessionNotFoundError(f"Session not found: {session.id}")
            self._carry_out(session, command, reply)
        except Exception as exc:  # noqa: BLE001 - ends this request
            reply.fail(exc)

    def _carry_out(self, session: LiveSession, command: Command, reply: Reply) -> None:
        params, feed = command.params, session.feed
        if isinstance(params, _ATTACHING) and command.connection in session.streaming:
            self._attach_later(session, command, reply, session.streaming[command.connection])
            return
        if not feed.state.seq and not isinstance(params, _WITHOUT_ENTRIES):
            check_whole(feed)
        match params:
            case SessionGet():
                reply.succeed_encoded(feed.session_json())
            case MessageList():
                reply.succeed(list_messages(feed, params))
            case InputList():
                reply.succeed(list_inputs(feed, params))
            case AskList():
                reply.succeed(list_asks(feed, params))
            case EventList() | SessionExport():
                list_entries(self, session, params, reply)
            case SessionSubscribe():
                self.subscriptions.subscribe(session, command, params, reply)
            case SessionUnsubscribe():
                if command.connection is not None:
                    self.subscriptions.unsubscribe(feed, command.connection)
                reply.succeed(Empty())
            case SessionFork():
                self.maker.fork(session, command, params, reply)
            case SessionDelete():
                self._delete(session, reply)
            case _:
                if isinstance(params, (MessageSend, MessageStream, MessageAdd)):
                    self.store.check_writable()
                if isinstance(params, MessageStream) and command.connection is not None:
                    self.subscriptions.check_room(session.id, command.connection)
                session.execute(command, reply)

    def _attach_later(self, session: LiveSession, command: Command, reply: Reply, seq: int) -> None:
        """Carry out what comes behind a ``message.stream`` when that has subscribed."""

        def failed(exc: Exception) -> None:
            async def again() -> None:
                await trio.lowlevel.checkpoint()
                self.submit(session.id, command, reply)

            self.spawn_writer(again)

        session.journal.when_published(seq, lambda: self._execute(session, command, reply), failed)

    # -- creating, deleting ------------------------------------------------------------------

    def create(self, command: Command, reply: Reply) -> None:
        self.maker.create(command, reply)

    def check_agent(self, config: SessionConfig, changed: SessionConfig) -> None:
        """Check that a configuration names an agent of ours, and says what that one takes.

        Args:
            config: What would hold.
            changed: What of it was said just now.

        Raises:
            InvalidRequestError: It does not; the issue names the place.
        """
        if config.agent is not None and config.agent not in self.agents:
            message = f"unknown agent {config.agent!r}: there are {', '.join(self.agents)}"
            raise InvalidRequestError(
                message, data={"issues": [{"path": "params.config.agent", "message": message}]}
            )
        if config.idle_timeout_ms is not None:
            check_range("config.idleTimeoutMs", config.idle_timeout_ms, 1, 2**53 - 1)
        refuse_params(list(find_issues(config.budget, "params.config.budget")))
        name = config.agent or self.default_agent
        check_options(self.agents.get(name), name, config, changed)

    def _delete(self, session: LiveSession, reply: Reply) -> None:
        def closed(failure: Exception | None) -> None:
            # Where there is no room to write that it is closed, to remove it makes some; and one
            # that is damaged, or is just found to be, cannot be closed any more, but it can go.
            is_damaged = session.feed.damage is not None
            if failure is None or is_damaged or isinstance(failure, (OverloadedError, StoreError)):
                self.spawn_writer(remove)
            else:
                reply.fail(failure)

        async def remove() -> None:
            # Behind the last event of each subscriber, which is gone with the log.
            with trio.move_on_after(self.settings.write_timeout_seconds):
                await session.feed.wait_sent()
            try:
                existed = await self.store.delete(session.id)
            except Exception as exc:  # noqa: BLE001 - ends this request
                reply.fail(exc)
                return
            self.drop(session.id)
            self.subscriptions.detach_all(session.feed, make_event(session.id, SessionDeleted()))
            if existed:
                reply.succeed(Empty())
            else:
                reply.fail(SessionNotFoundError(f"Session not found: {session.id}"))

        # It may wait for a turn that does not end.
        reply.when_abandoned(lambda _reason: None)
        if session.journal.failure is not None:
            closed(session.journal.failure)
        elif session.feed.damage is not None and not session.journal.is_open:
            closed(None)
        else:
            session.closing.begin("deleted by a client", closed)

    # -- reading -----------------------------------------------------------------------------

    async def list(self, params: SessionList, principal: str | None) -> SessionListResult:
        return await list_sessions(self, params, principal)

    def attach_here(self, session: LiveSession, connection: Connection, *, after: int) -> None:
        """Subscribe a connection after a seq, unless it is subscribed (``message.stream``)."""
        if connection not in session.feed.cursors:
            self.subscriptions.attach(session.feed, connection, after=after, offsets={})

    def offered_tools(self, session: LiveSession) -> tuple[ClientTool, ...]:
        """Give the tools that a session's subscribers offer, one of each name."""
        return self.subscriptions.offered_tools(session.feed)

    @property
    def cluster_stats(self) -> ClusterStats | None:
        """What it counts as a node of a cluster, if it is one."""
        return None

    def admit(self, connection: Connection) -> None:
        self.subscriptions.admit(connection)

    def detach(self, connection: Connection) -> None:
        self.subscriptions.detach(connection)

    # -- turns -------------------------------------------------------------------------------

    def spawn_turn(self, session: LiveSession, turn: RunningTurn) -> None:
        """Run a turn as a task under this host's sessions."""
        self.running.add(session)
        if self.has_ended:
            return
        agent, name = self.find_agent(turn.config), f"turn {turn.id}"
        if self._tracer is None:
            self._turns.start_soon(turn.run, agent, name=name)
        else:
            called = turn.config.agent or self.default_agent
            self._turns.start_soon(run_traced, turn, agent, called, self._tracer, name=name)

    def spawn_settlement(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run something that waits for turns to end, and that the next process may do as well."""
        if not self.has_ended:
            self._turns.start_soon(task)

    def find_agent(self, config: SessionConfig) -> Agent:
        """Give the agent that a session is configured for."""
        return self.agents.get(config.agent or self.default_agent, _missing)

    def turn_ended(self, session: LiveSession) -> None:
        """A session's turn is over."""
        self.running.discard(session)
        self.turn_rests()

    def watch_cancel(self, session: LiveSession, turn: RunningTurn) -> None:
        """Report a turn that does not end after its cancel: nothing can kill it."""
        grace = self.settings.cancel_grace_seconds

        def check() -> None:
            if session.turn is turn and turn.outcome is None:
                self.stats.turns_stuck += 1
                log.warning(
                    "a turn has not ended %g s after its cancel",
                    grace,
                    extra={"session_id": session.id, "turn_id": turn.id},
                )

        self.timers.at(trio.current_time() + grace, check)

    def stop_turns(self, reason: str) -> None:
        """Cancel every turn; they end ``interrupted``."""
        for session in list(self.running):
            session.stop_turn(reason)

    def turn_rests(self) -> None:
        """A session's turn is over or waits for clients alone, or what waited for one was done."""
        if self._all_ended is not None and not self._is_busy:
            self._all_ended.set()

    @property
    def _is_busy(self) -> bool:
        # What waits for its session was taken before, and may be a turn in a moment.
        return bool(self._opening) or any(not session.can_suspend for session in self.running)

    def drain(self) -> None:
        """Begin nothing new: no queued input starts."""
        self.is_draining = True

    async def leave(self) -> None:
        """Let go of what others may have: no turn runs any more."""
        self.has_ended = True
        await trio.lowlevel.checkpoint()

    async def wait_turns_rest(self) -> None:
        """Wait until no turn runs, or may yet begin, but those that go on when the server is back."""
        while self._is_busy:
            self._all_ended = trio.Event()
            await self._all_ended.wait()

    async def wait_turns_ended(self) -> None:
        """Wait until no turn runs."""
        while self.running:
            self._all_ended = trio.Event()
            await self._all_ended.wait()

    # -- memory ------------------------------------------------------------------------------

    def keep(self, session: LiveSession) -> None:
        """Hold a session in memory, as long as it is used."""
        self.sessions[session.id] = session
        self.housekeeper.look_after(session)

    def is_needed(self, session: LiveSession) -> bool:
        """Whether a session is used, or waited for."""
        return session.is_in_use or session.id in self._opening

    def needed_ids(self) -> set[str]:
        """Name the sessions that are used, or waited for."""
        return {s.id for s in self.sessions.values() if s.is_in_use} | set(self._opening)

    def evict(self, session: LiveSession) -> None:
        """Let a session leave memory; clients do not notice."""
        self.stats.sessions_evicted += 1
        del self.sessions[session.id]
        self.housekeeper.rest(session)

    def drop(self, session_id: str) -> None:
        """Forget a session that was deleted."""
        self.sessions.pop(session_id, None)
        self.housekeeper.forget(session_id)

    def lose_readers(self, session: LiveSession) -> None:
        """Give up the subscribers of a session whose log took no more."""
        session.feed.lose_all()

    def session_failed(self, session: LiveSession, exc: Exception) -> None:
        """A session's log took no more: whoever asks for it next loads it again.

        If it has work to do, nobody need ask.
        """
        self.running.discard(session)
        self.turn_rests()
        if self.sessions.get(session.id) is session:
            del self.sessions[session.id]
            self.housekeeper.rest(session)
        state = session.feed.state
        # What another process has taken, that one goes on with.
        is_ours = not isinstance(exc, FencedError)
        if is_ours and state.has_open_work and session.feed.damage is None:
            self._reopen_later(session.id)

    def _reopen_later(self, session_id: str) -> None:
        """Load a session again that was left with work to do, as often as it takes."""

        def reopen() -> None:
            if not self.is_draining:
                self.with_session(session_id, lambda _: None, failed, needs_write=True)

        def failed(exc: Exception) -> None:
            log.warning(
                "a session could not be reopened",
                extra={"session_id": session_id, "error": repr(exc)},
            )
            if not isinstance(exc, (WireError, DamagedError)):
                self._reopen_later(session_id)

        self.timers.at(trio.current_time() + REOPEN_SECONDS, reopen)


def _refuse_writes(waiting: deque[Work], exc: Exception) -> None:
    """Refuse all that waits to write: were the next one to succeed, it would overtake the first."""
    works = list(waiting)
    waiting.clear()
    waiting.extend(work for work in works if not work.needs_write)
    for work in works:
        if work.needs_write:
            work.fail(exc)


async def _wait_written(session: LiveSession) -> None:
    await session.journal.wait_published()
    if session.journal.failure is not None:
        raise session.journal.failure


def _has_open_work(session: LiveSession) -> bool:
    """Whether a turn runs, or is waited for: nobody reads it before this process goes on with it."""
    return session.state.has_open_work


async def _missing(turn: Turn) -> None:
    raise AgentError(f"This server has no agent {turn.config.agent!r}")
