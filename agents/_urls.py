"""URLs of HTTP servers, as a command line or a configuration names them. Pure."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

__all__ = ["split_http_url"]


def split_http_url(url: str) -> SplitResult | None:
    """Take a URL apart, None if it is none of HTTP with a host, and a port if it names one."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # a wrong one is said here
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None
