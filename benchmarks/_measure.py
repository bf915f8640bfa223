"""One measurement: who is measured, what came out, and whether it may be believed."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, Final

import attrs

from ._process import MeasuredProcess

__all__ = ["Figure", "Sample", "Target", "Window", "quantile", "spread"]

#: Busier than this, whoever it is sets the pace.
BUSY: Final = 0.9


@attrs.frozen(kw_only=True)
class Target:
    """A server that is measured.

    Attributes:
        name: ``ours``, or the peer's.
        process: It.
        urls: By scheme.
    """

    name: str
    process: MeasuredProcess
    urls: dict[str, str]


@attrs.frozen(kw_only=True)
class Sample:
    """What one round of work cost.

    Attributes:
        count: Of messages, whatever the row counts.
        server_seconds: CPU time of the server.
        client_seconds: CPU time of this process.
        wall_seconds: How long it took.
        notes: More that is known of it.
    """

    count: int
    server_seconds: float
    client_seconds: float
    wall_seconds: float
    notes: dict[str, Any] = attrs.field(factory=dict)

    @property
    def microseconds(self) -> float:
        """Server CPU time a message."""
        return self.server_seconds / self.count * 1e6

    @property
    def is_bound_by_client(self) -> bool:
        """Whether this process set the pace: then the server could have batched more."""
        return (
            self.client_seconds >= BUSY * self.wall_seconds
            and self.server_seconds < BUSY * self.wall_seconds
        )

    def to_json(self) -> dict[str, Any]:
        """Give what the results keep."""
        return {
            "count": self.count,
            "serverUs": round(self.microseconds, 3),
            "serverBusy": round(self.server_seconds / self.wall_seconds, 3),
            "clientBusy": round(self.client_seconds / self.wall_seconds, 3),
            "wallSeconds": round(self.wall_seconds, 4),
            **self.notes,
        }


class Window:
    """What passes between entering and leaving `open`."""

    def __init__(self, process: MeasuredProcess) -> None:
        self._process = process
        self.server_seconds = self.client_seconds = self.wall_seconds = 0.0

    @contextmanager
    def open(self) -> Generator[None]:
        """Measure what is done inside; the server is to be at rest at both ends."""
        wall, client = time.perf_counter(), time.process_time()
        server = self._process.cpu_seconds()
        yield
        self.server_seconds = self._process.cpu_seconds() - server
        self.client_seconds = time.process_time() - client
        self.wall_seconds = time.perf_counter() - wall

    def sample(self, count: int, **notes: Any) -> Sample:
        """Say what it cost."""
        return Sample(
            count=count,
            server_seconds=self.server_seconds,
            client_seconds=self.client_seconds,
            wall_seconds=self.wall_seconds,
            notes=notes,
        )


def quantile(values: Sequence[float], share: float) -> float:
    """Give the value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Give the median with the least and the greatest."""
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


@attrs.frozen(kw_only=True)
class Figure:
    """A figure with its target, of a row that is no ratio to a peer.

    Attributes:
        name: With its unit.
        values: Of the rounds; their median counts.
        must: What is wanted at most; None where it is only said.
        aim: What is hoped for.
    """

    name: str
    values: Sequence[float]
    must: float | None = None
    aim: float | None = None

    @property
    def verdict(self) -> str:
        """Say whether the target is met."""
        value = median(self.values)
        if self.must is None:
            return ""
        if value > self.must:
            return "missed"
        return "aim" if self.aim is not None and value <= self.aim else "must"

    def to_json(self) -> dict[str, Any]:
        """Give what the results keep."""
        return {
            "name": self.name,
            **spread(self.values),
            "must": self.must,
            "aim": self.aim,
            "verdict": self.verdict,
        }
