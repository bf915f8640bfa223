"""Sees that nothing is lost and nothing comes twice: one subscription's events, one by one. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Any

__all__ = ["Watch", "read_seq"]


class Watch:
    """What one subscriber has seen of one session. What is wrong with it is noted by name.

    ``eventsLost`` and ``eventsDoubled``: durable events, by their numbers. ``textLost`` and
    ``textDoubled``: code points of a message. ``resyncs``: how often the server gave up the
    cursor, which it said, and so nothing is lost unseen.

    Attributes:
        position: Of the last durable event.
        seq: Its number.
        offsets: Code points had of each message in progress.
    """

    __slots__ = ("_counts", "offsets", "position", "seq")

    def __init__(self, position: str, counts: Counter[str]) -> None:
        """``position``: where it begins. ``counts``: where to note."""
        self._counts = counts
        self.offsets: dict[str, int] = {}
        self._set(position)

    def _set(self, position: str) -> None:
        self.position = position
        self.seq = read_seq(position)

    def on_durable(self, position: str) -> bool:
        """Take a durable event; says whether it is new."""
        seq = read_seq(position)
        if seq <= self.seq:
            self._counts["eventsDoubled"] += 1
            return False
        if seq > self.seq + 1:
            self._counts["eventsLost"] += seq - self.seq - 1
        self.position, self.seq = position, seq
        return True

    def on_delta(self, message_id: str, offset: int, delta: str) -> None:
        """Take a piece of a message."""
        have = self.offsets.get(message_id, 0)
        if offset > have:
            self._counts["textLost"] += offset - have
        elif offset < have:
            self._counts["textDoubled"] += have - offset
        self.offsets[message_id] = offset + len(delta)

    def on_completed(self, message_id: str, content: str) -> None:
        """Take a message as a whole: what was streamed of it may be less, never more."""
        have = self.offsets.pop(message_id, 0)
        if have > len(content):
            self._counts["textDoubled"] += have - len(content)

    def on_resync(self, position: str) -> None:
        """Begin anew where the server says."""
        self._counts["resyncs"] += 1
        self.offsets.clear()
        self._set(position)

    def on_position(self, position: str) -> None:
        """Compare with where the server says that this is: all before it must have come."""
        if (lost := read_seq(position) - self.seq) > 0:
            self._counts["eventsLost"] += lost
            self._set(position)

    def cursor(self, session_id: str) -> dict[str, Any]:
        """Give the params that subscribe again where this stands."""
        return {"sessionId": session_id, "after": self.position, "partial": self.offsets}


def read_seq(position: str) -> int:
    """Take the number out of a position."""
    return int(position.rpartition("-")[2])
