"""What clients of a server that is killed were told, and whether its log agrees afterwards."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from typing import Any

import attrs
import trio

from trialogue.core.abc import ConnectOptions
from trialogue.core.plugins import find_transport

__all__ = ["Witness", "call", "find_violations", "find_waits"]


@attrs.define
class Witness:
    """Everything that was said to be true.

    Attributes:
        events: Durable events as a subscriber saw them, by session and seq.
        admitted: Inputs that were acknowledged: content → (session, position).
        sent: Contents that were sent, acknowledged or not, with their session and key.
        created: Sessions that were acknowledged: key → session.
        answered: Answers that were taken: ask → (session, answer).
    """

    events: dict[str, dict[int, str]] = attrs.field(factory=dict)
    admitted: dict[str, tuple[str, str]] = attrs.field(factory=dict)
    sent: dict[str, tuple[str, str]] = attrs.field(factory=dict)
    created: dict[str, str] = attrs.field(factory=dict)
    answered: dict[str, tuple[str, str]] = attrs.field(factory=dict)
    hits: Counter[str] = attrs.field(factory=Counter)
    _missing: int = 0
    _enough: trio.Event = attrs.field(factory=trio.Event)

    async def wait_heard(self, count: int) -> None:
        """Wait until that many frames have come from now on."""
        self._missing = count
        self._enough = trio.Event()
        await self._enough.wait()

    def hear(self) -> None:
        """Note a frame."""
        self._missing -= 1
        if self._missing <= 0:
            self._enough.set()

    def see(self, event: dict[str, Any]) -> None:
        """Remember a durable event."""
        seq = int(event["position"].split("-")[1])
        self.events.setdefault(event["sessionId"], {})[seq] = json.dumps(event, sort_keys=True)
        self.hits["events seen"] += 1


def frame(request_id: object, method: str, params: object, key: str | None = None) -> bytes:
    """Make a request."""
    payload: dict[str, Any] = {"id": request_id, "method": method, "params": params}
    if key is not None:
        payload["idempotencyKey"] = key
    return json.dumps({"version": "1.0", "type": "request", "payload": payload}).encode()


async def call(url: str, *requests: tuple[str, dict[str, Any], str | None]) -> list[Any]:
    """Connect, send requests one after the other, and give their answers."""
    answers: list[Any] = []
    async with find_transport(url).open_channel(url, ConnectOptions()) as channel:
        for number, (method, params, key) in enumerate(requests):
            await channel.send(frame(number, method, params, key))
            while True:
                envelope = json.loads(await channel.receive())
                if envelope["type"] == "response" and envelope["payload"]["id"] == number:
                    answers.append(envelope["payload"])
                    break
    return answers


async def load(
    url: str, witness: Witness, choice: random.Random, unique: itertools.count[int]
) -> None:
    """Be a client that creates, follows, sends, answers and cancels, until the server is gone."""
    pending: dict[int, tuple[str, Any]] = {}
    sessions: list[str] = []
    asks: dict[str, str] = {}
    ids = itertools.count(1)
    sending = trio.Lock()
    async with find_transport(url).open_channel(url, ConnectOptions()) as channel:

        async def ask(method: str, params: dict[str, Any], key: str | None, what: Any) -> None:
            number = next(ids)
            pending[number] = (method, what)
            async with sending:
                await channel.send(frame(number, method, params, key))

        async def talk() -> None:
            for _ in range(2):
                key = f"create-{next(unique)}"
                await ask("session.create", {"name": key}, key, key)
            for session_id in choice.sample(list(witness.events), min(2, len(witness.events))):
                seen = witness.events[session_id]
                last = json.loads(seen[max(seen)])["position"]
                await ask(
                    "session.subscribe", {"sessionId": session_id, "after": last}, None, session_id
                )
                sessions.append(session_id)
            while True:
                await trio.sleep(choice.random() * 0.004)
                if not sessions:
                    continue
                session_id = choice.choice(sessions)
                if asks and choice.random() < 0.8:
                    ask_id = choice.choice(list(asks))
                    # Others do the same, and one that is kept is answered once more.
                    session_id = asks[ask_id] if choice.random() < 0.2 else asks.pop(ask_id)
                    params = {"sessionId": session_id, "askId": ask_id}
                    params["answer"] = f"answer {next(unique)}"
                    await ask("ask.answer", params, params["answer"], params)
                elif choice.random() < 0.15:
                    await ask("turn.cancel", {"sessionId": session_id}, None, None)
                else:
                    content = f"input {next(unique)}"
                    witness.sent[content] = (session_id, f"key {content}")
                    params = {"sessionId": session_id, "content": content}
                    await ask("message.send", params, f"key {content}", content)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            while True:
                envelope = json.loads(await channel.receive())
                witness.hear()
                payload = envelope["payload"]
                if envelope["type"] == "event":
                    if "position" in payload:
                        witness.see(payload)
                        if payload["type"] == "ask.opened":
                            asks[payload["data"]["askId"]] = payload["sessionId"]
                        elif payload["type"] == "ask.closed":
                            asks.pop(payload["data"]["askId"], None)
                    elif payload["type"] == "resync":
                        witness.hits["resyncs"] += 1
                elif envelope["type"] == "response":
                    method, what = pending.pop(payload["id"])
                    if not payload["success"]:
                        witness.hits[payload["error"]["code"]] += 1
                    elif method == "session.create":
                        session_id = payload["data"]["id"]
                        witness.created[what] = session_id
                        witness.hits["sessions acknowledged"] += 1
                        params = {"sessionId": session_id, "after": "0-0"}
                        await ask("session.subscribe", params, None, session_id)
                        sessions.append(session_id)
                    elif method == "session.subscribe":
                        asks |= {ask["askId"]: what for ask in payload["data"]["asks"]}
                    elif method == "ask.answer":
                        witness.answered[what["askId"]] = (what["sessionId"], what["answer"])
                        witness.hits["answers acknowledged"] += 1
                    elif method == "message.send":
                        witness.admitted[what] = (
                            witness.sent[what][0],
                            payload["data"]["position"],
                        )
                        witness.hits["inputs acknowledged"] += 1
                    elif method == "turn.cancel" and payload["data"]["cancelled"]:
                        witness.hits["cancels acknowledged"] += 1


def find_violations(
    witness: Witness, logs: dict[str, list[dict[str, Any]]], *, settled: bool
) -> list[str]:
    """Compare what was said with what the logs hold after the restart.

    Args:
        witness: Has what was said.
        logs: By session.
        settled: No turn was running any more when they were read.
    """
    wrong: list[str] = []
    for key, session_id in witness.created.items():
        if session_id not in logs:
            wrong.append(f"{key}: the session {session_id} is gone")
    for session_id, seen in witness.events.items():
        held = dict(enumerate(logs.get(session_id, []), 1))
        for seq, event in seen.items():
            if seq not in held:
                wrong.append(f"{session_id} {seq} was seen, and is lost: {event[:120]}")
            elif json.dumps(held[seq], sort_keys=True) != event:
                wrong.append(f"{session_id} {seq} was seen as another event: {event[:120]}")
    for content, (session_id, position) in witness.admitted.items():
        at = int(position.split("-")[1])
        log = logs.get(session_id, [])
        if len(log) < at or not log[at - 1]["type"].startswith("input."):
            wrong.append(f"{content!r} was acknowledged at {session_id} {position}, and is lost")
    for ask_id, (session_id, answer) in witness.answered.items():
        ends = [
            event["data"].get("answer")
            for event in logs.get(session_id, [])
            if event["type"] == "ask.closed" and event["data"]["askId"] == ask_id
        ]
        if ends != [answer]:
            wrong.append(f"{answer!r} to {ask_id} was acknowledged, and the log has {ends}")
    said = Counter[str]()
    for session_id, log in logs.items():
        wrong.extend(_check_log(session_id, log, settled=settled))
        for entry in log:
            if entry["type"] == "message.created":
                said[entry["data"]["message"]["content"]] += 1
    wrong.extend(
        f"{content!r} was delivered {count} times" for content, count in said.items() if count > 1
    )
    return wrong


def find_waits(log: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Give the turns that did nothing but wait for an answer when a process ended.

    Returns:
        Each with the event by which the next process began.
    """
    waits: list[tuple[str, dict[str, Any]]] = []
    asks = dict[str, str]()
    busy = set[str]()
    has_answer = False
    for event in log:
        kind, data = event["type"], event["data"]
        if kind == "ask.opened":
            asks[data["askId"]] = data["turnId"]
        elif kind == "ask.closed":
            asks.pop(data["askId"], None)
        elif kind in ("message.started", "tool.called"):
            busy.add(data.get("messageId") or data["callId"])
        elif kind in ("message.completed", "tool.completed"):
            busy.discard(data["callId"] if "callId" in data else data["message"]["id"])
        elif kind == "session.resumed" and asks and not busy and not has_answer:
            waits.append((next(iter(asks.values())), event))
        # The agent is called again for an answer that it has not acted on.
        has_answer = kind == "ask.closed" or (has_answer and kind != "ask.opened")
    return waits


def _check_log(session_id: str, log: list[dict[str, Any]], *, settled: bool) -> list[str]:
    wrong: list[str] = []
    ends = Counter[str]()
    begun = Counter[str]()
    messages = Counter[str]()
    asks = Counter[str]()
    closed_asks = Counter[str]()
    for seq, event in enumerate(log, 1):
        if int(event["position"].split("-")[1]) != seq:
            wrong.append(f"{session_id}: {event['position']} stands at {seq}")
        data = event["data"]
        if event["type"] == "turn.started":
            begun[data["turnId"]] += 1
        elif event["type"] == "turn.ended":
            ends[data["turnId"]] += 1
        elif event["type"] == "ask.opened":
            asks[data["askId"]] += 1
        elif event["type"] == "ask.closed":
            closed_asks[data["askId"]] += 1
        elif event["type"] == "message.started":
            messages[data["messageId"]] += 1
        elif event["type"] == "message.completed":
            messages[data["message"]["id"]] -= 1
            words = data["message"]["content"].split()
            # The last word may have been cut, the others may not.
            first = int(words[0][1:]) if words else 0
            if words[:-1] != [f"w{first + number}" for number in range(len(words) - 1)]:
                wrong.append(f"{session_id} {seq}: {words}")
    wrong.extend(
        f"{session_id}: {turn_id} only waited, and was interrupted"
        for turn_id, event in find_waits(log)
        if "interruptedTurnId" in event["data"]
    )
    if asks - closed_asks and not begun - ends:
        wrong.append(f"{session_id}: the asks {asks - closed_asks} are open, and no turn runs")
    if closed_asks - asks or any(count > 1 for count in asks.values()):
        wrong.append(f"{session_id}: asks opened {asks}, closed {closed_asks}")
    running = begun - ends
    if ends - begun or running.total() > (0 if settled else 1):
        wrong.append(f"{session_id}: turns {running} did not end once, {ends - begun} too often")
    # A message of the turn that runs may be in progress, of others none.
    if any(count for count in messages.values() if count != 1 or not running):
        wrong.append(f"{session_id}: messages not completed once: {+messages} {-messages}")
    return wrong
