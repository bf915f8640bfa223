"""`run`: a whole server in one line of a script."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from typing import Any

import trio

from ._nursery import give_up_when, open_plain_nursery
from ._server import open_server
from .abc import Agent

__all__ = ["run"]


def run(
    agent: Agent | Mapping[str, Agent],
    *,
    transports: Sequence[str] = ("ws://127.0.0.1:8765",),
    **options: Any,
) -> None:
    """Serve until SIGINT or SIGTERM, then drain; a second signal ends turns at once.

    One that comes while agents still open what they hold gives that up.

    Prints ``listening URL`` for each transport once all of them are bound. Needs the main thread.

    Args:
        agent: An agent, or several by name, of which the first is the default.
        transports: URLs to listen on.
        options: As `open_server` takes them.

    Raises:
        SettingsError, OSError: As `open_server` does.
    """
    trio.run(_serve, agent, transports, options)


async def _serve(
    agent: Agent | Mapping[str, Agent], transports: Sequence[str], options: Mapping[str, Any]
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        stopped = trio.Event()

        async def wait_stop() -> None:
            await anext(signals)
            stopped.set()

        async with (
            open_plain_nursery() as nursery,
            give_up_when(stopped.wait, "a signal while it started") as (_, started),
        ):
            nursery.start_soon(wait_stop)
            async with open_server(agent, transports=transports, **options) as server:
                started()
                for endpoint in server.endpoints:
                    print(f"listening {endpoint}", flush=True)  # noqa: T201 - its only output
                await stopped.wait()
                async with trio.open_nursery() as draining:

                    async def end_at_once() -> None:
                        await anext(signals)
                        server.stop(at_once=True)
                        draining.cancel_scope.cancel(reason="a second signal")

                    draining.start_soon(end_at_once)
                    await server.drain()
                    draining.cancel_scope.cancel(reason="drained")
