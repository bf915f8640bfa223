"""``ws://`` and ``wss://``: one JSON object a text message. The listener and the transport."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from logging import getLogger
from typing import Final

import attrs
import trio

from ..core.abc import (
    Acceptor,
    Channel,
    ConnectOptions,
    Listener,
    ListenOptions,
    PeerInfo,
    Transport,
)
from ..core.errors import SettingsError
from ._connection import run_connection
from ._handshake import (
    PATHS,
    Policy,
    RefusalError,
    Upgrade,
    accept_upgrade,
    check_upgrade,
    http_response,
)
from ._listener import REFUSAL_SECONDS, answer
from ._outbox import Spawn
from ._poller import Poller, wants_poller
from ._tcp import TcpAddress, TcpListener, bind_tcp, connect_tcp, join_host, parse_tcp_url
from ._tls import server_context
from ._wire import SocketWire, Wire
from ._wschannel import WebSocketChannel, read_head, shake_hands
from ._wsconnection import ServerConnection
from ._wspolled import PolledUpgrade, PolledWebSocket
from ._wstask import drive_websocket

__all__ = ["ServerConnection", "WebSocketListener", "WebSocketTransport", "transport"]

log: Final = getLogger("trialogue.transports")


class WebSocketListener(TcpListener):
    """WebSockets over TCP or TLS.

    Args:
        sock: Listening.
        address: What it is bound to.
        context: For TLS.
        policy: Which requests are let in.
        polls: Whether the poller reads.
    """

    refusal = http_response(503, "Too many connections", {"Retry-After": "1"})
    connection_class: type[ServerConnection] = ServerConnection

    def __init__(
        self,
        sock: socket.socket,
        address: TcpAddress,
        context: ssl.SSLContext | None,
        policy: Policy,
        *,
        polls: bool,
    ) -> None:
        super().__init__(sock, address, context, polls=polls)
        self._policy = policy

    async def _serve_wire(
        self, wire: SocketWire, address: str, accept: Acceptor, spawn: Spawn
    ) -> None:
        with trio.fail_after(accept.settings.connect_seconds):
            await wire.handshake()
            head, early = await read_head(wire)
            try:
                upgrade = self._check(head, wire, address)
            except RefusalError as refusal:
                with trio.move_on_after(REFUSAL_SECONDS):
                    await answer(wire, refusal.response)
                return
        connection = self._connect(wire, upgrade, address, accept, spawn)
        await run_connection(
            connection, partial(drive_websocket, connection, accept, upgrade, early)
        )

    def _poll_wire(
        self, wire: SocketWire, address: str, accept: Acceptor, spawn: Spawn, poller: Poller
    ) -> None:
        def take_head(head: bytes, early: bytes) -> None:
            try:
                upgrade = self._check(head, wire, address)
            except RefusalError as refusal:
                poller.remove(handshake)
                spawn(self._answer_refused, wire, refusal.response, accept)
                return
            connection = self._connect(wire, upgrade, address, accept, spawn)
            connection.raw(accept_upgrade(upgrade))
            polled = PolledWebSocket(poller, wire, connection, accept, spawn)
            polled.start(early)

        handshake = PolledUpgrade(poller, wire, accept, self.boundary, take_head)
        handshake.start()

    async def _answer_refused(self, wire: SocketWire, response: bytes, accept: Acceptor) -> None:
        try:
            with self.boundary(), trio.move_on_after(REFUSAL_SECONDS):
                await answer(wire, response)
        finally:
            wire.close()
            accept.release()

    def _check(self, head: bytes, wire: SocketWire, address: str) -> Upgrade:
        """Read a request's head.

        Raises:
            RefusalError: It is answered with that.
        """
        try:
            return check_upgrade(head, self._policy, wire.local_host)
        except RefusalError as refusal:
            log.info("%s refused: %s", address, refusal, extra={"endpoint": self.endpoint})
            raise

    def _connect(
        self, wire: Wire, upgrade: Upgrade, address: str, accept: Acceptor, spawn: Spawn
    ) -> ServerConnection:
        peer = PeerInfo(
            transport=self._address.scheme,
            address=address,
            credential=upgrade.credential,
            traceparent=upgrade.traceparent,
        )
        return self.connection_class(wire, peer, accept, spawn)


class WebSocketTransport(Transport):
    """WebSockets."""

    schemes = ("ws", "wss")
    listener_class: type[WebSocketListener] = WebSocketListener

    def check_url(self, url: str) -> None:
        """See `Transport.check_url`."""
        _parse(url)

    async def open_listener(self, url: str, options: ListenOptions) -> Listener:
        """Bind. See `Transport.open_listener`."""
        address = _parse(url)
        secure = address.scheme == "wss"
        context = server_context(options.tls, url) if secure else None
        polls = wants_poller(options.settings.driver, url)
        sock, address = await bind_tcp(address)
        policy = Policy(
            is_secure=secure,
            own_hosts=(address.host, sock.getsockname()[0]),
            allow_hosts=options.allow_hosts,
            allow_origins=options.allow_origins,
        )
        address = attrs.evolve(address, path="")
        return self.listener_class(sock, address, context, policy, polls=polls)

    @asynccontextmanager
    async def open_channel(self, url: str, options: ConnectOptions) -> AsyncGenerator[Channel]:
        """Connect. See `Transport.open_channel`."""
        secure = url.startswith("wss:")
        address = parse_tcp_url(url, default_port=443 if secure else 80)
        with trio.fail_after(options.connect_seconds):
            wire = await connect_tcp(address, encrypted=secure, tls=options.tls)
            try:
                host = join_host(address.host, address.port)
                early = await shake_hands(wire, host, address.path, options)
            except BaseException:
                wire.close()
                raise
        channel = WebSocketChannel(wire, early, max_frame_bytes=options.max_frame_bytes)
        try:
            yield channel
        finally:
            await channel.aclose()


def _parse(url: str) -> TcpAddress:
    """Read a URL to listen on."""
    address = parse_tcp_url(url)
    if address.path not in {"", *PATHS}:
        raise SettingsError(f"{url!r}: the path is / or /v1/ws, or left out")
    return address


transport = WebSocketTransport()
