"""``trialogue top``: what a server does, as it does it."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

import trio

from ..client import Client
from ..core.errors import SettingsError
from ..core.methods import Health
from ._client_command import TlsCa, Token, Url, open_client, run_client_command
from ._command import Environ, option
from ._exits import EXIT_OK
from ._load import COLUMNS, read_load
from ._screen import clean
from ._tables import open_display
from ._values import mask_url, parse_seconds

__all__ = ["top"]


def top(
    url: Url,
    /,
    *,
    interval: Annotated[
        str, option("How often it is asked: 500ms, 5s. [2s]", metavar="TIME")
    ] = "2s",
    count: Annotated[int | None, option("End after so many views.", metavar="COUNT")] = None,
    token: Token = None,
    tls_ca: TlsCa = None,
    environ: Environ,
) -> int:
    """Watch a server while it works, until Ctrl-C.

    The first view is of the time since its start, each other one of that since the view before.
    "half" and "99 %" say what so many took at most, as far as the server's buckets tell it. Where
    the output is no terminal the views are printed one behind the other.

    Exit codes: 0 ended; 1 refused; 2 wrongly asked; 3 no connection.
    """
    try:
        seconds = parse_seconds(interval)
    except ValueError as exc:
        raise SettingsError(f"--interval: {exc}") from None
    if not 0.1 <= seconds < float("inf"):
        raise SettingsError(f"--interval must be at least 100ms, not {interval}")
    if count is not None and count < 1:
        raise SettingsError(f"--count must be at least 1, not {count}")

    async def watch() -> int:
        async with open_client(url, token=token, tls_ca=tls_ca, environ=environ) as client:
            await _watch(client, mask_url(url), seconds, count)
        return EXIT_OK

    code = run_client_command(watch)
    # There is no other way to end it.
    return EXIT_OK if code == 128 + signal.SIGINT else code


async def _watch(client: Client, name: str, seconds: float, count: int | None) -> None:
    before: Mapping[str, Any] | None = None
    with open_display() as show:
        while count is None or count > 0:
            started_at = trio.current_time()
            health = await client.health()
            stats = await client.stats()
            load = read_load(stats, before)
            lines = [_write_head(name, health), "", *load.lines]
            rows = [tuple(map(clean, row)) for row in load.rows]
            show([clean(line) for line in lines], COLUMNS, rows)
            before = stats
            if count is not None:
                count -= 1
                if not count:
                    return
            await trio.sleep_until(started_at + seconds)


def _write_head(name: str, health: Health) -> str:
    up = timedelta(seconds=health.uptime_ms // 1000)
    return f"{name} · {health.status} · up {up} · {health.version}"
