"""What a client knows of a session that follows it as PROTOCOL §6 says, and only so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["Follower"]


class Follower:
    """Folds a session's events, and fails where the server has left a gap or told a thing twice.

    Attributes:
        position: The cursor to come back with; None before the first durable event.
        durable: Every durable event taken since the start, or since the last ``resync``.
        texts: Message id → what its deltas have said so far.
        messages: Message id → the message, of those that came whole or were completed.
        syncs: How many ``sync`` came.
    """

    def __init__(self, position: str | None = None) -> None:
        self.position = position
        self.durable: list[dict[str, Any]] = []
        self.texts: dict[str, str] = {}
        self.messages: dict[str, dict[str, Any]] = {}
        self.syncs = 0

    def take_all(self, events: Iterable[dict[str, Any]]) -> None:
        """Take events in the order in which they came."""
        for event in events:
            self.take(event)

    def take(self, event: dict[str, Any]) -> None:
        """Take the next event.

        Raises:
            AssertionError: It does not follow from the ones before.
        """
        data = event["data"]
        if "position" in event:
            self._advance(event)
        match event["type"]:
            case "message.started":
                self.texts[data["messageId"]] = ""
            case "message.delta":
                self._append(data["messageId"], data["offset"], data["delta"])
            case "message.completed":
                self._complete(data["message"])
            case "message.created":
                self.messages[data["message"]["id"]] = data["message"]
            case "resync":
                self.durable.clear()
                self.texts.clear()
                self.messages = {message["id"]: message for message in data["messages"]}
                self.position = data["position"]
            case "sync":
                self.syncs += 1
                assert self.position in (None, data["position"]), (
                    f"sync at {data['position']}, and not at {self.position}"
                )
                self.position = data["position"]
            case _:
                pass

    def _advance(self, event: dict[str, Any]) -> None:
        if self.position is not None:
            before = _seq(self.position)
            assert _seq(event["position"]) == before + 1, (
                f"{event['type']} at {event['position']} came after {self.position}"
            )
        self.position = event["position"]
        self.durable.append(event)

    def _append(self, message_id: str, offset: int, delta: str) -> None:
        text = self.texts.setdefault(message_id, "")
        assert offset <= len(text), f"a delta at {offset} of a message of which {len(text)} came"
        assert delta, "an empty delta"
        self.texts[message_id] = text[:offset] + delta  # code points, as Python counts

    def _complete(self, message: dict[str, Any]) -> None:
        self.messages[message["id"]] = message
        text = self.texts.pop(message["id"], "")
        assert message["content"].startswith(text), (
            f"the deltas said {text!r}, and the whole message is {message['content']!r}"
        )


def _seq(position: str) -> int:
    return int(position.partition("-")[2])
