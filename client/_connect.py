"""Connecting: a `Client` for as long as a block lasts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from ..core._nursery import open_plain_nursery
from ..core.methods import Credential
from ._client import Client

__all__ = ["connect"]


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | Credential | None = None,
    name: str = "trialogue",
    connect_seconds: float = 10.0,
    request_seconds: float = 30.0,
    tls: Any = None,
    reconnect: bool = True,
    trace_context: Callable[[], Mapping[str, str]] | None = None,
) -> AsyncGenerator[Client]:
    """Connect to a server, for as long as the block lasts.

    Args:
        url: ``ws://``, ``wss://``, ``http://``, ``https://``, ``tcp://``, ``tcps://``, ``unix:``,
            ``loopback://``, or whatever transports are installed.
        token: A bearer token; a `Credential` for another scheme.
        name: What the server's operator sees.
        connect_seconds: For each attempt to connect, hello included.
        request_seconds: What a call may take, reconnection included; `Client.send_message` has
            no such bound.
        tls: A file of CA certificates, or an ``ssl.SSLContext``; None trusts the system's.
        reconnect: Whether to come back when the connection is lost. The first attempt is the
            only one in any case.
        trace_context: Gives ``traceparent`` and ``tracestate`` (W3C) of what is going on where a
            call is made, for the server's spans to belong to; `trialogue.telemetry.tracing` has
            one for OpenTelemetry.

    Raises:
        SettingsError: The URL is of no use.
        OSError: Nobody is there, or not in time.
        UnauthorizedError, UnsupportedVersionError, ForbiddenError: The server will not have us.

    What the block raises leaves it as it was raised. Calls that other tasks still wait for are
    cancelled on the server, and raise `ConnectionLostError`.
    """
    client = Client(
        url,
        token=token,
        name=name,
        connect_seconds=connect_seconds,
        request_seconds=request_seconds,
        tls=tls,
        reconnect=reconnect,
        trace_context=trace_context,
    )
    async with open_plain_nursery() as nursery:
        try:
            refused = await nursery.start(client.run)
            if refused is not None:
                raise refused
            yield client
        finally:
            await client.aclose()
