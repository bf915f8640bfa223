"""How often something took how long, in buckets. Pure: no trio, no clock."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

__all__ = ["BOUNDS", "Histogram"]

#: The upper bounds of the buckets, in seconds, from what a request costs to what a person waits for;
#: what took longer is in one more. The same for all, so that they can be put beside each other.
BOUNDS: Final[tuple[float, ...]] = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


class Histogram:
    """Counts of times, by fixed buckets: 0.2 µs each, and nothing grows.

    Attributes:
        counts: For each bound of `BOUNDS` what was above the one before it and not above it; and
            what was above the last.
        sum: Of all of them, in seconds.
    """

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def to_wire(self) -> dict[str, Any]:
        """Give it as ``server.stats`` has it, without the buckets that are empty."""
        bounds = [*(round(bound * 1000, 3) for bound in BOUNDS), None]
        buckets = zip(bounds, self.counts, strict=True)
        return {
            "count": self.count,
            "sumMs": round(self.sum * 1000, 3),
            "buckets": [[bound, count] for bound, count in buckets if count],
        }
