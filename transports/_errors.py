"""What goes wrong with an address, in words that a person understands."""

from __future__ import annotations

import errno
from typing import Final

__all__ = ["explain"]

#: The operating system's own words are for programmers.
_REASONS: Final = {
    errno.EADDRINUSE: "the address is in use; another program listens there",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "not permitted",
    errno.EPERM: "not permitted",
    errno.ECONNREFUSED: "nobody listens there",
    errno.ENOENT: "no such file or folder",
}


def explain(exc: OSError, url: str) -> OSError:
    """Make an error of the same kind whose text a person understands."""
    reason = _REASONS.get(exc.errno or 0) or exc.strerror or str(exc)
    return OSError(exc.errno or errno.EIO, f"{url}: {reason}")
