"""Row 10: what an event costs with many sessions, and in a long one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

from ._measure import Figure, Sample, Target, Window
from ._measure_sockets import EVENT, KIND, Client, Load, make_request, send
from ._measure_targets import Options, open_other, open_ours
from ._measure_work import Streams
from ._peers import PEERS, QUOTED

__all__ = ["measure_length", "measure_sessions"]

_FEW: Final = 100
_MANY: Final = 10_000
_TOKENS: Final = 20
_LENGTH: Final = 1_000_000
#: At each end of the session.
_EVENTS: Final = 10_000


def measure_sessions(options: Options) -> tuple[Sequence[Figure], dict[str, Any]]:
    """Stream in few sessions at a time, and in many: as many tokens, each on its own connection.

    W does the same and keeps nothing of a session: its ratio is what so many sockets cost anyone.
    """
    many = max(10 * _FEW, round(_MANY * options.scale))
    limit = ("--max-connections", str(many + _FEW))
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    # One after the other: twice so many sockets are more than a process may have.
    for name, said, must, aim in (("ours", "", 1.15, 1.05), ("W", " of W", None, None)):
        with ExitStack() as stack:
            targets = [
                stack.enter_context(
                    open_ours(options, "memory", *limit)
                    if name == "ours"
                    else open_other(options, PEERS[QUOTED])
                )
                for _ in range(2)
            ]
            few_samples, many_samples = _stream_in_turns(options, targets, many)
        few_cost = [sample.microseconds for sample in few_samples]
        many_cost = [sample.microseconds for sample in many_samples]
        ratios = [b / a for a, b in zip(few_cost, many_cost, strict=True)]
        what = f"ratio{said}, {many:,} sessions over {_FEW}"
        figures += [
            Figure(name=what, values=ratios, must=must, aim=aim),
            Figure(name=f"µs a token{said} at {_FEW}", values=few_cost),
            Figure(name=f"µs a token{said} at {many:,}", values=many_cost),
        ]
        details[name] = {
            "few": [sample.to_json() for sample in few_samples],
            "many": [sample.to_json() for sample in many_samples],
        }
    return figures, details


def _stream_in_turns(
    options: Options, targets: Sequence[Target], many: int
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Stream in few sessions of one server and in many of the other, round by round."""
    with ExitStack() as stack:
        works = [
            Streams(target, connections=count, manner="yield", tokens=_TOKENS, turns=many // count)
            for target, count in zip(targets, (_FEW, many), strict=True)
        ]
        for work in works:
            stack.callback(work.close)
            work.accompany(works)
            work.run()
        samples: tuple[list[Sample], list[Sample]] = ([], [])
        for _ in range(min(options.rounds, 3)):
            for work, taken in zip(works, samples, strict=True):
                for each in works:
                    each.rest()
                taken.append(work.run())
    return samples


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
