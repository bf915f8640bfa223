"""PROTOCOL §5.6: what a session and a turn may spend, and what becomes of a turn at the bound."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue import BudgetExceededError, Price, Settings
from trialogue.core.abc import ToolCall, Turn
from trialogue.testing import ProtocolPeer
from trialogue.testing.transport_kit import Connect


class Spender:
    """An agent that calls a model and a tool so often, and what it was let do.

    Attributes:
        did: What it did, in order: ``model`` or ``tool``.
    """

    def __init__(
        self,
        *,
        steps: int = 3,
        calls: int = 0,
        tokens: tuple[int, int] = (6, 4),
        seconds: float = 0.0,
        model: str | None = None,
        cost: float | None = None,
    ) -> None:
        self.steps = steps
        self.calls = calls
        self.tokens = tokens
        self.seconds = seconds
        self.model = model
        self.cost = cost
        self.did: list[str] = []

    async def __call__(self, turn: Turn) -> None:
        for _ in range(self.steps):
            await turn.check_budget()
            self.did.append("model")
            await turn.write("word ")
            await trio.sleep(self.seconds)
            turn.report_usage(
                input_tokens=self.tokens[0],
                output_tokens=self.tokens[1],
                model=self.model,
                cost=self.cost,
            )
            turn.complete_message()
            for number in range(self.calls):
                await turn.call_tool("look", {"number": number}, self.look)

    async def look(self, _: ToolCall) -> None:
        self.did.append("tool")
        await trio.sleep(self.seconds)


async def open_session(peer: ProtocolPeer, **budget: Any) -> str:
    sid: str = (await peer.call("session.create", config={"budget": budget}))["id"]
    await peer.call("session.subscribe", sessionId=sid)
    return sid


async def tell(peer: ProtocolPeer, sid: str) -> Any:
    """Run a turn to its end, and give what that says."""
    turn = await peer.call("message.send", sessionId=sid, content="go")
    return (await peer.expect_event(sid, "turn.ended", turnId=turn["turnId"]))["data"]


async def answer(peer: ProtocolPeer, sid: str, said: str) -> Any:
    """Answer the next ask, and give it."""
    ask = (await peer.expect_event(sid, "ask.opened"))["data"]
    await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer=said)
    return ask


# -- bounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "agent", "models", "tools", "said"),
    [
        ({"maxTokens": 20}, {}, 2, 0, "20 of 20 tokens (budget: maxTokens)"),
        ({"maxTokens": 21}, {}, 3, 0, None),
        ({"maxTokens": 30}, {}, 3, 0, None),
        ({"maxCost": 0.3}, {"cost": 0.1, "steps": 4}, 3, 0, "0.3 of 0.3 of its cost"),
        ({"maxCost": 0.30001}, {"cost": 0.1, "steps": 4}, 4, 0, None),
        ({"maxToolCalls": 3}, {"calls": 2}, 2, 3, "3 of 3 tool calls"),
        ({"maxToolCalls": 6}, {"calls": 2}, 3, 6, None),
        ({"maxDurationMs": 3000}, {"seconds": 1, "steps": 4}, 3, 0, "3,000 of 3,000 ms"),
        ({"maxDurationMs": 3001}, {"seconds": 1}, 3, 0, None),
        ({"maxDurationMs": 1500}, {"seconds": 1}, 2, 0, "1,500 of 1,500 ms"),
    ],
)
@pytest.mark.parametrize("scope", ["session", "turn"])
async def test_turn_ends_just_where_its_budget_does(
    scope: str,
    budget: dict[str, Any],
    agent: dict[str, Any],
    models: int,
    tools: int,
    said: str | None,
    loopback: Connect,
    autojump_clock: MockClock,
) -> None:
    """§5.6: the edges of each bound; what was spent may be the bound, and nothing comes after."""
    spender = Spender(**agent)
    given = budget if scope == "session" else {"perTurn": budget}
    async with loopback(spender) as peer:
        sid = await open_session(peer, **given)
        ended = await tell(peer, sid)
    assert (spender.did.count("model"), spender.did.count("tool")) == (models, tools)
    if said is None:
        assert (ended["outcome"], ended.get("stopReason")) == ("completed", None)
        return
    assert ended["outcome"] == "budgetExceeded"
    assert said in ended["stopReason"]
    assert ended["stopReason"].startswith(f"The {scope} has spent")
    assert "error" not in ended


async def test_bounds_of_the_session_are_of_all_its_turns_and_those_of_a_turn_of_each(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    spender = Spender(steps=2, calls=1, seconds=1)
    budgets: list[dict[str, Any]] = [
        {"maxTokens": 50},
        {"maxDurationMs": 10_000},
        {"maxToolCalls": 5},
        {"perTurn": {"maxTokens": 20, "maxDurationMs": 4001, "maxToolCalls": 2}},
    ]
    async with loopback(spender) as peer:
        outcomes: list[list[str]] = []
        for budget in budgets:
            sid = await open_session(peer, **budget)
            outcomes.append([(await tell(peer, sid))["outcome"] for _ in range(4)])
    over, good = "budgetExceeded", "completed"
    assert outcomes == [[good, good, over, over]] * 3 + [[good] * 4]


async def test_fork_begins_with_nothing_spent(loopback: Connect) -> None:
    async with loopback(Spender(steps=2)) as peer:
        sid = await open_session(peer, maxTokens=20)
        assert [(await tell(peer, sid))["outcome"] for _ in range(2)] == [
            "completed",
            "budgetExceeded",
        ]
        fork = (await peer.call("session.fork", sessionId=sid))["id"]
        await peer.call("session.subscribe", sessionId=fork)
        assert (await tell(peer, fork))["outcome"] == "completed"


async def test_bounds_of_the_server_hold_where_a_session_says_nothing(loopback: Connect) -> None:
    """ISSUE 5: defaults of all sessions are settings, and ``hello`` announces them."""
    spender = Spender(calls=1)
    async with loopback(spender, turn_max_tokens=20, session_max_tool_calls=5) as peer:
        limits = (await peer.call("hello"))["limits"]
        assert (limits["turnMaxTokens"], limits["sessionMaxToolCalls"]) == (20, 5)
        sid = await open_session(peer)
        assert "20 of 20 tokens" in (await tell(peer, sid))["stopReason"]
        own = await open_session(peer, perTurn={"maxTokens": 1000})
        assert (await tell(peer, own))["outcome"] == "completed"
        assert "5 of 5 tool calls" in (await tell(peer, own))["stopReason"]


@pytest.mark.parametrize(
    ("budget", "path"),
    [
        ({"maxTokens": 0}, "maxTokens"),
        ({"maxTokens": 1.5}, "maxTokens"),
        ({"maxCost": 0}, "maxCost"),
        ({"maxCost": -1}, "maxCost"),
        ({"maxCost": 9e-13}, "maxCost"),
        ({"maxDurationMs": 0}, "maxDurationMs"),
        ({"perTurn": {"maxToolCalls": -1}}, "perTurn.maxToolCalls"),
        ({"whenExceeded": "cry"}, "whenExceeded"),
    ],
)
async def test_budget_that_is_none_is_refused_at_its_place(
    budget: Any, path: str, loopback: Connect
) -> None:
    async with loopback(Spender()) as peer:
        config = {"budget": budget}
        error = await peer.refused("INVALID_REQUEST", "session.create", config=config)
        assert error["data"]["issues"][0]["path"] == f"params.config.budget.{path}"
        sid = await open_session(peer, maxTokens=1, maxCost=1e-9, maxDurationMs=1, maxToolCalls=1)
        await peer.refused("INVALID_REQUEST", "session.update", sessionId=sid, config=config)


async def test_agent_may_say_a_word_when_its_budget_is_over(loopback: Connect) -> None:
    async def polite(turn: Turn) -> None:
        turn.report_usage(input_tokens=5)
        try:
            await turn.check_budget()
        except BudgetExceededError:
            turn.write_nowait("I have to stop.")
            raise

    async with loopback(polite) as peer:
        sid = await open_session(peer, maxTokens=5)
        turn = await peer.call("message.send", sessionId=sid, content="go", wait=True)
        assert (turn["outcome"], turn["message"]["content"], turn["message"]["status"]) == (
            "budgetExceeded",
            "I have to stop.",
            "partial",
        )


# -- asking ----------------------------------------------------------------------------------------


async def test_raise_grants_the_same_once_more_and_stop_ends_the_turn(loopback: Connect) -> None:
    """§5.6: ask of kind ``budget``, options raise and stop."""
    spender = Spender(steps=9)
    async with loopback(spender) as peer:
        sid = await open_session(peer, maxTokens=20, whenExceeded="ask")
        turn = await peer.call("message.send", sessionId=sid, content="go")
        ask = await answer(peer, sid, "raise")
        assert (ask["kind"], ask["options"], ask["default"]) == (
            "budget",
            ["raise", "stop"],
            "stop",
        )
        assert ask["title"] == "The session has spent 20 of 20 tokens (budget: maxTokens). Go on?"
        ask = await answer(peer, sid, "stop")
        assert "spent 40 of 40 tokens" in ask["title"]
        ended = (await peer.expect_event(sid, "turn.ended", turnId=turn["turnId"]))["data"]
        assert (ended["outcome"], len(spender.did)) == ("budgetExceeded", 4)
        # What was granted to the session stays granted, and is spent.
        await peer.call("message.send", sessionId=sid, content="go")
        ask = await answer(peer, sid, "stop")
        assert "spent 40 of 40 tokens" in ask["title"]


async def test_raise_grants_what_the_bound_was_then_and_a_new_bound_is_what_it_says(
    loopback: Connect,
) -> None:
    """§5.6: a raise once multiplied whichever bound stood later."""
    spender = Spender(steps=9)
    async with loopback(spender) as peer:
        sid = await open_session(peer, maxTokens=20, maxToolCalls=7, whenExceeded="ask")

        async def tell_on(*said: str) -> list[str]:
            """Run a turn, and give what was asked, and answered so."""
            await peer.call("message.send", sessionId=sid, content="go")
            titles = [(await answer(peer, sid, each))["title"] for each in said]
            await peer.expect_event(sid, "turn.ended")
            return [title.partition(" tokens")[0] for title in titles]

        assert await tell_on("raise", "stop") == [
            "The session has spent 20 of 20",
            "The session has spent 40 of 40",
        ]
        # Of the others, nothing changes what was granted.
        config: dict[str, Any] = {"budget": {"maxTokens": 20, "whenExceeded": "ask"}}
        await peer.call("session.update", sessionId=sid, config=config)
        assert await tell_on("stop") == ["The session has spent 40 of 40"]
        config["budget"]["maxTokens"] = 50
        await peer.call("session.update", sessionId=sid, config=config)
        assert await tell_on("raise", "stop") == [
            "The session has spent 50 of 50",
            "The session has spent 100 of 100",
        ]
        await peer.call("session.update", sessionId=sid, config={"budget": None})
        assert await tell_on() == []


async def test_smallest_bound_of_a_cost_is_one(loopback: Connect) -> None:
    """It was rounded to nothing, and no turn could begin."""
    async with loopback(Spender(steps=1, cost=1e-12)) as peer:
        sid = await open_session(peer, maxCost=1e-12)
        assert (await tell(peer, sid))["outcome"] == "completed"
        assert (await tell(peer, sid))["outcome"] == "budgetExceeded"


async def test_raise_of_a_turn_is_of_that_turn(loopback: Connect) -> None:
    async with loopback(Spender(steps=3)) as peer:
        sid = await open_session(peer, perTurn={"maxTokens": 20}, whenExceeded="ask")
        for _ in range(2):
            turn = await peer.call("message.send", sessionId=sid, content="go")
            assert "The turn has spent 20 of 20" in (await answer(peer, sid, "raise"))["title"]
            ended = await peer.expect_event(sid, "turn.ended", turnId=turn["turnId"])
            assert ended["data"]["outcome"] == "completed"


async def test_nobody_answers_in_time(loopback: Connect, autojump_clock: MockClock) -> None:
    """ISSUE 5: an expiry, with ``stop`` for its default."""
    async with loopback(Spender(), when_budget_exceeded="ask", budget_ask_seconds=60) as peer:
        sid = await open_session(peer, maxTokens=20)
        start = trio.current_time()
        ended = await tell(peer, sid)
        assert ended["outcome"] == "budgetExceeded"
        assert 59 < trio.current_time() - start < 61
        # The session's own word goes before the server's.
        sid = await open_session(peer, maxTokens=20, whenExceeded="end")
        start = trio.current_time()
        assert (await tell(peer, sid))["outcome"] == "budgetExceeded"
        assert trio.current_time() - start < 1


async def test_time_in_which_it_asks_is_not_spent(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§5.6: the time of asks stands still; and time is asked about, too."""
    spender = Spender(steps=3, seconds=1)
    async with loopback(spender) as peer:
        sid = await open_session(peer, maxDurationMs=2000, whenExceeded="ask")
        turn = await peer.call("message.send", sessionId=sid, content="go")
        ask = (await peer.expect_event(sid, "ask.opened"))["data"]
        assert "2,000 of 2,000 ms" in ask["title"]
        await trio.sleep(100)
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer="raise")
        ended = (await peer.expect_event(sid, "turn.ended", turnId=turn["turnId"]))["data"]
    assert (ended["outcome"], ended["durationMs"]) == ("completed", 3000)


async def test_tools_side_by_side_ask_once(loopback: Connect, autojump_clock: MockClock) -> None:
    ran = 0

    async def crowd(turn: Turn) -> None:
        async def look(_: ToolCall) -> None:
            nonlocal ran
            ran += 1
            await trio.sleep(1)

        async def call(number: int) -> None:
            await turn.call_tool("look", {"number": number}, look)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(call, number)

    async with loopback(crowd) as peer:
        for said, outcome, expected in (("raise", "completed", 6), ("stop", "budgetExceeded", 3)):
            ran = 0
            sid = await open_session(peer, maxToolCalls=3, whenExceeded="ask")
            await peer.call("message.send", sessionId=sid, content="go")
            await answer(peer, sid, said)
            events = await peer.read_until(sid, "turn.ended")
            assert not [event for event in events if event["type"] == "ask.opened"]
            assert (events[-1]["data"]["outcome"], ran) == (outcome, expected)
            ended = [event for event in events if event["type"] == "tool.completed"]
            assert len(ended) == expected


async def test_cancel_while_it_asks_ends_the_turn_once(loopback: Connect) -> None:
    async with loopback(Spender()) as peer:
        sid = await open_session(peer, maxTokens=20, whenExceeded="ask")
        await peer.call("message.send", sessionId=sid, content="go")
        await peer.expect_event(sid, "ask.opened")
        assert (await peer.call("session.get", sessionId=sid))["status"] == "waiting"
        await peer.call("turn.cancel", sessionId=sid)
        closed, ended = await peer.expect_durable(sid, "ask.closed", "turn.ended")
        assert (closed["data"]["reason"], ended["data"]["outcome"]) == ("cancelled", "cancelled")


# -- usage and cost --------------------------------------------------------------------------------

PRICES = {"small": Price(input=1.25, output=10.0)}


async def test_usage_and_cost_stand_on_messages_turns_the_session_and_in_stats(
    loopback: Connect,
) -> None:
    """ISSUE 5: by the price table, for a million tokens."""
    spender = Spender(steps=2, tokens=(1000, 100), model="small")
    async with loopback(spender, prices=PRICES) as peer:
        sid = await open_session(peer)
        ended = await tell(peer, sid)
        history = (await peer.call("message.list", sessionId=sid))["messages"]
        each = {"inputTokens": 1000, "outputTokens": 100, "totalTokens": 1100, "cost": 0.00225}
        assert [message.get("usage") for message in history] == [None, each, each]
        turns = {"inputTokens": 2000, "outputTokens": 200, "totalTokens": 2200, "cost": 0.0045}
        assert ended["usage"] == turns
        await tell(peer, sid)
        session = await peer.call("session.get", sessionId=sid)
        assert session["tokenUsage"] == {
            "inputTokens": 4000,
            "outputTokens": 400,
            "totalTokens": 4400,
            "cost": 0.009,
        }
        stats = await peer.call("server.stats")
        assert (stats["inputTokens"], stats["outputTokens"], stats["cost"]) == (4000, 400, 0.009)


async def test_model_without_a_price_costs_nothing_and_is_named_once(
    loopback: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "trialogue.turn")

    async def spend(prices: Any, budget: dict[str, Any], cost: float | None = None) -> Any:
        caplog.clear()
        async with loopback(Spender(model="large", cost=cost), prices=prices) as peer:
            sid = await open_session(peer, **budget)
            ended = [await tell(peer, sid) for _ in range(2)]
        return ended[-1]["usage"].get("cost"), [record.message for record in caplog.records]

    said = "the model has no price: what it costs is not counted: large"
    assert await spend(PRICES, {}) == (None, [said])
    assert await spend({}, {"maxCost": 1}) == (None, [said])
    # Nobody wants to know.
    assert await spend({}, {}) == (None, [])
    # Its own word goes before the table.
    assert await spend(PRICES, {}, 0.5) == (1.5, [])


async def test_budget_ends_where_the_price_table_says(loopback: Connect) -> None:
    spender = Spender(steps=9, tokens=(1000, 100), model="small")
    async with loopback(spender, prices=PRICES) as peer:
        sid = await open_session(peer, maxCost=0.0045)
        assert (await tell(peer, sid))["outcome"] == "budgetExceeded"
    assert len(spender.did) == 2


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"input_tokens": -1}, "a count of tokens is an int"),
        ({"output_tokens": True}, "a count of tokens is an int"),
        ({"cost": "1"}, "a cost is a number"),
        ({"cost": True}, "a cost is a number"),
        ({"cost": -0.5}, "a cost is 0 or more"),
        ({"cost": float("nan")}, "a cost is 0 or more"),
    ],
)
async def test_usage_that_is_none_is_the_agents_error(
    members: Any, said: str, loopback: Connect
) -> None:
    told: list[str] = []

    async def agent(turn: Turn) -> None:
        try:
            turn.report_usage(**members)
        except (TypeError, ValueError) as exc:
            told.append(str(exc))
        await turn.write("x")

    async with loopback(agent) as peer:
        await tell(peer, await open_session(peer))
    (error,) = told
    assert error.startswith(said)


@pytest.mark.parametrize("count", [2**53 - 1, 2**53, 10**400], ids=["most", "over", "far"])
@pytest.mark.parametrize("cost", [1.5e308, 10**400], ids=["float", "int"])
async def test_usage_past_the_range_of_json_is_cut_to_it(
    count: int, cost: float, loopback: Connect
) -> None:
    """One integer that is too large would make the session unreadable for good."""

    async def agent(turn: Turn) -> None:
        turn.report_usage(input_tokens=count, output_tokens=5, cost=cost)
        turn.report_usage(input_tokens=1, output_tokens=count, cost=cost)
        await turn.write("x")

    most = 2**53 - 1
    whole = {"inputTokens": most, "outputTokens": most, "totalTokens": most, "cost": float(most)}
    async with loopback(agent) as peer:
        sid = await open_session(peer)
        for _ in range(2):
            assert (await tell(peer, sid))["usage"] == whole
        messages = (await peer.call("message.list", sessionId=sid))["messages"]
        assert [m["usage"] for m in messages if m["role"] == "assistant"] == [whole, whole]
        assert (await peer.call("session.get", sessionId=sid))["tokenUsage"] == whole
        stats = await peer.call("server.stats")
    assert (stats["inputTokens"], stats["outputTokens"], stats["cost"]) == (most, most, most)


@pytest.mark.parametrize("price", [Price(input=-1, output=1), Price(input=1, output=float("inf"))])
def test_price_that_is_none_is_refused(price: Price) -> None:
    with pytest.raises(ValueError, match=r"prices of 'm': (input|output) must be at least 0"):
        Settings(prices={"m": price})


@pytest.mark.parametrize(
    "names", [["session_max_tokens", "turn_max_tokens"], ["session_max_cost", "turn_max_cost"]]
)
def test_settings_that_are_no_budget_are_refused(names: Sequence[str]) -> None:
    for name in names:
        none: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            Settings(**none)
