"""Row 11: from a cancel to the turn's terminal event, while a hundred other turns stream."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from typing import Any, Final

from ._measure import Figure, Target, quantile
from ._measure_sockets import KIND, RESPONSE, Client, Load, make_request, send
from ._measure_targets import Options, open_ours

__all__ = ["measure_jsonl", "measure_memory"]

#: The load of row 1.
_STREAMS: Final = 100
_TOKENS: Final = 200
#: Turns that are cancelled over and over, and how often in all.
_CANCELLED: Final = 10
_CANCELS: Final = 1000
#: Each is left to stream for up to so long.
_RUNNING_SECONDS: Final = 0.05
_ENDED: Final = b'"turn.ended"'


def measure_memory(options: Options) -> tuple[Sequence[Figure], dict[str, Any]]:
    """Measure the row on the memory store."""
    return _measure(options, "memory")


def measure_jsonl(options: Options) -> tuple[Sequence[Figure], dict[str, Any]]:
    """Measure the row on jsonl."""
    return _measure(options, "jsonl")


def _measure(options: Options, store: str) -> tuple[Sequence[Figure], dict[str, Any]]:
    cancels = max(50, round(_CANCELS * options.scale))
    with open_ours(options, store) as target:
        watcher = Client(target.urls["ws"])
        watcher.open_session()
        run = _Run(target, cancels)
        before = _count_tasks(watcher)
        run.run()
        after = _count_tasks(watcher)
        run.load.close()
    milliseconds = [1000 * latency for latency in run.latencies]
    figures = [
        Figure(name="ms, p99", values=[quantile(milliseconds, 0.99)], must=50),
        Figure(name="ms, median", values=[quantile(milliseconds, 0.5)]),
        Figure(name="ms, max", values=[max(milliseconds)]),
        Figure(name="tasks left", values=[after - before], must=0, aim=0),
    ]
    return figures, {"cancels": len(milliseconds), "streamed turns": run.streamed}


def _count_tasks(client: Client) -> int:
    """Ask the agent how many tasks the server has."""
    params = {"sessionId": client.session_id, "content": "tasks"}
    client.sock.sendall(client.frame(make_request("tasks", "message.stream", params)))
    tasks = None
    while True:
        for payload in client.wait_frames():
            if b'"_tasks"' in payload:
                tasks = json.loads(payload)["payload"]["data"]["tasks"]
            elif _ENDED in payload and tasks is not None:
                return int(tasks)


class _Run:
    """The load, and the turns that are cancelled within it.

    Attributes:
        latencies: Seconds from sending ``turn.cancel`` to receiving ``turn.ended``.
        streamed: How many turns of the load ended meanwhile.
    """

    def __init__(self, target: Target, cancels: int) -> None:
        self.latencies: list[float] = []
        self.streamed = 0
        self._wanted = cancels
        self._is_ending = False
        self.load = Load()
        for _ in range(_STREAMS + _CANCELLED):
            client = Client(target.urls["ws"])
            client.open_session()
            self.load.add(client)
        clients = list(self.load.clients.values())
        self._streams = clients[:_STREAMS]
        self._victims = clients[_STREAMS:]
        for client in self._streams:
            client.tag = self._stream(client, f"yield {_TOKENS}")
        for client in self._victims:
            cancel = make_request("cancel", "turn.cancel", {"sessionId": client.session_id})
            client.tag = _Victim(self._stream(client, "endless 0"), client.frame(cancel))
        self._running = 0

    def _stream(self, client: Client, content: str) -> bytes:
        params = {"sessionId": client.session_id, "content": content}
        return client.frame(make_request("turn", "message.stream", params))

    def run(self) -> None:
        """Cancel so often; returns when every turn has ended."""
        for client in self._streams:
            self._start(client, client.tag)
        for client in self._victims:
            self._start(client, client.tag.start)
        self.load.run(self._on_frames, self._is_over)

    def _start(self, client: Client, request: bytes) -> None:
        self._running += 1
        send(client, request)

    def _on_frames(self, client: Client, payloads: Sequence[bytes]) -> None:
        victim = client.tag if isinstance(client.tag, _Victim) else None
        for payload in payloads:
            if payload[KIND] == RESPONSE:
                if b'"success":true' not in payload:
                    raise RuntimeError(f"refused: {payload!r}")
            elif _ENDED in payload:
                self._ended(client, victim, payload)
            elif victim is not None and victim.cancel_at is None and b".delta" in payload:
                victim.cancel_at = time.monotonic() + random.uniform(0, _RUNNING_SECONDS)

    def _ended(self, client: Client, victim: _Victim | None, payload: bytes) -> None:
        self._running -= 1
        if victim is None:
            self.streamed += 1
            if not self._is_ending:
                self._start(client, client.tag)
            return
        if b'"outcome":"cancelled"' not in payload or victim.sent_at is None:
            raise RuntimeError(f"not cancelled: {payload!r}")
        self.latencies.append(time.monotonic() - victim.sent_at)
        victim.sent_at = victim.cancel_at = None
        self._is_ending = len(self.latencies) >= self._wanted
        if not self._is_ending:
            self._start(client, victim.start)

    def _is_over(self) -> bool:
        now = time.monotonic()
        for client in self._victims:
            victim: _Victim = client.tag
            if victim.sent_at is None and victim.cancel_at is not None and now >= victim.cancel_at:
                victim.sent_at = time.monotonic()
                send(client, victim.cancel)
        return not self._running


class _Victim:
    """A turn that is cancelled, and started again.

    Attributes:
        cancel_at: Known once it streams.
        sent_at: When its cancel was sent.
    """

    def __init__(self, start: bytes, cancel: bytes) -> None:
        self.start, self.cancel = start, cancel
        self.cancel_at: float | None = None
        self.sent_at: float | None = None
