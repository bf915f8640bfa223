"""PROTOCOL §9: questions to whoever is attached, and who answers them."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue import RateLimit
from trialogue.core.abc import Answer, Turn
from trialogue.core.errors import LocalProtocolError, OverloadedError, PayloadTooLargeError
from trialogue.testing import ProtocolPeer
from trialogue.testing.transport_kit import Connect


class Asker:
    """An agent that asks what it was made for, and keeps what became of it."""

    def __init__(self, title: str = "Go on?", **members: Any) -> None:
        self.title = title
        self.members = members
        self.answers: list[Answer] = []

    async def __call__(self, turn: Turn) -> None:
        answer = await turn.ask(self.title, **self.members)
        self.answers.append(answer)
        await turn.write(f"{answer.value} ({answer.reason})")


async def begin(peer: ProtocolPeer, **config: Any) -> tuple[str, Any]:
    """Start a turn that asks, and give the session and the ask's event."""
    sid = (await peer.call("session.create", config=config))["id"]
    await peer.call("message.stream", sessionId=sid, content="hi")
    opened = await peer.expect_event(sid, "ask.opened")
    return sid, opened["data"]


def asking(title: str, detail: str | None = None) -> Callable[[Turn], Awaitable[Answer]]:
    """A task that asks."""
    return lambda turn: turn.ask(title, detail=detail)


class Crowd:
    """An agent whose tasks are the test's."""

    def __init__(self) -> None:
        self.turn: Turn
        self._tasks: trio.Nursery
        self._began = trio.Event()
        self._finished = trio.Event()

    async def __call__(self, turn: Turn) -> None:
        async with trio.open_nursery() as self._tasks:
            self.turn = turn
            self._began.set()
            await self._finished.wait()

    async def begin(self, peer: ProtocolPeer) -> str:
        """Start its turn in a session that the peer follows."""
        sid: str = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        await peer.expect_event(sid, "message.created")
        with trio.fail_after(5):
            await self._began.wait()
        return sid

    def start(self, step: Callable[[Turn], Awaitable[Any]]) -> None:
        """Run a task of the turn."""
        self._tasks.start_soon(step, self.turn)

    async def fail(self, step: Callable[[Turn], Awaitable[Any]]) -> Exception:
        """Run a task of the turn that fails, and give the exception."""
        failure: list[Exception] = []
        done = trio.Event()

        async def run() -> None:
            try:
                await step(self.turn)
            except Exception as exc:  # noqa: BLE001 - the test looks at it
                failure.append(exc)
            done.set()

        self._tasks.start_soon(run)
        with trio.fail_after(5):
            await done.wait()
        return failure[0]

    def finish(self) -> None:
        """Let the agent return, when its tasks have ended."""
        self._finished.set()


# -- asking and answering --------------------------------------------------------------------------


async def test_ask_is_shown_answered_and_closed_for_everybody(connect: Connect) -> None:
    """§9: its events, and the session waits as long as it is open."""
    agent = Asker(
        "Delete it?",
        kind="approval",
        detail="All of it.",
        options=["yes", "no"],
        default="no",
        expires_seconds=60,
        key="k",
        call_id="c1",
        name="delete",
        arguments={"path": "/"},
    )
    async with connect(agent) as peer, connect.another() as other:
        sid, opened = await begin(peer)
        turn_id = opened.pop("turnId")
        ask_id = opened.pop("askId")
        assert opened.pop("expiresAt").endswith("Z")
        assert opened == {
            "kind": "approval",
            "title": "Delete it?",
            "detail": "All of it.",
            "options": ["yes", "no"],
            "default": "no",
            "key": "k",
            "callId": "c1",
            "name": "delete",
            "arguments": {"path": "/"},
        }
        assert (await peer.call("session.get", sessionId=sid))["status"] == "waiting"
        attached = await other.call("session.subscribe", sessionId=sid)
        assert [ask["askId"] for ask in attached["asks"]] == [ask_id]
        assert attached["hasMoreAsks"] is False
        assert (await other.call("ask.list", sessionId=sid))["asks"] == attached["asks"]
        assert await other.call("ask.answer", sessionId=sid, askId=ask_id, answer="yes") == {}
        for follower in (peer, other):
            closed = await follower.expect_event(sid, "ask.closed")
            assert closed["data"] == {
                "askId": ask_id,
                "turnId": turn_id,
                "answer": "yes",
                "by": "anonymous",
                "reason": "answered",
            }
            await follower.expect_event(sid, "turn.ended", outcome="completed")
        assert agent.answers == [Answer(value="yes", by="anonymous", reason="answered")]
        assert (await peer.call("session.get", sessionId=sid))["status"] == "idle"
        assert (await peer.call("ask.list", sessionId=sid)) == {"asks": [], "hasMore": False}


async def test_first_valid_answer_wins_and_later_ones_are_told_so(connect: Connect) -> None:
    """§9, §10: ASK_CLOSED; ASK_NOT_FOUND for one that never was."""
    async with connect(Asker(options=["a", "b"])) as peer:
        sid, opened = await begin(peer)
        ask_id = opened["askId"]
        error = await peer.refused(
            "INVALID_REQUEST", "ask.answer", sessionId=sid, askId=ask_id, answer="c"
        )
        assert error["data"]["issues"] == [
            {"path": "params.answer", "message": "expected one of a, b"}
        ]
        await peer.refused("ASK_NOT_FOUND", "ask.answer", sessionId=sid, askId="ask_x", answer="a")
        first = await peer.send_request("ask.answer", sessionId=sid, askId=ask_id, answer="b")
        second = await peer.send_request("ask.answer", sessionId=sid, askId=ask_id, answer="a")
        await peer.expect_result(first)
        await peer.expect_error(second, "ASK_CLOSED")
        ended = await peer.expect_event(sid, "message.completed")
        assert ended["data"]["message"]["content"] == "b (answered)"
        await peer.expect_event(sid, "turn.ended")
        await peer.refused("ASK_CLOSED", "ask.answer", sessionId=sid, askId=ask_id, answer="a")
        await peer.refused("ASK_CLOSED", "ask.list", sessionId=sid, after=ask_id)
        await peer.refused("ASK_NOT_FOUND", "ask.list", sessionId=sid, after="ask_x")


async def test_answer_has_to_fit_the_schema(connect: Connect) -> None:
    """§9, §10: the place in the answer is named."""
    schema = {
        "type": "object",
        "properties": {"days": {"type": "array", "items": {"$ref": "#/$defs/day"}}},
        "required": ["days"],
        "$defs": {"day": {"type": "integer", "minimum": 1}},
    }
    agent = Asker(schema=schema)
    async with connect(agent) as peer:
        sid, opened = await begin(peer)
        assert opened["schema"] == schema
        for answer, path in (
            ("text", "params.answer"),
            ({}, "params.answer"),
            ({"days": [1, 0]}, "params.answer.days[1]"),
            ({"days": [True]}, "params.answer.days[0]"),
        ):
            error = await peer.refused(
                "INVALID_REQUEST", "ask.answer", sessionId=sid, askId=opened["askId"], answer=answer
            )
            assert [issue["path"] for issue in error["data"]["issues"]] == [path]
        answer = {"days": [1, 2]}
        await peer.call("ask.answer", sessionId=sid, askId=opened["askId"], answer=answer)
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        assert agent.answers[0].value == answer


async def test_answer_is_any_value_where_nothing_is_said(connect: Connect) -> None:
    """§9: neither options nor schema. An absent answer is null."""
    agent = Asker()
    async with connect(agent) as peer:
        for members in ({"answer": "text"}, {"answer": {"a": [1]}}, {}):
            sid, opened = await begin(peer)
            await peer.call("ask.answer", sessionId=sid, askId=opened["askId"], params=members)
            await peer.expect_event(sid, "turn.ended")
        assert [answer.value for answer in agent.answers] == ["text", {"a": [1]}, None]


async def test_answer_says_who_gave_it(connect: Connect) -> None:
    """§9: by, the principal. Another principal's session is not found."""

    async def authenticate(credential: Any, _: object) -> str:
        await trio.lowlevel.checkpoint()
        return str(credential.token)

    agent = Asker()
    async with (
        connect(agent, authenticate=authenticate, insecure=True) as peer,
        connect.another() as other,
    ):
        await peer.call("hello", auth={"scheme": "bearer", "token": "ada"})
        await other.call("hello", auth={"scheme": "bearer", "token": "bob"})
        sid, opened = await begin(peer)
        names = {"sessionId": sid, "askId": opened["askId"]}
        await other.refused("SESSION_NOT_FOUND", "ask.answer", params=names)
        await peer.call("ask.answer", answer=1, params=names)
        closed = await peer.expect_event(sid, "ask.closed")
        assert closed["data"]["by"] == "ada"
        await peer.expect_event(sid, "turn.ended")
        assert agent.answers[0].by == "ada"


async def test_repeated_answer_has_its_first_effect_alone(connect: Connect) -> None:
    """§7: the key names it, also when the ask is closed; with another answer it is CONFLICT."""
    agent = Asker()
    async with connect(agent) as peer:
        sid, opened = await begin(peer)
        names = {"sessionId": sid, "askId": opened["askId"]}
        for _ in range(2):
            await peer.call("ask.answer", answer=1, params=names, idempotency_key="k")
        await peer.refused("CONFLICT", "ask.answer", answer=2, params=names, idempotency_key="k")
        await peer.refused("ASK_CLOSED", "ask.answer", answer=1, params=names, idempotency_key="l")
        await peer.expect_event(sid, "turn.ended")
        assert [answer.value for answer in agent.answers] == [1]


async def test_ask_completes_the_message_in_progress(connect: Connect) -> None:
    """Our choice: what was said before a question is whole when it is asked."""

    async def agent(turn: Turn) -> None:
        await turn.write("Well.")
        await turn.ask("Go on?")

    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        await peer.expect_event(sid, "message.created")
        events = await peer.expect_durable(
            sid, "message.started", "message.completed", "ask.opened"
        )
        await peer.call("ask.answer", sessionId=sid, askId=events[2]["data"]["askId"])
        await peer.expect_event(sid, "turn.ended")


# -- what ends them --------------------------------------------------------------------------------


async def test_ask_expires_at_its_time_with_its_default(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§9: reason expired; the default stands in for an answer, and nobody has given it."""
    agent = Asker(options=["yes", "no"], default="no", expires_seconds=30)
    async with loopback(agent) as peer:
        start = trio.current_time()
        sid, opened = await begin(peer)
        with trio.move_on_after(29.9):
            await peer.expect_event(sid, "ask.closed")
        await peer.refused(
            "INVALID_REQUEST", "ask.answer", sessionId=sid, askId=opened["askId"], answer="x"
        )
        closed = await peer.expect_event(sid, "ask.closed")
        assert trio.current_time() - start == pytest.approx(30, abs=0.1)
        assert closed["data"] == {
            "askId": opened["askId"],
            "turnId": opened["turnId"],
            "answer": "no",
            "reason": "expired",
        }
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        assert agent.answers == [Answer(value="no", by=None, reason="expired")]
        await peer.refused(
            "ASK_CLOSED", "ask.answer", sessionId=sid, askId=opened["askId"], answer="yes"
        )


async def test_answered_ask_does_not_expire_later(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§9: one end each."""
    agent = Asker(expires_seconds=30)
    async with loopback(agent) as peer:
        sid, opened = await begin(peer)
        await peer.call("ask.answer", sessionId=sid, askId=opened["askId"], answer=1)
        await peer.expect_event(sid, "turn.ended")
        await trio.sleep(60)
        events = (await peer.call("event.list", sessionId=sid))["events"]
        assert [event["type"] for event in events].count("ask.closed") == 1
        assert events[-1]["type"] == "turn.ended"


async def test_waiting_for_an_answer_takes_none_of_the_turns_time(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§5.5: it is somebody else who takes it; what the turn does itself counts."""

    async def agent(turn: Turn) -> None:
        await trio.sleep(6)
        await turn.ask("Go on?", expires_seconds=1000)
        await trio.sleep(float(turn.input.content))

    async with loopback(agent, turn_seconds=10) as peer:
        for seconds, outcome in (("3", "completed"), ("5", "failed")):
            sid = (await peer.call("session.create"))["id"]
            await peer.call("message.stream", sessionId=sid, content=seconds)
            await peer.expect_event(sid, "ask.closed")
            ended = await peer.expect_event(sid, "turn.ended")
            assert ended["data"]["outcome"] == outcome


@pytest.mark.parametrize("how", ["turn.cancel", "session.close"])
async def test_end_of_the_turn_closes_its_asks(connect: Connect, how: str) -> None:
    """§9, §4: reason cancelled, before turn.ended; nobody has answered."""
    async with connect(Asker()) as peer:
        sid, opened = await begin(peer)
        await peer.call(how, sessionId=sid)
        types = ["ask.closed", "turn.ended", *(["session.closed"] if "close" in how else [])]
        closed, ended, *_ = await peer.expect_durable(sid, *types)
        assert closed["data"] == {
            "askId": opened["askId"],
            "turnId": opened["turnId"],
            "reason": "cancelled",
        }
        assert ended["data"]["outcome"] == "cancelled"
        code = "SESSION_CLOSED" if "close" in how else "ASK_CLOSED"
        await peer.refused(code, "ask.answer", sessionId=sid, askId=opened["askId"])
        assert (await peer.call("ask.list", sessionId=sid))["asks"] == []


async def test_agent_that_gives_up_waiting_closes_its_ask(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§9: cancelling `Turn.ask`, and only that."""

    async def agent(turn: Turn) -> None:
        with trio.move_on_after(5):
            await turn.ask("Go on?")
        await turn.write("Never mind.")

    async with loopback(agent) as peer:
        sid, _ = await begin(peer)
        closed = await peer.expect_event(sid, "ask.closed")
        assert closed["data"]["reason"] == "cancelled"
        await peer.expect_event(sid, "turn.ended", outcome="completed")


async def test_session_runs_while_something_is_done_beside_an_ask(connect: Connect) -> None:
    """§4: waiting is a turn that waits for nothing but asks."""
    crowd = Crowd()
    async with connect(crowd) as peer:
        sid = await crowd.begin(peer)
        crowd.start(lambda turn: turn.ask("Go on?"))
        opened = await peer.expect_event(sid, "ask.opened")

        async def status() -> Any:
            return (await peer.call("session.get", sessionId=sid))["status"]

        assert await status() == "waiting"
        listed = await peer.call("session.list", status="waiting")
        assert [session["id"] for session in listed["sessions"]] == [sid]
        crowd.turn.write_nowait("Meanwhile,")
        await peer.expect_event(sid, "message.started")
        assert await status() == "running"
        crowd.turn.complete_message()
        await peer.expect_event(sid, "message.completed")
        assert await status() == "waiting"
        release = trio.Event()

        async def work(_: object) -> None:
            await release.wait()

        crowd.start(lambda turn: turn.call_tool("work", {}, work))
        await peer.expect_event(sid, "tool.called")
        assert await status() == "running"
        release.set()
        await peer.expect_event(sid, "tool.completed")
        assert await status() == "waiting"
        await peer.call("ask.answer", sessionId=sid, askId=opened["data"]["askId"])
        await peer.expect_event(sid, "ask.closed")
        assert await status() == "running"
        crowd.finish()
        await peer.expect_event(sid, "turn.ended")


async def test_answers_are_taken_while_the_server_drains(loopback: Connect) -> None:
    """§3.4: and what waits for one goes on."""
    async with loopback(Asker()) as peer:
        sid, opened = await begin(peer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loopback.server.drain, 5)
            await peer.expect_event(None, "goaway")
            attached = await peer.call("session.subscribe", sessionId=sid)
            assert attached["asks"][0]["askId"] == opened["askId"]
            await peer.call("ask.answer", sessionId=sid, askId=opened["askId"], answer="on")
            await peer.expect_event(sid, "turn.ended", outcome="completed")


async def test_turn_that_waits_is_interrupted_where_nothing_would_remember_it(
    loopback: Connect,
) -> None:
    """§3.4: the memory store's; with a durable one it stays waiting (tests/recovery)."""
    async with loopback(Asker()) as peer:
        sid, _ = await begin(peer)
        await loopback.server.drain(0)
        await peer.expect_event(sid, "ask.closed", reason="cancelled")
        ended = await peer.expect_event(sid, "turn.ended")
        assert (ended["data"]["outcome"], ended["data"]["stopReason"]) == (
            "interrupted",
            "shutdown",
        )


# -- limits ----------------------------------------------------------------------------------------


async def test_just_as_many_asks_are_open_as_may_be(loopback: Connect) -> None:
    """§11: maxOpenAsks; one more is the agent's error, and the session goes on."""
    crowd = Crowd()
    async with loopback(crowd, max_open_asks=2) as peer:
        assert (await peer.call("hello"))["limits"]["maxOpenAsks"] == 2
        sid = await crowd.begin(peer)
        for number in range(2):
            crowd.start(asking(f"{number}?"))
            await peer.expect_event(sid, "ask.opened")
        failure = await crowd.fail(lambda turn: turn.ask("2?"))
        assert isinstance(failure, OverloadedError)
        asks = (await peer.call("ask.list", sessionId=sid))["asks"]
        assert [ask["title"] for ask in asks] == ["0?", "1?"]
        await peer.call("ask.answer", sessionId=sid, askId=asks[0]["askId"])
        await peer.expect_event(sid, "ask.closed")
        crowd.start(lambda turn: turn.ask("2?"))
        await peer.expect_event(sid, "ask.opened", title="2?")
        await peer.call("turn.cancel", sessionId=sid)
        closed = [event for event in peer.durable_events(sid) if event["type"] == "ask.closed"]
        assert len(closed) == 3


async def test_asks_that_do_not_fit_into_an_answer_are_listed_page_by_page(
    loopback: Connect,
) -> None:
    """§6.3, §11: lists are cut at maxListBytes, with hasMoreAsks, and ask.list has the others."""
    crowd = Crowd()
    async with loopback(crowd, max_list_bytes=4096) as peer:
        sid = await crowd.begin(peer)
        for number in range(5):
            detail = "x" * (6000 if number == 3 else 1000)
            crowd.start(asking(f"{number}", detail))
            await peer.expect_event(sid, "ask.opened")
        attached = await peer.call("session.subscribe", sessionId=sid)
        assert [ask["title"] for ask in attached["asks"]] == ["0", "1", "2"]
        assert attached["hasMoreAsks"] is True
        titles = [ask["title"] for ask in attached["asks"]]
        after, has_more = attached["asks"][-1]["askId"], True
        while has_more:
            page = await peer.call("ask.list", sessionId=sid, after=after)
            titles += [ask["title"] for ask in page["asks"]]
            after, has_more = page["asks"][-1]["askId"], page["hasMore"]
        assert titles == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"title": "x" * 8193}, "title has at most 8192"),
        ({"options": []}, "one or more"),
        ({"options": ["a", "a"]}, "all different"),
        ({"options": [""]}, "1 to 8192"),
        ({"options": ["a"], "default": "b"}, "default: expected one of a"),
        ({"schema": {"type": "integer"}, "default": "b"}, "default: 'b' is not of type 'integer'"),
        ({"schema": {"type": "number or so"}}, "schema.type"),
        ({"schema": {"pattern": "("}}, "schema.pattern"),
        ({"schema": {"items": {"patternProperties": {"(": {}}}}}, "schema.items.patternProperties"),
        ({"schema": {"pattern": "a{4294967295}"}}, "schema: a pattern is no expression"),
        ({"schema": {"pattern": "(((a{100}){100}){100}){100}"}}, "{100}' is too large"),
        ({"schema": {"patternProperties": {"(?:ab[a-z]{99}){99}": {}}}}, "is too large"),
        ({"schema": {"pattern": "ab|" * 10_000}}, "is too large"),
        ({"schema": {"pattern": "(?:" * 300 + "a" + ")" * 300}}, "schema: a pattern is no"),
        ({"schema": {"pattern": "(" * 5000 + ")" * 5000}}, "schema: a pattern is no expression"),
        ({"schema": {"$ref": "https://example.org/x"}}, "somewhere else"),
        ({"schema": {"$ref": "#/$defs/x"}}, "to nothing"),
        ({"default": float("nan")}, "default"),
        ({"title": "half \ud83d of a pair"}, "a lone surrogate"),
        ({"key": "x" * 129}, "key"),
    ],
)
async def test_ask_that_is_none_is_refused_where_it_is_made(
    loopback: Connect, members: dict[str, Any], said: str
) -> None:
    """Our choice: an agent's mistake is the agent's to see, and no client's."""
    crowd = Crowd()
    async with loopback(crowd) as peer:
        sid = await crowd.begin(peer)
        given: dict[str, Any] = {"title": "?", **members}
        failure = await crowd.fail(lambda turn: turn.ask(**given))
        assert isinstance(failure, LocalProtocolError)
        assert said in str(failure)
        assert (await peer.call("ask.list", sessionId=sid))["asks"] == []
        crowd.finish()
        await peer.expect_durable(sid, "turn.ended")


async def test_ask_too_large_to_be_sent_is_refused(loopback: Connect) -> None:
    """§11: maxMessageBytes of what it is about; just so many are sent."""
    crowd = Crowd()
    async with loopback(crowd, max_message_bytes=4096) as peer:
        sid = await crowd.begin(peer)
        fits = {"x": "a" * (4096 - len('{"x":""}'))}
        too_large = {"x": fits["x"] + "a"}
        failure = await crowd.fail(lambda turn: turn.ask("?", arguments=too_large))
        assert isinstance(failure, PayloadTooLargeError)
        crowd.start(lambda turn: turn.ask("?", arguments=fits))
        opened = await peer.expect_event(sid, "ask.opened")
        assert opened["data"]["arguments"] == fits
        names = {"sessionId": sid, "askId": opened["data"]["askId"]}
        await peer.refused("PAYLOAD_TOO_LARGE", "ask.answer", answer="a" * 4095, params=names)
        await peer.call("ask.answer", answer="a" * 4094, params=names)


async def test_answers_are_neither_counted_nor_stopped_by_the_rate(loopback: Connect) -> None:
    """§11: maxInFlight does not count them, and they draw on the reserve."""
    limit = RateLimit(max_requests=60, window_seconds=60, burst=4, reserve=2)
    async with loopback(Asker(), rate_limit=limit, max_in_flight=1) as peer:
        sid, opened = await begin(peer)
        await peer.send_request("message.send", sessionId=sid, content="x", wait=True)
        await peer.call("ask.answer", sessionId=sid, askId=opened["askId"])
        await peer.expect_event(sid, "turn.ended")
        # The next turn asks, one request is in flight, and then the ordinary share is used up.
        await peer.refused("OVERLOADED", "session.get", sessionId=sid)
        await peer.refused("RATE_LIMITED", "session.get", sessionId=sid)
        asks = [e["data"]["askId"] for e in peer.durable_events(sid) if e["type"] == "ask.opened"]
        await peer.call("ask.answer", sessionId=sid, askId=asks[-1])


# -- beside the rest -------------------------------------------------------------------------------


async def test_fork_of_a_waiting_session_asks_nobody(connect: Connect) -> None:
    """§4: asks are not copied."""
    async with connect(Asker()) as peer:
        sid, _ = await begin(peer)
        forked = await peer.call("session.fork", sessionId=sid)
        assert forked["status"] == "idle"
        assert (await peer.call("ask.list", sessionId=forked["id"]))["asks"] == []


async def test_asks_of_several_tasks_are_answered_in_any_order(connect: Connect) -> None:
    """§9: each has an id of its own."""
    answers = dict[str, Any]()

    async def agent(turn: Turn) -> None:
        async def ask(title: str) -> None:
            answers[title] = (await turn.ask(title)).value

        async with trio.open_nursery() as nursery:
            for title in "abc":
                nursery.start_soon(ask, title)

    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        asks = [(await peer.expect_event(sid, "ask.opened"))["data"] for _ in range(3)]
        for ask in reversed(asks):
            await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer=ask["title"])
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        assert answers == {"a": "a", "b": "b", "c": "c"}
