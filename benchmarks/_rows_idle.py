"""Row 8: what a connection costs that does nothing, and what it costs to accept it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ._measure import Figure, Target, Window
from ._measure_sockets import Client, Load
from ._measure_targets import Options, open_other, open_ours
from ._peers import PEERS, QUOTED

__all__ = ["measure"]

_CONNECTIONS: Final = 2000
#: Before the first reading, so that what is imported and allocated once is there.
_WARM_UP: Final = 20


def measure(options: Options) -> tuple[Sequence[Figure], dict[str, Any]]:
    """Measure the row."""
    count = max(200, round(_CONNECTIONS * options.scale))
    with open_ours(options) as target:
        accepted, alone, whole = _fill(target, count, with_sessions=True)
    figures = [
        Figure(name="KiB a connection with its session", values=[whole], must=32, aim=6),
        Figure(name="KiB a connection alone", values=[alone]),
        Figure(name="µs to accept", values=[accepted], must=150),
    ]
    peer = PEERS[QUOTED]
    if not peer.missing:
        with open_other(options, peer) as target:
            accepted, alone, _ = _fill(target, count, with_sessions=False)
        figures += [
            Figure(name="W: KiB a connection", values=[alone]),
            Figure(name="W: µs to accept", values=[accepted]),
        ]
    return figures, {"connections": count}


def _fill(target: Target, count: int, *, with_sessions: bool) -> tuple[float, float, float]:
    url = target.urls["ws"]
    load = Load()
    for _ in range(_WARM_UP):
        client = Client(url)
        if with_sessions:
            _follow(client)
        load.add(client)
    before = target.process.proportional_bytes()
    window = Window(target.process)
    with window.open():
        for _ in range(count):
            load.add(Client(url))
    alone = target.process.proportional_bytes()
    if with_sessions:
        for client in list(load.clients.values())[_WARM_UP:]:
            _follow(client)
            load.rest()
    whole = target.process.proportional_bytes()
    load.close()
    return (
        window.sample(count).microseconds,
        (alone - before) / count / 1024,
        (whole - before) / count / 1024,
    )


def _follow(client: Client) -> None:
    client.open_session()
    client.call("session.subscribe", {"sessionId": client.session_id})
