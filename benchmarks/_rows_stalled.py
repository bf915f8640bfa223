"""Row 9: clients that have stopped reading, beside some that read."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Final

from ._measure import Figure, Target, quantile
from ._measure_sockets import KIND, RESPONSE, Client, Load, make_request, send
from ._measure_targets import Options, open_ours

__all__ = ["measure"]

_HEALTHY: Final = 100
_STALLED: Final = 1000
#: One every so often, so many: two seconds.
_BEAT: Final = "beat 10 200"
_FLOOD: Final = "flood 25 8000"
#: What a stalled client's kernel takes; the server's takes more, and counts neither.
_RECEIVE_BYTES: Final = 4096
#: The outbox's high-water mark, and the one event that goes beyond it.
_OUTBOX_KIB: Final = 64 + 8
#: So that those who stopped stay: by default they would be let go after 5 s, or for silence.
_PATIENT: Final = ("--write-timeout-seconds", "600", "--heartbeat-seconds", "600")
_ENDED: Final = b'"turn.ended"'


def measure(options: Options) -> tuple[Sequence[Figure], dict[str, Any]]:
    """Measure the row."""
    stalled = max(100, round(_STALLED * options.scale))
    rounds = min(options.rounds, 3)
    with open_ours(options, "memory", *_PATIENT) as target:
        stage = _Stage(target)
        stage.beat()
        alone = [stage.beat() for _ in range(rounds)]
        grown = stage.stall(stalled)
        beside = [stage.beat() for _ in range(rounds)]
        stage.close()
    ratios = [b / a for a, b in zip(sorted(alone), sorted(beside), strict=True)]
    figures = [
        Figure(name="KiB grown a stalled reader", values=[grown / 1024], must=_OUTBOX_KIB),
        Figure(name="healthy p99 over undisturbed", values=ratios, must=1.2),
        Figure(name="ms, p99 undisturbed", values=[1000 * s for s in alone]),
        Figure(name="ms, p99 beside them", values=[1000 * s for s in beside]),
    ]
    return figures, {"stalled": stalled, "healthy": _HEALTHY}


class _Stage:
    def __init__(self, target: Target) -> None:
        self._target = target
        self._control = Client(target.urls["tcp"])
        self._control.open_session()
        self._params = {"sessionId": self._control.session_id}
        self._load = Load()
        for _ in range(_HEALTHY):
            client = Client(target.urls["ws"])
            client.call("session.subscribe", self._params)
            self._load.add(client)
        self._stalled: list[Client] = []

    def close(self) -> None:
        self._load.close()
        for client in (self._control, *self._stalled):
            client.close()

    def beat(self) -> float:
        """Give the 99th percentile of the seconds from an event to its readers."""
        latencies: list[int] = []

        def on_event(payload: bytes) -> None:
            now = time.monotonic_ns()
            if b'"_beat"' in payload:
                latencies.append(now - json.loads(payload)["payload"]["data"]["at"])

        self._tell(_BEAT, on_event)
        return quantile(latencies, 0.99) / 1e9

    def stall(self, count: int) -> float:
        """Open clients that do not read; give by how many bytes each the server has grown."""
        url = self._target.urls["ws"]
        for _ in range(count):
            client = Client(url, receive_bytes=_RECEIVE_BYTES)
            client.call("session.subscribe", self._params)
            self._stalled.append(client)
            self._load.rest()
        before = self._target.process.proportional_bytes()
        while self._control.call("server.stats", {})["cursorsBehind"] < count:
            self._tell(_FLOOD, None)
        # Once more, to see that it is over.
        self._tell(_FLOOD, None)
        return (self._target.process.proportional_bytes() - before) / count

    def _tell(self, content: str, on_event: Any) -> None:
        ended = 0

        def on_frames(_: Client, payloads: Sequence[bytes]) -> None:
            nonlocal ended
            for payload in payloads:
                if payload[KIND] == RESPONSE:
                    continue
                ended += _ENDED in payload
                if on_event is not None:
                    on_event(payload)

        request = make_request("turn", "message.send", {**self._params, "content": content})
        send(self._control, self._control.frame(request))
        self._load.run(on_frames, lambda: ended >= _HEALTHY)
        self._control.wait_frames()
