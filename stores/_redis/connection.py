"""A connection to a Redis or Valkey engine, made again whenever it is lost.

The only module that knows coredis. What coredis calls a connection takes commands synchronously
and gives their answers in order, so one is enough for many tasks, and a task that is cancelled
leaves it well. Its clients and pools are not used: they start commands again by themselves, and
whether one was carried out has to be asked first.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias, cast

import anyio
import trio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from coredis import exceptions as errors
from coredis.connection import (
    BaseConnection,
    TCPConnection,
    TCPLocation,
    UnixDomainSocketConnection,
    UnixDomainSocketLocation,
)

from ...core._nursery import open_plain_nursery
from ...core.errors import SettingsError, StoreError, leaves
from .errors import AwayError, RefusedError
from .finding import Address, Finder
from .scripts import guard

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coredis.commands.request import CommandRequest

    from .settings import RedisSettings

__all__ = ["Ask", "Command", "Engine", "open_engine"]

log = logging.getLogger("trialogue.stores.redis")
# It logs a traceback for each try to connect; what there is to be said of that we say.
logging.getLogger("coredis").setLevel(logging.CRITICAL)

#: A command: its name and its arguments.
Command: TypeAlias = Sequence[Any]
#: Gives a command, and returns its answer.
Ask: TypeAlias = Callable[..., Awaitable[Any]]
Greet: TypeAlias = Callable[[Ask], Awaitable[None]]

#: An answer is waited for in so many steps.
STEPS: Final = 4
#: Between two tries to connect.
FIRST_SECONDS: Final = 0.05
LAST_SECONDS: Final = 1.0
_SILENCE: Final = "the engine does not answer"
#: What an engine answers that cannot take commands now, and may soon; coredis has no classes for
#: these.
_NOT_NOW: Final = (
    "BUSY ",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
)


class Engine:
    """An engine, while `open_engine` keeps a connection to it.

    Args:
        settings: Where it is.
        greet: Called with each new connection, with what asks on it, before anybody else may.
        blocks_seconds: How long a command may wait in the engine, by itself.

    Attributes:
        connects: How often it was connected.
        away_since: Since when it cannot be reached; None while it can.
        reason: Why not.
    """

    def __init__(
        self, settings: RedisSettings, greet: Greet, *, blocks_seconds: float = 0.0
    ) -> None:
        self.settings = settings
        self.connects = 0
        self.away_since: float | None = trio.current_time()
        self.reason = "not connected yet"
        self._greet = greet
        self._key_prefix = settings.key_prefix
        self._step_seconds = (settings.answer_seconds + blocks_seconds) / (STEPS + 1)
        self._step = 0
        #: Who waits for an answer, since which step.
        self._waiting: dict[trio.CancelScope, int] = {}
        self._connection: BaseConnection | None = None
        self._connected = trio.Event()
        self._tls = _make_tls(settings)
        self._login: dict[str, Any] = {
            "username": settings.username,
            "password": settings.password,
        }
        self._finder = Finder(settings, self._ask_at)

    async def ask(self, *command: Any) -> Any:
        """Give a command, and return its answer.

        Raises:
            AwayError: It was not answered.
            RefusedError: It was refused.
        """
        return _only(await self.ask_all([command]))

    async def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Give commands in one go, and return the answers: what `ask` would raise is among them."""
        connection = self._connection
        if connection is None:
            raise AwayError(self.reason)
        try:
            answers = await self._ask_on(connection, commands)
        except AwayError as exc:
            if connection is self._connection:
                # It may still do what it was told. Those who come after must not get its answers.
                self.disconnect(str(exc))
            raise
        for answer in answers:
            if isinstance(answer, _ElsewhereError) and connection is self._connection:
                self.disconnect(str(answer))
        return answers

    async def _ask_on(self, connection: BaseConnection, commands: Sequence[Command]) -> list[Any]:
        if self.settings.by_slot:
            commands = [guard(command, self._key_prefix) for command in commands]
        scope = trio.CancelScope()
        self._waiting[scope] = self._step
        answers: list[Any] | None = None
        try:
            with scope:
                if len(commands) > 1:
                    # Each request by itself would cost coredis's writer a turn of the event loop.
                    made = cast("list[CommandRequest[Any]]", [_Command(*each) for each in commands])
                    answers = list(await connection.create_request_batch(made))
                else:
                    (name, *arguments) = commands[0]
                    request = connection.create_request(name, *arguments, raise_exceptions=False)
                    answers = [await request]
        except errors.RedisError as exc:
            raise AwayError(f"the connection to the engine was lost: {exc}") from exc
        finally:
            del self._waiting[scope]
        if answers is None:
            raise AwayError(_SILENCE)
        return [_translate(answer) for answer in answers]

    async def count_steps(self) -> NoReturn:
        """Give up what has no answer in time, by steps that this process has made.

        By the clock alone a process that stood still would hear nothing of what was answered while
        it did, and give the connection up.
        """
        while True:
            await trio.sleep(self._step_seconds)
            self._step += 1
            for scope, since in list(self._waiting.items()):
                if self._step > since + STEPS:
                    scope.cancel(reason="the engine does not answer")

    def disconnect(self, reason: str) -> None:
        """Give the connection up, if there is one; another is made."""
        if self._connection is not None:
            self._lost(reason)
            self._connection.invalidate(reason)
            self._connection = None

    async def wait_connected(self) -> None:
        """Wait until it can be reached."""
        await self._connected.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep connected, until cancelled. Reports the first connection.

        Raises:
            AwayError: There was not even a first one, and there may be one soon.
            StoreError: Nor will there be.
        """
        pause = FIRST_SECONDS
        has_started = False

        def connected() -> None:
            nonlocal pause, has_started
            pause = FIRST_SECONDS
            if not has_started:
                has_started = True
                task_status.started()

        while True:
            failure: BaseException | None = None
            try:
                await self._connect(connected)
            except* (errors.RedisError, StoreError, OSError, trio.TooSlowError) as exc:
                failure = next(leaves(exc))
            reason = "the connection was lost" if failure is None else _explain(failure)
            if reason == _SILENCE and self._tls is not None:
                # One that speaks none waits for more of what it takes for a command.
                reason = f"{_SILENCE}, or does not speak TLS"
            if not has_started:
                kind = AwayError if failure is None or _is_away(failure) else StoreError
                raise kind(reason) from failure
            self._lost(reason)
            await trio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LAST_SECONDS)

    async def _connect(self, connected: Callable[[], None]) -> None:
        """Connect, and return when the connection is lost."""
        async with trio.open_nursery() as nursery:
            with trio.fail_after(self.settings.connect_seconds):
                connection = self._make(await self._finder.find())
            try:
                with trio.fail_after(self.settings.connect_seconds):
                    await nursery.start(connection.run)
                    if self.settings.by_slot:
                        # Who was said to have the slot may have it no more, or not yet.
                        await self._ask_one(connection, b"EXISTS", f"{self._key_prefix}:store")
                    await self._greet(partial(self._ask_one, connection))
            except BaseException:
                _discard(connection)
                nursery.cancel_scope.cancel(reason="no connection to the engine")
                raise
            self._connection = connection
            self.connects += 1
            self.away_since = None
            self._connected.set()
            connected()
        if self._connection is connection:
            self._connection = None

    async def _ask_one(self, connection: BaseConnection, *command: Any) -> Any:
        return _only(await self._ask_on(connection, [command]))

    def _lost(self, reason: str) -> None:
        if self.away_since is None:
            log.warning("the engine is away", extra={"reason": reason})
            self.away_since = trio.current_time()
            self._connected = trio.Event()
        self.reason = reason

    async def _ask_at(self, address: Address, *command: Any) -> Any:
        """Ask who knows where an engine is. Coredis's own clients leak where one is down."""
        # The others of a Redis Cluster have the engine's users, sentinels have their own.
        login = self._login if self.settings.by_slot else {}
        guide = TCPConnection(TCPLocation(*address), ssl_context=self._tls, **login)
        async with open_plain_nursery() as nursery:
            try:
                await nursery.start(guide.run)
                return await self._ask_one(guide, *command)
            except errors.RedisError as exc:
                raise AwayError(_explain(exc)) from exc
            finally:
                _discard(guide)
                nursery.cancel_scope.cancel(reason="it has answered")

    def _make(self, address: Address | None) -> BaseConnection:
        settings = self.settings
        options: dict[str, Any] = {
            **self._login,
            "connect_timeout": settings.connect_seconds,
            "db": settings.database,
            "client_name": "trialogue",
        }
        if address is None:
            assert settings.path is not None
            return UnixDomainSocketConnection(UnixDomainSocketLocation(settings.path), **options)
        return TCPConnection(
            TCPLocation(*address), socket_keepalive=True, ssl_context=self._tls, **options
        )


@asynccontextmanager
async def open_engine(
    settings: RedisSettings, greet: Greet, *, blocks_seconds: float = 0.0
) -> AsyncGenerator[Engine]:
    """Connect to an engine, and keep connected. See `Engine`.

    Raises:
        AwayError: It cannot be reached now; the message says why.
        StoreError: It refuses; likewise.
        SettingsError: Files for TLS cannot be used.
    """
    engine = Engine(settings, greet, blocks_seconds=blocks_seconds)
    async with open_plain_nursery() as nursery:
        nursery.start_soon(engine.count_steps)
        try:
            await nursery.start(engine.run)
            yield engine
        finally:
            nursery.cancel_scope.cancel(reason="the store is closed")


def _discard(connection: BaseConnection) -> None:
    """Close what coredis leaves open where it could not connect: the streams between its tasks."""
    for part in vars(connection).values():
        if isinstance(part, (MemoryObjectReceiveStream, MemoryObjectSendStream)):
            part.close()


def _make_tls(settings: RedisSettings) -> ssl.SSLContext | None:
    """Make what checks the engine's certificate: coredis's own looks at no name."""
    if not settings.is_tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key)
    except (OSError, ValueError) as exc:  # of a path that can be none
        said = getattr(exc, "strerror", None) or exc
        raise SettingsError(f"the files for TLS cannot be used: {said}") from exc
    return context


def _only(answers: list[Any]) -> Any:
    (answer,) = answers
    if isinstance(answer, Exception):
        raise answer
    return answer


class _Command:
    """What coredis's connection needs of one of several commands."""

    __slots__ = ("decode", "name", "serialized_arguments")

    def __init__(self, name: bytes, *arguments: Any) -> None:
        self.name = name
        self.serialized_arguments = arguments
        self.decode = False


class _ElsewhereError(AwayError):
    """Some other engine may take it: the address has to be looked up again."""


def _translate(answer: Any) -> Any:
    """Turn coredis's exceptions into ours, where an answer is one."""
    if not isinstance(answer, Exception):
        return answer
    said = str(answer)
    match answer:
        case errors.ReadOnlyError():
            return _ElsewhereError("the engine has become a replica")
        case errors.NoScriptError():
            # Somebody has removed our scripts. They come with each new connection.
            return _ElsewhereError("the engine has lost our scripts")
        case errors.MovedError():
            return _ElsewhereError("the slot is another engine's")
        case errors.ClusterDownError():
            return _ElsewhereError(f"the Redis Cluster is down: {_cut(said)}")
        case errors.AskError() | errors.TryAgainError():
            return AwayError("the slot is on its way to another engine")
        case errors.UnblockedError():
            return AwayError("the engine has ended the wait")
        case _:
            pass
    if isinstance(answer, (errors.ConnectionError, TimeoutError)) or said.startswith(_NOT_NOW):
        return AwayError(f"the engine answered nothing: {_cut(said)}")
    if said.startswith("command not allowed when used memory") or "OOM" in said:
        return RefusedError("the engine has no memory left", is_full=True)
    return RefusedError(_explain(answer))


def _is_away(exc: BaseException) -> bool:
    """Whether it may be gone by itself, so that to try again helps."""
    match exc:
        case errors.ConnectionError() if exc.__cause__ is not None:
            return _is_away(exc.__cause__)
        case BaseExceptionGroup():
            return _is_away(next(leaves(exc)))
        case ssl.SSLError():
            return False
        case AwayError() | errors.ConnectionError() | OSError() | trio.TooSlowError():
            return True
        case anyio.EndOfStream() | anyio.BrokenResourceError():
            return True
        case _:
            return False


def _explain(exc: BaseException) -> str:
    """Say what is wrong, for people; never with a password."""
    match exc:
        case errors.AuthenticationRequiredError():
            return "the engine wants a password"
        case errors.AuthenticationFailureError():
            return "the engine refuses the user or the password"
        case errors.AuthorizationError():
            return f"the engine's user may not do what the store needs: {_cut(str(exc))}"
        case errors.UnknownCommandError():
            return f"the engine is too old, or lacks a command: {_cut(str(exc))}"
        case errors.BusyLoadingError():
            return "the engine is still loading its data"
        case errors.InvalidResponse() | AssertionError():
            # It does not speak as one, or greets in a way that coredis does not expect.
            return "what answers there is no Redis engine"
        case errors.ConnectionError() if exc.__cause__ is not None:
            return _explain(exc.__cause__)
        case errors.ConnectionError() if str(exc).startswith("Unable to establish"):
            # Coredis says so without a cause where it was cancelled, and not that it was.
            return _SILENCE
        case ssl.SSLCertVerificationError():
            return f"the engine's certificate is not trusted: {exc.verify_message}"
        case ssl.SSLError():
            return "the engine does not speak TLS"
        case trio.TooSlowError() | TimeoutError():
            return _SILENCE
        case anyio.EndOfStream() | anyio.BrokenResourceError():
            return (
                "the engine closes the connection at once: it may want TLS, or a certificate, or be"
                " no Redis engine"
            )
        case BaseExceptionGroup():
            return _explain(next(leaves(exc)))
        case OSError():
            return f"the engine cannot be reached: {exc.strerror or exc}"
        case _:
            return _cut(str(exc)) or type(exc).__name__


def _cut(said: str) -> str:
    return " ".join(said[:200].split())
