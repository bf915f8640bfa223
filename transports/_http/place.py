"""A network connection of HTTP, as what its requests make links with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from ...core.abc import Acceptor, Connection, Link, Page, PeerInfo
from ...core.errors import OverloadedError
from .._handshake import read_bearer
from .._wire import SocketWire
from .request import HttpRequest

__all__ = ["HttpPlace", "Sockets"]


@attrs.define
class Sockets:
    """How many network connections a listener has, and may have.

    They are not what the server counts: that are requests, and WebSockets. But each takes a
    descriptor, and a browser keeps several.
    """

    limit: int
    count: int = 0


class HttpPlace(Acceptor):
    """The place of one network connection; and the group of its requests (see `Connection.group`).

    Args:
        sockets: The listener's.
        server: What answers.
        scheme: ``http`` or ``https``.
    """

    wire: SocketWire
    address: str

    def __init__(self, sockets: Sockets, server: Acceptor, scheme: str) -> None:
        self.flusher, self.settings = server.flusher, server.settings
        self._sockets = sockets
        self._server = server
        self._scheme = scheme
        self._is_upgraded = False

    @property
    def pages(self) -> Mapping[str, Callable[[], Page]]:
        """The server's."""
        return self._server.pages

    @property
    def local_host(self) -> str:
        """The address that the client has reached."""
        return self.wire.local_host

    def reserve(self, *, is_known: bool = False) -> bool:
        """Take a place among the sockets."""
        if self._sockets.count >= self._sockets.limit:
            return False
        self._sockets.count += 1
        return True

    def release(self) -> None:
        """Give back what was taken."""
        self._sockets.count -= 1
        if self._is_upgraded:
            self._server.release()

    def upgrade(self) -> bool:
        """Take a place of the server's, until `release`."""
        self._is_upgraded = self._server.reserve()
        return self._is_upgraded

    def take(self) -> None:
        """Take a place of the server's for a request, until `give_back`.

        Raises:
            OverloadedError: There is none.
        """
        if not self._server.reserve(is_known=True):
            raise OverloadedError("Too many connections", data={"retryAfterMs": 1000})

    def give_back(self) -> None:
        """Give the place of a request back."""
        self._server.release()

    def link(self, connection: Connection) -> Link:
        """See `Acceptor.link`."""
        return self._server.link(connection)

    def peer_of(self, request: HttpRequest) -> PeerInfo:
        """Say who asks."""
        return PeerInfo(
            transport=self._scheme,
            address=self.address,
            credential=read_bearer(request.header("authorization")),
            traceparent=request.header("traceparent"),
            tracestate=request.headers.joined("tracestate"),
        )
