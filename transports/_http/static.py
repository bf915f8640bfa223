"""The web chat: the files of `trialogue.web`, read once."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

import attrs

__all__ = ["SITE_HEADERS", "StaticFile", "load_site"]

_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
_INDEX: Final = "/index.html"

#: A page of ours runs what came with it, and talks to where it came from; nobody frames it.
SITE_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
}


@attrs.frozen
class StaticFile:
    """A file, and what it is."""

    body: bytes
    media_type: str


@cache
def load_site() -> dict[str, StaticFile]:
    """Give every file by its path; the index is at ``/``, too."""
    site: dict[str, StaticFile] = {}
    _collect(files("trialogue.web"), "", site)
    if _INDEX in site:
        site["/"] = site[_INDEX]
    return site


def _collect(folder: Traversable, path: str, site: dict[str, StaticFile]) -> None:
    for entry in folder.iterdir():
        name = f"{path}/{entry.name}"
        if entry.is_dir():
            _collect(entry, name, site)
            continue
        media_type = _MEDIA_TYPES.get("." + entry.name.rpartition(".")[2])
        if media_type is not None:
            site[name] = StaticFile(entry.read_bytes(), media_type)
