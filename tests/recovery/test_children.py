"""PROTOCOL §5.7: a turn that works for another, when the server is restarted or it is cancelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
from trio.abc import Instrument
from trio.testing import MockClock

from trialogue.core.abc import Agent, Turn
from trialogue.core.log import Entry, Summary
from trialogue.testing import ProtocolPeer

from .surviving import SurvivingStore
from .test_asks import begin, crash_at, follow, running, types


class Parent:
    """An agent that has another one work; it may be called again."""

    def __init__(self, *, resumable: bool = True) -> None:
        self.resumable = resumable
        self.outcomes: list[str] = []

    async def __call__(self, turn: Turn) -> None:
        result = await turn.run_child("worker", "work")
        self.outcomes.append(result.outcome)
        said = "" if result.message is None else result.message.content
        again = await turn.ask("Well done?")
        await turn.write(f"{said} {again.value}")


async def asker(turn: Turn) -> None:
    if turn.attempt == 1:
        turn.report_usage(input_tokens=7)
        await turn.write("Hm.")
    answer = await turn.ask("Which?")
    await turn.write(f"{answer.value}")


async def child_of(peer: ProtocolPeer, sid: str) -> str:
    called: Any = (await peer.expect_event(sid, "tool.called"))["data"]["childSessionId"]
    for _ in range(1000):
        request = await peer.send_request("ask.list", sessionId=called)
        response = await peer.expect_response(request)
        if response["success"] and response["data"]["asks"]:
            return str(called)
        await trio.sleep(0.01)
    raise AssertionError("the child asks nothing")


async def last_end(peer: ProtocolPeer, sid: str) -> dict[str, Any]:
    """Give the end of the session's last turn, which is all over."""
    event = (await peer.call("event.list", sessionId=sid, limit=1000))["events"][-1]
    assert event["type"] == "turn.ended"
    data: dict[str, Any] = event["data"]
    return data


async def crash_with_child(store: SurvivingStore, agents: dict[str, Agent]) -> tuple[str, str]:
    """End the process when a parent's child asks something. Gives their sessions."""
    async with running(store, agents) as (_, peer):
        sid = await begin(peer)
        child = await child_of(peer, sid)
        store.crash()
    return sid, child


async def answer(peer: ProtocolPeer, sid: str, value: str) -> None:
    asks: list[Any] = []
    for _ in range(1000):
        asks = (await peer.call("ask.list", sessionId=sid))["asks"]
        if asks:
            break
        await trio.sleep(0.01)
    await peer.call("ask.answer", sessionId=sid, askId=asks[0]["askId"], answer=value)


async def test_parent_finds_its_child_again(autojump_clock: MockClock) -> None:
    """§5.7, §9: no second child, and each of the two goes on where its log ends."""
    store, parent = SurvivingStore(), Parent()
    agents: dict[str, Agent] = {"parent": parent, "worker": asker}
    sid, child = await crash_with_child(store, agents)
    async with running(store, agents) as (_, peer):
        await follow(peer, sid)
        await answer(peer, child, "that one")
        completed = (await peer.expect_event(sid, "tool.completed", status="ok"))["data"]
        assert completed["usage"]["totalTokens"] == 7
        await peer.expect_event(sid, "ask.opened")
        events = (await peer.call("event.list", sessionId=sid))["events"]
        called = [e["data"]["childSessionId"] for e in events if e["type"] == "tool.called"]
        assert called == [child, child]
        store.crash()
    # What the child did is in the parent's log by now.
    async with running(store, agents) as (_, peer):
        await follow(peer, sid)
        await answer(peer, sid, "yes")
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
        assert (ended["outcome"], ended["usage"]["totalTokens"]) == ("completed", 7)
        history = (await peer.call("message.list", sessionId=sid))["messages"]
        assert history[-1]["content"] == "that one yes"
        assert len((await peer.call("session.list"))["sessions"]) == 2
        assert (await types(peer, child)).count("turn.ended") == 1
    assert parent.outcomes == ["completed", "completed"]


async def test_time_of_a_parent_stands_still_while_its_child_waits_after_a_restart(
    autojump_clock: MockClock,
) -> None:
    """§5.7: also before the child's agent is called again."""
    store, parent = SurvivingStore(), Parent()

    async def slow(turn: Turn) -> None:
        if turn.attempt == 1:
            await turn.ask("Which?")
        await trio.sleep(2)
        await turn.write("done")

    agents: dict[str, Agent] = {"parent": parent, "worker": slow}
    sid, child = await crash_with_child(store, agents)
    async with running(store, agents, turn_seconds=60) as (_, peer):
        await follow(peer, sid)
        await trio.sleep(1000)
        await answer(peer, child, "that one")
        await peer.expect_event(sid, "ask.opened")
        await answer(peer, sid, "yes")
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
        assert (ended["outcome"], round(ended["durationMs"], -2)) == ("completed", 2000)
    assert parent.outcomes == ["completed"]


async def test_child_whose_parent_was_interrupted_is_cancelled(autojump_clock: MockClock) -> None:
    """§5.7: nobody would take its answer."""
    store = SurvivingStore()
    agents: dict[str, Agent] = {"parent": Parent(resumable=False), "worker": asker}
    sid, child = await crash_with_child(store, agents)
    async with running(store, agents) as (_, peer):
        await trio.sleep(1)
        events = (await peer.call("event.list", sessionId=sid, limit=1000))["events"]
        assert [event["type"] for event in events[-2:]] == ["turn.ended", "session.spent"]
        assert events[-2]["data"]["outcome"] == "interrupted"
        # What it has spent is its parent's, though that one's turn could not know.
        assert events[-2]["data"]["usage"]["totalTokens"] == 0
        assert events[-1]["data"]["usage"]["totalTokens"] == 7
        assert (await peer.call("session.get", sessionId=sid))["tokenUsage"]["totalTokens"] == 7
        events = (await peer.call("event.list", sessionId=child, limit=1000))["events"]
        assert events[-1]["data"]["outcome"] == "cancelled"
        assert events[-1]["data"]["stopReason"] == "the turn that it works for is over"


async def test_child_that_was_interrupted_is_a_result(autojump_clock: MockClock) -> None:
    """A child that was at work when the server stopped is not begun a second time."""
    store, parent = SurvivingStore(), Parent()

    async def busy(turn: Turn) -> None:
        await turn.write("x")
        await trio.sleep_forever()

    agents: dict[str, Agent] = {"parent": parent, "worker": busy}
    sid, called = await crash_at(store, agents, "tool.called", seconds=1)
    async with running(store, agents) as (_, peer):
        await trio.sleep(1)
        await answer(peer, sid, "no")
        await trio.sleep(1)
        types_of_child = await types(peer, called["childSessionId"])
    assert parent.outcomes == ["interrupted"]
    assert types_of_child.count("turn.started") == 1


async def test_child_that_its_parent_does_not_come_back_to_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    """§5.7: the agent that was called again went another way."""
    store = SurvivingStore()

    class Fickle(Parent):
        async def __call__(self, turn: Turn) -> None:
            if turn.attempt > 1:
                await turn.write("Never mind.")
            else:
                await super().__call__(turn)

    agents: dict[str, Agent] = {"parent": Fickle(), "worker": asker}
    sid, child = await crash_with_child(store, agents)
    async with running(store, agents) as (_, peer):
        await trio.sleep(1)
        events = (await peer.call("event.list", sessionId=sid, limit=1000))["events"]
        assert [event["type"] for event in events[-2:]] == ["turn.ended", "session.spent"]
        assert events[-2]["data"]["outcome"] == "completed"
        assert (await peer.call("session.get", sessionId=sid))["tokenUsage"]["totalTokens"] == 7
        ended = await last_end(peer, child)
        assert ended["outcome"] == "cancelled"
        assert ended["stopReason"] == "the turn that it works for is over"


@pytest.mark.parametrize("scope", ["session", "turn"])
async def test_call_that_a_restart_has_made_again_counts_once(
    scope: str, autojump_clock: MockClock
) -> None:
    """§5.7: else nobody would come back to the child. One more call is one too many, as before."""
    store = SurvivingStore()

    class Twice(Parent):
        async def __call__(self, turn: Turn) -> None:
            self.outcomes.append((await turn.run_child("worker", "work")).outcome)
            await turn.run_child("worker", "work more")

    parent = Twice()
    agents: dict[str, Agent] = {"parent": parent, "worker": asker}
    bound = {"maxToolCalls": 1}
    budget = bound if scope == "session" else {"perTurn": bound}
    async with running(store, agents) as (_, peer):
        sid = (await peer.call("session.create", config={"budget": budget}))["id"]
        await peer.call("message.stream", sessionId=sid, content="go")
        child = await child_of(peer, sid)
        store.crash()
    for _ in range(2):
        async with running(store, agents) as (_, peer):
            await trio.sleep(1)
            assert (await peer.call("session.get", sessionId=child))["status"] == "waiting"
            store.crash()
    async with running(store, agents) as (_, peer):
        await answer(peer, child, "that one")
        await trio.sleep(1)
        assert (await last_end(peer, sid))["outcome"] == "budgetExceeded"
    assert parent.outcomes == ["completed"]


@pytest.mark.parametrize("resumable", [True, False])
async def test_server_that_stops_leaves_no_orphan(
    resumable: bool, autojump_clock: MockClock
) -> None:
    """§5.7: both turns wait for the next server, or neither does; nobody waits for the grace."""
    store, parent = SurvivingStore(), Parent(resumable=resumable)
    agents: dict[str, Agent] = {"parent": parent, "worker": asker}
    async with running(store, agents) as (server, peer):
        sid = await begin(peer)
        child = await child_of(peer, sid)
        began = trio.current_time()
        await server.drain(2)
        took = trio.current_time() - began
    assert took < 0.1 if resumable else 2 <= took < 2.1
    async with running(store, agents) as (_, peer):
        await trio.sleep(1)
        if resumable:
            await answer(peer, child, "that one")
            await answer(peer, sid, "yes")
            await trio.sleep(1)
        for session in (sid, child):
            ended = await last_end(peer, session)
            assert ended["outcome"] == ("completed" if resumable else "interrupted")
    assert parent.outcomes == (["completed"] if resumable else [])


async def test_server_that_stops_waits_for_a_child_at_work(autojump_clock: MockClock) -> None:
    """§5.7: its sibling waits for clients, and still ends with the parent and it."""
    store = SurvivingStore()

    async def busy(turn: Turn) -> None:
        await turn.write("x")
        await trio.sleep_forever()

    class Two(Parent):
        async def __call__(self, turn: Turn) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(turn.run_child, "worker", "work")
                nursery.start_soon(turn.run_child, "busy", "work")

    agents: dict[str, Agent] = {"parent": Two(), "worker": asker, "busy": busy}
    async with running(store, agents) as (server, peer):
        await begin(peer)
        await trio.sleep(1)
        assert len(server.host.running) == 3
        began = trio.current_time()
        await server.drain(2)
        assert 2 <= trio.current_time() - began < 2.1
        assert not server.host.running
    async with running(store, agents) as (_, peer):
        sessions = (await peer.call("session.list"))["sessions"]
        ends = [(await last_end(peer, session["id"]))["outcome"] for session in sessions]
        assert ends == ["interrupted"] * 3


# -- cancelled wherever it waits -------------------------------------------------------------------


class CancelAt(Instrument):
    """Cancels the parent's turn when the turns' tasks have waited so many times."""

    def __init__(self, server: Any, sid: str, after: int) -> None:
        self._server = server
        self._sid = sid
        self.left = after
        self.tasks: set[trio.lowlevel.Task] = set()

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if task.name.startswith("turn "):
            self.tasks.add(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self.tasks.discard(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        turn = self._server.host.sessions[self._sid].turn
        if task not in self.tasks or turn is None or turn.outcome is not None:
            return
        self.left -= 1
        if self.left == 0:
            turn.cancel("wherever it is")


async def cancel_everywhere(run: Callable[[int], Awaitable[tuple[bool, str]]]) -> None:
    """Run a turn again and again, cancelled at one wait after the other, until it is past all.

    Args:
        run: Runs it with the number of the wait, and says whether it came so far, and the outcome.
    """
    outcomes: list[str] = []
    has_come = True
    while has_come:
        has_come, outcome = await run(len(outcomes) + 1)
        outcomes.append(outcome)
    assert len(outcomes) > 8
    assert set(outcomes[:-3]) == {"cancelled"}
    assert outcomes[-1] == "completed"


async def run_once(after: int) -> tuple[bool, str]:
    """Run a turn with a child, cancelled at its ``after``-th wait, and check both logs."""

    async def worker(turn: Turn) -> None:
        await trio.sleep(0.001)
        await turn.write("x")
        await trio.sleep(0.001)

    async def parent(turn: Turn) -> None:
        await turn.run_child("worker", "go")
        await turn.write("y")

    store = SurvivingStore()
    agents: dict[str, Agent] = {"parent": parent, "worker": worker}
    async with running(store, agents) as (server, peer):
        sid = (await peer.call("session.create"))["id"]
        instrument = CancelAt(server, sid, after)
        trio.lowlevel.add_instrument(instrument)
        try:
            await peer.call("message.stream", sessionId=sid, content="go")
            events = await peer.read_until(sid, "turn.ended")
            await server.host.wait_turns_ended()
        finally:
            trio.lowlevel.remove_instrument(instrument)
        assert instrument.tasks == set()
        counts = Counter(event["type"] for event in events)
        assert counts["tool.called"] == counts["tool.completed"]
        for session in (await peer.call("session.list"))["sessions"]:
            assert session["status"] == "idle"
            log = Counter(await types(peer, session["id"]))
            assert log["turn.started"] == log["turn.ended"] <= 1
            assert log["message.started"] == log["message.completed"]
    return instrument.left <= 0, events[-1]["data"]["outcome"]


async def test_cancel_at_every_wait_ends_both_turns_once(autojump_clock: MockClock) -> None:
    """ISSUE 5: one terminal event of each turn, and no task."""
    await cancel_everywhere(run_once)


async def test_child_whose_parent_is_cancelled_as_it_comes_back_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    """A bug once seen: the call ended cancelled, and the child went on for ever, for nobody."""
    store = SurvivingStore()

    class Hasty(Parent):
        async def __call__(self, turn: Turn) -> None:
            with trio.CancelScope() as scope:
                if turn.attempt > 1:
                    scope.cancel()
                await turn.run_child("worker", "work")
            await turn.write("Enough.")

    agents: dict[str, Agent] = {"parent": Hasty(), "worker": asker}
    sid, child = await crash_with_child(store, agents)
    async with running(store, agents) as (_, peer):
        await trio.sleep(1)
        ended = await last_end(peer, sid)
        assert (ended["outcome"], ended["usage"]["totalTokens"]) == ("completed", 7)
        ended = await last_end(peer, child)
        assert ended["stopReason"] == "the turn that it works for ends"


# -- what was spent --------------------------------------------------------------------------------


class DyingStore(SurvivingStore):
    """Dies as soon as it has kept an event of a type in one session."""

    dies_at: tuple[str, str] | None = None

    def add(self, session_id: str, batch: Sequence[Entry], summary: Summary) -> None:
        super().add(session_id, batch, summary)
        if (session_id, batch[-1].body.type) == self.dies_at:
            self.dies_at = None
            self.crash()


async def tokens(peer: ProtocolPeer, sid: str) -> int:
    usage = (await peer.call("session.get", sessionId=sid))["tokenUsage"]
    return int(usage["totalTokens"])


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
async def test_what_a_lost_child_has_spent_is_its_parents_however_deep(
    again: bool, autojump_clock: MockClock
) -> None:
    """§5.7: the parent's turn was over before anybody could know; a second crash changes nothing."""
    store = DyingStore()

    def over(name: str) -> Agent:
        async def parent(turn: Turn) -> None:
            turn.report_usage(input_tokens=100)
            await turn.write("x")
            await turn.run_child(name, "go")

        return parent

    agents: dict[str, Agent] = {"top": over("middle"), "middle": over("asker"), "asker": asker}
    async with running(store, agents) as (_, peer):
        sid = await begin(peer)
        await trio.sleep(1)
        sessions = (await peer.call("session.list"))["sessions"]
        store.crash()
    middle = next(s["id"] for s in sessions if s["config"].get("agent") == "middle")
    if again:
        store.dies_at = (sid, "turn.ended")
        async with running(store, agents):
            await trio.sleep(1)
        assert store.dies_at is None
    for _ in range(2):
        async with running(store, agents) as (_, peer):
            await trio.sleep(1)
            assert (await tokens(peer, middle), await tokens(peer, sid)) == (107, 207)
            for each in (middle, sid):
                assert (await types(peer, each)).count("session.spent") == 1
    assert await store.list_open_work() == []


async def test_children_that_go_on_after_a_restart_know_what_was_spent_before(
    autojump_clock: MockClock,
) -> None:
    """§5.7: what is left is one for all, also of a child that has not said a word since then."""
    store, outcomes = SurvivingStore(), list[str]()

    async def worker(turn: Turn) -> None:
        if turn.attempt == 1:
            turn.report_usage(input_tokens=15)
            await turn.write("x")
        await turn.ask("Go on?")
        await turn.check_budget()
        turn.report_usage(input_tokens=15)
        await turn.write("y")
        await turn.check_budget()

    class Two(Parent):
        async def __call__(self, turn: Turn) -> None:
            async def one(name: str) -> None:
                outcomes.append((await turn.run_child("worker", name)).outcome)

            async with trio.open_nursery() as nursery:
                for name in ("a", "b"):
                    nursery.start_soon(one, name)

    agents: dict[str, Agent] = {"parent": Two(), "worker": worker}
    async with running(store, agents) as (_, peer):
        config = {"budget": {"perTurn": {"maxTokens": 40}}}
        sid = (await peer.call("session.create", config=config))["id"]
        await peer.call("message.stream", sessionId=sid, content="go")
        await trio.sleep(1)
        sessions = (await peer.call("session.list"))["sessions"]
        store.crash()
    first, second = (s["id"] for s in sessions if s["id"] != sid)
    async with running(store, agents) as (_, peer):
        await trio.sleep(1)
        await answer(peer, first, "yes")
        await trio.sleep(1)
        assert outcomes == ["budgetExceeded"]
        await answer(peer, second, "yes")
        await trio.sleep(1)
        assert outcomes == ["budgetExceeded", "budgetExceeded"]
        assert await tokens(peer, sid) == 45
