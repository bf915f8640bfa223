"""The pages of a server's health, for transports that have paths (PROTOCOL §12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import codec
from .abc import Page

if TYPE_CHECKING:
    from ._server import Server

__all__ = ["make_health_pages"]


def make_health_pages(server: Server) -> dict[str, Callable[[], Page]]:
    """Make ``/health``, and what an orchestrator asks: is it alive, is it to be sent anything.

    A server that lets in only whom it knows tells everybody else no more than its status.
    """

    def health() -> Page:
        known = codec.unstructure(server.health())
        shown = known if server.authenticate is None else {"status": known["status"]}
        return _page(shown, is_well=server.status != "draining")

    def live() -> Page:
        return _page({"status": "ok"}, is_well=True)

    def ready() -> Page:
        status = server.status
        return _page({"status": status}, is_well=status == "ok")

    return {"/health": health, "/health/live": live, "/health/ready": ready}


def _page(value: dict[str, Any], *, is_well: bool) -> Page:
    return Page(body=codec.encode_json(value), is_well=is_well)
