"""What must hold of every session's log, whatever happened to it (PROTOCOL §5, §6.8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ._agent import TurnRecord, join_text
from ._mirror import Event, ViolationError, seq_of

__all__ = ["Log", "check_agent_record", "check_log"]


@attrs.define
class Log:
    """What a log tells.

    Attributes:
        inputs: Input → how it ended: delivered, withdrawn, returned, or ``queued`` if it did not.
        turns: Turn → its outcome; ``running`` if it has not ended.
        turn_inputs: Turn → the input that started it.
        turn_messages: Turn → its assistant's messages, in order.
        contents: How often each user's content is there.
        asks: Ask → what opened it.
        closed_asks: Ask → its end.
        resumed: How often agents were called again.
        moved: The turns that another process went on with.
        is_only_waiting: The turn at its end waits for clients, or for its agent to be called again.
        ended: ``closed`` or ``expired``.
    """

    inputs: dict[str, str] = attrs.field(factory=dict)
    turns: dict[str, str] = attrs.field(factory=dict)
    turn_inputs: dict[str, str] = attrs.field(factory=dict)
    turn_messages: dict[str, list[dict[str, Any]]] = attrs.field(factory=dict)
    contents: dict[str, int] = attrs.field(factory=dict)
    queued_contents: dict[str, str] = attrs.field(factory=dict)
    tools: dict[str, str] = attrs.field(factory=dict)
    stop_reasons: dict[str, str | None] = attrs.field(factory=dict)
    asks: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    closed_asks: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    resumed: int = 0
    moved: set[str] = attrs.field(factory=set[str])
    is_only_waiting: bool = False
    ended: str | None = None


class _Checker:
    def __init__(self) -> None:
        self.log = Log()
        self.active: str | None = None
        self.open_messages: set[str] = set()
        self.seen_messages: set[str] = set()
        self.open_tools: set[str] = set()
        self.open_asks: set[str] = set()
        self.has_answer = False
        self.attempt = 1
        self.assigned: dict[str, str] = {}

    def require(self, condition: object, event: Event, what: str) -> None:
        if not condition:
            raise ViolationError(
                f"{event['sessionId']} {event['position']} {event['type']}: {what}"
            )

    def take(self, event: Event, following: list[Event]) -> None:
        kind, data = event["type"], event["data"]
        log = self.log
        self.has_answer = kind == "ask.closed" or (self.has_answer and kind.startswith("input."))
        self.require(log.ended is None, event, "after the session's last event")
        turn_id: str = data.get("turnId") or data.get("message", {}).get("turnId") or ""
        if kind == "input.queued":
            self.require(data["inputId"] not in log.inputs, event, "a second admission")
            log.inputs[data["inputId"]] = "queued"
            self.assigned[data["inputId"]] = data["turnId"]
            log.queued_contents[data["inputId"]] = data["content"]
        elif kind == "input.delivered":
            self.end_input(event, "delivered", new=True)
            then = [after["type"] for after in following]
            if data["as"] == "start":
                self.require(
                    then == ["turn.started", "message.created"], event, f"followed by {then}"
                )
            else:
                self.require(self.active == turn_id, event, "steered into a turn that is not there")
                self.require(then[:1] == ["message.created"], event, f"followed by {then}")
        elif kind in ("input.withdrawn", "input.returned"):
            self.end_input(event, kind.partition(".")[2], new=False)
        elif kind == "turn.started":
            self.require(self.active is None, event, "a turn is running")
            self.require(turn_id not in log.turns, event, "a second start")
            self.active = turn_id
            self.attempt = 1
            log.turns[turn_id] = "running"
            log.turn_inputs[turn_id] = data["inputId"]
            log.turn_messages[turn_id] = []
        elif kind == "turn.ended":
            self.require(self.active == turn_id, event, "of a turn that is not running")
            self.require(not self.open_messages, event, "with a message in progress")
            self.require(not self.open_tools, event, "with a tool running")
            self.require(not self.open_asks, event, "with an ask open")
            self.active = None
            log.turns[turn_id] = data["outcome"]
            log.stop_reasons[turn_id] = data.get("stopReason")
        elif kind == "message.created":
            self.new_message(event, data["message"]["id"])
            if data["message"]["role"] == "user":
                content = data["message"]["content"]
                log.contents[content] = log.contents.get(content, 0) + 1
        elif kind == "message.started":
            self.require(self.active == turn_id, event, "outside of its turn")
            self.new_message(event, data["messageId"])
            self.open_messages.add(data["messageId"])
        elif kind == "message.completed":
            message = data["message"]
            self.require(self.active == turn_id, event, "outside of its turn")
            self.require(message["id"] in self.open_messages, event, "not in progress")
            self.open_messages.discard(message["id"])
            log.turn_messages[turn_id].append(message)
        elif kind == "tool.called":
            self.require(self.active == turn_id, event, "outside of its turn")
            self.require(data["callId"] not in log.tools, event, "a second call")
            log.tools[data["callId"]] = "running"
            self.open_tools.add(data["callId"])
        elif kind == "tool.completed":
            self.require(self.active == turn_id, event, "outside of its turn")
            self.require(data["callId"] in self.open_tools, event, "not running")
            self.open_tools.discard(data["callId"])
            log.tools[data["callId"]] = data["status"]
        elif kind == "session.resumed":
            if self.active is not None:
                log.moved.add(self.active)
        elif kind == "turn.resumed":
            self.require(self.active == turn_id, event, "of a turn that is not running")
            self.require(not self.open_messages, event, "with a message in progress")
            self.attempt += 1
            self.require(data["attempt"] == self.attempt, event, f"after {self.attempt - 1}")
            log.resumed += 1
        elif kind == "ask.opened":
            self.require(self.active == turn_id, event, "outside of its turn")
            self.require(data["askId"] not in log.asks, event, "a second time")
            self.require(data.get("callId") in {None, *self.open_tools}, event, "of no call")
            log.asks[data["askId"]] = data
            self.open_asks.add(data["askId"])
        elif kind == "ask.closed":
            self.require(self.active == turn_id, event, "outside of its turn")
            self.require(data["askId"] in self.open_asks, event, "not open")
            self.require(
                (data["reason"] == "answered") == ("by" in data), event, "who has answered?"
            )
            self.open_asks.discard(data["askId"])
            log.closed_asks[data["askId"]] = data
        elif kind in ("session.closed", "session.expired"):
            self.require(self.active is None, event, "during a turn")
            left = [name for name, end in log.inputs.items() if end == "queued"]
            self.require(not left, event, f"with queued inputs {left}")
            log.ended = kind.partition(".")[2]

    @property
    def is_only_waiting(self) -> bool:
        """Whether the turn does nothing but wait for clients, or was just answered by one."""
        at_clients = {ask.get("callId") for ask in self.log.asks.values() if ask["kind"] == "tool"}
        return (
            bool(self.open_asks or self.has_answer)
            and not self.open_messages
            and self.open_tools <= at_clients
        )

    def new_message(self, event: Event, message_id: str) -> None:
        self.require(message_id not in self.seen_messages, event, "an id that was used")
        self.seen_messages.add(message_id)

    def end_input(self, event: Event, how: str, *, new: bool) -> None:
        input_id = event["data"]["inputId"]
        known = self.log.inputs.get(input_id)
        self.require(known == "queued" or (new and known is None), event, f"was {known} already")
        self.log.inputs[input_id] = how


def check_log(events: list[Event]) -> Log:
    """Check a whole log.

    Raises:
        ViolationError: It breaks a rule.
    """
    checker = _Checker()
    for index, event in enumerate(events):
        if seq_of(event["position"]) != index + 1:
            raise ViolationError(f"{event['position']} is the event number {index + 1}")
        if (event["type"] == "session.created") != (index == 0):
            raise ViolationError(f"{event['type']} at {event['position']}")
        checker.take(event, events[index + 1 : index + 3])
    checker.log.is_only_waiting = checker.is_only_waiting
    return checker.log


def check_agent_record(log: Log, records: Mapping[str, TurnRecord]) -> None:
    """Compare what the log has of each turn with what its agent remembers."""
    for turn_id in log.turns:
        if log.stop_reasons.get(turn_id) == "restart":
            continue  # its text went with the log that failed
        record = records.get(turn_id)
        if record is not None and record.is_resumed:
            continue  # what it did before was lost with the log, or it was not
        has = [(m.get("kind", "text"), m["content"]) for m in log.turn_messages[turn_id]]
        if record is None:
            if has:
                raise ViolationError(f"{turn_id} has text and its agent was never called")
            continue
        wrote = [(kind, join_text(parts)) for kind, parts in record.messages]
        if turn_id in log.moved:
            # What an agent writes whose process has lost the turn is nowhere.
            wrote = wrote[: len(has)]
        if has != wrote:
            raise ViolationError(f"{turn_id} has {has!r} where its agent wrote {wrote!r}")
        for ask_id, closed in log.closed_asks.items():
            opened = log.asks[ask_id]
            answer = record.asks.get(opened.get("key", ""))
            if answer is not None and (answer.value, answer.by, answer.reason) != (
                closed.get("answer"),
                closed.get("by"),
                closed["reason"],
            ):
                raise ViolationError(f"{turn_id} was given {answer} where the log has {closed}")
        for call_id in record.tools:
            if call_id not in log.tools and turn_id in log.moved:
                continue  # likewise
            if log.tools.get(call_id, "absent") in ("absent", "running"):
                raise ViolationError(f"{turn_id}: the call {call_id} is {log.tools.get(call_id)}")
