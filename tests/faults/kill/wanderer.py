"""Clients that go from node to node of a cluster, and what each of them saw."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from trialogue.core.abc import Channel, ConnectOptions
from trialogue.core.plugins import find_transport

from .witness import Witness, frame

__all__ = ["ClusterWitness", "Wanderer"]

#: A client stays at a node for so long.
STAY_SECONDS: Final = (0.3, 3.0)
#: Between two commands of one client.
PACE_SECONDS: Final = 0.06
#: Sessions that all clients of a round have together.
SESSIONS: Final = 10


@attrs.define
class ClusterWitness(Witness):
    """What all clients of a cluster were told.

    Attributes:
        wrong: What contradicted what was said before.
        turns: The turns of each session that have not ended.
    """

    wrong: list[str] = attrs.field(factory=list)
    turns: dict[str, set[str]] = attrs.field(factory=dict)

    def see(self, event: dict[str, Any]) -> None:
        session_id, position = event["sessionId"], event["position"]
        seq = int(position.partition("-")[2])
        known = self.events.get(session_id, {}).get(seq)
        super().see(event)
        if known is not None:
            if known != self.events[session_id][seq]:
                self.wrong.append(f"two events of {session_id} at {seq}: {known} {event}")
            return
        data, kind = event["data"], event["type"]
        turns = self.turns.setdefault(session_id, set())
        if kind == "turn.started":
            turns.add(data["turnId"])
        elif kind == "turn.ended":
            turns.discard(data["turnId"])

    def admit(self, content: str, position: str) -> None:
        """Note that an input was acknowledged."""
        session_id = self.sent[content][0]
        known = self.admitted.setdefault(content, (session_id, position))
        if known != (session_id, position):
            self.wrong.append(f"{content!r} was acknowledged at {known}, and at {position}")
        self.hits["inputs acknowledged"] += 1


class _Visit:
    """One connection, and what it was shown: neither a gap nor a repeat, in any session."""

    def __init__(self, witness: ClusterWitness, positions: dict[str, str]) -> None:
        self._witness = witness
        self._positions = positions
        self._texts: dict[str, int] = {}
        self.following: set[str] = set()

    def see(self, event: dict[str, Any]) -> None:
        """Check an event of a session."""
        session_id, data = event["sessionId"], event["data"]
        if "position" in event:
            seq = int(event["position"].partition("-")[2])
            last = int(self._positions.get(session_id, "0-0").partition("-")[2])
            if seq != last + 1:
                self._witness.wrong.append(f"{session_id}: {seq} came behind {last}")
            self._positions[session_id] = event["position"]
            self._witness.see(event)
        elif event["type"] == "message.delta":
            known = self._texts.setdefault(data["messageId"], 0)
            if data["offset"] > known:
                self._witness.wrong.append(f"{session_id}: a text of {known} goes on at {data}")
            self._texts[data["messageId"]] = data["offset"] + len(data["delta"])
            self._witness.hits["deltas seen"] += 1
        elif event["type"] == "resync":
            self._witness.wrong.append(f"{session_id}: {self._positions.get(session_id)} is gone")
            self._positions[session_id] = data["position"]


class Wanderer:
    """A client that creates, follows, sends, answers and cancels, at any node.

    Args:
        witness: Is told what it saw.
        choice: What it does by.
        unique: Numbers that no other client has.
        pick: Names a node to go to.
    """

    def __init__(
        self,
        witness: ClusterWitness,
        choice: random.Random,
        unique: itertools.count[int],
        pick: Callable[[], str],
    ) -> None:
        self._witness = witness
        self._choice = choice
        self._unique = unique
        self._pick = pick
        self._ids = itertools.count(1)
        #: Up to where this client has seen each session.
        self._positions: dict[str, str] = {}
        self._asks: dict[str, str] = {}

    async def run(self) -> None:
        """Wander until cancelled."""
        while True:
            with trio.move_on_after(self._choice.uniform(*STAY_SECONDS)):
                try:
                    await self._visit(self._pick())
                except* (trio.BrokenResourceError, trio.EndOfChannel, OSError):
                    self._witness.hits["connections lost"] += 1
            self._witness.hits["visits"] += 1
            await trio.sleep(0.01)

    async def _visit(self, url: str) -> None:
        pending: dict[int, tuple[str, Any]] = {}
        sending = trio.Lock()
        async with find_transport(url).open_channel(url, ConnectOptions()) as channel:

            async def ask(
                method: str, params: Any, key: str | None = None, what: Any = None
            ) -> None:
                number = next(self._ids)
                pending[number] = method, what
                async with sending:
                    await channel.send(frame(number, method, params, key))

            visit = _Visit(self._witness, self._positions)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._talk, visit, ask)
                await self._listen(channel, visit, pending)

    async def _talk(self, visit: _Visit, ask: Any) -> None:
        choice, witness = self._choice, self._witness
        if len(witness.created) < SESSIONS:
            key = f"create-{next(self._unique)}"
            await ask("session.create", {"name": key}, key, key)
        while not witness.created:  # noqa: ASYNC110 - another one does it
            await trio.sleep(PACE_SECONDS)
        known = list(witness.created.values())
        for session_id in choice.sample(known, min(4, len(known))):
            after = self._positions.get(session_id, "0-0")
            params = {"sessionId": session_id, "after": after}
            await ask("session.subscribe", params, None, session_id)
            visit.following.add(session_id)
        lost = [content for content in witness.sent if content not in witness.admitted]
        for content in choice.sample(lost, min(3, len(lost))):
            witness.hits["retries"] += 1
            session_id, key = witness.sent[content]
            await ask("message.send", {"sessionId": session_id, "content": content}, key, content)
        while True:
            await trio.sleep(choice.random() * 2 * PACE_SECONDS)
            session_id = choice.choice([*visit.following])
            if self._asks and choice.random() < 0.5:
                ask_id = choice.choice(list(self._asks))
                params = {"sessionId": self._asks.pop(ask_id), "askId": ask_id}
                params["answer"] = f"answer {next(self._unique)}"
                await ask("ask.answer", params, params["answer"], params)
            elif choice.random() < 0.05:
                await ask("turn.cancel", {"sessionId": session_id})
            elif len(witness.turns.get(session_id, ())) < 1 or choice.random() < 0.1:
                content = f"input {next(self._unique)}"
                witness.sent[content] = session_id, f"key {content}"
                params = {"sessionId": session_id, "content": content}
                await ask("message.send", params, f"key {content}", content)

    async def _listen(
        self, channel: Channel, visit: _Visit, pending: dict[int, tuple[str, Any]]
    ) -> None:
        while True:
            envelope = json.loads(await channel.receive())
            self._witness.hear()
            payload = envelope["payload"]
            if envelope["type"] == "event" and "sessionId" in payload:
                visit.see(payload)
                if payload["type"] == "ask.opened":
                    self._asks[payload["data"]["askId"]] = payload["sessionId"]
                elif payload["type"] == "ask.closed":
                    self._asks.pop(payload["data"]["askId"], None)
            elif envelope["type"] == "response":
                self._take(payload, *pending.pop(payload["id"]))

    def _take(self, payload: dict[str, Any], method: str, what: Any) -> None:
        witness = self._witness
        if not payload["success"]:
            witness.hits[payload["error"]["code"]] += 1
            return
        data = payload["data"]
        match method:
            case "session.create":
                witness.created[what] = data["id"]
            case "session.subscribe":
                self._asks |= {ask["askId"]: what for ask in data["asks"]}
            case "ask.answer":
                witness.answered[what["askId"]] = what["sessionId"], what["answer"]
            case "message.send":
                witness.admit(what, data["position"])
            case "turn.cancel":
                witness.hits["cancels acknowledged"] += data["cancelled"]
            case _:
                pass
