"""How ``trialogue serve`` is watched: its settings ``metrics`` and ``traces``."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

from ..core import Server
from ..core._arguments import is_local
from ..core.abc import Tracer
from ..core.errors import SettingsError
from ..core.plugins import find_transport

__all__ = ["find_metrics", "find_tracer", "open_metrics"]

log = logging.getLogger("trialogue.serve")


def find_tracer(where: Any) -> AbstractAsyncContextManager[Tracer | None]:
    """Give what opens the tracer that the setting names.

    Raises:
        SettingsError: A library is missing.
    """
    if where == "off":
        return nullcontext()
    if find_spec("opentelemetry") is None:
        raise SettingsError("opentelemetry is missing: pip install 'trialogue[otel]'")
    from ..telemetry.tracing import open_tracer

    return open_tracer(where)


def find_metrics(where: str, *, asks: bool, worker: int | None = None) -> str | None:
    """Say where metrics are shown: nowhere, at the server's own transports, or at another URL.

    Args:
        where: The setting.
        asks: Clients are asked for a credential.
        worker: Its number, of a worker: it has the port that is so many above the one named. At an
            address that they share a scrape would see one of them, and the next another.

    Returns:
        None for nowhere, an empty URL for the server's own.

    Raises:
        SettingsError: A library is missing, or the address is none.
    """
    if where == "off" or (where == "auto" and (asks or worker is not None)):
        return None
    if find_spec("prometheus_client") is None:
        if where == "auto":
            return None
        raise SettingsError("prometheus_client is missing: pip install 'trialogue[metrics]'")
    if where in {"auto", "on"}:
        return ""
    host, _, port = where.rpartition(":")
    if worker and int(port):
        where = f"{host}:{int(port) + worker}"
    url = f"http://{where}"
    find_transport(url).check_url(url)
    return url


@asynccontextmanager
async def open_metrics(
    url: str | None, server: Server, allow_hosts: Collection[str]
) -> AsyncGenerator[None]:
    """Show a server's metrics where `find_metrics` has said."""
    if url is None:
        yield
        return
    from ..telemetry.pages import METRICS_PATH, open_pages
    from ..telemetry.prometheus import make_metrics_page

    page = make_metrics_page(server)
    if not url:
        server.pages[METRICS_PATH] = page
        yield
        return
    pages = {**server.pages, METRICS_PATH: page}
    async with open_pages(url, server, pages, allow_hosts=allow_hosts) as real:
        log.info("metrics at %s%s", real, METRICS_PATH)
        if not is_local(real):
            log.warning("metrics can be read from other machines", extra={"url": real})
        yield
