"""What every call of a client goes through: its life, its state, and methods by their names."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, TypeVar

import trio

from ..core import plugins
from ..core.abc import ConnectOptions
from ..core.errors import LocalProtocolError
from ..core.methods import (
    METHODS,
    ClientInfo,
    Credential,
    Empty,
    Health,
    Hello,
    HelloResult,
    ServerInfo,
)
from ..core.models import JsonObject
from ._reconnect import Uplink, same_error
from ._sessions import FollowedSessions
from ._state import ConnectionState, StateChanges

__all__ = ["Caller", "new_key"]

T = TypeVar("T")

#: For what was posted last to leave, when the client does.
GOODBYE_SECONDS: Final = 1.0
#: What `Caller.call` leaves to the methods that keep the books.
_OURS: Final = frozenset(
    {"hello", "message.stream", "request.cancel", "session.subscribe", "session.unsubscribe"}
)
_READS: Final = frozenset(
    {
        "event.list",
        "input.list",
        "message.list",
        "server.describe",
        "server.health",
        "server.stats",
        "session.export",
        "session.get",
        "session.list",
    }
)


def new_key() -> str:
    """Make an idempotency key."""
    return uuid.uuid4().hex


class Caller:
    """Calls methods of one server, over as many connections as it takes."""

    def __init__(
        self,
        url: str,
        *,
        token: str | Credential | None = None,
        name: str = "trialogue",
        connect_seconds: float = 10.0,
        request_seconds: float = 30.0,
        tls: Any = None,
        reconnect: bool = True,
        trace_context: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        credential = _as_credential(token)
        self.request_seconds = request_seconds
        self._uplink = Uplink(
            plugins.find_transport(url),
            url,
            options=ConnectOptions(connect_seconds=connect_seconds, credential=credential, tls=tls),
            hello=Hello(client=ClientInfo(name=name, version=_version()), auth=credential),
            reconnect=reconnect,
            trace_context=trace_context,
        )
        self._sessions = FollowedSessions(self._uplink, self._spawn, request_seconds)
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None

    # -- its life --------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[Exception | None]) -> None:
        """Connect, and serve this client's calls until `aclose`. `connect` does both for you.

        Reports None when connected, or why the first attempt came to nothing.
        """
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                failure = await self._nursery.start(self._uplink.run)
                # Whoever cancels the program around us, its calls are still to be cancelled on
                # the server. What ends this is `aclose`, which is bounded.
                self._scope.shield = True
                task_status.started(failure)
                await trio.sleep_forever()

    def _spawn(self, task: Callable[[], Any]) -> None:
        """Run something that belongs to the client rather than to the call that began it."""
        assert self._nursery is not None
        self._nursery.start_soon(task)

    async def aclose(self) -> None:
        """Give up what is unanswered, tell the server, and disconnect; bounded to a second or two."""
        connection = self._uplink.current
        self._uplink.leave()
        if connection is not None:
            connection.abandon_all()
            with trio.move_on_after(GOODBYE_SECONDS, shield=True):
                await connection.flush()
        self._scope.cancel(reason="the client was closed")

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._uplink.url

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands: ``client.state == "connected"``."""
        return self._uplink.machine.state

    @property
    def is_draining(self) -> bool:
        """The server is going away: what is new waits for the next connection."""
        connection = self._uplink.current
        return connection is not None and connection.is_draining

    def state_changes(self) -> StateChanges:
        """Iterate over the state as it is now and each that follows: ``async for state in …``."""
        return self._uplink.machine.changes()

    async def wait_state(self, *states: ConnectionState | str) -> ConnectionState:
        """Wait until the state is one of these.

        Raises:
            ConnectionLostError: None of them will come. Or whatever error ended the client.
        """
        wanted = {ConnectionState(state) for state in states}
        await trio.lowlevel.checkpoint()
        while self.state not in wanted:
            if self._uplink.machine.is_over:
                assert self._uplink.failure is not None
                raise same_error(self._uplink.failure)
            await self._uplink.machine.wait_changed()
        return self.state

    # -- the server ------------------------------------------------------------------------

    @property
    def hello(self) -> HelloResult:
        """What the server said when it welcomed us last."""
        assert self._uplink.latest is not None
        return self._uplink.latest.welcome

    @property
    def server_info(self) -> ServerInfo:
        """The server's name and version."""
        return self.hello.server

    @property
    def limits(self) -> JsonObject:
        """The limits that hold for us, by their names in PROTOCOL §11."""
        return self.hello.limits

    @property
    def principal(self) -> str:
        """Who the server takes us for."""
        return self.hello.principal

    async def renew(self, token: str | Credential) -> HelloResult:
        """Show another credential of the same principal, before the one in use expires.

        The connection goes on, and those that follow begin with this one. See `hello.expires_at`.

        Raises:
            UnauthorizedError, ForbiddenError: It is not taken; the one in use stays.
        """
        return await self._uplink.renew(_as_credential(token), self.request_seconds)

    async def ping(self) -> float:
        """Ask for a sign of life, and give the seconds that it took."""
        connection = await self._uplink.wait_connection(even_draining=True)
        return await connection.ping()

    async def health(self) -> Health:
        """Ask how the server is."""
        return await self._read("server.health", Empty(), Health)

    async def stats(self) -> JsonObject:
        """Ask for the server's counters."""
        return await self._read("server.stats", Empty(), dict[str, Any])

    async def describe(self) -> JsonObject:
        """Ask for the server's agents, and the JSON Schema of every method and event."""
        return await self._read("server.describe", Empty(), dict[str, Any])

    async def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        is_repeatable: bool = False,
    ) -> Any:
        """Call a method by its name on the wire.

        For the server's own, ``_name``, for which there is no method here.

        Args:
            method: Its name.
            params: With the wire's names.
            key: Idempotency key.
            is_repeatable: It does no harm to carry it out twice. The protocol's methods are
                repeatable in any case.

        Returns:
            The answer as it came: a JSON value.

        Raises:
            ConnectionLostError: The connection went before the answer came, and it is not
                repeatable.
        """
        if method in _OURS:
            raise LocalProtocolError(f"{method} is not to be called by name")
        if key is None and method not in _READS:
            key = new_key()
        return await self._uplink.request(
            method,
            params,
            key=key,
            seconds=self.request_seconds,
            is_repeatable=is_repeatable or method in METHODS,
        )

    # -- requests --------------------------------------------------------------------------

    async def _read(self, method: str, params: Any, result: type[T]) -> T:
        answer: T = await self._uplink.request(
            method, params, result=result, seconds=self.request_seconds
        )
        return answer

    async def _command(
        self,
        method: str,
        params: Any,
        result: type[T],
        key: str | None,
        seconds: float | None = None,
        on_result: Callable[[T], None] | None = None,
    ) -> T:
        answer: T = await self._uplink.request(
            method,
            params,
            result=result,
            key=key or new_key(),
            seconds=self.request_seconds if seconds is None else seconds,
            on_result=on_result,
        )
        return answer


def _as_credential(token: str | Credential | None) -> Credential | None:
    return Credential(scheme="bearer", token=token) if isinstance(token, str) else token


@cache
def _version() -> str | None:
    try:
        return version("trialogue")
    except PackageNotFoundError:
        return None
