"""The rows of the comparison that are a ratio: our CPU time a message over a peer's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from ._measure import Target
from ._measure_work import EventStreams, FanOut, Requests, Streams, Work
from ._peers import QUOTED

__all__ = ["QUICK", "RATIO_ROWS", "RatioRow"]

#: As `_agents` names it, which only the server imports.
TASK_METHOD: Final = "_bench.get"


@attrs.frozen(kw_only=True)
class RatioRow:
    """One row.

    Attributes:
        key: What ``--rows`` calls it: its number in the table of targets, and a letter.
        number: In that table.
        title: What is done.
        message: What is counted.
        must: The ratio that is wanted.
        aim: The ratio that is hoped for.
        store: Ours, without its folder.
        peer: What the ratio is to that is wanted.
        url: What ours serves beside what it always does.
        open_work: Makes it, for a target; ``scale`` is 1, or less for a quick look.
    """

    key: str
    number: int
    title: str
    message: str
    must: float
    aim: float | None
    store: str = "memory"
    peer: str = QUOTED
    url: str | None = None
    open_work: Callable[[Target, float], Work]


#: The scale of a quick look.
QUICK: Final = 0.1


def _requests(
    scheme: str, depth: int, method: str = "session.get"
) -> Callable[[Target, float], Work]:
    def open_work(target: Target, scale: float) -> Work:
        # About 20,000 requests: a second of the slowest.
        rounds = max(2, round(320 * scale / depth**0.5))
        return Requests(
            target, scheme=scheme, connections=64, depth=depth, rounds=rounds, method=method
        )

    return open_work


def _streams(manner: str, turns: int) -> Callable[[Target, float], Work]:
    def open_work(target: Target, scale: float) -> Work:
        return Streams(
            target,
            connections=100,
            manner=manner,
            tokens=200,
            turns=max(1, round(turns * scale)),
        )

    return open_work


def _event_streams(turns: int) -> Callable[[Target, float], Work]:
    def open_work(target: Target, scale: float) -> Work:
        return EventStreams(
            target,
            connections=100,
            manner="burst",
            tokens=200,
            turns=max(1, round(turns * scale)),
            scheme="http",
        )

    return open_work


def _fan_out(manner: str) -> Callable[[Target, float], Work]:
    def open_work(target: Target, scale: float) -> Work:
        return FanOut(target, subscribers=round(1000 * max(scale, 0.2)), events=50, manner=manner)

    return open_work


def _stream_rows(number: int, letter: str, store: str) -> RatioRow:
    manner, must, aim = {1: ("yield", 0.8, 0.6), 2: ("burst", 0.3, 0.11)}[number]
    said = {"yield": "yielding after each", "burst": "in bursts"}[manner]
    return RatioRow(
        key=f"{number}{letter}",
        number=number,
        title=f"stream, 100 sessions × 200 tokens, {said}, {store}",
        message="token",
        must=must,
        aim=aim,
        store=store,
        open_work=_streams(manner, 3),
    )


RATIO_ROWS: Final = (
    _stream_rows(1, "a", "memory"),
    _stream_rows(1, "b", "jsonl"),
    _stream_rows(2, "a", "memory"),
    _stream_rows(2, "b", "jsonl"),
    RatioRow(
        key="3",
        number=3,
        title="fan-out, 1 session, 1,000 subscribers",
        message="delivered event",
        must=0.8,
        aim=0.6,
        open_work=_fan_out("yield"),
    ),
    RatioRow(
        key="4a",
        number=4,
        title="session.get, 64 connections, depth 1, TCP",
        message="request",
        must=0.8,
        aim=0.5,
        open_work=_requests("tcp", 1),
    ),
    RatioRow(
        key="4b",
        number=4,
        title="session.get, 64 connections, depth 1, WebSocket",
        message="request",
        must=1.0,
        aim=0.55,
        open_work=_requests("ws", 1),
    ),
    RatioRow(
        key="5a",
        number=5,
        title="session.get, 64 connections, depth 8, TCP",
        message="request",
        must=0.5,
        aim=0.3,
        open_work=_requests("tcp", 8),
    ),
    RatioRow(
        key="5b",
        number=5,
        title="session.get, 64 connections, depth 8, WebSocket",
        message="request",
        must=0.8,
        aim=0.3,
        open_work=_requests("ws", 8),
    ),
    RatioRow(
        key="6a",
        number=6,
        title="a request with a task and a scope, depth 1, WebSocket",
        message="request",
        must=1.5,
        aim=0.9,
        open_work=_requests("ws", 1, TASK_METHOD),
    ),
    RatioRow(
        key="6b",
        number=6,
        title="a request with a task and a scope, depth 8, WebSocket",
        message="request",
        must=1.5,
        aim=0.9,
        open_work=_requests("ws", 8, TASK_METHOD),
    ),
    RatioRow(
        key="7",
        number=7,
        title="Server-Sent Events, 100 sessions × 200 tokens, in bursts",
        message="token",
        must=1.0,
        aim=0.2,
        peer="sse",
        url="http://127.0.0.1:0",
        open_work=_event_streams(3),
    ),
)
