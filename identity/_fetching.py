"""Fetches a small document over HTTPS, in a thread. The standard library is enough for that.

It follows no redirect, since what is trusted is the URL that was set, and asks no proxy.
"""

from __future__ import annotations

import ipaddress
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import urlsplit

from ..core.errors import SettingsError

__all__ = ["FETCH_SECONDS", "check_fetchable", "fetch"]

#: For all of it.
FETCH_SECONDS: Final = 5.0


def check_fetchable(url: str) -> None:
    """Check that what is fetched from a URL can be trusted.

    Raises:
        SettingsError: It is neither HTTPS nor of this machine.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        raise SettingsError(f"{url:.200} is no URL: {exc}") from exc
    if not host or parts.username is not None:
        raise SettingsError(f"{host or url:.200} is no URL of a server alone")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_here(host)):
        raise SettingsError(f"{url:.200} has to begin with https://, or anybody could answer")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def fetch(url: str, max_bytes: int) -> bytes:
    """Fetch a document.

    Raises:
        OSError: It cannot be had in time, or is larger.
    """
    until = time.monotonic() + FETCH_SECONDS
    parts = urlsplit(url)
    connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    content = b""
    try:
        with closing(connect(parts.hostname or "", parts.port, timeout=FETCH_SECONDS)) as peer:
            peer.request("GET", path, headers={"Accept": "application/json"})
            with peer.getresponse() as response:
                if response.status != 200:
                    raise OSError(f"it answered {response.status}")
                # Piece by piece, since the time-out is one for each.
                while piece := response.read1(64 * 1024):
                    content += piece
                    if len(content) > max_bytes:
                        raise OSError(f"it has more than {max_bytes} bytes")
                    if time.monotonic() > until:
                        raise TimeoutError(f"it was not there in {FETCH_SECONDS:g} s")
    except HTTPException as exc:
        raise OSError(f"it is no HTTP that was answered: {exc!r:.200}") from exc
    return content
