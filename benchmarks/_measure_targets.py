"""The servers of a comparison: ours, started as anybody starts it, and a peer."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final

import attrs

from ._measure import Target
from ._peers import Peer, open_peer
from ._process import open_server

__all__ = ["Options", "open_other", "open_ours"]

#: The rate limiter is on, and stops nobody.
_HIGH_RATE: Final = "1000000000/60s burst 1000000000"
#: See `_agents`.
_AGENT: Final = "trialogue.benchmarks._agents:agent"


@attrs.frozen(kw_only=True)
class Options:
    """How to measure.

    Attributes:
        scale: How much of the work to do.
        rounds: How often, after one to warm up.
        cpu: Where servers run; None leaves it to the system.
        serve: More arguments of ``trialogue serve``.
        urls: What it listens on: a WebSocket and a TCP URL.
    """

    scale: float = 1.0
    rounds: int = 5
    cpu: int | None = None
    serve: tuple[str, ...] = ()
    urls: tuple[str, ...] = ("ws://127.0.0.1:0", "tcp://127.0.0.1:0")


@contextmanager
def open_ours(
    options: Options, store: str = "memory", *serve: str, url: str | None = None
) -> Generator[Target]:
    """Start our server with a store, more arguments, and one more URL to listen on."""
    urls = options.urls if url is None else (*options.urls, url)
    with tempfile.TemporaryDirectory() as folder:
        where = "" if store == "memory" else f":{folder}/sessions"
        arguments = [_AGENT, "--store", f"{store}{where}", "--rate-limit", _HIGH_RATE]
        for each in urls:
            arguments += ["--transport", each]
        arguments += [*serve, *options.serve]
        opening = open_server(*arguments, cpu=options.cpu, endpoints=len(urls))
        with opening as process:
            yield Target(name="ours", process=process, urls=_by_scheme(process.endpoints))


@contextmanager
def open_other(options: Options, peer: Peer) -> Generator[Target]:
    """Start a peer."""
    with open_peer(peer, options.cpu) as process:
        yield Target(name=peer.name, process=process, urls=_by_scheme(process.endpoints))


def _by_scheme(urls: Sequence[str]) -> dict[str, str]:
    return {url.partition(":")[0]: url for url in urls}
