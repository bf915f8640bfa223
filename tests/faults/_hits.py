"""What a campaign has met, and whether it has met enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

__all__ = ["require"]


def require(hits: Counter[str], scale: int, minimums: Mapping[str, int]) -> None:
    """Check that a run has hit what it is there for: else it would pass by doing nothing.

    Args:
        hits: What it has hit.
        scale: How many ordinary runs it stands for.
        minimums: Of one ordinary run, about half of what it usually hits.
    """
    missed = {
        name: f"{hits[name]} of {minimum * scale}"
        for name, minimum in minimums.items()
        if hits[name] < minimum * scale
    }
    assert not missed, missed
