"""Row 12: latency where requests do not wait for each other, at a share of what a server can do."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

from ._measure import Figure, Target, quantile
from ._measure_sockets import Client, Load, make_request, send
from ._measure_targets import Options, open_other, open_ours
from ._measure_work import Requests
from ._peers import PEERS, QUOTED

__all__ = ["measure"]

_SHARE: Final = 0.7
_SECONDS: Final = 3.0
_CONNECTIONS: Final = 64
#: Where a response's id stands.
_ID: Final = len('{"version":"1.0","type":"response","payload":{"id":')


def measure(options: Options) -> tuple[Sequence[Figure], dict[str, Any]]:
    """Measure the row: ``session.get`` over WebSocket."""
    ours: list[float] = []
    theirs: list[float] = []
    details: dict[str, Any] = {}
    with ExitStack() as stack:
        targets = (
            stack.enter_context(open_ours(options)),
            stack.enter_context(open_other(options, PEERS[QUOTED])),
        )
        opened = [_Open(target, options.scale) for target in targets]
        for each in opened:
            stack.callback(each.close)
            details[each.name] = {"rate": round(each.rate)}
        for _ in range(min(options.rounds, 3)):
            for each, latencies in zip(opened, (ours, theirs), strict=True):
                for one in opened:
                    one.rest()
                latencies.append(1000 * each.run())
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    figures = [
        Figure(name="ratio of the p99", values=ratios, must=1.0),
        Figure(name="ms, p99, ours", values=ours),
        Figure(name="ms, p99, W", values=theirs),
        Figure(name="requests a second, ours", values=[opened[0].rate]),
        Figure(name="requests a second, W", values=[opened[1].rate]),
    ]
    return figures, details


class _Open:
    """Requests that come when they come."""

    def __init__(self, target: Target, scale: float) -> None:
        self.name = target.name
        self._seconds = max(0.5, _SECONDS * scale)
        work = Requests(
            target, scheme="ws", connections=_CONNECTIONS, depth=1, rounds=round(100 * scale) + 1
        )
        work.run()
        # By CPU time and not by the clock: another process may have had its turn.
        self.rate = _SHARE * 1e6 / min(work.run().microseconds for _ in range(3))
        work.close()
        self._load = Load()
        for _ in range(_CONNECTIONS):
            client = Client(target.urls["ws"])
            client.open_session()
            self._load.add(client)
        self._clients = list(self._load.clients.values())

    def rest(self) -> None:
        self._load.rest()

    def close(self) -> None:
        self._load.close()

    def run(self) -> float:
        """Give the 99th percentile of the seconds from when a request was due to its answer."""
        count = round(self.rate * self._seconds)
        due: list[float] = []
        at = 0.0
        for _ in range(count):
            at += random.expovariate(self.rate)
            due.append(at)
        requests = self._prepare(count)
        latencies: list[float] = []
        sent = 0

        def on_frames(_: Client, payloads: Sequence[bytes]) -> None:
            now = time.perf_counter() - start
            for payload in payloads:
                if b'"success":true' not in payload:
                    raise RuntimeError(f"refused: {payload!r}")
                number = int(payload[_ID : payload.index(b",", _ID)])
                latencies.append(now - due[number])

        def send_due() -> bool:
            nonlocal sent
            now = time.perf_counter() - start
            while sent < count and due[sent] <= now:
                send(self._clients[sent % _CONNECTIONS], requests[sent])
                sent += 1
            return len(latencies) >= count

        start = time.perf_counter()
        self._load.run(on_frames, send_due, poll_seconds=0)
        return quantile(latencies, 0.99)

    def _prepare(self, count: int) -> list[bytes]:
        requests: list[bytes] = []
        for number in range(count):
            client = self._clients[number % _CONNECTIONS]
            params = {"sessionId": client.session_id}
            requests.append(client.frame(make_request(number, "session.get", params)))
        return requests
