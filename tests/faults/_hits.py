"""What a campaign has met, and whether it has met enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

__all__ = ["find_missed", "require"]


def find_missed(hits: Counter[str], scale: int, minimums: Mapping[str, int]) -> dict[str, str]:
    """Name what a run has hit too seldom; see `require`."""
    return {
        name: f"{hits[name]} of {minimum * scale}"
        for name, minimum in minimums.items()
        if hits[name] < minimum * scale
    }


def require(hits: Counter[str], scale: int, minimums: Mapping[str, int]) -> None:
    """Check that a run has hit what it is there for: else it would pass by doing nothing.

    Args:
        hits: What it has hit.
        scale: How many ordinary runs it stands for.
        minimums: Of one ordinary run, about half of what it usually hits.
    """
    missed = find_missed(hits, scale, minimums)
    assert not missed, missed
