"""Row 12: latency where requests do not wait for each other, at a share of what a server can do."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
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
    with ExitStack() as stack:
        targets = (
            stack.enter_context(open_ours(options)),
            stack.enter_context(open_other(options, PEERS[QUOTED])),
        )
        opened = [_Open(target, options.scale) for target in targets]
        for each in opened:
            stack.callback(each.close)
        for _ in range(options.rounds):
            for each, latencies in zip(opened, (ours, theirs), strict=True):
                for one in opened:
                    one.rest()
                latencies.append(1000 * each.run())
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    figures = [
        Figure(name="ratio of the p99", values=ratios, must=1.0),
        Figure(name="ms, p99, ours", values=ours),
        Figure(name="ms, p99, W", values=theirs),
        Figure(name="requests a second, ours", values=opened[0].rates),
        Figure(name="requests a second, W", values=opened[1].rates),
    ]
    return figures, {each.name: {"rates": [round(rate) for rate in each.rates]} for each in opened}


class _Open:
    """Requests that come when they come."""

    def __init__(self, target: Target, scale: float) -> None:
        self.name = target.name
        self.rates: list[float] = []
        self._seconds = max(0.5, _SECONDS * scale)
        self._work = Requests(
            target, scheme="ws", connections=_CONNECTIONS, depth=1, rounds=round(100 * scale) + 1
        )
        self._work.run()
        self._load = Load()
        for _ in range(_CONNECTIONS):
            client = Client(target.urls["ws"])
            client.open_session()
            self._load.add(client)
        self._clients = list(self._load.clients.values())

    def rest(self) -> None:
        self._work.rest()
        self._load.rest()

    def close(self) -> None:
        self._work.close()
        self._load.close()

    def run(self) -> float:
        """Give the 99th percentile of the seconds from when a request was due to its answer.

        What the server can do is measured right before, as the machine's speed moves within a
        minute by more than the 30 % that are left free; and by CPU time, not by the clock, as
        another process may have had its turn.
        """
        rate = _SHARE * 1e6 / median(self._work.run().microseconds for _ in range(3))
        self.rates.append(rate)
        count = round(rate * self._seconds)
        due: list[float] = []
        at = 0.0
        for _ in range(count):
            at += random.expovariate(rate)
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
