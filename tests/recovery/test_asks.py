"""PROTOCOL §9: a turn that waits for somebody goes on waiting when the server is restarted."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue import Settings, open_server
from trialogue.core import Server
from trialogue.core.abc import Agent, ToolCall, Turn
from trialogue.core.errors import ToolFailedError, ToolOutcomeUnknownError
from trialogue.core.models import ToolCallInfo
from trialogue.stores.jsonl import open_jsonl_store
from trialogue.stores.sqlite import open_sqlite_store
from trialogue.testing import ProtocolPeer, open_peer

from .surviving import SurvivingStore


@asynccontextmanager
async def running(
    store: SurvivingStore, agent: Agent | Mapping[str, Agent], **settings: Any
) -> AsyncGenerator[tuple[Server, ProtocolPeer]]:
    async with (
        open_server(
            agent, transports=["loopback://"], store=store, settings=Settings(**settings)
        ) as server,
        open_peer(server.endpoints[0], patience=24 * 3600) as peer,
    ):
        yield server, peer


async def begin(peer: ProtocolPeer, content: str = "go") -> str:
    """Start a turn that the peer follows."""
    sid: str = (await peer.call("session.create"))["id"]
    await peer.call("message.stream", sessionId=sid, content=content)
    return sid


async def crash_at(
    store: SurvivingStore,
    agents: Agent | Mapping[str, Agent],
    event: str,
    *,
    seconds: float = 0.0,
    **data: Any,
) -> tuple[str, Any]:
    """Begin a turn, and end the process so long after an event of it. Gives the session, and that."""
    async with running(store, agents) as (_, peer):
        sid = await begin(peer)
        seen = (await peer.expect_event(sid, event, **data))["data"]
        if seconds:
            await trio.sleep(seconds)
        store.crash()
    return sid, seen


async def follow(peer: ProtocolPeer, sid: str) -> Any:
    """Attach to a session, and give what its open asks are."""
    return (await peer.call("session.subscribe", sessionId=sid))["asks"]


async def types(peer: ProtocolPeer, sid: str) -> list[str]:
    events = (await peer.call("event.list", sessionId=sid, limit=1000))["events"]
    return [event["type"] for event in events]


class Worker:
    """An agent with tools that count how often they ran.

    Attributes:
        ran: The tools that ran, in order.
        stuck: Tools that do not end before the process does.
    """

    def __init__(self, work: Callable[[Worker, Turn], Awaitable[None]]) -> None:
        self.work = work
        self.ran: list[str] = []
        self.stuck: set[str] = set()
        self.attempts: list[int] = []

    async def __call__(self, turn: Turn) -> None:
        self.attempts.append(turn.attempt)
        await self.work(self, turn)

    async def run(self, call: ToolCall) -> str:
        """Be a tool."""
        self.ran.append(call.name)
        if call.name in self.stuck:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return f"{call.name} is done"


class Resumable(Worker):
    """One that can be called again in the middle of its tools."""

    resumable = True


# -- waiting ---------------------------------------------------------------------------------------


async def two_questions(worker: Worker, turn: Turn) -> None:
    if turn.attempt == 1:
        await turn.write("Let me see.")
    first = await turn.call_tool("look", {}, worker.run)
    yes = await turn.ask("Go on?", options=["yes", "no"])
    second = await turn.call_tool("do", {"yes": yes.value}, worker.run)
    again = await turn.ask("And now?")
    await turn.write(f"{first}, {yes.value} by {yes.by}, {second}, {again.value}")


async def test_turn_that_waits_for_an_answer_survives_and_does_nothing_twice(
    autojump_clock: MockClock,
) -> None:
    """§9: when it is answered the agent is called again, and the log's results are returned."""
    store, worker = SurvivingStore(), Worker(two_questions)
    async with running(store, worker) as (_, peer):
        sid = await begin(peer)
        before = (await peer.expect_event(sid, "ask.opened"))["data"]
        turn_id = before["turnId"]
        store.crash()
    async with running(store, worker) as (_, peer):
        assert await follow(peer, sid) == [before]
        session = await peer.call("session.get", sessionId=sid)
        assert (session["status"], session["activeTurnId"]) == ("waiting", turn_id)
        assert "turn.ended" not in await types(peer, sid)
        assert worker.attempts == [1], "nobody has answered"
        await peer.call("ask.answer", sessionId=sid, askId=before["askId"], answer="yes")
        events = await peer.expect_durable(
            sid,
            "ask.closed",
            "turn.resumed",
            "tool.called",
            "tool.completed",
            "ask.opened",
        )
        assert events[1]["data"] == {"turnId": turn_id, "attempt": 2}
        assert worker.ran == ["look", "do"]
        store.crash()
    async with running(store, worker) as (_, peer):
        (ask,) = await follow(peer, sid)
        assert ask["title"] == "And now?"
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer="done")
        ended = await peer.expect_event(sid, "turn.ended")
        assert (ended["data"]["turnId"], ended["data"]["outcome"]) == (turn_id, "completed")
        messages = (await peer.call("message.list", sessionId=sid))["messages"]
        said = "look is done, yes by anonymous, do is done, done"
        assert messages[-1]["content"] == said
        assert (await types(peer, sid)).count("turn.ended") == 1
    assert worker.ran == ["look", "do"]
    assert worker.attempts == [1, 2, 3]


async def test_answer_that_was_given_and_not_acted_on_is_acted_on_at_once(
    autojump_clock: MockClock,
) -> None:
    """§9: the ask was closed, and the process ended before the agent did anything."""
    store = SurvivingStore()

    async def slowly(worker: Worker, turn: Turn) -> None:
        answer = await turn.ask("Go on?")
        if turn.attempt == 1:
            await trio.sleep_forever()
        await turn.write(f"{answer.value}")

    worker = Worker(slowly)
    async with running(store, worker) as (_, peer):
        sid = await begin(peer)
        ask = (await peer.expect_event(sid, "ask.opened"))["data"]
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer="on")
        await peer.expect_event(sid, "ask.closed")
        store.crash()
    async with running(store, worker) as (_, peer):
        await trio.sleep(1)
        messages = (await peer.call("message.list", sessionId=sid))["messages"]
        assert messages[-1]["content"] == "on"
        await peer.refused("ASK_CLOSED", "ask.answer", sessionId=sid, askId=ask["askId"])


async def test_agent_that_ends_the_process_each_time_is_not_called_for_ever(
    autojump_clock: MockClock,
) -> None:
    """§9: at most 5 times for one turn, where nobody has answered since."""
    store = SurvivingStore()

    async def deadly(worker: Worker, turn: Turn) -> None:
        await turn.ask("Go on?")
        await trio.sleep_forever()

    worker = Worker(deadly)
    async with running(store, worker) as (_, peer):
        sid = await begin(peer)
        ask = (await peer.expect_event(sid, "ask.opened"))["data"]
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"])
        await peer.expect_event(sid, "ask.closed")
        store.crash()
    for _ in range(6):
        async with running(store, worker):
            await trio.sleep(1)
            store.crash()
    async with running(store, worker) as (_, peer):
        events = (await peer.call("event.list", sessionId=sid))["events"]
    assert worker.attempts == [1, 2, 3, 4, 5]
    assert events[-1]["data"]["outcome"] == "interrupted"


async def test_ask_expires_though_the_server_was_restarted(autojump_clock: MockClock) -> None:
    """§9: at expiresAt, whoever runs then; the agent is called again with the default."""
    store = SurvivingStore()

    async def ask(worker: Worker, turn: Turn) -> None:
        answer = await turn.ask("Go on?", default="no", expires_seconds=3600)
        await turn.write(f"{answer.value} {answer.reason}")

    worker = Worker(ask)
    sid, _ = await crash_at(store, worker, "ask.opened")
    async with running(store, worker) as (_, peer):
        start = trio.current_time()
        await follow(peer, sid)
        await peer.expect_event(sid, "ask.closed", reason="expired")
        # The wall's clock stands still meanwhile, but for what the test takes.
        assert trio.current_time() - start == pytest.approx(3600, abs=60)
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        messages = (await peer.call("message.list", sessionId=sid))["messages"]
        assert messages[-1]["content"] == "no expired"


async def test_tasks_of_an_agent_find_their_own_asks_and_calls_again(
    autojump_clock: MockClock,
) -> None:
    """§9: by key, by id, or by what they are; those still open are waited for."""
    store = SurvivingStore()
    results = dict[str, Any]()

    async def many(worker: Worker, turn: Turn) -> None:
        async def ask(title: str, key: str | None) -> None:
            results[f"ask {title} {key}"] = (await turn.ask(title, key=key)).value

        async def call(arguments: Any, call_id: str | None, key: str | None) -> None:
            async def tool(call: ToolCall) -> Any:
                await worker.run(call)
                return [arguments, call_id, key]

            result = await turn.call_tool("t", arguments, tool, call_id=call_id, key=key)
            results[f"call {arguments} {call_id} {key}"] = result

        nothing = dict[str, Any]()
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(call, {"n": number}, None, None)
                nursery.start_soon(call, nothing, f"c{number}", None)
                nursery.start_soon(call, nothing, None, f"k{number}")
        async with trio.open_nursery() as nursery:
            for letter in "abc":
                nursery.start_soon(ask, letter, None)
                nursery.start_soon(ask, "same", letter)

    worker = Worker(many)
    async with running(store, worker) as (_, peer):
        sid = await begin(peer)
        for _ in range(6):
            await peer.expect_event(sid, "ask.opened")
        store.crash()
    done = {name: value for name, value in results.items() if name.startswith("call")}
    results.clear()
    async with running(store, worker) as (_, peer):
        asks = await follow(peer, sid)
        assert len(asks) == 6
        for ask in asks:
            answer = f"{ask['title']} {ask.get('key')}"
            await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer=answer)
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        assert (await types(peer, sid)).count("ask.opened") == 6
    assert len(worker.ran) == 9
    assert {name: value for name, value in results.items() if name in done} == done
    for name, value in results.items():
        if name.startswith("ask"):
            assert name == f"ask {value}"


async def test_failed_call_fails_again_without_being_made(autojump_clock: MockClock) -> None:
    """§9: what the log holds of it is its error."""
    store = SurvivingStore()
    seen: list[str] = []

    async def careless(worker: Worker, turn: Turn) -> None:
        async def fail(call: ToolCall) -> None:
            await worker.run(call)
            raise ToolFailedError("no route")

        try:
            await turn.call_tool("t", {}, fail)
        except ToolFailedError as exc:
            seen.append(str(exc))
        await turn.ask("Go on?")

    worker = Worker(careless)
    sid, ask = await crash_at(store, worker, "ask.opened")
    async with running(store, worker) as (_, peer):
        await follow(peer, sid)
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"])
        await peer.expect_event(sid, "turn.ended", outcome="completed")
    assert (worker.ran, seen) == (["t"], ["no route", "no route"])


async def test_turn_that_said_something_beside_its_ask_is_interrupted(
    autojump_clock: MockClock,
) -> None:
    """§9: in every other interrupted turn the open asks are closed."""
    store = SurvivingStore()

    async def both(worker: Worker, turn: Turn) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.ask, "Go on?")
            await trio.sleep(1)
            await turn.write("Hm, ")

    worker = Worker(both)
    sid, _ = await crash_at(store, worker, "message.started")
    async with running(store, worker) as (_, peer):
        events = (await peer.call("event.list", sessionId=sid))["events"][-4:]
        assert [event["type"] for event in events] == [
            "session.resumed",
            "message.completed",
            "ask.closed",
            "turn.ended",
        ]
        assert events[2]["data"]["reason"] == "cancelled"
        assert events[3]["data"]["outcome"] == "interrupted"
        assert await follow(peer, sid) == []
    assert worker.attempts == [1]


@pytest.mark.parametrize("how", ["turn.cancel", "session.close", "interrupt"])
async def test_turn_that_waits_since_before_the_crash_can_be_ended(
    autojump_clock: MockClock, how: str
) -> None:
    """§4, §5: its agent is not called for that."""
    store, worker = SurvivingStore(), Worker(two_questions)
    sid, _ = await crash_at(store, worker, "ask.opened")
    async with running(store, worker) as (_, peer):
        await follow(peer, sid)
        queued = await peer.call("message.send", sessionId=sid, content="next")
        assert queued["state"] == "queued"
        if how == "interrupt":
            members = {"content": "now", "whenBusy": "interrupt"}
            await peer.call("message.send", sessionId=sid, params=members)
        else:
            await peer.call(how, sessionId=sid)
        await peer.expect_event(sid, "ask.closed", reason="cancelled")
        await peer.expect_event(sid, "turn.ended", outcome="cancelled")
        assert worker.attempts[1:] in ([], [1])


async def test_orderly_restart_leaves_waiting_turns_waiting(autojump_clock: MockClock) -> None:
    """§3.4, §9: nor does the drain wait for them; what runs is waited for as ever."""
    store, worker = SurvivingStore(), Worker(two_questions)
    async with running(store, worker, drain_seconds=30) as (server, peer):
        sid = await begin(peer)
        ask = (await peer.expect_event(sid, "ask.opened"))["data"]
        start = trio.current_time()
        await server.drain()
        assert trio.current_time() - start < 1
        # It can still be answered; the next server acts on it.
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer="yes")
    assert worker.attempts == [1]
    store.crash()
    async with running(store, worker) as (_, peer):
        await trio.sleep(1)
        (ask,) = await follow(peer, sid)
        assert ask["title"] == "And now?"
        assert "turn.ended" not in await types(peer, sid)
    assert worker.attempts == [1, 2]
    assert worker.ran == ["look", "do"]


async def test_turn_that_is_left_waiting_is_no_failure_whatever_its_agent_does_on_its_way_out(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Once a traceback at each restart; what it does is refused."""

    async def says_goodbye(worker: Worker, turn: Turn) -> None:
        try:
            await turn.ask("Go on?")
        finally:
            await turn.write("bye")  # noqa: ASYNC102 - so agents do

    store, worker = SurvivingStore(), Worker(says_goodbye)
    async with running(store, worker) as (_, peer):
        sid = await begin(peer)
        ask = (await peer.expect_event(sid, "ask.opened"))["data"]
    store.crash()
    assert "the agent raised" not in caplog.text
    async with running(store, worker) as (_, peer):
        assert await follow(peer, sid) == [ask]
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer="yes")
        await peer.expect_event(sid, "turn.ended", outcome="completed")
    assert worker.attempts == [1, 2]


async def test_config_of_a_turn_is_that_of_its_start_when_its_agent_is_called_again(
    autojump_clock: MockClock,
) -> None:
    """§4: a changed one holds from the next turn, also across a restart."""
    store = SurvivingStore()
    models: list[str | None] = []

    async def ask(worker: Worker, turn: Turn) -> None:
        models.append(turn.config.model)
        await turn.ask("Go on?")

    worker = Worker(ask)
    async with running(store, worker) as (_, peer):
        sid = (await peer.call("session.create", config={"model": "old"}))["id"]
        await peer.call("message.stream", sessionId=sid, content="go")
        opened = await peer.expect_event(sid, "ask.opened")
        await peer.call("session.update", sessionId=sid, config={"model": "new"})
        store.crash()
    async with running(store, worker) as (_, peer):
        await follow(peer, sid)
        await peer.call("ask.answer", sessionId=sid, askId=opened["data"]["askId"])
        await peer.expect_event(sid, "turn.ended")
    assert models == ["old", "old"]


@pytest.mark.parametrize("kind", ["jsonl", "sqlite"])
async def test_stores_on_disk_keep_a_waiting_turn(tmp_path: Path, kind: str) -> None:
    """§9.4 on what people use: an orderly end, a new server, an answer."""
    agent = Worker(two_questions)

    def open_store() -> Any:
        if kind == "jsonl":
            return open_jsonl_store(tmp_path)
        return open_sqlite_store(str(tmp_path / "sessions.db"))

    with trio.fail_after(30):
        async with (
            open_server(agent, transports=["loopback://"], store=open_store()) as server,
            open_peer(server.endpoints[0]) as peer,
        ):
            sid = await begin(peer)
            await peer.expect_event(sid, "ask.opened")
        async with (
            open_server(agent, transports=["loopback://"], store=open_store()) as server,
            open_peer(server.endpoints[0]) as peer,
        ):
            listed = await peer.call("session.list", status="waiting")
            assert [session["id"] for session in listed["sessions"]] == [sid]
            for answer in ("yes", "done"):
                (ask,) = await follow(peer, sid)
                await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer=answer)
                await peer.expect_event(sid, "ask.opened" if answer == "yes" else "turn.ended")
            messages = (await peer.call("message.list", sessionId=sid))["messages"]
    assert messages[-1]["content"] == "look is done, yes by anonymous, do is done, done"
    assert agent.ran == ["look", "do"]
    assert agent.attempts == [1, 2]


# -- tools -----------------------------------------------------------------------------------------


def step(*effects: str) -> Callable[[Worker, Turn], Awaitable[None]]:
    """An agent whose first step has a call of each effect, all at once."""

    async def work(worker: Worker, turn: Turn) -> None:
        calls = turn.pending_calls
        if turn.attempt == 1:
            calls = [
                ToolCallInfo(call_id=f"c{number}", name=effect, arguments={"n": number})
                for number, effect in enumerate(effects)
            ]
            turn.complete_message(calls)

        async def run(call: ToolCallInfo) -> None:
            effect: Any = call.name
            try:
                await turn.call_tool(
                    call.name, call.arguments, worker.run, call_id=call.call_id, effect=effect
                )
            except ToolOutcomeUnknownError as exc:
                worker.ran.append(f"skipped {call.name}: {exc}")

        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(run, call)
        await turn.write("Done.")

    return work


async def test_calls_of_a_step_stand_in_one_message_and_run_once(
    autojump_clock: MockClock,
) -> None:
    """Our choice: Turn.complete_message with calls; none is put into another message."""
    store, worker = SurvivingStore(), Worker(step("none", "idempotent", "unsafe"))
    async with running(store, worker) as (_, peer):
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="go", wait=True)
        messages = (await peer.call("message.list", sessionId=sid))["messages"]
    assert [message["role"] for message in messages] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "tool",
        "assistant",
    ]
    assert [call["callId"] for call in messages[1]["toolCalls"]] == ["c0", "c1", "c2"]
    assert messages[1]["content"] == ""
    assert {message["callId"] for message in messages[2:5]} == {"c0", "c1", "c2"}
    assert sorted(worker.ran) == ["idempotent", "none", "unsafe"]


async def test_agent_that_is_resumable_goes_on_in_the_middle_of_its_tools(
    autojump_clock: MockClock,
) -> None:
    """§9: what ended is not done again, what may be is, and what may not is asked about."""
    store, worker = SurvivingStore(), Resumable(step("none", "unsafe", "idempotent"))
    worker.stuck = {"none", "unsafe"}
    sid, _ = await crash_at(store, worker, "tool.completed", seconds=1)
    worker.stuck = set()
    assert sorted(worker.ran) == ["idempotent", "none", "unsafe"]
    async with running(store, worker) as (_, peer):
        await trio.sleep(1)
        assert sorted(worker.ran) == ["idempotent", "none", "none", "unsafe"]
        (ask,) = await follow(peer, sid)
        assert (ask["kind"], ask["options"]) == ("approval", ["retry", "skip"])
        assert (ask["callId"], ask["name"], ask["arguments"]) == ("c1", "unsafe", {"n": 1})
        assert (await peer.call("session.get", sessionId=sid))["status"] == "waiting"
        store.crash()
    # A second crash, with the question open: it is asked once.
    async with running(store, worker) as (_, peer):
        assert await follow(peer, sid) == [ask]
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer="retry")
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        messages = (await peer.call("message.list", sessionId=sid))["messages"]
        all_types = await types(peer, sid)
    assert sorted(worker.ran) == ["idempotent", "none", "none", "unsafe", "unsafe"]
    assert worker.attempts == [1, 2, 3]
    assert all_types.count("tool.called") == 5
    tools = {message["callId"]: message for message in messages if message["role"] == "tool"}
    assert len(tools) == sum(message["role"] == "tool" for message in messages) == 3
    assert [tools[f"c{n}"]["content"] for n in range(3)] == [
        "none is done",
        "unsafe is done",
        "idempotent is done",
    ]
    assert {message["status"] for message in tools.values()} == {"complete"}
    assert sum("toolCalls" in message for message in messages) == 1


async def test_unsafe_tool_that_was_skipped_is_not_run(autojump_clock: MockClock) -> None:
    """§9: options retry and skip; its call stays unknown."""
    store, worker = SurvivingStore(), Resumable(step("unsafe"))
    worker.stuck = {"unsafe"}
    sid, _ = await crash_at(store, worker, "tool.called", seconds=1)
    async with running(store, worker) as (_, peer):
        await trio.sleep(1)
        (ask,) = await follow(peer, sid)
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer="skip")
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        events = (await peer.call("event.list", sessionId=sid))["events"]
    ends = [event["data"]["status"] for event in events if event["type"] == "tool.completed"]
    assert ends == ["unknown"]
    assert [name.partition(":")[0] for name in worker.ran] == ["unsafe", "skipped unsafe"]


async def test_calls_that_stood_in_a_message_and_were_not_made_yet_are_made(
    autojump_clock: MockClock,
) -> None:
    """§9: a resumable agent finds them in `Turn.pending_calls`."""
    store = SurvivingStore()

    async def work(worker: Worker, turn: Turn) -> None:
        if turn.attempt == 1:
            turn.complete_message([ToolCallInfo(call_id="c", name="t")])
            await trio.sleep_forever()
        for call in turn.pending_calls:
            await turn.call_tool(call.name, call.arguments, worker.run, call_id=call.call_id)
        assert turn.pending_calls == ()

    worker = Resumable(work)
    sid, _ = await crash_at(store, worker, "message.completed")
    async with running(store, worker) as (_, peer):
        await trio.sleep(1)
        assert (await types(peer, sid))[-4:] == [
            "turn.resumed",
            "tool.called",
            "tool.completed",
            "turn.ended",
        ]
    assert worker.ran == ["t"]


async def test_agent_that_is_not_resumable_is_interrupted_in_its_tools(
    autojump_clock: MockClock,
) -> None:
    """§9: it said nothing of being called again."""
    store, worker = SurvivingStore(), Worker(step("none"))
    worker.stuck = {"none"}
    sid, _ = await crash_at(store, worker, "tool.called", seconds=1)
    async with running(store, worker) as (_, peer):
        await trio.sleep(1)
        assert (await types(peer, sid))[-3:] == [
            "session.resumed",
            "tool.completed",
            "turn.ended",
        ]
    assert worker.attempts == [1]


async def test_tool_at_a_client_is_waited_for_across_a_restart(
    autojump_clock: MockClock,
) -> None:
    """§9.3, §9.4: its call goes on, and is made once."""
    store = SurvivingStore()
    results: list[Any] = []

    async def call(worker: Worker, turn: Turn) -> None:
        results.append(await turn.call_client_tool("now", {}, call_id="c"))

    worker = Worker(call)
    sid, ask = await crash_at(store, worker, "ask.opened", kind="tool")
    async with running(store, worker) as (_, peer):
        assert await follow(peer, sid) == [ask]
        assert (await peer.call("session.get", sessionId=sid))["status"] == "waiting"
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer="noon")
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        events = (await peer.call("event.list", sessionId=sid))["events"]
        all_types = [event["type"] for event in events]
        assert all_types.count("tool.called") == all_types.count("tool.completed") == 1
        messages = (await peer.call("message.list", sessionId=sid))["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert results == ["noon"]


async def test_call_at_a_client_that_is_not_made_again_ends_with_its_turn(
    autojump_clock: MockClock,
) -> None:
    """§5.5: once it was open for ever, and its turn had ended."""

    async def call(worker: Worker, turn: Turn) -> None:
        async with trio.open_nursery() as nursery:
            if turn.attempt == 1:
                nursery.start_soon(partial(turn.call_client_tool, "now", arguments={}))
                await turn.ask("Which time zone?")

    store, worker = SurvivingStore(), Worker(call)
    async with running(store, worker) as (_, peer):
        sid = await begin(peer)
        await peer.expect_event(sid, "ask.opened", kind="tool")
        (ask,) = [a for a in await follow(peer, sid) if a["kind"] == "question"]
        store.crash()
    async with running(store, worker) as (_, peer):
        await follow(peer, sid)
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer="yes")
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        assert sorted((await types(peer, sid))[-3:]) == [
            "ask.closed",
            "tool.completed",
            "turn.ended",
        ]
    assert worker.attempts == [1, 2]
