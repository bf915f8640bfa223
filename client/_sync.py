"""The client for scripts without Trio: the same methods, each of which waits.

    with connect_sync("ws://127.0.0.1:8765") as client:
        session = client.create_session()
        for chunk in client.stream_message(session.id, "hello"):
            ...

A thread runs Trio and the `Client`; calls cross over by Trio's thread bridge. A call that is
interrupted (Ctrl-C) is cancelled there, and so on the server.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import trio

from ..core.errors import ConnectionLostError
from ..core.log import Entry
from ..core.methods import Credential, HelloResult, ServerInfo
from ..core.models import Attachment, JsonObject, Session, SessionStatus, WhenBusy
from ._client import Client
from ._connect import connect
from ._event_stream import AllEvents, EventStream
from ._events import Event
from ._pages import Pages
from ._state import ConnectionState
from ._stream import Chunk, MessageStream

__all__ = ["SyncClient", "SyncStream", "connect_sync"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Bridge:
    """Runs async functions in the thread that runs Trio, and waits for them."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token

    def run(self, function: Callable[[], Awaitable[R]]) -> R:
        """Run it there, and give what it gives. Interrupting the wait cancels it."""
        # Shielded, so that it ends with the client, which tells it why, and not before.
        scope = trio.CancelScope(shield=True)
        unfinished = object()

        async def bounded() -> R | object:
            with scope:
                return await function()
            return unfinished

        try:
            result: Any = trio.from_thread.run(bounded, trio_token=self._token)
        except trio.RunFinishedError:
            raise ConnectionLostError("the client was closed") from None
        except BaseException:
            self.call_soon(partial(scope.cancel, reason="the caller was interrupted"))
            raise
        if result is unfinished:
            raise ConnectionLostError("the call was cancelled")
        return result  # type: ignore[no-any-return]

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call it there some time soon, if there still is somebody."""
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            pass


class SyncStream(Generic[T]):
    """An iterator that opens with its first item, and closes with its last.

    To leave it early, use it as a context manager:

        with client.events(session.id) as events:
            for event in events: ...

    Threads may share it: each item goes to one of them. Who catches a Ctrl-C may read on.
    """

    def __init__(
        self, bridge: Bridge, context: AbstractAsyncContextManager[AsyncIterator[T]]
    ) -> None:
        self._bridge = bridge
        self._context = context
        self._stream: AsyncIterator[T] | None = None
        self._has_begun = self._is_closed = False
        #: Taken from the stream, and not yet by a caller: an interrupt may come between the two.
        self._taken: deque[T] = deque()
        #: Held in the thread that runs Trio, by the one that opens or reads.
        self._lock = trio.Lock()

    def open(self) -> AsyncIterator[T]:
        """Open it now.

        Raises:
            ValueError: It is closed, or could not be opened before.
        """
        if self._is_closed:
            raise ValueError("this stream is closed")
        return self._stream or self._bridge.run(self._enter)

    async def _enter(self) -> AsyncIterator[T]:
        async with self._lock:
            if self._stream is None:
                if self._has_begun:
                    raise ValueError("this stream could not be opened, and is of no more use")
                self._has_begun = True
                self._stream = await self._context.__aenter__()
            return self._stream

    async def _take(self, stream: AsyncIterator[T]) -> None:
        async with self._lock:
            if not self._taken:
                self._taken.append(await stream.__anext__())

    def close(self) -> None:
        """Close it. Idempotent."""
        is_open = self._stream is not None and not self._is_closed
        self._is_closed = True
        if is_open:
            self._bridge.run(partial(self._context.__aexit__, None, None, None))

    def __enter__(self) -> SyncStream[T]:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        while not self._is_closed:
            stream = self.open()
            try:
                self._bridge.run(partial(self._take, stream))
                return self._taken.popleft()
            except StopAsyncIteration:
                self.close()
            except IndexError:
                pass  # another thread was faster
        raise StopIteration


def _mirror(
    method: Callable[Concatenate[Client, P], Awaitable[R]],
) -> Callable[Concatenate[SyncClient, P], R]:
    """Make the synchronous twin of a method."""

    @wraps(method)
    def call(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.bridge.run(partial(method, self.client, *args, **kwargs))

    return call


class SyncClient:
    """A `Client` whose methods wait. From `connect_sync`; any thread may call it."""

    def __init__(self, client: Client, bridge: Bridge) -> None:
        self.client = client
        self.bridge = bridge

    @property
    def url(self) -> str:
        """Where the server is."""
        return self.client.url

    @property
    def is_draining(self) -> bool:
        """The server is going away: what is new waits for the next connection."""
        return self.client.is_draining

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self.client.state

    @property
    def hello(self) -> HelloResult:
        """What the server said when it welcomed us last."""
        return self.client.hello

    @property
    def server_info(self) -> ServerInfo:
        """The server's name and version."""
        return self.client.server_info

    @property
    def limits(self) -> JsonObject:
        """The limits that hold for us."""
        return self.client.limits

    @property
    def principal(self) -> str:
        """Who the server takes us for."""
        return self.client.principal

    wait_state = _mirror(Client.wait_state)
    renew = _mirror(Client.renew)
    ping = _mirror(Client.ping)
    health = _mirror(Client.health)
    stats = _mirror(Client.stats)
    describe = _mirror(Client.describe)
    call = _mirror(Client.call)
    create_session = _mirror(Client.create_session)
    get_session = _mirror(Client.get_session)
    find_session = _mirror(Client.find_session)
    update_session = _mirror(Client.update_session)
    close_session = _mirror(Client.close_session)
    delete_session = _mirror(Client.delete_session)
    list_sessions = _mirror(Client.list_sessions)
    fork_session = _mirror(Client.fork_session)
    checkpoint_session = _mirror(Client.checkpoint_session)
    compact_session = _mirror(Client.compact_session)
    send_message = _mirror(Client.send_message)
    submit_message = _mirror(Client.submit_message)
    add_message = _mirror(Client.add_message)
    list_messages = _mirror(Client.list_messages)
    cancel_turn = _mirror(Client.cancel_turn)
    list_inputs = _mirror(Client.list_inputs)
    list_asks = _mirror(Client.list_asks)
    answer_ask = _mirror(Client.answer_ask)
    serve_tools = _mirror(Client.serve_tools)
    withdraw_input = _mirror(Client.withdraw_input)
    list_events = _mirror(Client.list_events)
    subscribe = _mirror(Client.subscribe)
    unsubscribe = _mirror(Client.unsubscribe)

    def stream_message(
        self,
        session_id: str,
        text: str,
        *,
        attachments: Sequence[Attachment] | None = None,
        when_busy: WhenBusy | None = None,
        key: str | None = None,
        cancel_on_exit: bool = False,
    ) -> SyncStream[Chunk]:
        """Say something with the first chunk that is asked for. See `Client.stream_message`."""
        stream: AbstractAsyncContextManager[MessageStream] = self.client.stream_message(
            session_id,
            text,
            attachments=attachments,
            when_busy=when_busy,
            key=key,
            cancel_on_exit=cancel_on_exit,
        )
        return SyncStream(self.bridge, stream)

    def events(
        self, session_id: str, *, after: str | None = None, tail: int | None = None
    ) -> SyncStream[Event]:
        """Follow a session. See `Client.events`."""
        stream: AbstractAsyncContextManager[EventStream] = self.client.events(
            session_id, after=after, tail=tail
        )
        return SyncStream(self.bridge, stream)

    def all_events(self) -> SyncStream[Event]:
        """Follow every followed session. See `Client.all_events`."""
        stream: AbstractAsyncContextManager[AllEvents] = self.client.all_events()
        return SyncStream(self.bridge, stream)

    @contextmanager
    def listening(self, callback: Callable[[Event], object]) -> Generator[None]:
        """Call back for each event, in the thread that runs Trio. See `Client.listening`."""
        context = self.client.listening(callback)
        self.bridge.run(_as_async(context.__enter__))
        try:
            yield
        finally:
            self.bridge.run(_as_async(partial(context.__exit__, None, None, None)))

    def iter_sessions(
        self, *, status: SessionStatus | None = None, page_size: int = 50
    ) -> Iterator[Session]:
        """Iterate over all our sessions. See `Client.iter_sessions`."""
        return self._iterate(self.client.iter_sessions(status=status, page_size=page_size))

    def iter_events(
        self, session_id: str, *, after: str | None = None, page_size: int = 200
    ) -> Iterator[Event]:
        """Iterate over a session's log. See `Client.iter_events`."""
        return self._iterate(self.client.iter_events(session_id, after=after, page_size=page_size))

    def iter_entries(self, session_id: str, *, page_size: int = 200) -> Iterator[Entry]:
        """Iterate over a session's log as a file has it. See `Client.iter_entries`."""
        return self._iterate(self.client.iter_entries(session_id, page_size=page_size))

    def _iterate(self, pages: Pages[T]) -> Iterator[T]:
        while True:
            try:
                item = self.bridge.run(pages.__anext__)
            except StopAsyncIteration:
                return
            yield item


def _as_async(function: Callable[[], R]) -> Callable[[], Awaitable[R]]:
    async def call() -> R:
        await trio.lowlevel.checkpoint()
        return function()

    return call


@contextmanager
def connect_sync(
    url: str,
    *,
    token: str | Credential | None = None,
    name: str = "trialogue",
    connect_seconds: float = 10.0,
    request_seconds: float = 30.0,
    tls: Any = None,
    reconnect: bool = True,
) -> Generator[SyncClient]:
    """Connect to a server from a program without Trio. See `connect`.

    `SyncClient.send_message` has no time limit: it waits for the turn, and for the server to come
    back. For a script that would rather fail there is ``reconnect=False``.
    """
    bridges: queue.SimpleQueue[Bridge | None] = queue.SimpleQueue()
    clients: queue.SimpleQueue[Client | None] = queue.SimpleQueue()
    scope = trio.CancelScope()

    async def serve() -> None:
        bridges.put(Bridge(trio.lowlevel.current_trio_token()))
        with scope:
            async with connect(
                url,
                token=token,
                name=name,
                connect_seconds=connect_seconds,
                request_seconds=request_seconds,
                tls=tls,
                reconnect=reconnect,
            ) as client:
                clients.put(client)
                await trio.sleep_forever()

    def ended(_: object) -> None:
        bridges.put(None)
        clients.put(None)

    with ThreadPoolExecutor(1, thread_name_prefix="trialogue client") as executor:
        future = executor.submit(trio.run, serve)
        future.add_done_callback(ended)
        bridge = bridges.get()
        try:
            client = None if bridge is None else clients.get()
            if client is not None and bridge is not None:
                yield SyncClient(client, bridge)
        finally:
            if bridge is not None:
                bridge.call_soon(partial(scope.cancel, reason="the block was left"))
        future.result()
