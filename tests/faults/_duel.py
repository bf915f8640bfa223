"""One session in which everything happens at once: replies, cancels, drops, deadlines, the end.

All times are whole ticks, so that many things fall into the same instant, where the seed decides
which of them comes first.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import attrs
import trio
import trio.testing

from trialogue.core import Settings, open_server
from trialogue.core._server import Server
from trialogue.core.abc import Channel, ConnectOptions, ToolCall, Turn
from trialogue.core.errors import AgentError, ToolFailedError
from trialogue.core.log import Entry
from trialogue.core.models import AskInfo
from trialogue.core.plugins import find_transport

from ._client import Answer, Caller, Sent
from ._log_rules import Log, check_log
from ._mirror import Event, ViolationError
from ._slow_store import SlowStore

__all__ = ["Batch"]

TICK = 0.001
LIMIT_SECONDS = 60.0
#: What a request may be refused with here.
EXPECTED = {
    "ASK_CLOSED",
    "ASK_NOT_FOUND",
    "CANCELLED",
    "INPUT_NOT_FOUND",
    "SESSION_BUSY",
    "SESSION_CLOSED",
    "SESSION_NOT_FOUND",
    "SHUTTING_DOWN",
    "TIMEOUT",
    "TURN_NOT_FOUND",
}


class KeepingStore(SlowStore):
    """Remembers what was deleted."""

    def __init__(self, seed: object, *, is_slow: bool) -> None:
        super().__init__(seed, slowest=2 * TICK, immediate=0.2 if is_slow else 1)
        self.is_slow = is_slow
        self.deleted: dict[str, Sequence[Entry]] = {}

    def pause(self) -> float:
        return self.random.randint(0, 2) * TICK if self.is_slow else 0.0

    async def delete(self, session_id: str) -> bool:
        if session_id in self._logs:
            self.deleted[session_id] = list(self._logs[session_id])
        return await super().delete(session_id)

    def all_logs(self) -> dict[str, list[Event]]:
        """Give every log there was, as events."""
        logs = {**self.deleted, **self._logs}
        return {
            session_id: [json.loads(entry.frame.payload)["payload"] for entry in entries]
            for session_id, entries in logs.items()
        }


# -- the agent -------------------------------------------------------------------------------


@attrs.frozen
class _Part:
    """What one turn of the agent does."""

    steps: tuple[tuple[str, int], ...]
    end: str


ASKS = ("ask", "ask for a while", "ask and give up", "ask a client's tool")
STEPS = ("text", "text", "text", "tool", "tool", "steer", "emit", *ASKS)


def draw_part(rng: random.Random) -> _Part:
    """Draw a turn."""
    steps = tuple((rng.choice(STEPS), rng.randint(0, 2)) for _ in range(rng.randint(0, 3)))
    end = rng.choice(("return",) * 5 + ("raise", "hang", "hang", "stubborn", "swallow"))
    return _Part(steps, end)


class _Actor:
    """The agent of a batch: the input's content says which part it plays."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.began: set[str] = set()

    async def __call__(self, turn: Turn) -> None:
        self.began.add(turn.id)
        part = self._batch.parts[turn.input.content]
        try:
            for what, ticks in part.steps:
                await self._step(turn, what, ticks)
            if part.end == "raise":
                raise AgentError("no")
            if part.end == "hang":
                await trio.sleep_forever()
            if part.end in ("stubborn", "swallow"):
                await trio.sleep(5 * TICK)
        except trio.Cancelled:
            if part.end == "stubborn":
                with trio.CancelScope(shield=True):
                    await trio.sleep(2 * TICK)
            elif part.end == "swallow":
                return  # it should not, but it can  # noqa: ASYNC104 - the agent at fault here
            raise

    async def _step(self, turn: Turn, what: str, ticks: int) -> None:
        if what == "text":
            await turn.write("text ")
        elif what == "tool":
            await turn.call_tool("tool", {}, lambda _call: self._tool(_call, ticks))
            return
        elif what == "emit":
            turn.emit("_note", {}, durable=True)
        elif what in ASKS:
            await self._ask(turn, what, ticks)
            return
        elif what == "steer":
            with trio.move_on_after(ticks * TICK):
                await turn.next_steering()
                self._batch.hits["steered inputs taken"] += 1
            return
        await trio.sleep(ticks * TICK)

    async def _ask(self, turn: Turn, how: str, ticks: int) -> None:
        """Ask some things at once: they expire, are given up, or wait for an answer for ever."""
        with trio.CancelScope() as scope:
            if how == "ask and give up":
                scope.deadline = trio.current_time() + (ticks + 1) * TICK
            async with trio.open_nursery() as nursery:
                for number in range(ticks + 1):
                    nursery.start_soon(self._ask_one, turn, how, number)

    async def _ask_one(self, turn: Turn, how: str, number: int) -> None:
        expires = (number + 1) * TICK if how == "ask for a while" else None
        if how == "ask a client's tool":
            # It fails where the answer says so, or nobody is left to give one.
            with suppress(ToolFailedError):
                await turn.call_client_tool("theirs", {}, expires_seconds=expires)
            return
        answer = await turn.ask(f"{number}?", expires_seconds=expires, default="late")
        given = answer.value == "late" if answer.reason == "expired" else answer.value != "late"
        if not given:
            raise ViolationError(f"{turn.id} was given {answer}")

    async def _tool(self, call: ToolCall, ticks: int) -> None:
        await trio.sleep(ticks * TICK)


# -- one interleaving ------------------------------------------------------------------------


class Duel:
    """One session, what is done to it, and what came of it."""

    def __init__(self, batch: Batch, number: int) -> None:
        self.batch = batch
        self.rng = random.Random(f"duel {batch.seed} {number}")
        self.number = number
        self.hits = batch.hits
        self.session_id: str | None = None
        self.sent: list[Sent] = []
        self.elsewhere: list[Sent] = []
        self.unanswered: list[Sent] = []
        self.is_cut_by_server = False
        self.caller: Caller
        self._turns: list[str] = []
        self._inputs: list[str] = []
        self._asks: dict[str, AskInfo] = {}
        self._answers = itertools.count()

    async def run(self) -> None:
        """Play it."""
        start = self.rng.randint(0, self.batch.spread) * TICK
        await trio.sleep(start)
        url = self.batch.url
        try:
            async with find_transport(url).open_channel(url, ConnectOptions()) as channel:
                await self._connected(channel)
        except ConnectionRefusedError:
            self.hits["too late to connect"] += 1

    async def _connected(self, channel: Channel) -> None:
        self.caller = Caller(channel, self.hits)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, channel)
                await self._play()
                nursery.cancel_scope.cancel()
        except* (trio.EndOfChannel, trio.BrokenResourceError):
            self.is_cut_by_server = True
        self.unanswered = list(self.caller.pending.values())

    async def _read(self, channel: Channel) -> None:
        while True:
            envelope = json.loads(await channel.receive())
            if envelope["type"] == "response":
                if envelope["payload"]["id"] is None:
                    self.hits["too late to connect"] += 1
                    raise trio.EndOfChannel
                sent = self.caller.take_answer(envelope["payload"])
                self._check_answer(sent, envelope["payload"])

    async def _play(self) -> None:
        rng = self.rng
        created = await (await self._post("session.create", {})).wait()
        if not created["success"]:
            return
        self.session_id = created["data"]["id"]
        if rng.random() < 0.3:
            await self._post("session.subscribe", self._here(after="0-0"))
        plan = sorted(
            [(rng.randint(0, 3), "send") for _ in range(rng.choice((1, 1, 1, 2, 3)))]
            + [
                (rng.randint(0, 8), rng.choice(DISTURBANCES))
                for _ in range(rng.choice((0, 1, 1, 2, 2, 3)))
            ]
            + [
                (rng.randint(1, 8), rng.choice(("answer", "answer", "answer elsewhere")))
                for _ in range(rng.choice((0, 2, 4)))
            ],
            key=lambda item: item[0],
        )
        start = trio.current_time()
        for tick, what in plan:
            # Also without a wait in between, so that two frames are read at once.
            if start + tick * TICK > trio.current_time():
                await trio.sleep_until(start + tick * TICK)
            if what == "drop":
                self.hits["drops"] += 1
                if self.caller.pending:
                    self.hits["drops with requests unanswered"] += 1
                return
            await self._do(what)
        await self._finish()

    async def _finish(self) -> None:
        """Let nothing hang, and wait for every answer."""
        await trio.sleep(self.rng.randint(5, 12) * TICK)
        for _ in range(8):
            if not self.caller.pending:
                return
            await self._post("turn.cancel", self._here())
            await trio.sleep(8 * TICK)
        for sent in list(self.caller.pending.values()):
            await sent.wait()

    async def _do(self, what: str) -> None:
        rng = self.rng
        match what:
            case "send":
                await self._send()
            case "cancel":
                await self._post("turn.cancel", self._here(reason="enough"), **self._extra())
            case "cancel that turn":
                if self._turns:
                    turn_id = rng.choice(self._turns)
                    await self._post("turn.cancel", self._here(turnId=turn_id))
            case "cancel elsewhere":
                async with self.batch.other_lock:
                    await self.batch.other.post("turn.cancel", self._here())
            case "answer":
                await self._answer(self._post)
            case "answer elsewhere":
                async with self.batch.other_lock:
                    await self._answer(self._post_elsewhere)
            case "request.cancel":
                if self.caller.pending:
                    await self._post(
                        "request.cancel", {"id": rng.choice(list(self.caller.pending))}
                    )
            case "withdraw":
                if self._inputs:
                    await self._post("input.withdraw", self._here(inputId=rng.choice(self._inputs)))
            case "close":
                await self._post("session.close", self._here(), **self._extra())
            case "delete":
                await self._post("session.delete", self._here())
            case _:
                raise AssertionError(what)

    def _here(self, **params: Any) -> dict[str, Any]:
        return {"sessionId": self.session_id, **params}

    def _extra(self) -> dict[str, Any]:
        chance = self.rng.random()
        return {"timeoutMs": self.rng.randint(1, 6)} if chance < 0.4 else {}

    async def _send(self) -> None:
        rng = self.rng
        content = f"{self.number}.{len(self.sent)}"
        self.batch.parts[content] = draw_part(rng)
        when_busy = rng.choice(("queue", "queue", "reject", "interrupt", "steer"))
        params = self._here(content=content, whenBusy=when_busy)
        if rng.random() < 0.7:
            params["wait"] = True
        await self._post("message.send", params, **self._extra())

    async def _answer(self, post: Callable[..., Awaitable[Sent]]) -> None:
        """Answer an ask that is open, or was."""
        session = self.batch.server.host.sessions.get(self.session_id or "")
        self._asks |= {} if session is None else dict(session.state.asks)
        if not self._asks:
            return
        newest = list(self._asks)[-3:]
        ask_id = self.rng.choice(newest)
        answer: dict[str, Any] = {"answer": f"answer {self.number}.{next(self._answers)}"}
        if self._asks[ask_id].kind == "tool" and self.rng.random() < 0.3:
            answer = {"error": "no such thing here"}
        await post("ask.answer", self._here(askId=ask_id, **answer), **self._extra())

    async def _post_elsewhere(self, method: str, params: dict[str, Any], **extra: Any) -> Sent:
        sent = await self.batch.other.post(method, params, None, **extra)
        self.elsewhere.append(sent)
        return sent

    async def _post(self, method: str, params: dict[str, Any], **extra: Any) -> Sent:
        sent = await self.caller.post(method, params, None, **extra)
        self.sent.append(sent)
        return sent

    def _check_answer(self, sent: Sent, answer: Answer) -> None:
        if not answer["success"]:
            code = answer["error"]["code"]
            if code not in EXPECTED:
                raise ViolationError(f"{sent.method} was answered {answer['error']}")
            self.hits[f"{sent.method} {code}"] += 1
            return
        data = answer["data"]
        if sent.method == "message.send":
            self._turns.append(data["turnId"])
            self._inputs.append(data["inputId"])
        elif sent.method == "request.cancel" and data["cancelled"]:
            self.hits["requests cancelled"] += 1
            target = next(s for s in self.sent if s.request_id == sent.params["id"])
            if target.answer is None or target.answer.get("error", {}).get("code") != "CANCELLED":
                raise ViolationError(f"cancelled, and answered {target.answer}")

    # -- afterwards --------------------------------------------------------------------------

    def check(self, log: Log, began: set[str]) -> None:
        """Compare the answers with the log."""
        self._count(log, began)
        contents = {content: name for name, content in log.queued_contents.items()}
        for sent in self.unanswered:
            if not self.is_cut_by_server:
                continue
            # Only what waits for an input that stays queued is not answered at a drain.
            content = sent.params.get("content", "")
            name = contents.get(content)
            if sent.at >= self.batch.left_at and not name and content not in log.contents:
                self.hits["requests that came too late"] += 1
                continue
            if not sent.params.get("wait") or name is None or log.inputs[name] != "queued":
                raise ViolationError(f"{sent.method} {sent.params} was never answered")
            self.hits["waits that a drain cut"] += 1
        for sent in [*self.sent, *self.elsewhere]:
            if sent.answer is not None and sent.answer["success"]:
                self._check_success(sent, sent.answer["data"], log)

    def _check_success(self, sent: Sent, data: dict[str, Any], log: Log) -> None:
        match sent.method:
            case "message.send":
                end = log.inputs.get(data["inputId"])
                if end is None:
                    raise ViolationError(f"{data['inputId']} was admitted, and is not in the log")
                if "outcome" in data and log.turns.get(data["turnId"]) != data["outcome"]:
                    raise ViolationError(f"{data} where the log has {log.turns}")
            case "turn.cancel" if data["cancelled"]:
                turn_id = data["turnId"]
                if log.turns.get(turn_id, "cancelled") != "cancelled":
                    raise ViolationError(f"{turn_id} was cancelled, and {log.turns[turn_id]}")
                self.hits["turns cancelled by turn.cancel"] += 1
                if turn_id not in log.turns:
                    self.hits["queued turns cancelled"] += 1
            case "ask.answer":
                closed = log.closed_asks[sent.params["askId"]]
                if closed["reason"] != "answered" or any(
                    closed.get(name) != sent.params.get(name) for name in ("answer", "error")
                ):
                    raise ViolationError(f"{sent.params} was taken, and the log has {closed}")
                self.hits["answers taken"] += 1
            case "session.close":
                if log.ended != "closed":
                    raise ViolationError("closed, and the log has no end")
                self.hits["sessions closed"] += 1
            case "session.delete":
                if log.ended != "closed":
                    raise ViolationError("deleted without an end")
                self.hits["sessions deleted"] += 1
            case _:
                pass

    def _count(self, log: Log, began: set[str]) -> None:
        for turn_id, outcome in log.turns.items():
            self.hits[f"turns {outcome}"] += 1
            self.hits["turns"] += 1
            reason = log.stop_reasons.get(turn_id)
            self.hits[f"turns stopped: {reason}"] += 1
            if turn_id not in began:
                self.hits["turns that ended before they began"] += 1
        for end in log.inputs.values():
            self.hits[f"inputs {end}"] += 1
        for closed in log.closed_asks.values():
            self.hits[f"asks {closed['reason']}"] += 1


DISTURBANCES = (
    "cancel",
    "cancel",
    "cancel that turn",
    "cancel elsewhere",
    "request.cancel",
    "request.cancel",
    "withdraw",
    "close",
    "delete",
    "drop",
    "drop",
)


# -- many of them ----------------------------------------------------------------------------


class Batch:
    """A server with many duels, which may be drained while they are at it.

    Attributes:
        parts: What the agent does with an input, by its content.
    """

    def __init__(self, seed: int, duels: int, hits: Counter[str]) -> None:
        self.seed = seed
        self.hits = hits
        self.rng = random.Random(f"batch {seed}")
        self.parts: dict[str, _Part] = {}
        self.spread = 30
        self.actor = _Actor(self)
        self.store = KeepingStore(seed, is_slow=seed % 2 == 1)
        self.settings = Settings(
            rate_limit=None,
            heartbeat_seconds=3600,
            turn_seconds=self.rng.choice((4 * TICK, 3600)),
            cancel_grace_seconds=20 * TICK,
        )
        self.duels = [Duel(self, number) for number in range(duels)]
        self.url = ""
        self.left_at = math.inf
        self.other: Caller
        self.other_lock = trio.Lock()
        self.server: Server

    async def run(self) -> None:
        """Play, and check everything."""
        tasks = trio.lowlevel.current_statistics().tasks_living
        how = self.rng.choice(("quiet", "drain", "drain", "leave"))
        self.hits[f"batches: {how}"] += 1
        # Then turns that wait for clients are left to a next process, as if there were one.
        self.store.durable = how != "quiet" and self.seed % 4 >= 2
        with trio.fail_after(2 * LIMIT_SECONDS):
            async with (
                trio.open_nursery() as nursery,
                open_server(
                    self.actor,
                    transports=["loopback://"],
                    settings=self.settings,
                    store=self.store,
                ) as self.server,
            ):
                self.url = self.server.endpoints[0]
                await nursery.start(self._watch)
                with trio.move_on_after(LIMIT_SECONDS) as scope:
                    await self._play(nursery, how)
                if scope.cancelled_caught:
                    raise ViolationError(f"hangs ({how}): {self._describe()}")
                self.left_at = trio.current_time()
        left = trio.lowlevel.current_statistics().tasks_living
        if left != tasks:
            raise ViolationError(f"{left - tasks} tasks are left")
        self._check(how)

    async def _watch(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The other client, until the server ends."""
        async with find_transport(self.url).open_channel(self.url, ConnectOptions()) as channel:
            self.other = Caller(channel, self.hits)
            task_status.started()
            try:
                while True:
                    envelope = json.loads(await channel.receive())
                    if envelope["type"] == "response":
                        self.other.take_answer(envelope["payload"])
            except (trio.EndOfChannel, trio.BrokenResourceError):
                return

    async def _play(self, nursery: trio.Nursery, how: str) -> None:
        """Start the duels; leave while they are at it, or when they are over."""
        if how == "quiet":
            async with trio.open_nursery() as duels:
                for duel in self.duels:
                    duels.start_soon(duel.run)
            await self._check_quiet()
            return
        for duel in self.duels:
            nursery.start_soon(duel.run)
        await trio.sleep(self.rng.randint(self.spread // 2, self.spread + 10) * TICK)
        self.hits["turns running at the end"] += len(self.server.host.running)
        if how == "drain":
            await self.server.drain(seconds=self.rng.randint(0, 6) * TICK)
            if not all(session.can_suspend for session in self.server.host.running):
                raise ViolationError("a turn runs after the drain")
            await trio.sleep(self.rng.randint(0, 2) * TICK)

    async def _check_quiet(self) -> None:
        """With every client gone and every turn over, nothing of the server's runs."""
        host = self.server.host
        # Queued inputs start as the turns before them end.
        while host.running or any(not s.journal.is_idle for s in host.sessions.values()):
            host.stop_turns("over")
            await trio.sleep(TICK)
        while self.server.connections > 1:  # noqa: ASYNC110 - there is nothing to wait for
            await trio.sleep(TICK)
        await trio.testing.wait_all_tasks_blocked()
        stats = self.server.stats()
        if stats["subscriptions"] or stats["connections"] != 1:
            raise ViolationError(f"left: {stats}")
        for name in ("_turns", "_writers"):
            nursery: trio.Nursery = getattr(host, name)
            if nursery.child_tasks:
                raise ViolationError(f"tasks left in {name}: {nursery.child_tasks}")

    def _describe(self) -> str:
        """Say what runs, for a batch that hangs."""
        return "; ".join(
            f"{session.id}: turn {session.turn and session.turn.id}, inputs {session.state.inputs}"
            for session in self.server.host.sessions.values()
            if session.is_in_use
        )

    def _check(self, how: str) -> None:
        logs = self.store.all_logs()
        for events in logs.values():
            log = check_log(events)
            running = [turn_id for turn_id, outcome in log.turns.items() if outcome == "running"]
            if running and not (self.store.durable and log.is_only_waiting):
                raise ViolationError(f"{running} never ended")
            self.hits["turns left waiting"] += len(running)
            queued = [name for name, end in log.inputs.items() if end == "queued"]
            if queued and how == "quiet":
                raise ViolationError(f"{queued} are still queued")
        for duel in self.duels:
            if duel.session_id is not None:
                self.hits["interleavings"] += 1
                duel.check(check_log(logs[duel.session_id]), self.actor.began)
