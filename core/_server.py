"""The server: the tree of tasks of DESIGN §3, from the store outside to the listeners inside.

    store ─ agents ─ writers ─ flusher, timers ─ turns ─ connections ─ listeners

Each level ends completely before the one outside it is cancelled, so that a turn's terminal event
still becomes durable, and is still sent, in a shutdown.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import cache, partial
from importlib.metadata import version
from itertools import zip_longest
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

import attrs
import trio

from ._arguments import check_agents, check_authenticator, check_reach, check_store, check_urls
from ._failures import find_failure
from ._feed import make_event
from ._flusher import Flusher
from ._handlers import PROTOCOL_METHODS
from ._host import LocalHost
from ._identity import Identity, take_identity
from ._ids import new_id
from ._lifespans import hold_lifespans
from ._link import ServerLink
from ._nursery import open_plain_nursery
from ._pages import make_health_pages
from ._ratelimit import RateLimit, RateLimiter
from ._request import Request
from ._stats import Stats
from ._timers import Timers
from ._values import check_error
from ._workers import Workers
from .abc import (
    Acceptor,
    Agent,
    Authenticator,
    Connection,
    Link,
    Listener,
    ListenOptions,
    Page,
    SessionStore,
    TlsFiles,
    Tracer,
)
from .errors import (
    OverloadedError,
    RequestTimeoutError,
    ServerError,
    SettingsError,
    WireError,
)
from .events import Goaway
from .methods import Credential, Health
from .plugins import STORES, find_transport, load_plugin
from .settings import Settings

__all__ = ["Server", "open_server"]

log = logging.getLogger("trialogue.server")

#: Reading it parses a file, a millisecond for each server; and it does not change.
_version: Final = cache(version)

#: What a drained server says of when to come back.
RETRY_AFTER_MS: Final = 1000
#: For the last frames of each connection, when the server ends.
GOODBYE_SECONDS: Final = 2.0
#: The same of a server that ends at once: what was posted is on its way, and nobody waits for
#: clients to hang up.
SHORT_GOODBYE_SECONDS: Final = 0.02
#: For turns to notice their cancel, and for what is staged to become durable, when it ends.
FINISH_SECONDS: Final = 5.0
#: Limiters of principals that are not connected are looked through when there are so many more.
_LIMITERS_STEP: Final = 1024


def _make_limiter(_: str, limit: RateLimit) -> RateLimiter:
    """Make the limiter of a principal that comes to this process alone."""
    return RateLimiter(limit)


class Server(Acceptor):
    """A running server. From `open_server`.

    Attributes:
        endpoints: The URLs to connect to, in the order in which the transports were named.
        host: The sessions.
        counters: See `stats`.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        flusher: Flusher,
        timers: Timers,
        authenticate: Authenticator | None,
        methods: Mapping[str, Callable[[Any, Any], Any]],
        tracer: Tracer | None,
        version: str,
    ) -> None:
        self.settings = settings
        self.flusher = flusher
        self.timers = timers
        self.authenticate = authenticate
        self.tracer = tracer
        self.version = version
        self.registry = PROTOCOL_METHODS.extended(methods)
        self.counters = Stats(loop_lag_seconds=timers.lateness)
        self.endpoints: tuple[str, ...] = ()
        self.host: LocalHost
        self.connections = 0
        self.links: set[ServerLink] = set()
        #: `trio.current_time`, without its way to the clock: it is asked at each read.
        self.time = trio.lowlevel.current_clock().current_time
        self.started_at = self.time()
        self.is_draining = False
        self.retry_after_ms = RETRY_AFTER_MS
        self._pages = make_health_pages(self)
        #: Of principals that are connected, or whose past still counts.
        self._limiters: dict[str, RateLimiter] = {}
        self._make_limiter: Callable[[str, RateLimit], RateLimiter] = _make_limiter
        self._group_limiters: WeakKeyDictionary[object, RateLimiter] = WeakKeyDictionary()
        #: By group (see `Connection.group`): whose credentials the audit log has.
        self.accepted: WeakKeyDictionary[object, set[tuple[str | None, str | None]]] = (
            WeakKeyDictionary()
        )
        self._prune_limiters_at = _LIMITERS_STEP
        self._connection_tasks: trio.Nursery
        self._workers: Workers
        self._listening = trio.CancelScope()
        self._stop = trio.Event()
        self._ends_at_once = False
        self._has_told_store_failure = False
        self._unlinked: trio.Event | None = None

    # -- for listeners -----------------------------------------------------------------------

    @property
    def acceptor(self) -> Acceptor:
        """What a driver of one's own makes links with."""
        return self

    def reserve(self, *, is_known: bool = False) -> bool:
        is_late = self.is_draining and not is_known
        if self.connections >= self.settings.max_connections or is_late:
            self.counters.connections_refused += 1
            return False
        self.connections += 1
        self.counters.connections_opened += 1
        return True

    def release(self) -> None:
        self.connections -= 1

    def link(self, connection: Connection) -> Link:
        link = ServerLink(self, connection)
        self.links.add(link)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("connected", extra={"peer": str(link)})
        return link

    # -- for links ---------------------------------------------------------------------------

    def unlinked(self, link: ServerLink) -> None:
        """A connection is over."""
        self.links.discard(link)
        if self._unlinked is not None:
            self._unlinked.set()
        log.debug("disconnected", extra={"peer": str(link)})

    @property
    def pages(self) -> dict[str, Callable[[], Page]]:
        """Path → what makes its page. More may be put into it."""
        return self._pages

    def limiter(self, owner: str | None, group: object = None) -> RateLimiter | None:
        """Give the principal's rate limiter; one of its own for an anonymous connection or group.

        Args:
            owner: Who it is; None for anonymous.
            group: See `Connection.group`.
        """
        limit = self.settings.rate_limit
        if limit is None:
            return None
        if owner is None:
            if group is None:
                return RateLimiter(limit)
            shared = self._group_limiters.get(group)
            if shared is None:
                shared = self._group_limiters[group] = RateLimiter(limit)
            return shared
        limiter = self._limiters.get(owner)
        if limiter is None:
            if len(self._limiters) >= self._prune_limiters_at:
                now = trio.current_time()
                here = {link.owner for link in self.links}
                self._limiters = {
                    name: kept
                    for name, kept in self._limiters.items()
                    # One that is idle now may be the one that a connection charges next.
                    if name in here or not kept.is_idle(now)
                }
                self._prune_limiters_at = len(self._limiters) + _LIMITERS_STEP
            limiter = self._limiters[owner] = self._make_limiter(owner, limit)
        return limiter

    async def check_credential(
        self, credential: Credential, link: ServerLink, scope: trio.CancelScope
    ) -> Identity:
        """Ask whom a credential names; cancelling ``scope`` ends it.

        Raises:
            UnauthorizedError: Nobody.
            RequestTimeoutError: The scope has ended it.
            ServerError: The check failed; the log says how.
        """
        assert self.authenticate is not None
        try:
            # What a cancel leaves of a nursery's group comes out of the scope, and is caught too.
            with scope:
                said = await self.authenticate(credential, link.connection.peer)
                return take_identity(said)
        except BaseException as exc:
            failure = find_failure(exc)
            if failure is None:
                raise
            error = self._explain(failure)
            # Why it was refused stays with it, for the audit log.
            raise error from error.__cause__  # noqa: ASYNC104 - what is no failure was raised
        raise RequestTimeoutError("The credential could not be checked in time")

    def _explain(self, failure: Exception) -> WireError:
        """Say how a check has ended; what is not made to be shown, or cannot be, is only logged."""
        if isinstance(failure, WireError):
            try:
                check_error(failure, self.settings.max_event_bytes)
            except Exception as fault:  # noqa: BLE001 - becomes a line of the log
                failure = fault
            else:
                return failure
        error_id = new_id("err")
        log.error(
            "a credential could not be checked", exc_info=failure, extra={"error_id": error_id}
        )
        return ServerError("Internal error", data={"errorId": error_id})

    def has_told_store_failure(self) -> bool:
        """Whether a request was told before that the store has stopped: each that writes fails."""
        if self.host.store.failure is None:
            return False
        has_told, self._has_told_store_failure = self._has_told_store_failure, True
        return has_told

    def spawn_request(self, request: Request, params: Any) -> None:
        """Run a handler that waits, under the connections."""
        self._workers.start(request, params)

    def spawn_check(self, check: Callable[[], Awaitable[None]]) -> None:
        """Run the check of a credential, under the connections."""
        self._connection_tasks.start_soon(check)

    # -- for people --------------------------------------------------------------------------

    @property
    def status(self) -> Literal["ok", "draining", "degraded"]:
        """What ``server.health`` says."""
        if self.is_draining:
            return "draining"
        store = self.host.store
        try:
            store.check_writable()
        except OverloadedError:
            return "degraded"
        return "ok" if store.failure is None else "degraded"

    def health(self) -> Health:
        """Give what ``server.health`` answers."""
        return Health(
            status=self.status,
            version=self.version,
            uptime_ms=round((trio.current_time() - self.started_at) * 1000),
            sessions=len(self.host.sessions),
            connections=self.connections,
            turns=len(self.host.running),
        )

    def stats(self) -> dict[str, Any]:
        """Give the counters since the start, and the gauges of now, by their wire names."""
        cluster = self.host.cluster_stats
        return {
            "uptimeMs": round((trio.current_time() - self.started_at) * 1000),
            **self.gauges(),
            **self.counters.to_wire(),
            **({} if cluster is None else {"cluster": cluster.to_wire()}),
            "store": dict(self.host.store.statistics()),
        }

    def gauges(self) -> dict[str, int]:
        """Count what there is now: by wire names, in time that grows with sessions."""
        sessions = self.host.sessions.values()
        cursors = [cursor for s in sessions for cursor in s.feed.cursors.values()]
        return {
            "connections": self.connections,
            "sessions": len(sessions),
            "turns": len(self.host.running),
            "queuedInputs": sum(len(session.state.inputs) for session in sessions),
            "openAsks": sum(len(session.state.asks) for session in sessions),
            "subscriptions": len(cursors),
            "subscriptionsBehind": sum(cursor.is_behind for cursor in cursors),
            "outboxBytes": sum(link.connection.outbound_bytes for link in self.links),
        }

    def probe_lag(self, every_seconds: float = 1.0) -> None:
        """Have something due every so often: so the event loop's lag is known of a quiet server too.

        Until the server ends. Without it only what is due anyway shows the lag.
        """

        def probe() -> None:
            self.timers.at(trio.current_time() + every_seconds, probe)

        probe()

    async def drain(self, seconds: float | None = None, reason: str = "shutdown") -> None:
        """Stop accepting, say ``goaway``, and wait until no turn runs (PROTOCOL §3.4).

        Args:
            seconds: How long turns may go on; None takes the setting. Then they are cancelled,
                and end ``interrupted``.
            reason: For the clients.

        Connections stay until the server's block is left. Cancelling the wait leaves it draining.
        """
        self._begin_drain(reason)
        seconds = self.settings.drain_seconds if seconds is None else seconds
        with trio.move_on_after(seconds):
            await self.host.wait_turns_rest()
        self.host.stop_turns("shutdown")
        with trio.move_on_after(self.settings.cancel_grace_seconds):
            await self.host.wait_turns_ended()

    def _begin_drain(self, reason: str) -> None:
        if self.is_draining:
            return
        log.info("draining", extra={"reason": reason, "turns": len(self.host.running)})
        self.is_draining = True
        self.host.drain()
        self._listening.cancel(reason=reason)
        goaway = make_event(None, Goaway(reason=reason, retry_after_ms=self.retry_after_ms))
        for link in list(self.links):
            link.connection.post(goaway)

    # -- the tree ----------------------------------------------------------------------------

    def stop(self, *, at_once: bool = False) -> None:
        """Let `run` end.

        Args:
            at_once: Without waiting until each client has hung up.
        """
        self._ends_at_once = self._ends_at_once or at_once
        self._stop.set()

    async def run(
        self,
        agents: Mapping[str, Agent],
        store: SessionStore,
        listeners: Sequence[Listener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run the tree until `stop`, then end it from the inside out, in bounded time.

        It is shielded: whoever cancels the program around it still gets the ordered end.
        """
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as writers:
                async with trio.open_nursery() as services:
                    services.start_soon(self.flusher.run)
                    services.start_soon(self.timers.run)
                    async with trio.open_nursery() as turns:
                        self.host = self._make_host(
                            store,
                            agents=agents,
                            settings=self.settings,
                            flusher=self.flusher,
                            timers=self.timers,
                            stats=self.counters,
                            tracer=self.tracer,
                            writers=writers,
                            turns=turns,
                        )
                        async with trio.open_nursery() as self._connection_tasks:
                            self._workers = Workers(self._connection_tasks)
                            await self.host.start()
                            await self._connection_tasks.start(self._listen, listeners)
                            task_status.started()
                            await self._stop.wait()
                            self._begin_drain("shutdown")
                            await self._end_turns()
                            await self._say_goodbye()
                            self._connection_tasks.cancel_scope.cancel(reason="the server ends")
                        await self.host.leave()
                        turns.cancel_scope.cancel(reason="the server ends")
                    # The flusher is no longer needed, but what was decided has to become durable.
                    services.cancel_scope.cancel(reason="the server ends")
                writers.cancel_scope.deadline = trio.current_time() + FINISH_SECONDS
                # Most of what is on its way has no task that the nursery would wait for.
                await self.host.wait_written()

    def _make_host(self, store: SessionStore, **more: Any) -> LocalHost:
        if store.cluster is None:
            return LocalHost(store=store, **more)
        # Only what has others around it pays for knowing how to reach them.
        from ._cluster.host import ClusterHost

        host = ClusterHost(store.cluster, store=store, **more)
        self._make_limiter = host.rates.make_limiter
        return host

    async def _listen(
        self, listeners: Sequence[Listener], *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Accept on every listener, until the server drains; then unbind.

        A listener that stays bound lets people wait in its backlog for an answer that never comes.
        """
        with self._listening:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    serve = partial(listener.serve, handler_nursery=self._connection_tasks)
                    await nursery.start(serve, self)
                task_status.started()
        for listener in listeners:
            await _close_listener(listener)

    async def _end_turns(self) -> None:
        """Let turns notice that they end, and what waits for the store be answered."""
        self.host.stop_turns("shutdown")
        with trio.move_on_after(FINISH_SECONDS):
            await self.host.wait_turns_ended()
            await self.host.wait_written()

    async def _say_goodbye(self) -> None:
        """Answer what still waits, let each connection take what was posted, then close it."""
        for link in list(self.links):
            link.say_goodbye()
        seconds = SHORT_GOODBYE_SECONDS if self._ends_at_once else GOODBYE_SECONDS
        with trio.move_on_after(seconds):
            while self.links:
                self._unlinked = trio.Event()
                await self._unlinked.wait()


@asynccontextmanager
async def open_server(
    agent: Agent | Mapping[str, Agent],
    *,
    transports: Sequence[str] = (),
    settings: Settings | None = None,
    store: SessionStore | AbstractAsyncContextManager[SessionStore] | None = None,
    authenticate: Authenticator | None = None,
    methods: Mapping[str, Callable[[Any, Any], Any]] | None = None,
    tracer: Tracer | None = None,
    tls: TlsFiles | Any = None,
    allow_origins: Collection[str] = (),
    allow_hosts: Collection[str] = (),
    insecure: bool = False,
    sockets: Sequence[Any] = (),
) -> AsyncGenerator[Server]:
    """Run a whole server inside another Trio program, as long as the block lasts.

    Args:
        agent: An agent, or several by name, of which the first is the default.
        transports: URLs to listen on, e.g. ``"ws://127.0.0.1:8765"``; port 0 takes a free one.
        settings: Limits and times.
        store: Where sessions live, or what opens it, e.g. ``open_jsonl_store(path)``; None keeps
            them in memory. It is closed at the end.
        authenticate: Says whom a credential names; None lets everybody in.
        methods: Methods of one's own, whose names begin with ``_``.
        tracer: Is told of requests, turns, tools and models, e.g. `trialogue.telemetry.tracing`'s.
        tls: For ``wss`` and ``tcps``: files, or an ``ssl.SSLContext``.
        allow_origins: Origins that browsers may connect from, beside the listener's own.
        allow_hosts: Host names that requests may name, beside the listener's own address.
        insecure: Listen beyond this machine although credentials or TLS are missing.
        sockets: For each transport one that is bound already (`Transport.open_sockets`), for
            several processes at one address; none binds.

    An agent or an authenticator that has a method ``lifespan()``, which gives an async context
    manager, is held by it from before anything is bound until the last turn has ended.

    Leaving the block ends turns as ``interrupted``, makes durable what was decided, and sends
    what was posted; use `Server.drain` before, to give turns time. Bounded to some ten seconds.

    Raises:
        SettingsError: A URL, an agent, a method or the store cannot be used, an agent or the
            authenticator cannot start, or strangers would be let in; says which.
        OSError: An address cannot be bound.
    """
    agents = check_agents(agent)
    check_authenticator(authenticate)
    check_store(store)
    urls = check_urls(transports)
    # All of them are found before one is opened.
    listening = [(url, find_transport(url)) for url in urls]
    if sockets and len(sockets) != len(urls):
        raise SettingsError(f"there are {len(sockets)} sockets for {len(urls)} transports")
    if not insecure:
        _check_reach(urls, asks=authenticate is not None)
    settings = settings or Settings()
    if store is None:
        store = load_plugin(STORES, "memory")()
    assert store is not None
    flusher, timers = Flusher(), Timers()
    server = Server(
        settings=settings,
        flusher=flusher,
        timers=timers,
        authenticate=authenticate,
        methods=methods or {},
        tracer=tracer,
        version=_version("trialogue"),
    )
    options = ListenOptions(
        settings=settings, tls=tls, allow_origins=allow_origins, allow_hosts=allow_hosts
    )
    async with AsyncExitStack() as stack:
        if isinstance(store, AbstractAsyncContextManager):
            store = await stack.enter_async_context(store)
        else:
            stack.push_async_callback(_close_store, store)
        await stack.enter_async_context(hold_lifespans(agents, authenticate))
        listeners: list[Listener] = []
        for (url, transport), sock in zip_longest(listening, sockets):
            listener = await transport.open_listener(url, attrs.evolve(options, socket=sock))
            stack.push_async_callback(_close_listener, listener)
            listeners.append(listener)
        server.endpoints = tuple(listener.endpoint for listener in listeners)
        nursery = await stack.enter_async_context(open_plain_nursery())
        await nursery.start(server.run, agents, store, listeners)
        try:
            yield server
        finally:
            server.stop()


def _check_reach(urls: Sequence[str], *, asks: bool) -> None:
    for url in urls:
        try:
            check_reach(url, asks=asks)
        except SettingsError as exc:
            raise SettingsError(f"{exc}; listen on 127.0.0.1, or pass insecure=True") from None


async def _close_store(store: SessionStore) -> None:
    with trio.move_on_after(FINISH_SECONDS, shield=True):
        await store.aclose()


async def _close_listener(listener: Listener) -> None:
    with trio.move_on_after(1, shield=True):
        await listener.aclose()
