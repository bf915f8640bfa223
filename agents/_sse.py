"""Server-sent events as they come in, in any pieces. Pure: no trio, no clock."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import attrs
import msgspec

from ..core._json import as_object, decode_any

__all__ = ["BadEventError", "EventDecoder", "ServerEvent"]

#: Of one event. A model's are a hundred bytes; a server that never ends one must not fill memory.
_MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


class BadEventError(ValueError):
    """What came is no event, or none that a provider sends. The message is safe to show."""


@attrs.frozen
class ServerEvent:
    """One event: its name, empty where it has none, and its data."""

    name: str
    data: str

    def read_object(self) -> dict[str, Any]:
        """Read its data. A pair of surrogates may be split over two events, so lone ones are kept.

        Raises:
            BadEventError: It is no JSON object.
        """
        try:
            found = as_object(decode_any(self.data))
        except (msgspec.MsgspecError, RecursionError):
            found = self._read_leniently()
        if found is None:
            raise BadEventError("an event is no JSON object")
        return found

    def _read_leniently(self) -> dict[str, Any] | None:
        if not _SURROGATE.search(self.data):
            return None
        try:
            return as_object(json.loads(self.data))
        except (ValueError, RecursionError):
            return None


class EventDecoder:
    """Makes events of bytes. The same ones, however they are cut.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, without ids and retry
    times: what a model says cannot be taken up again.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._after_return = False
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Take the next bytes, and give the events that are complete with them.

        Raises:
            BadEventError: They are no UTF-8, or an event is too large.
        """
        if self._after_return and data.startswith(b"\n"):
            data = data[1:]  # the other half of a line end
            self._after_return = False
        if not data:
            return []
        self._after_return = data.endswith(b"\r")
        self._size += len(data)
        if self._size > _MAX_EVENT_BYTES:
            raise BadEventError("an event is too large")
        first, *lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._line += first
        events: list[ServerEvent] = []
        for line in lines:
            try:
                self._take(self._line.decode(), events)
            except UnicodeDecodeError:
                raise BadEventError("an event is no UTF-8") from None
            self._line = bytearray(line)
        return events

    def _take(self, line: str, events: list[ServerEvent]) -> None:
        if not line:
            if self._data:
                events.append(ServerEvent(self._name, "\n".join(self._data)))
                self._data = []
            self._name, self._size = "", 0
            return
        field, _, value = line.partition(":")
        if field == "data":
            self._data.append(value.removeprefix(" "))
        elif field == "event":
            self._name = value.removeprefix(" ")
