"""Many principals of several tenants on one server, each after what is not his.

Everything that an owner writes has a mark that nobody else knows. Whatever somebody is sent, or
finds in his log, must have no mark but his own; and of a session that is not his he must be told
just what he is told of one that there is not.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import trio

from trialogue.core import Identity, Settings, open_server
from trialogue.core._json import as_array, as_object
from trialogue.core.abc import PeerInfo, ToolCall, Turn
from trialogue.core.errors import UnauthorizedError
from trialogue.core.methods import METHODS, Credential
from trialogue.testing import ProtocolPeer, open_peer

__all__ = ["Campaign", "LeakError"]

#: Names that would be the same if a tenant were written before a principal, or forgotten.
PEOPLE = (
    ("acme", "ada"),
    ("other", "ada"),
    (None, "ada"),
    (None, "acme/ada"),
    (None, "acme:ada"),
    ("acme", "bob"),
    ("acme:", "ada"),
    ("ac", "me/ada"),
    ("anonymous", "anonymous"),
    (None, "anonymous"),
)
#: Used by everybody, so that one's key would find another's session.
KEYS = ("k1", "k2", "k3", "k4")
#: Requests that are sent before the answers to any of them are awaited.
BATCH = 20
#: Those of a session twice. What ``server.describe`` says is the same for all, and takes long.
_DRAWN = tuple(
    name
    for name in METHODS
    for _ in range(1 + ("session_id" in attrs.fields_dict(METHODS[name][0])))
    if name != "server.describe"
)
_MARK = re.compile(r"mark\d-[0-9a-f]{8}")
TOOL = {"name": "look", "description": "", "schema": {"type": "object"}, "effect": "none"}


class LeakError(AssertionError):
    """Somebody has got hold of what is not his."""


class Person:
    """One principal: his connection, and what is his.

    Attributes:
        mark: Stands in all that he writes.
        ids: Of each kind, what he has heard of.
    """

    def __init__(self, number: int, rng: random.Random) -> None:
        tenant, principal = PEOPLE[number]
        self.token = f"token-{number}"
        self.mark = f"mark{number}-{rng.randrange(16**8):08x}"
        self.identity = Identity(principal=principal, tenant=tenant)
        self.ids: dict[str, list[str]] = {
            kind: [] for kind in ("session", "message", "turn", "input", "ask", "position")
        }
        self.peer: ProtocolPeer
        self.seen = 0


class Campaign:
    """So many random calls, and what each of them may be answered.

    Args:
        seed: Of everything.
        calls: How many.
        hits: Counts what was met.
    """

    def __init__(self, seed: int, calls: int, hits: Counter[str]) -> None:
        self._rng = random.Random(f"tenants {seed}")
        self._calls = calls
        self._hits = hits
        self._people = [Person(number, self._rng) for number in range(len(PEOPLE))]
        self._owner_of: dict[str, Person] = {}

    async def run(self) -> None:
        """Make the calls, and look at all that came of them.

        Raises:
            LeakError: Something reached somebody whose it is not.
        """
        async with self._open():
            for person in self._people:
                await person.peer.call("hello", auth={"scheme": "bearer", "token": person.token})
                await self._settle(person)
            for _ in range(0, self._calls, BATCH):
                await self._play_batch()
            for person in self._people:
                await self._look_through(person)

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[None]:
        settings = Settings(rate_limit=None, max_in_flight=4 * BATCH, max_sessions=100_000)
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(
                open_server(
                    _answer,
                    transports=["loopback://"],
                    settings=settings,
                    authenticate=self._let_in,
                )
            )
            for person in self._people:
                person.peer = await stack.enter_async_context(
                    open_peer(server.endpoints[0], patience=3600)
                )
            yield

    async def _let_in(self, credential: Credential, peer: PeerInfo) -> Identity:
        await trio.lowlevel.checkpoint()
        for person in self._people:
            if person.token == credential.token:
                return person.identity
        raise UnauthorizedError("Not a valid credential")

    async def _settle(self, person: Person) -> None:
        """Let there be something to be after: a session with messages, a turn, a queue, an ask."""
        for asks in (True, False):
            created = await person.peer.call("session.create", **self._describe(person))
            sid = created["id"]
            self._learn(person, created)
            members = {"sessionId": sid, "content": person.mark + (" ask" if asks else "")}
            self._learn(person, await person.peer.call("message.stream", params=members))
            await person.peer.expect_event(sid, "ask.opened" if asks else "turn.ended")
            self._learn(person, await person.peer.call("message.send", params=members))
        self._take_events(person)

    def _describe(self, person: Person) -> dict[str, Any]:
        return {"name": person.mark, "metadata": {"of": person.mark}}

    # -- calls -------------------------------------------------------------------------------

    async def _play_batch(self) -> None:
        sent: list[tuple[Person, str, dict[str, Any], str | int]] = []
        for _ in range(BATCH):
            person = self._rng.choice(self._people)
            method = self._rng.choice(_DRAWN)
            params = self._draw(person, method)
            key = self._rng.choice(KEYS) if self._rng.random() < 0.2 else None
            request = await person.peer.send_request(
                method, params=params, timeout_ms=1000, idempotency_key=key
            )
            sent.append((person, method, params, request))
        for person, method, params, request in sent:
            self._judge(person, method, params, await person.peer.expect_response(request))
        for person in self._people:
            self._take_events(person)

    def _draw(self, person: Person, method: str) -> dict[str, Any]:
        """Draw what would do harm if it were let through: ids of anybody's, and text of one's own."""
        rng = self._rng
        whose = person if rng.random() < 0.15 else rng.choice(self._people)
        # Of one owner as a rule: what belongs together is what gets furthest.
        sid = self._id(whose, "session")
        params: dict[str, Any] = {"sessionId": sid}
        match method:
            case "hello":
                token = rng.choice([rng.choice(self._people).token, "wrong"])
                params = (
                    {"auth": {"scheme": "bearer", "token": token}} if rng.random() < 0.5 else {}
                )
            case "session.create":
                params = self._describe(person)
            case "session.list":
                params = {"limit": rng.choice((1, 50, 200))}
            case "session.update":
                params |= {"name": person.mark, "summary": person.mark}
            case "session.fork":
                params |= rng.choice(({}, {"atMessageId": self._id(whose, "message")}))
            case "session.subscribe":
                place: tuple[dict[str, Any], ...]
                place = ({}, {"after": self._id(whose, "position")}, {"tail": 5}, {"after": "0-0"})
                params |= rng.choice(place)
                params |= {"tools": [TOOL]} if rng.random() < 0.2 else {}
            case "event.list" | "session.export":
                params |= rng.choice(({}, {"after": "0-0", "limit": 1000}))
            case "message.send" | "message.stream":
                content = person.mark + rng.choice(("", " ask", " wait"))
                params |= {"content": content}
                params |= {"whenBusy": rng.choice(("queue", "reject", "interrupt", "steer"))}
                if method == "message.send" and rng.random() < 0.3:
                    params["wait"] = True
            case "message.add":
                params |= {"role": "user", "content": person.mark}
            case "message.list":
                params |= rng.choice(({}, {"after": self._id(whose, "message")}))
            case "turn.cancel":
                params |= rng.choice(({}, {"turnId": self._id(whose, "turn")}))
            case "input.withdraw":
                params |= {"inputId": self._id(whose, "input")}
            case "ask.answer":
                params |= {"askId": self._id(whose, "ask"), "answer": person.mark}
            case "request.cancel":
                params = {"id": f"r{rng.randrange(1, 2000)}"}
            case _ if method.startswith("server."):
                params = {}
            case _:
                pass
        return params

    def _id(self, person: Person, kind: str) -> str:
        known = person.ids[kind]
        if not known or self._rng.random() < 0.02:
            return "0-0" if kind == "position" else f"{kind}_none"
        return self._rng.choice(known[-40:])

    # -- what came of them -------------------------------------------------------------------

    def _judge(
        self, person: Person, method: str, params: dict[str, Any], response: dict[str, Any]
    ) -> None:
        self._hits["calls"] += 1
        self._hits[method] += 1
        code = response["error"]["code"] if "error" in response else "ok"
        if method == "hello" and code == "ok":
            said = response["data"]
            if Identity(principal=said["principal"], tenant=said.get("tenant")) != person.identity:
                raise LeakError(f"{person.mark} has become {said}")
        sid = params.get("sessionId")
        owner = self._owner_of.get(sid or "")
        if sid is not None and owner is not person:
            self._hits["calls of another's session" if owner else "calls of no session"] += 1
            expected = {
                "code": "SESSION_NOT_FOUND",
                "message": f"Session not found: {sid}",
                "retryable": False,
            }
            if response.get("error") != expected:
                raise LeakError(f"{method} of another's {sid} was answered {response}")
        elif code == "ok":
            self._hits["calls that did something"] += 1
            self._learn(person, response["data"])

    def _search(self, person: Person, said: Any, where: str) -> None:
        text = json.dumps(said)
        for mark in _MARK.findall(text):
            if mark != person.mark:
                raise LeakError(f"{person.mark} was told of {mark} by {where}: {text:.500}")

    def _take_events(self, person: Person) -> None:
        """Look at all that came without being asked for, too."""
        frames = person.peer.frames
        for frame in frames[person.seen :]:
            self._search(person, frame, "a frame")
            if frame["type"] == "event":
                sid = frame["payload"].get("sessionId")
                self._hits["events"] += 1
                if sid is not None and self._owner_of.get(sid) not in (None, person):
                    raise LeakError(f"an event of another's {sid} came: {frame}")
                self._learn(person, frame["payload"].get("data"))
                if "position" in frame["payload"]:
                    person.ids["position"].append(frame["payload"]["position"])
        person.seen = len(frames)

    def _learn(self, person: Person, said: Any) -> None:
        """Note the ids in what somebody was told: others will try them."""
        for item in as_array(said) or ():
            self._learn(person, item)
        for name, value in (as_object(said) or {}).items():
            kind = name.removesuffix("Id")
            if isinstance(value, str) and name != kind and kind in person.ids:
                if value not in person.ids[kind]:
                    person.ids[kind].append(value)
            elif name == "id" and isinstance(value, str) and value.startswith("ses_"):
                self._own(person, value)
            else:
                self._learn(person, value)

    def _own(self, person: Person, session_id: str) -> None:
        owner = self._owner_of.setdefault(session_id, person)
        if owner is not person:
            raise LeakError(f"{person.mark} was given another's {session_id}")
        if session_id not in person.ids["session"]:
            person.ids["session"].append(session_id)

    async def _look_through(self, person: Person) -> None:
        """See that a list is of one's own, and that nobody has written into it."""
        listed = (await person.peer.call("session.list", limit=200))["sessions"]
        for session in listed:
            self._own(person, session["id"])
            exported = await person.peer.call(
                "session.export", sessionId=session["id"], after="0-0", limit=1000
            )
            self._search(person, exported, "the log")
            self._hits["logs looked through"] += 1
        self._take_events(person)


async def _look_for_ever(call: ToolCall) -> None:
    await trio.sleep_forever()


async def _answer(turn: Turn) -> None:
    """Be an agent that says again what it was told, asks, or waits to be cancelled."""
    said = turn.messages[-1].content
    if said.endswith(" ask"):
        await turn.ask(said, kind="question")
    elif said.endswith(" wait"):
        with trio.move_on_after(30):
            await turn.call_tool("look", {"at": said}, _look_for_ever)
    await turn.write(said)
