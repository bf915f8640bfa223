"""What the commands have in common that talk to a server: how they run, end and fail."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Final, TypeAlias

import trio

from ..client import Client, connect
from ..core.errors import ConnectionLostError, SettingsError, TrialogueError, WireError, leaves
from ._command import option
from ._exits import EXIT_UNREACHABLE, CommandError
from ._signals import StopSignals, catch_stop_signals

__all__ = ["TlsCa", "Token", "Url", "open_client", "run_client_command"]

Url: TypeAlias = Annotated[str, option("The server, such as ws://127.0.0.1:8765.")]
Token: TypeAlias = Annotated[
    str | None,
    option("The credential. Better put it into TRIALOGUE_TOKEN.", metavar="TOKEN"),
]
TlsCa: TypeAlias = Annotated[
    str | None, option("Trust this authority for wss and tcps, a PEM file.", metavar="FILE")
]

TOKEN_VARIABLE: Final = "TRIALOGUE_TOKEN"
CONNECT_SECONDS: Final = 10.0


def run_client_command(command: Callable[[], Awaitable[int]]) -> int:
    """Run a command until it ends or is told to, and give its exit code.

    Raises:
        CommandError: It failed in a way that people can do something about.
    """
    with catch_stop_signals() as signals:
        try:
            return trio.run(_run_until_stopped, command, signals)
        except Exception as exc:
            raise _explain(exc) from exc


async def _run_until_stopped(command: Callable[[], Awaitable[int]], signals: StopSignals) -> int:
    codes: list[int] = []  # none, if it was stopped
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            received = await signals.wait(1)
            nursery.cancel_scope.cancel(reason=received.name)

        nursery.start_soon(stop)
        codes.append(await command())
        nursery.cancel_scope.cancel(reason="the command has ended")
    return codes[0] if codes else signals.exit_code


def _explain(exc: Exception) -> Exception:
    """Find what people should be told; what is no error of ours or the network's stays as it is."""
    causes = list(leaves(exc))
    if not all(isinstance(cause, (CommandError, TrialogueError, OSError)) for cause in causes):
        return exc
    # The first told the others to stop.
    match causes[0]:
        case CommandError() | SettingsError() | BrokenPipeError() as cause:
            return cause
        case WireError() as cause:
            return CommandError(f"{cause.message} ({cause.code})")
        case OSError() | ConnectionLostError() as cause:
            said = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
            return CommandError(said, EXIT_UNREACHABLE)
        case cause:
            return CommandError(str(cause))


@asynccontextmanager
async def open_client(
    url: str, *, token: str | None, tls_ca: str | None, environ: Mapping[str, str]
) -> AsyncGenerator[Client]:
    """Connect, with the credential that was given or stands in the environment."""
    if tls_ca is not None and not await trio.Path(tls_ca).is_file():
        raise SettingsError(f"--tls-ca: there is no file {tls_ca!r}")
    async with connect(
        url,
        token=token or environ.get(TOKEN_VARIABLE) or None,
        name="trialogue-cli",
        connect_seconds=CONNECT_SECONDS,
        tls=tls_ca,
    ) as client:
        yield client
