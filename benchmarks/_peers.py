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
        rows: The numbers of those that it can do; 3 needs a broadcast.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    rows: frozenset[int] = frozenset({1, 2, 4, 5, 6})

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
            rows=frozenset({1, 2, 3, 4, 5, 6}),
        ),
        Peer(
            name="picows",
            title="picows on asyncio + uvloop",
            packages=("picows", "uvloop"),
            modules=("picows", "uvloop"),
            rows=frozenset({1, 2, 3, 4, 5, 6}),
        ),
        Peer(
            name="aiohttp",
            title="aiohttp on asyncio + uvloop",
            packages=("aiohttp", "uvloop"),
            modules=("aiohttp", "uvloop"),
        ),
        Peer(
            name="starlette",
            title="starlette on uvicorn + uvloop, WebSocket",
            packages=("uvicorn", "starlette", "websockets", "uvloop"),
            modules=("uvicorn", "starlette", "websockets", "uvloop"),
        ),
        Peer(
            name="socketio",
            title="python-socketio on uvicorn + uvloop",
            packages=("python-socketio", "uvicorn", "websockets", "uvloop"),
            modules=("socketio", "uvicorn", "websockets", "uvloop"),
        ),
        Peer(
            name="trio_websocket",
            title="trio-websocket by itself",
            packages=("trio-websocket",),
            modules=("trio_websocket",),
        ),
        Peer(
            name="sse",
            title="starlette on uvicorn + uvloop, Server-Sent Events",
            packages=("uvicorn", "starlette", "uvloop"),
            modules=("uvicorn", "starlette", "uvloop"),
            rows=frozenset({1, 2, 7}),
        ),
    )
}


def open_peer(peer: Peer, cpu: int | None) -> AbstractContextManager[MeasuredProcess]:
    """Start a peer; see `open_process`."""
    module = f"trialogue.benchmarks._peers_{peer.name}"
    return open_process([sys.executable, "-m", module], cpu=cpu)
