"""One session as one client has it, through all its connections. It trusts nothing.

Fed with every event that a client receives, it checks what PROTOCOL §6 promises of them and raises
`ViolationError` at the first that breaks a promise. What it has at the end is compared with the log.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, NoReturn, TypeAlias

import attrs

__all__ = ["Event", "Mirror", "ViolationError", "seq_of"]

#: An event's payload: ``{sessionId, position?, type, data}``.
Event: TypeAlias = dict[str, Any]

#: Beyond any text: a client that says it has so much of a message is sent it from the start.
BEYOND = 10**9


class ViolationError(AssertionError):
    """A promise of the protocol was broken."""


def seq_of(position: str) -> int:
    """Give the seq of a position."""
    return int(position.partition("-")[2])


@attrs.frozen
class Claim:
    """What a client says it has, in a ``session.subscribe`` that is not answered yet.

    Attributes:
        base, position, events, texts, announced, is_loose: What it has.
        is_bogus: It names a position that is none of the log's: a resync has to follow.
    """

    params: dict[str, Any]
    base: int
    position: str
    events: list[Event]
    texts: dict[str, str]
    announced: set[str]
    is_loose: bool
    is_bogus: bool = False


class Mirror:
    """A client's copy of one session.

    Args:
        session_id: Events of others are refused.
        hits: Counted up with what was met.
        is_prompt: The server never lets this client fall behind once it is live, so that texts
            are whole at every durable event, and not only prefixes.
        may_lose_text: The store fails: the text of a message in progress may be lost, as long as
            it is not in the log by and by.

    Attributes:
        base: The seq after which `events` begin.
        events: Every durable event after it.
        texts: The text so far of each message in progress.
        is_live: The last subscription has seen its ``sync``.
        is_subscribed: On the connection of now.
        asks: Every ask that it has heard of, as it was opened.
        open_asks: Those of which it has not heard that they are closed.
    """

    def __init__(
        self, session_id: str, hits: Counter[str], *, is_prompt: bool, may_lose_text: bool = False
    ) -> None:
        self.session_id = session_id
        self.hits = hits
        self.is_prompt = is_prompt
        self.may_lose_text = may_lose_text
        self.position = "0-0"
        self.seq: int = 0
        self.base: int = 0
        self.events: list[Event] = []
        self.texts: dict[str, str] = {}
        self.is_live = False
        self.is_subscribed = False
        self.is_gone = False
        self.last_sync: str | None = None
        self._announced: set[str] = set()
        #: Messages of which more is known here than at the node that goes on with them.
        self._ahead: set[str] = set()
        self._is_loose = False
        self._wants_resync = False
        self._answered_in_progress: list[dict[str, Any]] = []
        self._turn_message: dict[str, str] = {}
        self._marks: dict[str, int] = {}
        self._open_calls: set[str] = set()
        self.asks: dict[str, dict[str, Any]] = {}
        self.open_asks: set[str] = set()
        self._closed_asks: set[str] = set()
        self._asks_at: list[tuple[int, list[dict[str, Any]]]] = []

    def violate(self, what: str) -> NoReturn:
        """Say what is wrong."""
        raise ViolationError(f"{self.session_id} at {self.position}: {what}")

    # -- subscribing -------------------------------------------------------------------------

    def claim(self, rng: random.Random) -> Claim:
        """Make the parameters of a ``session.subscribe`` that goes on from here.

        Now and then the client has forgotten some of its text, or its whole place.
        """
        texts = dict(self.texts)
        partial: dict[str, int] = {}
        for message_id, text in texts.items():
            chance = rng.random()
            if chance < 0.1:
                texts[message_id] = ""  # and does not say that it has any
                continue
            if chance < 0.2:
                texts[message_id] = text[: rng.randint(0, len(text))]
            elif chance < 0.25:
                self.hits["offsets beyond the text"] += 1
                texts[message_id] = ""
                partial[message_id] = BEYOND
                continue
            partial[message_id] = len(texts[message_id])
        if rng.random() < 0.05:
            position = rng.choice(("1-4000000", "7-1", f"9000-{self.seq}", "0-7", "3-0"))
            is_bogus = True
        else:
            position, is_bogus = self.position, False
        params = {"sessionId": self.session_id, "after": position, "partial": partial}
        return Claim(
            params,
            self.base,
            self.position,
            list(self.events),
            texts,
            set(self._announced),
            self._is_loose,
            is_bogus,
        )

    def subscribed(self, claim: Claim, answer: dict[str, Any]) -> None:
        """Take the answer: from here on comes what follows the claim, not what came before it."""
        self.is_subscribed = True
        self.is_live = False
        self._wants_resync = claim.is_bogus
        if claim.is_bogus:
            self._answered_in_progress = answer["inProgress"]
            return
        if answer["replayFrom"] != claim.position:
            self.violate(f"replayFrom {answer['replayFrom']} where {claim.position} was asked for")
        self._restart(claim.position, claim.base)
        self.events = list(claim.events)
        self.texts = dict(claim.texts)
        self._announced = set(claim.announced)
        self._is_loose = claim.is_loose
        for event in self.events:
            self._note(event["type"], event["data"])

    def began(self, position: str, in_progress: list[dict[str, Any]], *, is_loose: bool) -> None:
        """Begin anew after a position: a subscription without a cursor.

        Args:
            position: The last one that is not sent.
            in_progress: From the answer.
            is_loose: Nothing said which messages were in progress (``message.stream``).
        """
        self.is_subscribed = True
        self.is_live = False
        self._wants_resync = False
        self._restart(position, seq_of(position))
        self._announced = {message["messageId"] for message in in_progress}
        self._is_loose = is_loose

    def _restart(self, position: str, base: int) -> None:
        self.position, self.seq = position, seq_of(position)
        self.base = base
        self._announced = set()
        self._is_loose = False
        self.events = []
        self.texts = {}
        self._turn_message = {}
        self._marks = {}
        self._open_calls = set()

    def see_asks(self, answer: dict[str, Any]) -> None:
        """Take the open asks that a subscription is answered with."""
        if not answer["hasMoreAsks"]:
            self._asks_at.append((seq_of(answer["position"]), answer["asks"]))
        for ask in answer["asks"]:
            self._open_ask(ask)

    def _open_ask(self, ask: dict[str, Any]) -> None:
        self.asks[ask["askId"]] = ask
        if ask["askId"] not in self._closed_asks:
            self.open_asks.add(ask["askId"])

    def dropped(self) -> None:
        """The connection is gone."""
        if self.is_subscribed and any(self.texts.values()):
            self.hits["drops in the middle of a message"] += 1
        if self.is_subscribed and not self.is_live:
            self.hits["drops before the sync"] += 1
        self.is_subscribed = self.is_live = False

    # -- events ------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        """Take one event."""
        kind = event["type"]
        if not self.is_subscribed:
            self.violate(f"{kind} without a subscription")
        if self._wants_resync:
            if kind != "resync":
                self.violate(f"{kind} where a resync is due")
            self._resync(event["data"])
            return
        if "position" in event:
            self._take_durable(event)
        elif kind == "message.delta":
            self._take_delta(event["data"])
        elif kind == "sync":
            self._take_sync(event["data"])
        elif kind == "session.deleted":
            self.is_gone, self.is_subscribed = True, False
        elif kind == "resync":
            self.violate("a resync where the cursor continues")
        else:
            self._take_transient(kind, event["data"])

    def _resync(self, data: dict[str, Any]) -> None:
        self.hits["resyncs"] += 1
        self._wants_resync = False
        if data["session"]["position"] != data["position"]:
            self.violate("a resync that is not consistent")
        self._restart(data["position"], seq_of(data["position"]))
        self._announced = {message["messageId"] for message in self._answered_in_progress}

    def _take_durable(self, event: Event) -> None:
        position = event["position"]
        seq = seq_of(position)
        if seq != self.seq + 1:
            self.violate(f"{position} after {self.position}")
        self.position, self.seq = position, seq
        self.events.append(event)
        kind, data = event["type"], event["data"]
        if kind == "message.started":
            if data["messageId"] in self.texts:
                self.violate("a message that started twice")
            self._announced.discard(data["messageId"])
            self.texts[data["messageId"]] = ""
        elif kind == "message.completed":
            self._complete(data["message"])
        elif kind == "_mark":
            self._take_mark(data)
        elif kind == "ask.opened":
            self._open_ask(data)
        elif kind == "ask.closed":
            self._closed_asks.add(data["askId"])
            self.open_asks.discard(data["askId"])
        self._note(kind, data)

    def _note(self, kind: str, data: dict[str, Any]) -> None:
        """Keep what later events are compared with."""
        if kind == "message.started":
            self._turn_message[data["turnId"]] = data["messageId"]
        elif kind == "tool.called":
            self._open_calls.add(data["callId"])
        elif kind == "tool.completed":
            self._open_calls.discard(data["callId"])
        elif kind == "_mark":
            self._marks[data["turnId"]] = data["count"]
        elif kind == "turn.resumed":
            self._marks.pop(data["turnId"], None)  # its agent counts from the start

    def _complete(self, message: dict[str, Any]) -> None:
        message_id = message["id"]
        text = self.texts.pop(message_id, None)
        if text is None:
            if message_id not in self._announced and not self.base:
                self.violate("a message that ended and had not started")
            self._announced.discard(message_id)
            text = ""
        elif (
            self.is_live
            and self.is_prompt
            and not self.may_lose_text
            and text != message["content"]
        ):
            self.violate(f"{text!r} was sent of {message['content']!r} at its end")
        if message["status"] == "interrupted" and self.may_lose_text:
            self.hits["messages whose text was lost"] += 1
        elif not message["content"].startswith(text):
            self.violate(f"{text!r} was sent of {message['content']!r}")
        if text:
            self.hits["messages assembled from deltas"] += 1

    def _take_mark(self, data: dict[str, Any]) -> None:
        """An agent's durable ``_mark`` says how much text it had written before."""
        count: int = data["count"]
        if count != self._marks.get(data["turnId"], count - 1) + 1:
            self.violate("marks out of order")
        message_id = self._turn_message.get(data["turnId"])
        if message_id is None or message_id not in self.texts:
            return
        length = len(self.texts[message_id])
        if length > data["length"]:
            self.violate(f"{length} code points before a mark at {data['length']}")
        if self.is_live and self.is_prompt and length != data["length"]:
            self.violate(f"only {length} code points before a mark at {data['length']}")
        self.hits["marks inside a text"] += 1

    def _take_delta(self, data: dict[str, Any]) -> None:
        message_id = data["messageId"]
        if not (message_id in self.texts or message_id in self._announced or self._is_loose):
            self.violate("text of a message that has not started")
        have = self.texts.get(message_id, "")
        is_old = not self.is_live or message_id in self._ahead
        self._ahead.discard(message_id)
        if self.may_lose_text and is_old and data["offset"] < len(have):
            # From a node that has not heard of all of it yet (§6.2: cut back and append).
            self.hits["texts cut back"] += 1
            have = have[: data["offset"]]
        if data["offset"] != len(have):
            self.violate(f"text from {data['offset']} where {len(have)} was due")
        if not data["delta"]:
            self.violate("a delta without text")
        self.texts[message_id] = have + data["delta"]
        self._turn_message[data["turnId"]] = message_id
        if not self.is_live and have:
            self.hits["texts continued from an offset"] += 1

    def _take_sync(self, data: dict[str, Any]) -> None:
        if self.is_live:
            self.violate("a second sync")
        self.is_live = True
        self.last_sync = data["position"]
        self.hits["syncs"] += 1
        if data["position"] != self.position:
            self.violate(f"sync at {data['position']}")
        live: dict[str, int] | None = data.get("_live")
        if live is None:  # not instrumented
            return
        have = {message_id: len(text) for message_id, text in self.texts.items() if text}
        published = {message_id: length for message_id, length in live.items() if length}
        if self.may_lose_text:
            # It came from another node, and this one may not have heard of all of it yet.
            self._ahead = {each for each in have if have[each] > published.get(each, 0)}
            have = {each: min(have[each], published.get(each, 0)) for each in have}
            have = {each: length for each, length in have.items() if length}
        if have != published:
            self.violate(f"at the sync, {have} where {published} was published")
        if published:
            self.hits["syncs in the middle of a message"] += 1

    def _take_transient(self, kind: str, data: dict[str, Any]) -> None:
        if not self.is_live:
            self.violate(f"{kind} before the sync")
        if kind == "tool.progress":
            if not self.base and data["callId"] not in self._open_calls:
                self.violate("progress of a tool that is not running")
            self.hits["tool progress"] += 1
        elif kind == "_tick":
            # Published after every durable event that came before it, and before the next.
            if self._marks.get(data["turnId"], data["count"]) != data["count"]:
                self.violate("a transient event out of its place")
            self.hits["transient events of agents"] += 1

    # -- at the end --------------------------------------------------------------------------

    def check(self, log: list[Event]) -> None:
        """Compare with the whole log."""
        if self.events != log[self.base : self.seq]:
            for mine, right in zip(self.events, log[self.base :], strict=False):
                if mine != right:
                    self.violate(f"has {mine} where the log has {right}")
            self.violate("has more than the log")
        if self.seq != len(log):
            self.violate(f"misses {len(log) - self.seq} events of the log")
        if self.texts:
            self.violate(f"has open messages at the end: {sorted(self.texts)}")
        for seq, asks in self._asks_at:
            self._check_asks(log[:seq], asks)

    def _check_asks(self, log: list[Event], asks: list[dict[str, Any]]) -> None:
        """Compare the asks that a subscription was answered with, with those open at its place."""
        ends = {event["data"]["askId"] for event in log if event["type"] == "ask.closed"}
        opened = [event["data"] for event in log if event["type"] == "ask.opened"]
        if asks != [ask for ask in opened if ask["askId"] not in ends]:
            self.violate(f"subscribed at {len(log)} with the asks {asks}")
        self.hits["asks open at a subscription"] += len(asks)
