"""The peers: which there are, and how they are started. See `_peers_exchange` for what they do."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Final

import attrs

from ._process import MeasuredProcess, open_process

__all__ = ["PEERS", "QUOTED", "Peer", "open_peer"]


@attrs.frozen(kw_only=True)
class Peer:
    """A server of somebody else's.

    Attributes:
        name: What ``--peers`` calls it; its module is ``_peers_NAME``.
        title: What it is.
        packages: Those that it needs and whose versions count, by the names they are installed by.
        modules: By the names they are imported by.
        can_fan_out: It has what row 3 needs.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    can_fan_out: bool = False

    @property
    def missing(self) -> list[str]:
        """Name what is not installed."""
        return [name for name in self.modules if find_spec(name) is None]


#: The one that the targets are in terms of: W.
QUOTED: Final = "websockets"

PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer(
            name="websockets",
            title="websockets on asyncio + uvloop (W)",
            packages=("websockets", "uvloop"),
            modules=("websockets", "uvloop"),
            can_fan_out=True,
        ),
    )
}


def open_peer(peer: Peer, cpu: int | None) -> AbstractContextManager[MeasuredProcess]:
    """Start a peer; see `open_process`."""
    module = f"trialogue.benchmarks._peers_{peer.name}"
    return open_process([sys.executable, "-m", module], cpu=cpu)
