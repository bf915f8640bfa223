"""Where a server's metrics are read: at its own HTTP transports, or on a port for nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from ..core import Server
from ..core.abc import Acceptor, Connection, Link, ListenOptions, Page
from ..core.plugins import find_transport

__all__ = ["METRICS_PATH", "open_pages"]

METRICS_PATH: Final = "/metrics"


class _Pages(Acceptor):
    """Shows pages, and takes no requests."""

    def __init__(self, server: Server, pages: Mapping[str, Callable[[], Page]]) -> None:
        self.flusher, self.settings, self._pages = server.flusher, server.settings, pages

    @property
    def pages(self) -> Mapping[str, Callable[[], Page]]:
        return self._pages

    def reserve(self, *, is_known: bool = False) -> bool:
        return False

    def release(self) -> None:
        raise AssertionError("nothing was reserved")

    def link(self, connection: Connection) -> Link:
        raise AssertionError("nothing was reserved")


@asynccontextmanager
async def open_pages(
    url: str,
    server: Server,
    pages: Mapping[str, Callable[[], Page]],
    *,
    allow_hosts: Collection[str] = (),
) -> AsyncGenerator[str]:
    """Show pages there as long as the block lasts, also while the server drains.

    Args:
        url: Of HTTP, to listen on.
        server: Whose settings hold.
        pages: Path → what makes its page. Anybody who reaches the port may see them.
        allow_hosts: Names by which requests may call it, beside its address.

    Returns:
        The URL with the real port.
    """
    options = ListenOptions(settings=server.settings, allow_hosts=allow_hosts)
    listener = await find_transport(url).open_listener(url, options)
    try:
        async with trio.open_nursery() as nursery:
            acceptor = _Pages(server, pages)
            await nursery.start(partial(listener.serve, acceptor, handler_nursery=nursery))
            yield listener.endpoint
            nursery.cancel_scope.cancel(reason="the pages are no longer shown")
    finally:
        with trio.move_on_after(1, shield=True):
            await listener.aclose()
