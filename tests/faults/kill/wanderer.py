"""Clients that go from node to node of a cluster, and what each of them saw."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import attrs
import trio

from trialogue.core.abc import Channel, ConnectOptions
from trialogue.core.plugins import find_transport

from .witness import Witness, find_violations, frame

__all__ = ["ClusterWitness", "Wanderer"]

#: A client stays at a node for so long.
STAY_SECONDS: Final = (0.3, 3.0)
#: Between two commands of one client.
PACE_SECONDS: Final = 0.06
#: Sessions that all clients of a round have together.
SESSIONS: Final = 10
#: For one client to follow all of them to the end.
HOME_SECONDS: Final = 10.0
#: How the end of a connection is told.
LOST: Final = (trio.BrokenResourceError, trio.EndOfChannel, OSError)


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
        if known is None:
            self.follow_turns(event)
        elif known != self.events[session_id][seq]:
            self.wrong.append(f"two events of {session_id} at {seq}: {known} {event}")

    def follow_turns(self, event: dict[str, Any]) -> None:
        """Note which turns run."""
        data, kind = event["data"], event["type"]
        turns = self.turns.setdefault(event["sessionId"], set())
        if kind == "turn.started":
            turns.add(data["turnId"])
        elif kind == "turn.ended":
            turns.discard(data["turnId"])

    def lose(self, session_id: str, position: str | None) -> None:
        """A client is told that what it has seen of a session is gone: up to where, or all of it.

        Nothing ever is, and of whole sessions `judge` will know.
        """
        if position is not None:
            self.wrong.append(f"{session_id}: {position} is gone")

    def judge(self, logs: Mapping[str, list[dict[str, Any]]]) -> list[str]:
        """Say what was wrong, in the light of what the logs hold at the end."""
        return self.wrong + find_violations(self, dict(logs), settled=True)

    def admit(self, content: str, position: str) -> None:
        """Note that an input was acknowledged."""
        session_id = self.sent[content][0]
        known = self.admitted.setdefault(content, (session_id, position))
        if known != (session_id, position):
            self.wrong.append(f"{content!r} was acknowledged at {known}, and at {position}")
        self.hits["inputs acknowledged"] += 1


@attrs.define
class Mirror:
    """What a client has of one session: each event that it was sent, behind a position.

    Attributes:
        position: Of the last one.
        events: Each as JSON, with its place in the log.
    """

    position: str = "0-0"
    events: dict[int, str] = attrs.field(factory=dict)

    @property
    def seq(self) -> int:
        """Of the last one."""
        return int(self.position.partition("-")[2])

    def see(self, event: dict[str, Any]) -> None:
        """Take the next one."""
        self.position = event["position"]
        self.events[self.seq] = json.dumps(event, sort_keys=True)


class _Visit:
    """One connection, and what it was shown: neither a gap nor a repeat, in any session."""

    def __init__(self, witness: ClusterWitness, mirrors: dict[str, Mirror]) -> None:
        self._witness = witness
        self._mirrors = mirrors
        self._texts: dict[str, int] = {}
        self.following: set[str] = set()
        #: Where those are up to date that are.
        self.synced: dict[str, str] = {}

    def see(self, event: dict[str, Any]) -> None:
        """Check an event of a session."""
        session_id, data = event["sessionId"], event["data"]
        if "position" in event:
            mirror = self._mirrors.setdefault(session_id, Mirror())
            last = mirror.seq
            mirror.see(event)
            if mirror.seq != last + 1:
                self._witness.wrong.append(f"{session_id}: {mirror.seq} came behind {last}")
            self._witness.see(event)
        elif event["type"] == "message.delta":
            known = self._texts.setdefault(data["messageId"], 0)
            if data["offset"] > known:
                self._witness.wrong.append(f"{session_id}: a text of {known} goes on at {data}")
            self._texts[data["messageId"]] = data["offset"] + len(data["delta"])
            self._witness.hits["deltas seen"] += 1
        elif event["type"] == "resync":
            self._witness.lose(session_id, self._mirrors.get(session_id, Mirror()).position)
            self._mirrors[session_id] = Mirror(data["position"])
        elif event["type"] == "sync":
            self.synced[session_id] = data["position"]


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
        #: What this client has of each session.
        self.mirrors: dict[str, Mirror] = {}
        self._asks: dict[str, str] = {}

    async def run(self) -> None:
        """Wander until cancelled."""
        while True:
            with trio.move_on_after(self._choice.uniform(*STAY_SECONDS)):
                try:
                    await self._visit(self._pick(), self._talk)
                except* LOST:
                    self._witness.hits["connections lost"] += 1
            self._witness.hits["visits"] += 1
            await trio.sleep(0.01)

    async def _visit(self, url: str, act: Callable[[_Visit, Any], Awaitable[None]]) -> None:
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

            visit = _Visit(self._witness, self.mirrors)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, channel, visit, pending)
                await act(visit, ask)
                nursery.cancel_scope.cancel(reason="that was all")

    async def _talk(self, visit: _Visit, ask: Any) -> None:
        choice, witness = self._choice, self._witness
        if len(witness.created) < SESSIONS:
            key = f"create-{next(self._unique)}"
            await ask("session.create", {"name": key}, key, key)
        while not witness.created:  # noqa: ASYNC110 - another one does it
            await trio.sleep(PACE_SECONDS)
        known = list(witness.created.values())
        for session_id in choice.sample(known, min(4, len(known))):
            await self._follow(visit, ask, session_id)
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

    async def _follow(self, visit: _Visit, ask: Any, session_id: str) -> None:
        after = self.mirrors.setdefault(session_id, Mirror()).position
        params = {"sessionId": session_id, "after": after}
        await ask("session.subscribe", params, None, session_id)
        visit.following.add(session_id)

    async def come_home(self, url: str) -> bool:
        """Once more follow all that was ever followed. Returns whether it is up to date."""
        is_home = False
        with trio.move_on_after(HOME_SECONDS):
            try:
                await self._visit(url, self._catch_up)
                is_home = True
            except* LOST:
                self._witness.hits["connections lost"] += 1
        return is_home

    async def _catch_up(self, visit: _Visit, ask: Any) -> None:
        for session_id in list(self.mirrors):
            await self._follow(visit, ask, session_id)
        while not visit.synced.keys() >= self.mirrors.keys():  # noqa: ASYNC110 - others fill it
            await trio.sleep(0.01)

    def find_wrong(self, logs: Mapping[str, list[dict[str, Any]]]) -> list[str]:
        """Say what this client has, after it has come home, that the logs do not hold.

        They may hold more by then: what was asked of a node can be done as late as it can.
        """
        wrong: list[str] = []
        for session_id, mirror in self.mirrors.items():
            log = logs.get(session_id, [])
            held = {event["position"]: json.dumps(event, sort_keys=True) for event in log}
            if mirror.position not in ("0-0", *held):
                wrong.append(f"{session_id}: a client is at {mirror.position}, which is nowhere")
            wrong += [
                f"{session_id}: a client has what is nowhere: {event[:120]}"
                for event in mirror.events.values()
                if held.get(json.loads(event)["position"]) != event
            ]
        return wrong

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
            code = payload["error"]["code"]
            witness.hits[code] += 1
            if (method, code) == ("session.subscribe", "SESSION_NOT_FOUND"):
                witness.lose(what, None)
                self.mirrors.pop(what, None)
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
