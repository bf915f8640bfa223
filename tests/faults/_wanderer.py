"""A client that does anything at any moment, drops, and comes back with its cursor."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import attrs
import trio

from trialogue.core.abc import Channel, ConnectOptions
from trialogue.core.plugins import find_transport
from trialogue.transports._lines import LineChannel

from ._client import Answer, Caller, Sent
from ._log_rules import Log
from ._mirror import Event, Mirror, ViolationError, seq_of

if TYPE_CHECKING:
    from ._world import World

__all__ = ["Wanderer"]

#: What a request may be refused with here; anything else is wrong.
EXPECTED = {
    "SESSION_BUSY",
    "SESSION_CLOSED",
    "INPUT_NOT_FOUND",
    "TURN_NOT_FOUND",
    "OVERLOADED",
    "CANCELLED",
    "TIMEOUT",
}

#: And an answer to an ask with these: another was first, it has not arrived, or does not fit.
EXPECTED_OF_ANSWERS = {"ASK_CLOSED", "ASK_NOT_FOUND", "INVALID_REQUEST"}

#: After these, nobody knows whether it took effect.
UNCERTAIN = {"CANCELLED", "TIMEOUT", "SESSION_CLOSED", "SERVER_ERROR"}


@attrs.define
class _Said:
    """Something that was sent to a session, whose content is unique."""

    session_id: str
    result: dict[str, Any] | None = None
    is_refused: bool = False


class Wanderer:
    """One client of a `World`.

    Attributes:
        quiet: It asks for nothing more.
    """

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.hits = world.hits
        self.rng = random.Random(f"client {world.shape.seed} {number}")
        self.number = number
        self.mirrors = {
            session_id: Mirror(
                session_id,
                world.hits,
                is_prompt=world.shape.is_prompt,
                may_lose_text=world.may_lose_text,
            )
            for session_id in world.session_ids
        }
        self.quiet = trio.Event()
        self.said: dict[str, _Said] = {}
        self._retries: list[Sent] = []
        self._inputs: list[tuple[str, str, str]] = []  # session, input, turn
        self._accepted: dict[str, list[dict[str, Any]]] = {}  # ask → answers that were taken
        self._is_done = False
        self._caller: Caller
        self._channel: Channel
        self._stall = 0.0
        #: A connection that is slow all the time: so long for each frame.
        self._lag = self.rng.choice((0.0, 0.0, 0.0, 0.0002, 0.001))
        self._progress = trio.Event()

    # -- connections -------------------------------------------------------------------------

    async def live(self) -> None:
        """Connect, do this and that, drop; until it has seen everything."""
        transport = find_transport(self.world.url)
        while not self._is_done:
            async with transport.open_channel(self.world.url, ConnectOptions()) as channel:
                try:
                    await self._converse(channel)
                except* (trio.BrokenResourceError, trio.EndOfChannel) as group:
                    if not self.world.is_failing:
                        raise ViolationError(
                            f"the server closed the connection: {group!r}"
                        ) from group
                    self.hits["connections that the server closed"] += 1
                self._drop(channel)
            if not self.world.over.is_set():
                await self._pause()

    async def _converse(self, channel: Channel) -> None:
        rng = self.rng
        self._channel = channel
        self._caller = Caller(channel, self.hits, may_fail=self.world.is_failing)
        self._stall = 0.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            if not self.world.over.is_set():
                lifetime = rng.choice((0.0, 0.001, 0.005, 0.02, 0.05))
                with trio.move_on_after(lifetime * self.world.shape.pace) as scope:
                    await self._come_back()
                    while not self.world.over.is_set():
                        await self._pause()
                        await self._act()
                if scope.cancelled_caught:
                    self.hits["drops"] += 1
            elif not self.quiet.is_set():
                # A last visit, to know what became of what was asked.
                await self._come_back()
                for sent in list(self._caller.pending.values()):
                    await sent.wait()
                self.quiet.set()
                if rng.random() < 0.6:
                    await self._see_the_end()
            else:
                await self.world.settled.wait()
                await self._come_back()
                await self._see_the_end()
            nursery.cancel_scope.cancel()

    def _drop(self, channel: Channel) -> None:
        """The connection ends here, wherever that is."""
        if isinstance(channel, LineChannel) and channel._splitter.is_inside:  # pyright: ignore[reportPrivateUsage]
            self.hits["drops in the middle of a line"] += 1
        if self.world.has_appends_in_flight:
            self.hits["drops with an append in flight"] += 1
        if self._caller.pending:
            self.hits["drops with requests unanswered"] += 1
        for mirror in self.mirrors.values():
            mirror.dropped()
        for sent in self._caller.pending.values():
            if "idempotencyKey" in sent.extra:
                self._retries.append(sent)

    async def _read(self) -> None:
        while True:
            if self._stall:
                stall, self._stall = self._stall, 0.0
                await trio.sleep(stall)
            if self._lag and not self.quiet.is_set():
                await trio.sleep(self._lag)
            self._take(json.loads(await self._channel.receive()))

    def _take(self, envelope: dict[str, Any]) -> None:
        payload = envelope["payload"]
        if envelope["type"] == "event":
            self.mirrors[payload["sessionId"]].take(payload)
            self._progress.set()
        elif envelope["type"] == "response":
            sent = self._caller.take_answer(payload)
            code = None if payload["success"] else payload["error"]["code"]
            if code == "SERVER_ERROR":
                # Nobody knows whether it took effect: ask again, on another connection.
                if "idempotencyKey" in sent.extra:
                    self._retries.append(sent)
                if sent.method == "session.subscribe":
                    raise trio.EndOfChannel
            elif code is not None and code not in EXPECTED:
                if sent.method == "ask.answer" and code in EXPECTED_OF_ANSWERS:
                    return
                raise ViolationError(f"unexpected: {payload}")
        elif envelope["type"] != "ping":  # rare: of an hour's heartbeat, the first comes at random
            raise ViolationError(f"unexpected: {envelope}")

    async def _come_back(self) -> None:
        """Subscribe again, and repeat what was not answered, under its key."""
        order = list(self.mirrors.values())
        self.rng.shuffle(order)
        for mirror in order:
            if self.world.over.is_set() or mirror.seq or self.rng.random() < 0.9:
                await self._subscribe(mirror)
        retries, self._retries = self._retries, []
        for sent in retries:
            self.hits["requests repeated under their key"] += 1
            if sent.method == "ask.answer":
                await self._answer(sent.params, sent.extra)
            else:
                await self._send_content(sent.method, sent.params, sent.extra, is_repeat=True)

    async def _subscribe(self, mirror: Mirror) -> None:
        rng = self.rng
        if not mirror.seq and not self.world.over.is_set() and rng.random() < 0.3:
            await self._subscribe_anew(mirror)
            return
        claim = mirror.claim(rng)

        def answered(answer: Answer) -> None:
            if answer["success"]:
                mirror.see_asks(answer["data"])
                mirror.subscribed(claim, answer["data"])

        await self._caller.post("session.subscribe", claim.params, answered)

    async def _subscribe_anew(self, mirror: Mirror) -> None:
        """From now on, or from one of the last messages on."""
        params: dict[str, Any] = {"sessionId": mirror.session_id}
        if self.rng.random() < 0.5:
            params["tail"] = self.rng.randint(0, 3)

        def answered(answer: Answer) -> None:
            if not answer["success"]:
                return
            data = answer["data"]
            mirror.see_asks(data)
            if mirror.is_subscribed and "tail" not in params:
                return  # it only asked
            mirror.began(data["replayFrom"], data["inProgress"], is_loose=False)

        await self._caller.post("session.subscribe", params, answered)

    async def _see_the_end(self) -> None:
        """Wait until all that happened has arrived."""
        await self.world.settled.wait()
        for session_id, mirror in self.mirrors.items():
            while mirror.seq < self.world.last_seqs[session_id] or not mirror.is_live:
                self._progress = trio.Event()
                await self._progress.wait()
        self._is_done = True

    # -- acting ------------------------------------------------------------------------------

    async def _pause(self) -> None:
        await trio.sleep(self.rng.choice((0.0, 0.0, 0.0005, 0.002, 0.005)))

    async def _act(self) -> None:
        rng = self.rng
        mirror = rng.choice(list(self.mirrors.values()))
        session_id = mirror.session_id
        post = self._caller.post
        if mirror.open_asks and rng.random() < 0.7:
            await self._answer_one(mirror)
            return
        chance = rng.random()
        if chance < 0.3:
            await self._send(session_id)
        elif chance < 0.38:
            await self._stream(mirror)
        elif chance < 0.48:
            await self._cancel(mirror)
        elif chance < 0.52:
            self._stop_reading()
        elif chance < 0.58:
            await self._subscribe(mirror)
        elif chance < 0.62:
            await post("session.unsubscribe", {"sessionId": session_id}, self._left(mirror))
        elif chance < 0.66 and self._inputs:
            _, input_id, _ = rng.choice(self._inputs)
            await post("input.withdraw", {"sessionId": session_id, "inputId": input_id})
        elif chance < 0.72 and self._caller.pending:
            waiting = rng.choice(list(self._caller.pending))
            await post("request.cancel", {"id": waiting})
        elif chance < 0.76:
            await self._add(session_id)
        elif chance < 0.8:
            await post("session.checkpoint", {"sessionId": session_id, "label": "here"})
        elif chance < 0.83:
            await post("session.update", {"sessionId": session_id, "name": str(rng.random())})
        elif chance < 0.95:
            method = rng.choice(("session.get", "message.list", "event.list", "input.list"))
            await post(method, {"sessionId": session_id})
        elif chance < 0.97 and isinstance(self._channel, LineChannel):
            # Half a frame: after this there is nothing to do but to drop.
            self.hits["requests cut in the middle"] += 1
            await self._channel._wire.send_all(b'{"version":"1.0","type":"requ')  # pyright: ignore[reportPrivateUsage]
            await trio.sleep_forever()
        elif chance < (0.99 if len(self.mirrors) > 1 else 0.975):
            await post("session.close", {"sessionId": session_id})

    async def _answer_one(self, mirror: Mirror) -> None:
        """Answer an ask, or one that somebody has answered; rightly or wrongly."""
        rng = self.rng
        ask_id = rng.choice(list(mirror.asks if rng.random() < 0.2 else mirror.open_asks))
        ask = mirror.asks[ask_id]
        params: dict[str, Any] = {"sessionId": mirror.session_id, "askId": ask_id}
        if rng.random() < 0.1:
            params["answer"] = {"no": "such option"}  # any value is allowed, where nothing says so
        elif ask["kind"] == "tool" and rng.random() < 0.3:
            params["error"] = "no such thing here"
        elif "options" in ask:
            params["answer"] = rng.choice(ask["options"])
        else:
            params["answer"] = rng.getrandbits(40)
        extra: dict[str, Any] = {}
        if rng.random() < 0.5:
            extra["idempotencyKey"] = f"{rng.getrandbits(64)}"
        if rng.random() < 0.1:
            extra["timeoutMs"] = 1
        await self._answer(params, extra)

    async def _answer(self, params: dict[str, Any], extra: dict[str, Any]) -> None:
        def answered(answer: Answer) -> None:
            if answer["success"]:
                self._accepted.setdefault(params["askId"], []).append(params)
            else:
                self.hits[f"answers refused: {answer['error']['code']}"] += 1

        await self._caller.post("ask.answer", params, answered, **extra)

    def _left(self, mirror: Mirror) -> Any:
        def answered(answer: Answer) -> None:
            if answer["success"]:
                mirror.dropped()

        return answered

    def _stop_reading(self) -> None:
        """Read nothing for a while, from the next frame on."""
        self.hits["readers that stopped for a while"] += 1
        self._stall = self.rng.choice((0.002, 0.01, 0.05))

    async def _cancel(self, mirror: Mirror) -> None:
        params: dict[str, Any] = {"sessionId": mirror.session_id}
        turns = [
            turn_id for session_id, _, turn_id in self._inputs if session_id == mirror.session_id
        ]
        if turns and self.rng.random() < 0.5:
            params["turnId"] = self.rng.choice(turns)

        def answered(answer: Answer) -> None:
            if answer["success"] and answer["data"]["cancelled"]:
                self.hits["cancels that took effect"] += 1
                self._must_have_seen_end(mirror, answer["data"]["turnId"], or_never_started=True)

        await self._caller.post("turn.cancel", params, answered)

    def _must_have_seen_end(
        self, mirror: Mirror, turn_id: str, *, or_never_started: bool = False
    ) -> None:
        """PROTOCOL §2.2: such an answer comes after the terminal event that it waited for."""
        if not (mirror.is_live and mirror.is_prompt) or mirror.base:
            return
        kinds = {e["type"] for e in mirror.events if e["data"].get("turnId") == turn_id}
        if "turn.ended" in kinds or (or_never_started and "turn.started" not in kinds):
            self.hits["answers after the terminal event"] += 1
            return
        raise ViolationError(f"{turn_id}: answered before its end; seen {sorted(kinds)}")

    def _content(self, session_id: str) -> str:
        content = f"{self.number}.{len(self.said)} " + "é😀x" * self.rng.choice((0, 0, 0, 1, 1, 40))
        self.said[content] = _Said(session_id)
        return content

    async def _send(self, session_id: str) -> None:
        rng = self.rng
        params: dict[str, Any] = {"sessionId": session_id, "content": self._content(session_id)}
        extra: dict[str, Any] = {}
        if rng.random() < 0.6:
            params["whenBusy"] = rng.choice(("queue", "reject", "interrupt", "steer", "steer"))
        if rng.random() < 0.4:
            params["wait"] = True
        if rng.random() < 0.2:
            extra["timeoutMs"] = rng.choice((1, 5, 20))
        if rng.random() < 0.5:
            extra["idempotencyKey"] = params["content"][:64]
        await self._send_content("message.send", params, extra)

    async def _stream(self, mirror: Mirror) -> None:
        params = {
            "sessionId": mirror.session_id,
            "content": self._content(mirror.session_id),
        }
        extra = {"idempotencyKey": params["content"][:64]} if self.rng.random() < 0.5 else {}
        if mirror.seq and not mirror.is_subscribed:
            return  # this would begin anew, and lose its place
        await self._send_content("message.stream", params, extra)

    async def _send_content(
        self,
        method: str,
        params: dict[str, Any],
        extra: dict[str, Any],
        *,
        is_repeat: bool = False,
    ) -> None:
        mirror = self.mirrors[params["sessionId"]]
        said = self.said[params["content"]]

        def answered(answer: Answer) -> None:
            if not answer["success"]:
                code = answer["error"]["code"]
                # Of a repeat, the first may be on its way still, by a node that stands still.
                is_first = not (is_repeat and self.world.is_spread)
                said.is_refused = code not in UNCERTAIN and is_first
                return
            data = answer["data"]
            said.result = data
            self._inputs.append((params["sessionId"], data["inputId"], data["turnId"]))
            if data["state"] == "steered":
                self.hits["steered inputs"] += 1
            if method == "message.stream" and not mirror.is_subscribed:
                # Nothing of an input is the first of its term.
                term, before = data["position"].partition("-")[0], seq_of(data["position"]) - 1
                mirror.began(f"{term}-{before}" if before else "0-0", [], is_loose=True)
            elif params.get("wait"):
                self._must_have_seen_end(mirror, data["turnId"])
            elif not is_repeat and mirror.is_live and mirror.seq >= seq_of(data["position"]):
                raise ViolationError(
                    f"{data['position']} was seen before the answer that announces it"
                )

        await self._caller.post(method, params, answered, **extra)

    async def _add(self, session_id: str) -> None:
        content = self._content(session_id)
        said = self.said[content]

        def answered(answer: Answer) -> None:
            if answer["success"]:
                said.result = {}
            else:
                said.is_refused = answer["error"]["code"] not in UNCERTAIN

        await self._caller.post(
            "message.add",
            {"sessionId": session_id, "role": "user", "content": content},
            answered,
        )

    def describe(self) -> str:
        """Say what this client waits for."""
        waits = [sent.method for sent in self._caller.pending.values()]
        places = [f"{m.session_id} {m.position} live={m.is_live}" for m in self.mirrors.values()]
        return f"client {self.number} is at {places}, unanswered {waits}"

    # -- at the end --------------------------------------------------------------------------

    def check(self, session_id: str, events: list[Event], log: Log) -> None:
        """Compare all that was seen and said with the log."""
        mirror = self.mirrors[session_id]
        mirror.check(events)
        self._check_answers(session_id, log)
        for content, said in self.said.items():
            if said.session_id != session_id:
                continue
            count = log.contents.get(content, 0)
            if count > 1 or (said.is_refused and count):
                raise ViolationError(f"{content!r} is {count} times in the log")
            if said.result is None:
                continue
            end = log.inputs.get(said.result["inputId"], "lost") if said.result else "delivered"
            if end not in ("delivered", "withdrawn", "returned"):
                raise ViolationError(f"{content!r} was acknowledged, and is {end}")
            if count != (end == "delivered"):
                raise ViolationError(f"{content!r} is {count} times in the log, and was {end}")

    def _check_answers(self, session_id: str, log: Log) -> None:
        """Every answer that was taken is the one that counts."""
        for ask_id, answers in self._accepted.items():
            if answers[0]["sessionId"] != session_id:
                continue
            end = log.closed_asks.get(ask_id, {})
            for params in answers:
                if end.get("reason") != "answered" or any(
                    end.get(name) != params.get(name) for name in ("answer", "error")
                ):
                    raise ViolationError(f"{params} was taken, and the log has {end}")
