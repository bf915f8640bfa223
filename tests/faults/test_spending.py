"""PROTOCOL §5.6, §5.7: nothing that was spent is lost or counted twice, whatever happens when.

Trees of agents that spend, call tools, compact, ask, and have others work for them, each in random
order, on a store that survives while the server is killed or stopped at random times, and clients
cancel, answer and ask for summaries at random.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import ceil
from typing import Any

import trio

from trialogue.core.abc import Agent, Excerpt, ToolCall, Turn
from trialogue.core.errors import WireError
from trialogue.core.models import Message
from trialogue.testing import ProtocolPeer

from ..recovery.surviving import SurvivingStore
from ..recovery.test_asks import running
from ._world import run_seeded


class Worker:
    """An agent that does a few things at random, and notes what it has said that it spent."""

    def __init__(self, rng: random.Random, ledger: Counter[str], below: Sequence[str]) -> None:
        self.resumable = rng.random() < 0.5
        self._rng = rng
        self._ledger = ledger
        self._below = below

    async def __call__(self, turn: Turn) -> None:
        await turn.check_budget()
        for _ in range(self._rng.randint(1, 4)):
            await self._do(turn)
        await self._spend(turn)

    async def summarize(self, messages: Excerpt) -> str:
        await messages.check_budget()
        await trio.sleep(self._rng.random() / 50)
        self._ledger["all"] += 3
        messages.report_usage(input_tokens=3)
        if self._rng.random() < 0.3:
            raise WireError("No summary.")
        return "All of it."

    async def _do(self, turn: Turn) -> None:
        rng = self._rng
        match rng.choice(["spend", "tool", "ask", "compact", *["child"] * 3]):
            case "tool":
                await turn.call_tool("look", {"n": rng.random()}, self._look, effect="idempotent")
            case "ask":
                await turn.ask("Go on?")
            case "compact":

                async def summarize(_: Sequence[Message]) -> str:
                    await trio.sleep(rng.random() / 50)
                    self._report(turn, 2)
                    return "Before."

                await turn.compact(summarize, keep_last=1)
            case "child" if self._below:
                async with trio.open_nursery() as nursery:
                    for _ in range(rng.randint(1, 3)):
                        nursery.start_soon(turn.run_child, rng.choice(self._below), "go")
                await turn.check_budget()
            case _:
                await self._spend(turn)

    async def _look(self, _: ToolCall) -> str:
        await trio.sleep(self._rng.random() / 50)
        return "seen"

    async def _spend(self, turn: Turn) -> None:
        await turn.check_budget()
        await trio.sleep(self._rng.random() / 50)
        self._report(turn, 10)
        await turn.write("word")
        turn.complete_message()

    def _report(self, turn: Turn, count: int) -> None:
        self._ledger["all"] += count
        turn.report_usage(input_tokens=count)


async def meddle(peer: ProtocolPeer, rng: random.Random, root: str) -> None:
    """Do what clients do, for ever."""
    while True:
        await trio.sleep(rng.random() / 20)
        sessions = (await peer.call("session.list", limit=200))["sessions"]
        sid = rng.choice([session["id"] for session in sessions])
        match rng.choice(["answer"] * 6 + ["cancel", "compact", "send"]):
            case "answer":
                asks = (await peer.call("ask.list", sessionId=sid))["asks"]
                for ask in asks:
                    options = ask.get("options") or ["yes"]
                    await try_to(
                        peer,
                        "ask.answer",
                        sessionId=sid,
                        askId=ask["askId"],
                        answer=rng.choice(options),
                    )
            case "cancel":
                await try_to(peer, "turn.cancel", sessionId=sid)
            case "send":
                await try_to(peer, "message.send", sessionId=root, content="go")
            case _:
                # Of a child, its parent may have counted it already.
                await try_to(peer, "session.compact", sessionId=root, keepLast=0)


async def try_to(peer: ProtocolPeer, method: str, **params: Any) -> None:
    request = await peer.send_request(method, params=params)
    await peer.expect_response(request)


async def settle_all(peer: ProtocolPeer) -> list[Any]:
    """Cancel whatever goes on, until nothing does, and give all sessions."""
    busy: list[Any] = []
    for _ in range(200):
        sessions = (await peer.call("session.list", limit=200))["sessions"]
        busy = [s for s in sessions if s["status"] != "idle" or s["queuedCount"]]
        if not busy:
            await trio.sleep(1)
            return list((await peer.call("session.list", limit=200))["sessions"])
        for session in busy:
            await try_to(peer, "turn.cancel", sessionId=session["id"])
        await trio.sleep(0.1)
    raise AssertionError(f"it does not rest: {busy}")


async def read_log(peer: ProtocolPeer, sid: str) -> Counter[str]:
    """Add up what a session's log says of tokens: by the turns' ends, its messages, its children."""
    tokens, after = Counter[str](), "0-0"
    while True:
        page = await peer.call("event.list", sessionId=sid, after=after, limit=1000)
        for event in page["events"]:
            data = event["data"]
            used = data.get("message", data).get("usage", {}).get("totalTokens", 0)
            match event["type"]:
                case "message.completed" | "tool.called" | "session.compacted":
                    tokens["said"] += used
                case "tool.completed":
                    tokens["children"] += used
                case "turn.ended":
                    tokens["turns"] += used
                case "session.spent":
                    tokens["settled" if "childSessionId" in data else "between"] += used
                case _:
                    pass
        if not page["hasMore"]:
            return tokens
        after = page["events"][-1]["position"]


async def run_schedule(seed: int) -> None:
    """Run trees of agents through a few lives of a server, and add up what they have spent."""
    with trio.fail_after(10_000):
        await _run_schedule(seed)


async def _run_schedule(seed: int) -> None:
    rng, ledger = random.Random(seed), Counter[str]()
    store = SurvivingStore()
    bound = rng.choice([None, 60, 200])
    policy = rng.choice(["ask", "end"])
    budget = {} if bound is None else {"budget": {"maxTokens": bound, "whenExceeded": policy}}
    agents: dict[str, Agent] = {
        "top": Worker(rng, ledger, ["middle", "leaf"]),
        "middle": Worker(rng, ledger, ["leaf"]),
        "leaf": Worker(rng, ledger, []),
    }
    root = ""
    for _ in range(rng.randint(1, 4)):
        async with (
            running(store, agents, rate_limit=None) as (server, peer),
            trio.open_nursery() as nursery,
        ):
            if not root:
                root = (await peer.call("session.create", config=budget))["id"]
            await peer.call("message.send", sessionId=root, content="go")
            nursery.start_soon(meddle, peer, rng, root)
            await trio.sleep(rng.random())
            nursery.cancel_scope.cancel()
            if rng.random() < 0.7:
                store.crash()
            elif rng.random() < 0.5:
                with trio.CancelScope(shield=True):
                    await server.drain(0.05)
    async with running(store, agents, rate_limit=None) as (_, peer):
        await trio.sleep(rng.random())
        sessions = await settle_all(peer)
        spent = {s["id"]: s["tokenUsage"]["totalTokens"] for s in sessions}
        total = 0
        for session in sessions:
            sid, log = session["id"], await read_log(peer, session["id"])
            children = [
                spent[s["id"]] for s in sessions if s.get("parent", {}).get("sessionId") == sid
            ]
            assert sum(children) == log["children"] + log["settled"], (seed, sid, log, children)
            assert spent[sid] == log["turns"] + log["settled"] + log["between"], (seed, sid, log)
            own = log["turns"] - log["children"]
            # What was said of a summary that came to nothing stands with the turn alone.
            assert own >= log["said"], (seed, sid, log)
            total += own + log["between"]
        assert spent[root] == total <= ledger["all"], (seed, total, ledger)
    assert await store.list_open_work() == [], seed


def test_what_was_spent_is_counted_once(part: Fraction, seed: int) -> None:
    """§5.7: of each session, by itself and by those that worked for it."""
    for number in range(ceil(40 * part)):
        run_seeded(seed + number, run_schedule, seed + number)
