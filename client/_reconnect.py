"""Keeps one connection to a server up, and carries requests over from one to the next.

User code sees a connection that was never gone: commands carry an idempotency key and are sent
again under it, reads are simply repeated, and whoever calls meanwhile waits.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import attrs
import trio

from ..core.abc import ConnectOptions, Transport
from ..core.errors import (
    ConnectionLostError,
    RemoteProtocolError,
    RequestTimeoutError,
    ShuttingDownError,
    TrialogueError,
    WireError,
    error_from_wire,
)
from ..core.methods import Credential, Hello, HelloResult
from ._connection import NO_TRACE, Connection, LostError
from ._state import FINAL_ERRORS, Backoff, ConnectionState, StateMachine, Trigger

__all__ = ["Uplink", "same_error"]

log = logging.getLogger("trialogue.client")

T = TypeVar("T")

#: What a draining server refuses (§3.4): it waits for the next connection.
_NEW_WORK: Final = frozenset(
    {
        "message.add",
        "message.send",
        "message.stream",
        "session.checkpoint",
        "session.close",
        "session.create",
        "session.delete",
        "session.fork",
        "session.update",
    }
)


#: A connection that lived for less was no success: a server that welcomes us only to hang up is
#: not to be asked twice a second for ever.
STABLE_SECONDS: Final = 2.0


class Uplink:
    """The way to a server, over as many connections as it takes.

    Args:
        transport: Opens channels.
        url: Where to.
        options: For the channel; `connect_seconds` bounds each attempt up to the hello's answer.
        hello: The first request on each connection.
        reconnect: If not, the first connection is the only one.
        trace_context: See `connect`.
        rng: Draws the jitter of reconnection.

    Attributes:
        machine: The state, observable.
        current: The connection, if there is one.
        latest: The last one that there was.
        failure: Why there will never be another.
        on_event: Called with the payload of each event that names a session, and its size.
        on_lost: Called when a connection is over.
        on_over: Called when there will be no other.
    """

    def __init__(
        self,
        transport: Transport,
        url: str,
        *,
        options: ConnectOptions,
        hello: Hello,
        reconnect: bool,
        trace_context: Callable[[], Mapping[str, str]] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.url = url
        self.machine = StateMachine()
        self.current: Connection | None = None
        self.latest: Connection | None = None
        self.failure: Exception | None = None
        self._transport = transport
        self._options = options
        self._hello = hello
        self._reconnect = reconnect
        self._trace_context = trace_context
        self.on_event: Callable[[Mapping[str, Any], int], None] = lambda _payload, _size: None
        self.on_lost: Callable[[], None] = lambda: None
        self.on_over: Callable[[Exception], None] = lambda _failure: None
        self._backoff = Backoff(rng)
        self._welcomed_at = -math.inf
        self._retry_after: float | None = None
        self._holds: set[object] = set()

    # -- connections -----------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[Exception | None]) -> None:
        """Connect, and keep connected until cancelled, or until it cannot go on (`failure`).

        Reports None when connected, or what went wrong with the first attempt.
        """
        self.machine.move(Trigger.DIAL)
        try:
            while True:
                failure = await self._converse(task_status)
                if self.machine.is_over:
                    return
                state = self.machine.state
                if state is ConnectionState.CONNECTING:
                    is_final = isinstance(failure, FINAL_ERRORS)
                    self.machine.move(Trigger.REFUSED if is_final else Trigger.FAILED)
                    if isinstance(failure, (ConnectionLostError, RemoteProtocolError)):
                        failure = ConnectionError(f"{self.url}: {failure}")
                    failure = self._guess(failure)
                    self.failure = failure
                    task_status.started(failure)
                    return
                if not self._reconnect:
                    self.failure = failure
                    return
                if state is ConnectionState.CONNECTED:
                    self.machine.move(Trigger.LOST)
                else:
                    self.machine.move(Trigger.FAILED)
                if isinstance(failure, FINAL_ERRORS):
                    self.failure = failure
                    self.machine.move(Trigger.REFUSED)
                    log.warning("not connecting again", extra={"reason": str(failure)})
                    return
                await self._wait_before_next(failure)
        finally:
            self.leave()

    async def _converse(self, task_status: trio.TaskStatus[Exception | None]) -> Exception:
        """Make one connection, and use it to its end. Returns why it ended, or was none."""
        seconds = self._options.connect_seconds
        try:
            with trio.fail_after(seconds) as dialling:
                async with self._transport.open_channel(self.url, self._options) as channel:

                    def welcome(connection: Connection) -> None:
                        dialling.deadline = math.inf
                        if self._welcome(connection):
                            task_status.started(None)

                    connection = Connection(
                        channel,
                        self._hello,
                        on_welcome=welcome,
                        on_event=self._take_event,
                        on_idle=self._move_on,
                    )
                    try:
                        await connection.run()
                    finally:
                        self._lost(connection)
                assert connection.reason is not None
                return connection.reason
        except trio.TooSlowError:
            return TimeoutError(f"{self.url}: no answer in {seconds:g} s")
        except trio.BrokenResourceError as exc:
            return ConnectionError(f"{self.url}: the connection broke: {exc}")
        except (OSError, TrialogueError) as exc:
            return exc

    def _guess(self, failure: Exception) -> Exception:
        """Add what is the likely reason if somebody listens there, and no welcome came."""
        is_answer = isinstance(failure, OSError) and failure.errno is None
        if not is_answer or "certificate" in str(failure):
            return failure
        scheme = self.url.partition(":")[0]
        return type(failure)(f"{failure} (is it {scheme} that is spoken there?)")

    def _welcome(self, connection: Connection) -> bool:
        """Use a connection. Returns whether it is the first."""
        is_first = self.latest is None
        self._welcomed_at = trio.current_time()
        self.current = self.latest = connection
        self.machine.move(Trigger.WELCOMED)
        log.info("connected", extra={"url": self.url, "id": connection.welcome.connection_id})
        return is_first

    def _lost(self, connection: Connection) -> None:
        if self.current is connection:
            self.current = None
            if trio.current_time() >= self._welcomed_at + STABLE_SECONDS:
                self._backoff.reset()
            self.on_lost()
            log.info("disconnected", extra={"url": self.url, "reason": str(connection.reason)})

    async def _wait_before_next(self, failure: Exception) -> None:
        retry_after, self._retry_after = self._retry_after, None
        if isinstance(failure, WireError) and failure.retry_after_seconds is not None:
            retry_after = failure.retry_after_seconds
        await trio.sleep(self._backoff.next_delay(retry_after))

    def leave(self) -> None:
        """End for good: calls fail from now on. Cancel `run` next."""
        if self.machine.is_over:
            return
        if self.failure is None:
            self.failure = ConnectionLostError("the client was closed")
        if self.machine.state is not ConnectionState.DISCONNECTED:
            self.machine.move(Trigger.LEFT)
        self.machine.end()
        self.on_over(self.failure)

    async def wait_connection(self, *, even_draining: bool = False) -> Connection:
        """Wait for a connection that takes requests.

        Raises what ended this for good.
        """
        while True:
            if self.failure is not None:
                raise same_error(self.failure)
            connection = self.current
            if (
                connection is not None
                and not connection.is_over
                and (even_draining or not connection.is_draining)
            ):
                return connection
            await self.machine.wait_changed()

    async def renew(self, credential: Credential | None, seconds: float) -> HelloResult:
        """Show another credential on the connection that there is, and on those to come.

        Raises:
            WireError: It was refused; the one before is used again.
        """
        before = self._hello, self._options

        def welcome(result: HelloResult) -> None:
            if self.latest is not None:
                self.latest.welcome = result

        # Already now: if the connection is lost meanwhile, the next one begins with it.
        self._hello = attrs.evolve(self._hello, auth=credential)
        self._options = attrs.evolve(self._options, credential=credential)
        try:
            welcomed: HelloResult = await self.request(
                "hello", self._hello, result=HelloResult, seconds=seconds, on_result=welcome
            )
        except WireError:
            self._hello, self._options = before
            raise
        return welcomed

    # -- goaway ----------------------------------------------------------------------------

    def _take_event(self, payload: Mapping[str, Any], size: int) -> None:
        match payload:
            case {"sessionId": str()}:
                self.on_event(payload, size)
            case {"type": "goaway", "data": {} as data}:
                milliseconds = data.get("retryAfterMs")
                if isinstance(milliseconds, int):
                    self._retry_after = milliseconds / 1000
                if self.current is not None:
                    log.info("the server is going away", extra={"reason": data.get("reason")})
                    self._drain(self.current)
            case _:
                log.debug("an event of an unknown kind", extra={"event": payload.get("type")})

    def _drain(self, connection: Connection) -> None:
        """Send no new work here, and leave once our own requests are answered (§3.4)."""
        connection.is_draining = True
        self.machine.notify()
        self._move_on()

    def _move_on(self) -> None:
        connection = self.current
        if (
            connection is not None
            and connection.is_draining
            and connection.is_idle
            and not self._holds
        ):
            connection.end("the server is going away")

    def hold(self, reader: object) -> None:
        """Stay with a draining server for now: somebody reads what it is about to finish."""
        self._holds.add(reader)

    def release(self, reader: object) -> None:
        """Take back a `hold`, if there is one."""
        self._holds.discard(reader)
        self._move_on()

    # -- requests --------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        params: Any = None,
        *,
        result: type[T] | None = None,
        key: str | None = None,
        seconds: float = math.inf,
        is_repeatable: bool = True,
        gone_is_done: type[WireError] | None = None,
        on_result: Callable[[T], None] | None = None,
    ) -> Any:
        """Carry a request out, over several connections if need be.

        Args:
            method: Its name.
            params: See `build_request`.
            result: What to make of the answer; None gives the JSON value.
            key: Idempotency key, the same on each attempt.
            seconds: For all attempts together; the server is told what is left.
            is_repeatable: It may be sent again when the connection went before the answer came.
            gone_is_done: An error that means success, on a second attempt.
            on_result: See `Connection.request`.

        Raises:
            WireError: The server's answer; `RequestTimeoutError` when ``seconds`` are over.
            ConnectionLostError: It is not repeatable, or there will be no other connection.
        """
        deadline = trio.current_time() + seconds
        may_be_done = False
        trace = NO_TRACE if self._trace_context is None else self._trace_context()
        with trio.move_on_at(deadline):
            while True:
                connection = await self.wait_connection(even_draining=method not in _NEW_WORK)
                try:
                    return await connection.request(
                        method, params, result=result, key=key, deadline=deadline,
                        on_result=on_result, trace=trace,
                    )  # fmt: skip
                except LostError as exc:
                    may_be_done = may_be_done or exc.is_sent
                    if exc.is_sent and not (is_repeatable and self._reconnect):
                        raise ConnectionLostError(
                            f"{method}: the connection went before the answer came: {exc}"
                        ) from None
                except ShuttingDownError as exc:
                    if not self._reconnect:
                        raise
                    self._retry_after = self._retry_after or exc.retry_after_seconds
                    self._drain(connection)
                except WireError as exc:
                    if may_be_done and gone_is_done is not None and isinstance(exc, gone_is_done):
                        return None
                    raise
        raise RequestTimeoutError(f"{method}: no answer in {seconds:g} s")


def same_error(failure: Exception) -> Exception:
    """Make an exception like one that is raised elsewhere, with a traceback of its own."""
    if isinstance(failure, WireError):
        return error_from_wire(failure.to_wire())
    if isinstance(failure, TrialogueError) and not isinstance(failure, LostError):
        return type(failure)(str(failure))
    return ConnectionLostError(str(failure))
