"""A server without a core: fakes of `Acceptor` and `Link`, and raw clients to put against it."""

import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import pytest
import trio

from tests.certificates import Certificates
from trialogue.core._flusher import Flusher
from trialogue.core.abc import (
    Acceptor,
    Channel,
    CloseReason,
    Connection,
    ConnectOptions,
    Frame,
    Link,
    Listener,
    ListenOptions,
)
from trialogue.core.plugins import find_transport
from trialogue.core.settings import Settings
from trialogue.transports.loopback import LoopbackListener, MemoryWire


class EchoLink(Link):
    """Answers every frame with itself, and remembers what it saw."""

    def __init__(self, acceptor: "FakeAcceptor", connection: Connection) -> None:
        self.acceptor = acceptor
        self.connection = connection
        self.fed: list[bytes] = []
        self.heard_count = 0
        self.oversize = False
        self.closed = trio.Event()
        self.close_count = 0

    @property
    def max_frame_bytes(self) -> int:
        return self.acceptor.settings.max_frame_bytes

    def feed(self, payload: bytes) -> bool:
        assert not self.closed.is_set(), "fed after close()"
        self.fed.append(payload)
        self.connection.post(Frame(payload))
        return True

    def heard(self) -> None:
        self.heard_count += 1

    def refuse_oversize(self) -> None:
        self.oversize = True
        self.connection.post(Frame(b'{"oversize":true}'))
        self.connection.close_soon(CloseReason.PROTOCOL_ERROR)

    def close(self) -> None:
        self.close_count += 1
        self.closed.set()


class HoldingLink(EchoLink):
    """Says no to every frame, until it is let go on."""

    def feed(self, payload: bytes) -> bool:
        super().feed(payload)
        return False

    def go_on(self) -> None:
        assert self.on_ready is not None
        self.on_ready()


class FakeAcceptor(Acceptor):
    def __init__(self, make_link: Callable[["FakeAcceptor", Connection], Link]) -> None:
        self.flusher = Flusher()
        self.settings = Settings()
        self.make_link = make_link
        self.places = 0
        self.max_places = 0
        self.links: list[EchoLink] = []
        self._arrived = trio.Event()
        self._released = trio.Event()

    def reserve(self, *, is_known: bool = False) -> bool:
        if self.places == self.settings.max_connections:
            return False
        self.places += 1
        self.max_places = max(self.max_places, self.places)
        return True

    def release(self) -> None:
        assert self.places > 0
        self.places -= 1
        self._released.set()

    def link(self, connection: Connection) -> Link:
        link = self.make_link(self, connection)
        assert isinstance(link, EchoLink)
        self.links.append(link)
        self._arrived.set()
        self._arrived = trio.Event()
        return link

    async def wait_link(self, number: int = 0) -> EchoLink:
        while len(self.links) <= number:
            await self._arrived.wait()
        return self.links[number]

    async def wait_empty(self) -> None:
        while self.places:
            self._released = trio.Event()
            await self._released.wait()


class Server:
    def __init__(self, listener: Listener, acceptor: FakeAcceptor, listening: trio.Nursery) -> None:
        self.listener = listener
        self.endpoint = listener.endpoint
        self.acceptor = acceptor
        self.listening = listening
        self.transport = find_transport(self.endpoint)
        self.client_options = ConnectOptions()

    def connect(self) -> AbstractAsyncContextManager[Channel]:
        """Connect with the transport's own channel."""
        return self.transport.open_channel(self.endpoint, self.client_options)

    async def open_raw(
        self,
    ) -> trio.SocketStream | trio.SSLStream[trio.SocketStream] | MemoryWire:
        """Connect with nothing but a byte stream."""
        parts = urlsplit(self.endpoint)
        if parts.scheme == "unix":
            return await trio.open_unix_socket(parts.path)
        if parts.scheme == "loopback":
            assert isinstance(self.listener, LoopbackListener)
            return self.listener.connect()
        assert parts.hostname is not None
        assert parts.port is not None
        stream = await trio.open_tcp_stream(parts.hostname, parts.port)
        if parts.scheme in {"tcps", "wss"}:
            context = self.client_options.tls
            assert isinstance(context, ssl.SSLContext)
            return trio.SSLStream(stream, context, server_hostname=parts.hostname)
        return stream


Serve = Callable[..., AbstractAsyncContextManager[Server]]


@asynccontextmanager
async def open_fake_server(
    url: str,
    *,
    link: Callable[[FakeAcceptor, Connection], Link] = EchoLink,
    seconds: float = 30,
    tls: object = None,
    client_tls: object = None,
    allow_origins: tuple[str, ...] = (),
    allow_hosts: tuple[str, ...] = (),
    **settings: float | str,
) -> AsyncGenerator[Server]:
    """Serve ``url`` with fakes behind it; all that is done meanwhile must be done in time."""
    acceptor = FakeAcceptor(link)
    acceptor.settings = Settings(**settings)  # type: ignore[arg-type]
    options = ListenOptions(
        settings=acceptor.settings,
        tls=tls,
        allow_origins=allow_origins,
        allow_hosts=allow_hosts,
    )
    with trio.fail_after(seconds):
        listener = await find_transport(url).open_listener(url, options)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(acceptor.flusher.run)
                async with trio.open_nursery() as handlers, trio.open_nursery() as listening:
                    await listening.start(
                        partial(listener.serve, acceptor, handler_nursery=handlers)
                    )
                    server = Server(listener, acceptor, listening)
                    server.client_options = ConnectOptions(tls=client_tls)
                    yield server
                    listening.cancel_scope.cancel()
                    handlers.cancel_scope.cancel()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await listener.aclose()
    assert acceptor.places == 0
    assert all(link.closed.is_set() for link in acceptor.links)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"), "127.0.0.1", "localhost")


@pytest.fixture
def serve() -> Serve:
    """`open_fake_server`, for tests that cannot import from here."""
    return open_fake_server
