"""How many sessions which node gives to which, so that all have as much to do. Pure: no trio, no clock.

All nodes know the same loads, or nearly so, and each carries out what is its own of what comes of
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

__all__ = ["Leveller", "Move", "level"]

#: Sessions begin to move where a node is so far from the mean, in sessions and as a part of it: it
#: is more than clients that come and go make of nodes that are even.
BEGIN_LEAST: Final = 4
BEGIN_PART: Final = 0.2
#: And go on until none is so far from it, so that what was begun is not begun again at once.
END_LEAST: Final = 1
END_PART: Final = 0.05


@attrs.frozen
class Move:
    """That one node gives so many sessions to another."""

    giver: str
    taker: str
    number: int


def level(loads: Mapping[str, int], most: int, *, is_under_way: bool) -> Sequence[Move]:
    """Say what makes nodes more even: nothing, if they are even enough.

    Args:
        loads: Of all nodes, by name.
        most: What one node gives or takes by this.
        is_under_way: It was not nothing when it was asked last.
    """
    low, more = divmod(sum(loads.values()), len(loads))
    mean = low + more / len(loads)
    least, part = (END_LEAST, END_PART) if is_under_way else (BEGIN_LEAST, BEGIN_PART)
    if all(abs(load - mean) <= max(least, part * mean) for load in loads.values()):
        return ()
    # Those that have most keep one more, where it does not come out even.
    ranked = sorted(loads, key=lambda name: (-loads[name], name))
    beyond = {name: loads[name] - low - (place < more) for place, name in enumerate(ranked)}
    rooms = {name: min(most, -beyond[name]) for name in reversed(ranked) if beyond[name] < 0}
    moves: list[Move] = []
    for giver in ranked:
        rest = min(most, beyond[giver])
        for taker, room in rooms.items():
            number = min(rest, room)
            if number > 0:
                moves.append(Move(giver, taker, number))
                rooms[taker] -= number
                rest -= number
    return moves


class Leveller:
    """Says what one node sees is to move, from time to time, and nothing as a rule.

    Args:
        most: As of `level`.
        seconds: For so long nodes have to be uneven before anything moves, and so much is between
            two moves: in that time all say what they have by then.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._is_under_way = False
        self._due: float | None = None

    def look(self, loads: Mapping[str, int], now: float) -> Sequence[Move]:
        """Say what is to move now."""
        is_due = self._due is not None and now >= self._due
        if self._is_under_way and not is_due:
            return ()
        moves = level(loads, self._most, is_under_way=self._is_under_way)
        if not moves:
            self._due, self._is_under_way = None, False
        elif self._due is None:
            self._due = now + self._seconds
        elif is_due:
            self._due, self._is_under_way = now + self._seconds, True
            return moves
        return ()
