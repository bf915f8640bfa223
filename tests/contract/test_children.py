"""PROTOCOL §5.7: sub-agents, each in a session of its own."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue import AgentError, BudgetExceededError
from trialogue.core.abc import Agent, ChildResult, ToolCall, Turn
from trialogue.core.errors import InvalidRequestError, LocalProtocolError
from trialogue.core.models import Budget, SessionConfig
from trialogue.testing import ProtocolPeer
from trialogue.testing.transport_kit import Connect


class Parent:
    """An agent that runs ``worker`` with what it is told, and keeps what came of it."""

    def __init__(self, **members: Any) -> None:
        self.members = members
        self.results: list[ChildResult] = []

    async def __call__(self, turn: Turn) -> None:
        result = await turn.run_child("worker", turn.input.content, **self.members)
        self.results.append(result)
        said = "nothing" if result.message is None else result.message.content
        await turn.write(f"{result.outcome}: {said}")


async def begin(peer: ProtocolPeer, **config: Any) -> tuple[str, str]:
    """Start a turn of a parent's that the peer follows, and give its session and its child's."""
    sid = (await peer.call("session.create", config=config))["id"]
    await peer.call("message.stream", sessionId=sid, content="go")
    called = (await peer.expect_event(sid, "tool.called"))["data"]
    return sid, called["childSessionId"]


async def follow(peer: ProtocolPeer, child: str) -> None:
    """Follow a child's session from its beginning, as soon as it is there."""
    for _ in range(100):
        request = await peer.send_request("session.subscribe", sessionId=child, after="0-0")
        if (await peer.expect_response(request))["success"]:
            return
        await trio.sleep(0.01)
    raise AssertionError("there is no such session")


def agents(parent: Agent, worker: Agent) -> dict[str, Agent]:
    return {"parent": parent, "worker": worker}


async def echo(turn: Turn) -> None:
    turn.report_usage(input_tokens=6, output_tokens=4, cost=0.5)
    await turn.write(f"You said {turn.input.content}.")


async def test_child_works_in_a_session_of_its_own(loopback: Connect) -> None:
    """ISSUE 5: parent, childSessionId, usage of both."""
    parent = Parent(name="Helper", config=SessionConfig(model="small"))

    async def both(turn: Turn) -> None:
        turn.report_usage(input_tokens=1, output_tokens=1)
        await parent(turn)

    async with loopback(agents(both, echo)) as peer:
        sid, child = await begin(peer)
        events = await peer.read_until(sid, "turn.ended")
        completed = next(e["data"] for e in events if e["type"] == "tool.completed")
        assert completed["status"] == "ok"
        assert completed["result"]["outcome"] == "completed"
        assert completed["usage"]["totalTokens"] == 10
        ended = events[-1]["data"]
        assert ended["usage"] == {
            "inputTokens": 7,
            "outputTokens": 5,
            "totalTokens": 12,
            "cost": 0.5,
        }
        session = await peer.call("session.get", sessionId=child)
        assert session["parent"] == {
            "sessionId": sid,
            "turnId": ended["turnId"],
            "callId": completed["callId"],
        }
        assert (session["name"], session["status"]) == ("Helper", "idle")
        assert session["config"] == {"agent": "worker", "model": "small"}
        assert session["tokenUsage"]["totalTokens"] == 10
        history = (await peer.call("message.list", sessionId=child))["messages"]
        assert [m["content"] for m in history] == ["go", "You said go."]
        history = (await peer.call("message.list", sessionId=sid))["messages"]
        assert history[-1]["content"] == "completed: You said go."
        # Each token was used once.
        assert (await peer.call("server.stats"))["inputTokens"] == 7
    (result,) = parent.results
    assert (result.session_id, result.usage.total_tokens) == (child, 10)


async def test_child_has_its_parents_owner(loopback: Connect) -> None:
    async def authenticate(credential: Any, _: Any) -> str:
        await trio.lowlevel.checkpoint()
        return str(credential.token)

    server = loopback(agents(Parent(), echo), authenticate=authenticate)
    async with server as peer, loopback.another() as other:
        for one, name in ((peer, "ada"), (other, "bob")):
            await one.call("hello", auth={"scheme": "bearer", "token": name})
        sid, child = await begin(peer)
        await peer.expect_event(sid, "turn.ended")
        assert (await peer.call("session.get", sessionId=child))["id"] == child
        await other.refused("SESSION_NOT_FOUND", "session.get", sessionId=child)


async def test_child_that_fails_is_a_result(loopback: Connect) -> None:
    async def fail(turn: Turn) -> None:
        await turn.write("I was ")
        raise AgentError("broken")

    parent = Parent()
    async with loopback(agents(parent, fail)) as peer:
        sid, _ = await begin(peer)
        ended = await peer.expect_event(sid, "turn.ended")
        assert ended["data"]["outcome"] == "completed"
    (result,) = parent.results
    assert result.outcome == "failed"
    assert result.message is not None
    assert (result.message.content, result.message.status) == ("I was ", "error")
    assert result.error is not None
    assert (result.error.code, result.error.message) == ("AGENT_ERROR", "broken")


async def test_agent_that_is_not_there_is_an_error_of_the_call(loopback: Connect) -> None:
    async def parent(turn: Turn) -> None:
        with pytest.raises(InvalidRequestError, match="unknown agent 'nobody'"):
            await turn.run_child("nobody", "x")
        with pytest.raises(InvalidRequestError, match="maxTokens"):
            await turn.run_child("w", "x", config=SessionConfig(budget=Budget(max_tokens=0)))
        await turn.write("well")

    async with loopback({"p": parent, "w": echo}) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="go")
        events = await peer.read_until(sid, "turn.ended")
        assert events[-1]["data"]["outcome"] == "completed"
        completed = [e["data"]["status"] for e in events if e["type"] == "tool.completed"]
        assert completed == ["error", "error"]
        assert len((await peer.call("session.list"))["sessions"]) == 1


@pytest.mark.parametrize("deep", [False, True], ids=["child", "grandchild"])
async def test_child_asks_in_its_own_session_and_its_parents_time_stands_still(
    deep: bool, loopback: Connect, autojump_clock: MockClock
) -> None:
    """ISSUE 5: a client learns of it by childSessionId."""

    async def asker(turn: Turn) -> None:
        await trio.sleep(1)
        answer = await turn.ask("Go on?")
        await trio.sleep(2)
        await turn.write(f"{answer.value}")

    async def middle(turn: Turn) -> None:
        result = await turn.run_child("asker", "go")
        assert result.message is not None
        await turn.write(result.message.content)

    parent = Parent()
    named = {**agents(parent, middle if deep else asker), "asker": asker}
    async with loopback(named, turn_seconds=60) as peer:
        sid, child = await begin(peer)
        await follow(peer, child)
        if deep:
            child = (await peer.expect_event(child, "tool.called"))["data"]["childSessionId"]
            await follow(peer, child)
        ask = (await peer.expect_event(child, "ask.opened"))["data"]
        assert (await peer.call("session.get", sessionId=child))["status"] == "waiting"
        await trio.sleep(1000)
        await peer.call("ask.answer", sessionId=child, askId=ask["askId"], answer="yes")
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
        assert ended["durationMs"] == 3000
    assert parent.results[0].outcome == "completed"
    assert parent.results[0].message is not None
    assert parent.results[0].message.content == "yes"


async def test_long_answer_of_a_child_fits_into_the_parents_log(loopback: Connect) -> None:
    async def talker(turn: Turn) -> None:
        await turn.write("\x01" * 10_000)
        raise AgentError("\x01" * 10_000)

    parent = Parent()
    async with loopback(agents(parent, talker), max_message_bytes=64 * 1024) as peer:
        sid, child = await begin(peer)
        assert (await peer.expect_event(sid, "turn.ended"))["data"]["outcome"] == "completed"
        history = (await peer.call("message.list", sessionId=child))["messages"]
        assert len(history[-1]["content"]) == 10_000
    message = parent.results[0].message
    assert message is not None
    assert message.content.endswith("\x01…")
    assert 1000 < len(message.content) < 10_000


# -- cancelling ------------------------------------------------------------------------------------


async def test_cancel_of_the_parent_cancels_the_child_first(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """ISSUE 5: and waits for its end; what it has spent counts."""

    async def slow(turn: Turn) -> None:
        turn.report_usage(input_tokens=3)
        await turn.write("x")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)

    async with loopback(agents(Parent(), slow)) as peer:
        sid, child = await begin(peer)
        await follow(peer, child)
        await peer.expect_event(child, "message.started")
        start = trio.current_time()
        await peer.call("turn.cancel", sessionId=sid)
        assert trio.current_time() - start == pytest.approx(2, abs=0.1)
        completed, ended = await peer.expect_durable(sid, "tool.completed", "turn.ended")
        assert completed["data"]["status"] == "cancelled"
        assert (ended["data"]["outcome"], ended["data"]["usage"]["totalTokens"]) == ("cancelled", 3)
        ended = await peer.expect_event(child, "turn.ended")
        assert ended["data"]["outcome"] == "cancelled"
        assert ended["data"]["stopReason"] == "the turn that it works for ends"


async def test_child_that_outlives_the_grace_is_left_and_the_log_says_so(
    loopback: Connect, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def stubborn(turn: Turn) -> None:
        await turn.write("x")
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    caplog.set_level(logging.WARNING, "trialogue.turn")
    async with loopback(agents(Parent(), stubborn), cancel_grace_seconds=5) as peer:
        sid, child = await begin(peer)
        await follow(peer, child)
        await peer.expect_event(child, "message.started")
        start = trio.current_time()
        await peer.call("turn.cancel", sessionId=sid)
        assert trio.current_time() - start == pytest.approx(5, abs=0.1)
        assert "a sub-agent has not ended 5 s after its cancel" in caplog.text
        assert (await peer.call("session.get", sessionId=child))["status"] == "running"
        await peer.expect_event(child, "turn.ended")
        assert 59 < trio.current_time() - start < 61


async def test_child_that_a_client_cancels_or_closes_is_a_result_or_an_error(
    loopback: Connect,
) -> None:
    async def slow(turn: Turn) -> None:
        await turn.write("x")
        await trio.sleep_forever()

    for method in ("turn.cancel", "session.close", "session.delete"):
        parent = Parent()
        async with loopback(agents(parent, slow)) as peer:
            sid, child = await begin(peer)
            await follow(peer, child)
            await peer.expect_event(child, "message.started")
            await peer.call(method, sessionId=child)
            ended = (await peer.expect_event(sid, "turn.ended"))["data"]
            if method == "session.delete":
                assert ended["outcome"] in ("completed", "failed")
            else:
                assert [result.outcome for result in parent.results] == ["cancelled"]


async def test_what_cannot_be_sent_is_refused_before_there_is_a_call(loopback: Connect) -> None:
    """Each with an error of its own, and the turn may go on."""
    wrong: Any = "7"

    async def parent(turn: Turn) -> None:
        with pytest.raises(LocalProtocolError, match="surrogate"):
            await turn.run_child("worker", "\ud800")
        with pytest.raises(LocalProtocolError, match="surrogate"):
            await turn.run_child("worker", "x", name="\ud800")
        with pytest.raises(LocalProtocolError, match="surrogate"):
            await turn.run_child("worker", "x", config=SessionConfig(system_prompt="\ud800"))
        with pytest.raises(InvalidRequestError, match="maxTokens"):
            await turn.run_child(
                "worker", "x", config=SessionConfig(budget=Budget(max_tokens=wrong))
            )
        await turn.run_child("worker", "right")

    async with loopback(agents(parent, echo)) as peer:
        sid = (await peer.call("session.create", config={"budget": {"maxTokens": 100}}))["id"]
        await peer.call("message.stream", sessionId=sid, content="go")
        events = await peer.read_until(sid, "turn.ended")
    assert events[-1]["data"]["outcome"] == "completed"
    assert [e["type"] for e in events].count("tool.called") == 1


# -- budgets ---------------------------------------------------------------------------------------


async def spend(turn: Turn) -> None:
    """Spend 10 tokens a step, without an end."""
    while True:
        await turn.check_budget()
        await turn.write("x")
        turn.report_usage(input_tokens=6, output_tokens=4, cost=0.1)
        turn.complete_message()


async def check(turn: Turn) -> None:
    await turn.check_budget()


async def spend_first(turn: Turn) -> None:
    turn.report_usage(input_tokens=10, cost=0.1)
    await turn.run_child("worker", "go")
    await turn.check_budget()
    await turn.write("never")


@pytest.mark.parametrize("budget", [{"maxTokens": 35}, {"maxCost": 0.35}])
@pytest.mark.parametrize("scope", ["session", "turn"])
async def test_child_spends_no_more_than_is_left_and_its_parents_budget_counts_it(
    scope: str, budget: dict[str, Any], loopback: Connect
) -> None:
    """ISSUE 5: its usage counts to the parent's budget."""
    given = budget if scope == "session" else {"perTurn": budget}
    async with loopback(agents(spend_first, spend)) as peer:
        sid, child = await begin(peer, budget=given)
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
        assert ended["outcome"] == "budgetExceeded"
        assert ended["usage"]["totalTokens"] == 40
        turns = (await peer.call("session.get", sessionId=child))["tokenUsage"]
        assert (turns["totalTokens"], turns["cost"]) == (30, 0.3)
        assert (await peer.call("session.get", sessionId=sid))["tokenUsage"]["totalTokens"] == 40


@pytest.mark.parametrize("scope", ["session", "turn"])
async def test_child_calls_no_more_tools_than_its_parent_may(scope: str, loopback: Connect) -> None:
    """Of three calls one is the child itself."""
    called: list[int] = []

    async def tool(_: ToolCall) -> None:
        called.append(1)
        await trio.lowlevel.checkpoint()

    async def busy(turn: Turn) -> None:
        while True:
            await turn.call_tool("again", {}, tool)

    parent = Parent()
    bound = {"maxToolCalls": 3}
    async with loopback(agents(parent, busy)) as peer:
        sid, _ = await begin(peer, budget=bound if scope == "session" else {"perTurn": bound})
        await peer.expect_event(sid, "turn.ended")
    assert (parent.results[0].outcome, len(called)) == ("budgetExceeded", 2)


async def test_own_budget_of_a_child_holds_where_it_is_smaller(loopback: Connect) -> None:
    own = SessionConfig(budget=Budget(max_tokens=20, when_exceeded="end"))
    parent = Parent(config=own)
    async with loopback(agents(parent, spend)) as peer:
        sid, child = await begin(peer, budget={"maxTokens": 1000, "whenExceeded": "ask"})
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
        assert (ended["outcome"], ended["usage"]["totalTokens"]) == ("completed", 20)
        config = (await peer.call("session.get", sessionId=child))["config"]
        assert config["budget"] == {"maxTokens": 20, "whenExceeded": "end"}
    assert parent.results[0].outcome == "budgetExceeded"


@pytest.mark.parametrize("own", [None, SessionConfig(budget=Budget(max_tokens=20))])
async def test_child_ends_where_its_parent_would(
    own: SessionConfig | None, loopback: Connect
) -> None:
    """Also on a server that asks by default: nobody could grant more than the parent's bound."""
    parent = Parent(config=own)
    async with loopback(agents(parent, spend), when_budget_exceeded="ask") as peer:
        sid, _ = await begin(peer, budget={"maxTokens": 20, "whenExceeded": "end"})
        await peer.expect_event(sid, "turn.ended")
    assert [result.outcome for result in parent.results] == ["budgetExceeded"]


async def test_child_asks_for_more_where_its_parent_would(loopback: Connect) -> None:
    parent = Parent()
    async with loopback(agents(parent, spend)) as peer:
        sid, child = await begin(peer, budget={"maxTokens": 20, "whenExceeded": "ask"})
        await follow(peer, child)
        for said in ("raise", "stop"):
            ask = (await peer.expect_event(child, "ask.opened"))["data"]
            assert ask["kind"] == "budget"
            await peer.call("ask.answer", sessionId=child, askId=ask["askId"], answer=said)
        await peer.expect_event(sid, "turn.ended")
    assert (parent.results[0].outcome, parent.results[0].usage.total_tokens) == (
        "budgetExceeded",
        40,
    )


@pytest.mark.parametrize("scope", ["session", "turn"])
async def test_time_of_children_is_their_parents(
    scope: str, loopback: Connect, autojump_clock: MockClock
) -> None:
    """§5.7: each had all that was left as it began, so that one after the other had no end."""

    async def brief(turn: Turn) -> None:
        await trio.sleep(2)
        await turn.write("x")

    async def parent(turn: Turn) -> None:
        await trio.sleep(1)
        while True:
            await turn.run_child("worker", "go")

    bound = {"maxDurationMs": 6000}
    async with loopback(agents(parent, brief)) as peer:
        start = trio.current_time()
        sid, _ = await begin(peer, budget=bound if scope == "session" else {"perTurn": bound})
        events = await peer.read_until(sid, "turn.ended")
        assert trio.current_time() - start == pytest.approx(6, abs=0.1)
        ended = events[-1]["data"]
        assert (ended["outcome"], ended["durationMs"]) == ("budgetExceeded", 6000)
        calls = [e["data"]["status"] for e in events if e["type"] == "tool.completed"]
        assert calls == ["ok", "ok", "cancelled"]


async def test_time_of_children_side_by_side_is_not_added_up(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§5.7: it is the parent's that goes on, however many work in it."""

    async def parent(turn: Turn) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(turn.run_child, "worker", "go")

    async def brief(turn: Turn) -> None:
        await trio.sleep(4)
        await turn.write("x")

    async with loopback(agents(parent, brief)) as peer:
        sid, _ = await begin(peer, budget={"maxDurationMs": 5000})
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
    assert (ended["outcome"], ended["durationMs"]) == ("completed", 4000)


async def test_child_asks_about_its_parents_time(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§5.7: as about anything else that is shared."""
    async with loopback(agents(crowd("worker", 1), slowly)) as peer:
        budget = {"perTurn": {"maxDurationMs": 3000}, "whenExceeded": "ask"}
        sid, child = await begin(peer, budget=budget)
        await follow(peer, child)
        for spent, answer in ((3000, "raise"), (6000, "stop")):
            ask = (await peer.expect_event(child, "ask.opened"))["data"]
            told = f"spent {spent:,} of {spent:,} ms (budget: maxDurationMs)"
            assert f"The turn that it works for has {told}" in ask["title"]
            await trio.sleep(100)
            await peer.call("ask.answer", sessionId=child, askId=ask["askId"], answer=answer)
        await peer.expect_event(sid, "ask.opened")


# -- many ------------------------------------------------------------------------------------------


async def test_children_side_by_side(loopback: Connect, autojump_clock: MockClock) -> None:
    """Tasks of the agent's, each with a child; children have children."""

    async def worker(turn: Turn) -> None:
        await trio.sleep(1)
        await echo(turn)

    async def middle(turn: Turn) -> None:
        result = await turn.run_child("worker", turn.input.content)
        assert result.message is not None
        await turn.write(result.message.content)

    results: list[str] = []

    async def parent(turn: Turn) -> None:
        async def one(number: int) -> None:
            result = await turn.run_child("middle", f"{number}")
            assert result.message is not None
            results.append(result.message.content)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(one, number)

    started = trio.current_time()
    async with loopback({"parent": parent, "middle": middle, "worker": worker}) as peer:
        sid, _ = await begin(peer)
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
        assert (ended["outcome"], ended["usage"]["totalTokens"]) == ("completed", 50)
        assert trio.current_time() - started < 2
        assert len((await peer.call("session.list"))["sessions"]) == 11
    assert sorted(results) == [f"You said {n}." for n in range(5)]


async def test_turns_with_children_end_with_the_server(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """Nothing is left running when the server's block is left, and both turns have ended."""
    ended: list[str] = []

    def noting(name: str, work: Callable[[Turn], Awaitable[None]]) -> Agent:
        async def agent(turn: Turn) -> None:
            try:
                await work(turn)
            finally:
                ended.append(name)

        return agent

    async def slow(turn: Turn) -> None:
        await turn.write("x")
        await trio.sleep_forever()

    async with loopback(agents(noting("parent", Parent()), noting("child", slow))) as peer:
        _, child = await begin(peer)
        await follow(peer, child)
        await peer.expect_event(child, "message.started")
    assert sorted(ended) == ["child", "parent"]


# -- what is left is one for all ---------------------------------------------------------------


def crowd(of: str, size: int) -> Agent:
    """Make a parent of so many children side by side."""

    async def parent(turn: Turn) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(size):
                nursery.start_soon(turn.run_child, of, "go")
        await turn.check_budget()
        await turn.write("never")

    return parent


async def slowly(turn: Turn) -> None:
    """Spend 10 tokens a step, each of which takes a second, without an end."""
    while True:
        await turn.check_budget()
        await trio.sleep(1)
        turn.report_usage(input_tokens=6, output_tokens=4, cost=0.1)
        await turn.write("x")
        turn.complete_message()


@pytest.mark.parametrize("budget", [{"maxTokens": 200}, {"maxCost": 2.0}])
@pytest.mark.parametrize("scope", ["session", "turn"])
@pytest.mark.parametrize("deep", [False, True], ids=["children", "grandchildren"])
async def test_children_side_by_side_share_what_is_left(
    deep: bool, scope: str, budget: Any, loopback: Connect, autojump_clock: MockClock
) -> None:
    """§5.7: each had all of it, so that five spent five times as much."""
    given = budget if scope == "session" else {"perTurn": budget}
    named = {"parent": crowd("middle" if deep else "worker", 1 if deep else 5)}
    async with loopback({**named, "middle": crowd("worker", 5), "worker": slowly}) as peer:
        sid, _ = await begin(peer, budget=given)
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
        assert ended["outcome"] == "budgetExceeded"
        # What was in flight of the others when the bound was come to.
        assert 200 <= ended["usage"]["totalTokens"] <= 240
        sessions = (await peer.call("session.list"))["sessions"]
        assert len(sessions) == (7 if deep else 6)
        spent = [
            s["tokenUsage"]["totalTokens"] for s in sessions if s["config"].get("agent") == "worker"
        ]
        assert sum(spent) == ended["usage"]["totalTokens"]
        assert min(spent) >= 30, "none has all of it"
        own = next(s for s in sessions if s["id"] == sid)["tokenUsage"]
        assert own["totalTokens"] == sum(spent)


@pytest.mark.parametrize("scope", ["session", "turn"])
async def test_tools_of_children_are_their_parents(
    scope: str, loopback: Connect, autojump_clock: MockClock
) -> None:
    """§5.7: they counted for nobody but the child."""
    called: list[int] = []

    async def tool(_: ToolCall) -> None:
        await trio.sleep(1)
        called.append(1)

    async def busy(turn: Turn) -> None:
        for _ in range(4):
            await turn.call_tool("again", {}, tool)

    async def parent(turn: Turn) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.run_child, "worker", "go")
            nursery.start_soon(turn.run_child, "worker", "go")
        await turn.call_tool("mine", {}, tool)

    bound = {"maxToolCalls": 11}
    given = bound if scope == "session" else {"perTurn": bound}
    async with loopback(agents(parent, busy)) as peer:
        sid, _ = await begin(peer, budget=given)
        events = await peer.read_until(sid, "turn.ended")
        assert events[-1]["data"]["outcome"] == "completed"
        assert [e["data"].get("toolCalls") for e in events if e["type"] == "tool.completed"] == [
            *(4, 4, None)
        ]
        assert len(called) == 9
        # Eleven are eleven: of the session's the next turn has none, of a turn's all of them.
        await peer.call("message.send", sessionId=sid, content="again")
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
        assert ended["outcome"] == ("completed" if scope == "turn" else "budgetExceeded")
        one_less = {"maxToolCalls": 10}
        config = {"budget": one_less if scope == "session" else {"perTurn": one_less}}
        sid = (await peer.call("session.create", config=config))["id"]
        await peer.call("message.stream", sessionId=sid, content="go")
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
        assert (ended["outcome"], ended["stopReason"]) == (
            "budgetExceeded",
            f"The {scope} has spent 10 of 10 tool calls (budget: maxToolCalls)",
        )


async def test_parent_sees_what_its_child_spends_as_it_happens(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§5.7: and a child is held by what its parent spends beside it."""
    stopped: list[float] = []

    async def parent(turn: Turn) -> None:
        async def watch() -> None:
            try:
                while True:
                    await turn.check_budget()
                    await trio.sleep(0.5)
            except BudgetExceededError:
                stopped.append(trio.current_time())

        async def work() -> None:
            result = await turn.run_child("worker", "go")
            assert result.outcome == "budgetExceeded"
            stopped.append(trio.current_time())

        turn.report_usage(input_tokens=35)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            nursery.start_soon(work)

    async with loopback(agents(parent, slowly)) as peer:
        began = trio.current_time()
        sid, _ = await begin(peer, budget={"maxTokens": 60})
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
        assert ended["usage"]["totalTokens"] == 65
    assert [round(at - began, 1) for at in stopped] == [3.0, 3.0]


async def test_raise_that_a_child_was_given_is_its_parents(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§5.7: it is the parent's bound that was come to, and all who share it have more."""
    async with loopback(agents(crowd("worker", 2), slowly)) as peer:
        budget = {"perTurn": {"maxTokens": 40}, "whenExceeded": "ask"}
        sid, _ = await begin(peer, budget=budget)
        sessions = (await peer.call("session.list"))["sessions"]
        children = [each["id"] for each in sessions if each["id"] != sid]
        for child in children:
            await follow(peer, child)
        asks = [(await peer.expect_event(child, "ask.opened"))["data"] for child in children]
        title = "The turn that it works for has spent 40 of 40 tokens (budget: maxTokens). Go on?"
        assert [ask["title"] for ask in asks] == [title, title]
        for child, ask in zip(children, asks, strict=True):
            await peer.call("ask.answer", sessionId=child, askId=ask["askId"], answer="raise")
        raised = (await peer.expect_event(sid, "budget.raised"))["data"]
        members = ("scope", "bound", "amount", "by")
        assert [raised[name] for name in members] == ["turn", "maxTokens", 40, "anonymous"]
        assert raised["childSessionId"] in children
        # Both have said so, and it is granted once.
        for child in children:
            ask = (await peer.expect_event(child, "ask.opened"))["data"]
            assert "spent 80 of 80" in ask["title"]
            await peer.call("ask.answer", sessionId=child, askId=ask["askId"], answer="stop")
        ask = (await peer.expect_event(sid, "ask.opened"))["data"]
        assert ask["title"] == "The turn has spent 80 of 80 tokens (budget: maxTokens). Go on?"
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer="stop")
        events = await peer.read_until(sid, "turn.ended")
        assert events[-1]["data"]["usage"]["totalTokens"] == 80
        assert "budget.raised" not in [event["type"] for event in events]
