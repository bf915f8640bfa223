"""What a campaign has met, and whether it has met enough."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

__all__ = ["find_missed", "require"]


def find_missed(
    hits: Counter[str], scale: int | Fraction, minimums: Mapping[str, int]
) -> dict[str, str]:
    """Name what a run has hit too seldom; see `require`."""
    # The fewer there are, the more do they vary: of a part of a run a quarter is enough, and
    # what is rare may not come at all.
    share = scale if scale >= 1 else Fraction(scale) / 4
    return {
        name: f"{hits[name]} of {math.floor(minimum * share)}"
        for name, minimum in minimums.items()
        if hits[name] < math.floor(minimum * share)
    }


def require(hits: Counter[str], scale: int | Fraction, minimums: Mapping[str, int]) -> None:
    """Check that a run has hit what it is there for: else it would pass by doing nothing.

    Args:
        hits: What it has hit.
        scale: How many ordinary runs it stands for.
        minimums: Of one ordinary run, about half of what it usually hits.
    """
    missed = find_missed(hits, scale, minimums)
    assert not missed, missed
