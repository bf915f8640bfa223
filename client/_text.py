"""The text of a message in progress, put together from deltas (PROTOCOL §6.2). Pure.

Offsets count Unicode code points, as Python's strings do.
"""

from __future__ import annotations

import io

from ..core.models import MessageKind

__all__ = ["MessageText"]


class MessageText:
    """What is known of one message in progress.

    A text that was taken back in part is a new object, so that whoever noted a place in this one
    still finds what stood there.

    Attributes:
        length: In code points.
    """

    __slots__ = ("_buffer", "kind", "length", "message_id", "turn_id")

    def __init__(self, message_id: str, turn_id: str, kind: MessageKind = "text") -> None:
        self.message_id = message_id
        self.turn_id = turn_id
        self.kind: MessageKind = kind
        self.length = 0
        self._buffer = io.StringIO()

    def slice(self, start: int, end: int) -> str:
        """Give a part of the text."""
        self._buffer.seek(start)
        return self._buffer.read(end - start)

    def append(self, text: str) -> None:
        """Add to the end."""
        self._buffer.seek(self.length)
        self._buffer.write(text)
        self.length += len(text)

    def apply(self, offset: int, delta: str) -> MessageText | None:
        """Apply a delta whose offset is not beyond `length`.

        What we have already, sent again, changes nothing, even if it is less than we have: the
        rest of it will follow.

        Returns:
            None if the text is what it was, or longer. Otherwise the server took some of it back
            and went on differently: the new text, which begins as this one up to where it
            differs (`common`).
        """
        known = "" if offset == self.length else self.slice(offset, offset + len(delta))
        if delta.startswith(known):
            self.append(delta[len(known) :])
            return None
        other = MessageText(self.message_id, self.turn_id, self.kind)
        other.append(self.slice(0, offset) + delta)
        return other

    def common(self, other: MessageText) -> int:
        """Say how many code points both texts begin with."""
        low, high = 0, min(self.length, other.length)
        while low < high:
            middle = (low + high + 1) // 2
            if self.slice(low, middle) == other.slice(low, middle):
                low = middle
            else:
                high = middle - 1
        return low
