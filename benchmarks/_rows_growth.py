"""Row 10: what an event costs with many sessions, and in a long one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

from ._measure import Figure, Sample, Target, Window
from ._measure_sockets import EVENT, KIND, Client, Load, make_request, send
from ._measure_targets import Options, open_ours
from ._measure_work import Streams

__all__ = ["measure_length", "measure_sessions"]

_FEW: Final = 100
_MANY: Final = 10_000
_TOKENS: Final = 20
_LENGTH: Final = 1_000_000
#: At each end of the session.
_EVENTS: Final = 10_000


def measure_sessions(options: Options) -> tuple[Sequence[Figure], dict[str, Any]]:
    """Stream in few sessions at a time, and in many: as many tokens, each on its own connection."""
    many = max(10 * _FEW, round(_MANY * options.scale))
    few_samples: list[Sample] = []
    many_samples: list[Sample] = []
    with ExitStack() as stack:
        limit = ("--max-connections", str(many + _FEW))
        works = [
            Streams(
                stack.enter_context(open_ours(options, "memory", *limit)),
                connections=count,
                manner="yield",
                tokens=_TOKENS,
                turns=many // count,
            )
            for count in (_FEW, many)
        ]
        for work in works:
            stack.callback(work.close)
            work.accompany(works)
            work.run()
        for _ in range(min(options.rounds, 3)):
            for work, samples in zip(works, (few_samples, many_samples), strict=True):
                for each in works:
                    each.rest()
                samples.append(work.run())
    ratios = [
        b.microseconds / a.microseconds for a, b in zip(few_samples, many_samples, strict=True)
    ]
    figures = [
        Figure(name=f"ratio, {many:,} sessions over {_FEW}", values=ratios, must=1.15, aim=1.05),
        Figure(name=f"µs a token at {_FEW}", values=[s.microseconds for s in few_samples]),
        Figure(name=f"µs a token at {many:,}", values=[s.microseconds for s in many_samples]),
    ]
    details = {
        "few": [s.to_json() for s in few_samples],
        "many": [s.to_json() for s in many_samples],
    }
    return figures, details


def measure_length(options: Options) -> tuple[Sequence[Figure], dict[str, Any]]:
    """Emit durable events into sessions that are new, and into one that has a million.

    In turns: to count the million takes half a minute, in which a machine becomes another. New
    sessions are in a server of their own, which has nothing else in memory.
    """
    length = round(_LENGTH * options.scale)
    rounds = min(options.rounds, 5)
    first: list[float] = []
    last: list[float] = []
    with open_ours(options) as fresh, open_ours(options) as full:
        for target in (fresh, full):  # to warm up
            _emit_anew(target)
        client = _open(full)
        # By a hundred at a time, since nothing is measured yet.
        _emit(full, client, "emitBurst", length - rounds * _EVENTS)
        for _ in range(rounds):
            first.append(_emit_anew(fresh).microseconds)
            last.append(_emit(full, client, "emit", _EVENTS).microseconds)
        grown = full.process.resident_bytes() - fresh.process.resident_bytes()
        client.close()
    ratios = [b / a for a, b in zip(first, last, strict=True)]
    figures = [
        Figure(name=f"ratio, event {length:,} over the first", values=ratios, must=1.15, aim=1.05),
        Figure(name=f"µs an event of the first {_EVENTS:,}", values=first),
        Figure(name=f"µs an event of the last {_EVENTS:,}", values=last),
        Figure(name="bytes of memory an event", values=[grown / (length - rounds * _EVENTS)]),
    ]
    return figures, {}


def _emit_anew(target: Target) -> Sample:
    """Emit into a session that is new."""
    client = _open(target)
    sample = _emit(target, client, "emit", _EVENTS)
    client.close()
    return sample


def _open(target: Target) -> Client:
    client = Client(target.urls["ws"])
    client.open_session()
    client.call("session.subscribe", {"sessionId": client.session_id})
    return client


def _emit(target: Target, client: Client, manner: str, count: int) -> Sample:
    params = {"sessionId": client.session_id, "content": f"{manner} {count}"}
    request = client.frame(make_request("turn", "message.send", params))
    load = Load()
    load.add(client)
    ticks = 0
    is_over = False

    def on_frames(_: Client, payloads: Sequence[bytes]) -> None:
        nonlocal ticks, is_over
        for payload in payloads:
            if payload[KIND] == EVENT:
                ticks += b'"_tick"' in payload
                is_over = is_over or b'"turn.ended"' in payload

    window = Window(target.process)
    with window.open():
        send(client, request)
        load.run(on_frames, lambda: is_over)
    load.release()
    if ticks != count:
        raise RuntimeError(f"{ticks} of {count} events came")
    return window.sample(count)
