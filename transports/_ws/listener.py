"""A listener whose connections become WebSockets; what else they may become, others say."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Collection
from functools import partial
from logging import getLogger
from typing import Final

import trio

from ...core.abc import Acceptor, PeerInfo
from .._connection import run_connection
from .._handshake import (
    PATHS,
    Policy,
    RefusalError,
    Upgrade,
    accept_upgrade,
    check_upgrade,
    http_response,
)
from .._listener import REFUSAL_SECONDS, answer
from .._outbox import Spawn
from .._poller import Poller
from .._tcp import TcpAddress, TcpListener
from .._wire import SocketWire, Wire
from .channel import HeadTooLongError, read_head
from .connection import ServerConnection
from .polled import PolledUpgrade, PolledWebSocket
from .task import drive_websocket

__all__ = ["WebSocketListener"]

log: Final = getLogger("trialogue.transports")

HEAD_TOO_LONG: Final = http_response(431, "The head of the request is too long")


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
    #: Where a WebSocket may be asked for.
    paths: Collection[str] = PATHS
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
            try:
                head, early = await read_head(wire)
            except HeadTooLongError:
                with trio.move_on_after(REFUSAL_SECONDS):
                    await answer(wire, HEAD_TOO_LONG)
                return
        if self._is_other(head):
            await self._serve_other(wire, head + early, address, accept, spawn)
        else:
            await self._serve_upgrade(wire, head, early, address, accept, spawn)

    async def _serve_upgrade(
        self,
        wire: SocketWire,
        head: bytes,
        early: bytes,
        address: str,
        accept: Acceptor,
        spawn: Spawn,
    ) -> None:
        """Serve a WebSocket that is asked for, in this task."""
        try:
            upgrade = self._check(head, wire, address, accept)
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
        def take_head(head: bytes | None, early: bytes) -> None:
            if head is None:
                poller.remove(handshake)
                spawn(self._answer_refused, wire, HEAD_TOO_LONG, accept)
                return
            if self._is_other(head):
                poller.remove(handshake)
                spawn(self._run_other, wire, head + early, address, accept, spawn)
                return
            try:
                upgrade = self._check(head, wire, address, accept)
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

    def _is_other(self, head: bytes) -> bool:
        """Whether a request is for `_serve_other`."""
        return False

    async def _serve_other(
        self, wire: SocketWire, data: bytes, address: str, accept: Acceptor, spawn: Spawn
    ) -> None:
        """Serve a connection that begins with ``data``, which asks for no WebSocket."""
        raise NotImplementedError

    async def _run_other(
        self, wire: SocketWire, data: bytes, address: str, accept: Acceptor, spawn: Spawn
    ) -> None:
        """Do so in a task that nobody else looks after."""
        try:
            with self.boundary():
                await self._serve_other(wire, data, address, accept, spawn)
        finally:
            wire.close()
            accept.release()

    def _check(self, head: bytes, wire: SocketWire, address: str, accept: Acceptor) -> Upgrade:
        """Read a request's head.

        Raises:
            RefusalError: It is answered with that.
        """
        try:
            return check_upgrade(head, self._policy, wire.local_host, self.paths)
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
            tracestate=upgrade.tracestate,
        )
        return self.connection_class(wire, peer, accept, spawn)
