"""The text of a message while it is written. Pure: no trio, no clock."""

from __future__ import annotations

import io
from typing import Final

from .codec import encode_json
from .models import MessageKind, MessageRole

__all__ = ["MAX_ESCAPED", "LiveMessage", "join_surrogates"]

#: JSON writes a character as six bytes at most (``\u0001``), so a shorter text needs no counting.
MAX_ESCAPED: Final = 6


def join_surrogates(carry: str, text: str) -> tuple[str, str]:
    """Make ``carry + text`` valid Unicode (PROTOCOL §6.2).

    A pair that was split across two writes is joined; a lone surrogate becomes U+FFFD.

    Returns:
        The text, and a high surrogate at its end that may yet find its other half.
    """
    text = carry + text
    carry = ""
    if text and "\ud800" <= text[-1] <= "\udbff":
        text, carry = text[:-1], text[-1]
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), carry


class LiveMessage:
    """A message in progress: its text so far, and how much of that readers were sent.

    Offsets count Unicode code points, as Python's strings do.

    Attributes:
        length: Of the text written.
        published: Of the text that up-to-date readers have.
        saved: Of the text that is in the log as partial text.
        max_bytes: How much the text may be as JSON.
        is_live: ``message.started`` was published and ``message.completed`` was not.
    """

    __slots__ = (
        "_append",
        "_buffer",
        "_carry",
        "_json_bytes",
        "_max_plain",
        "_prefix",
        "id",
        "is_live",
        "kind",
        "length",
        "max_bytes",
        "published",
        "role",
        "saved",
        "turn_id",
    )

    def __init__(
        self,
        session_id: str,
        message_id: str,
        turn_id: str,
        role: MessageRole = "assistant",
        kind: MessageKind = "text",
        *,
        max_bytes: int,
    ) -> None:
        self.id = message_id
        self.turn_id = turn_id
        self.role: MessageRole = role
        self.kind: MessageKind = kind
        self.max_bytes = max_bytes
        self.length = 0
        self.published = 0
        self.saved = 0
        self.is_live = False
        # A write costs 0.06 µs, a slice 0.14 µs even in two million characters; joining parts,
        # or adding to a str, would be quadratic.
        self._buffer = io.StringIO()
        self._append = self._buffer.write
        self._carry = ""
        self._json_bytes = 0
        #: Up to this length a text needs no counting.
        self._max_plain = max_bytes // MAX_ESCAPED
        self._prefix = (
            b'{"version":"1.0","type":"event","payload":{"sessionId":%b,"type":"message.delta",'
            b'"data":{"messageId":%b,"turnId":%b,"offset":'
            % (encode_json(session_id), encode_json(message_id), encode_json(turn_id))
        )

    def write_plain(self, text: str) -> bool:
        """Add to the text what needs no care. Returns False, and adds nothing, if it does."""
        length = self.length + len(text)
        if length > self._max_plain or self._carry or not text.isascii():
            return False
        self._append(text)
        self.length = length
        return True

    def fits(self, text: str) -> bool:
        """Say whether the text would still be ``max_bytes`` of JSON or fewer with ``text``."""
        if self.length + len(text) <= self._max_plain:
            return True
        if not self._json_bytes:
            self._json_bytes = len(encode_json(self.text()))
        return self._json_bytes + _json_length(text) <= self.max_bytes

    @property
    def max_json_bytes(self) -> int:
        """What the text has at most as JSON, without counting."""
        return self.length * MAX_ESCAPED + 2

    def write(self, text: str) -> None:
        """Add to the text."""
        if self._carry or not text.isascii():
            try:
                if self._carry:
                    raise UnicodeEncodeError("utf-8", "", 0, 0, "a surrogate waits")
                text.encode()
            except UnicodeEncodeError:
                text, self._carry = join_surrogates(self._carry, text)
        self._buffer.write(text)
        self.length += len(text)
        if self._json_bytes:
            self._json_bytes += _json_length(text)

    def finish(self) -> str:
        """End the text, and give it. A surrogate that still waits for its half is replaced."""
        if self._carry:
            self._carry = ""
            self._buffer.write("\ufffd")
            self.length += 1
        return self.text()

    def text(self) -> str:
        """Give the text so far."""
        return self._buffer.getvalue()

    def slice(self, start: int, end: int) -> str:
        """Give a part of the text, in O(its length)."""
        buffer = self._buffer
        buffer.seek(start)
        part = buffer.read(end - start)
        buffer.seek(0, io.SEEK_END)
        return part

    def delta_payload(self, start: int, end: int) -> bytes:
        """Make the ``message.delta`` that carries the text from ``start`` to ``end``."""
        return b'%b%d,"delta":%b}}}' % (self._prefix, start, encode_json(self.slice(start, end)))


def _json_length(text: str) -> int:
    try:
        return len(encode_json(text)) - 2
    except UnicodeEncodeError:
        return len(text) * MAX_ESCAPED
