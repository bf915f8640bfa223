"""What a process that makes load notes, and how it tells: a line of JSON each half second.

Noting a value is one `append`. Values are rounded to 11 bits and counted when they are told, so
that neither this process nor the one that keeps the histograms has much to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

__all__ = ["METRICS", "Recorder", "Report", "write_line"]

#: What is measured, in µs, with what it says.
METRICS: Final = {
    "latency": "due to answered",
    "first": "due to first token",
    "gap": "token to token",
    "reconnect": "cut to caught up",
    "connect": "connecting",
    "loop": "a ping of its own",
    "late": "the generator's own delay",
}
#: A value is told to one part in a thousand.
_BITS: Final = 11


class Report(msgspec.Struct, forbid_unknown_fields=True):
    """What happened since the last one.

    Attributes:
        kind: ``ready`` once everybody is connected, ``end`` when nothing is to come any more,
            ``failed`` where it could not begin.
        at: Seconds from the beginning of the load.
        cpu_seconds: Of this process, in all.
        counts: What happened, and how often.
        errors: What was refused or broke, by code.
        values: Of each metric, each value in µs with its number.
        why: It failed.
        is_unreachable: It failed for want of a connection.
    """

    kind: Literal["ready", "tick", "end", "failed"] = "tick"
    at: float = 0.0
    cpu_seconds: float = 0.0
    counts: dict[str, int] = {}
    errors: dict[str, int] = {}
    values: dict[str, dict[int, int]] = {}
    why: str = ""
    is_unreachable: bool = False


def write_line(report: Report) -> bytes:
    """Write a report as a line."""
    return msgspec.json.encode(report) + b"\n"


class Recorder:
    """Notes what happens, until it is told.

    Attributes:
        counts: What happened, and how often.
        errors: What was refused or broke, by code.
        values: Of each metric, in seconds, in the order they came.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.values: dict[str, list[float]] = {name: [] for name in METRICS}

    def take(self, at: float, cpu_seconds: float) -> Report:
        """Give what happened since the last time."""
        report = Report(
            at=at,
            cpu_seconds=cpu_seconds,
            counts=dict(self.counts),
            errors=dict(self.errors),
            values={name: _count(values) for name, values in self.values.items() if values},
        )
        self.counts.clear()
        self.errors.clear()
        for values in self.values.values():
            values.clear()
        return report


def _count(values: Iterable[float]) -> dict[int, int]:
    counted: Counter[int] = Counter(int(value * 1e6) for value in values)
    rounded: Counter[int] = Counter()
    for value, count in counted.items():
        shift = max(0, value.bit_length() - _BITS)
        rounded[value >> shift << shift] += count
    return rounded
