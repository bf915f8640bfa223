"""PROTOCOL §5: what becomes of an input, and how a turn ends."""

import asyncio
import gc
import math
import sys
import warnings
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trialogue.agents.echo import echo
from trialogue.core._failures import find_failure
from trialogue.core.abc import Turn
from trialogue.core.errors import AgentError, LocalProtocolError
from trialogue.testing import (
    AwaitSteering,
    CallTool,
    Crash,
    Fail,
    LedTurn,
    ProtocolPeer,
    Puppet,
    ReportUsage,
    Stop,
    Think,
    Wait,
    scripted,
)
from trialogue.testing.transport_kit import Connect

TURN_EVENTS = [
    "input.delivered",
    "turn.started",
    "message.created",
    "message.started",
    "message.completed",
    "turn.ended",
]


async def begin(peer: ProtocolPeer, puppet: Puppet, **config: Any) -> tuple[str, LedTurn]:
    """Create a session, subscribe to it, and start a turn that waits for the test."""
    sid = (await peer.call("session.create", config=config))["id"]
    await peer.call("message.stream", sessionId=sid, content="first")
    led = await puppet.next_turn()
    await peer.expect_event(sid, "message.created")
    return sid, led


async def send(peer: ProtocolPeer, sid: str, content: str, **members: Any) -> Any:
    return await peer.call("message.send", sessionId=sid, content=content, params=members)


# -- the order of events ---------------------------------------------------------------------------


async def test_events_of_a_turn_come_in_their_order(connect: Connect) -> None:
    """§5.3: and all of a turn's carry its turnId."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        sent = await peer.call("message.stream", sessionId=sid, content="hi")
        events = await peer.expect_durable(sid, *TURN_EVENTS)
        delivered, started, created, begun, completed, ended = (event["data"] for event in events)
        names = {"inputId": sent["inputId"], "turnId": sent["turnId"]}
        assert delivered == {**names, "as": "start"}
        assert started == names
        user = created["message"]
        expected = {"id": sent["messageId"], "role": "user", "content": "hi", "status": "complete"}
        assert expected.items() <= user.items()
        assert (begun["role"], begun["kind"]) == ("assistant", "text")
        assert completed["message"]["id"] == begun["messageId"]
        assert completed["message"]["content"] == "hi"
        assert ended["outcome"] == "completed"
        for turn_id in (user["turnId"], begun["turnId"], completed["message"]["turnId"]):
            assert turn_id == sent["turnId"]


async def test_text_tools_and_reasoning_are_messages_and_events_of_their_own(
    connect: Connect,
) -> None:
    """§5.3, §6.8: a tool call completes the message before it, which has it in its toolCalls."""
    agent = scripted(
        [
            Think("Let me see."),
            "Looking.",
            CallTool("search", {"q": "x"}, result={"hits": [1]}, call_id="call_1"),
            CallTool("fetch", error="no route", call_id="call_2"),
            "Found.",
        ]
    )
    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        await peer.expect_event(sid, "message.created")
        events = await peer.expect_durable(
            sid,
            "message.started",
            "message.completed",
            "message.started",
            "message.completed",
            "tool.called",
            "tool.completed",
            "tool.called",
            "tool.completed",
            "message.started",
            "message.completed",
            "turn.ended",
        )
        data = [event["data"] for event in events]
        assert (data[0]["kind"], data[1]["message"]["kind"]) == ("reasoning", "reasoning")
        assert data[3]["message"]["toolCalls"] == [
            {"callId": "call_1", "name": "search", "arguments": {"q": "x"}}
        ]
        turn_id = data[0]["turnId"]
        assert data[4] == {
            "callId": "call_1",
            "turnId": turn_id,
            "name": "search",
            "arguments": {"q": "x"},
        }
        assert data[5] == {
            "callId": "call_1",
            "turnId": turn_id,
            "status": "ok",
            "result": {"hits": [1]},
        }
        assert (data[7]["status"], data[7]["error"]) == ("error", "no route")
        assert data[9]["message"]["content"] == "Found."


async def test_usage_is_summed_over_turns(connect: Connect) -> None:
    """§4, §6.8: turn.ended has the turn's, the session has all of them."""
    agent = scripted(default=[ReportUsage(input_tokens=3, output_tokens=4), "Hi."])
    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        for _ in range(2):
            await peer.call("message.stream", sessionId=sid, content="hi")
            ended = await peer.expect_event(sid, "turn.ended")
            assert ended["data"]["usage"] == {
                "inputTokens": 3,
                "outputTokens": 4,
                "totalTokens": 7,
            }
        session = await peer.call("session.get", sessionId=sid)
        assert session["tokenUsage"]["totalTokens"] == 14


async def test_stop_reason_of_the_agent_is_told(connect: Connect) -> None:
    """§6.8: turn.ended has stopReason."""
    async with connect(scripted(["Enough.", Stop("maxTokens")])) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        ended = await peer.expect_event(sid, "turn.ended")
        assert ended["data"]["stopReason"] == "maxTokens"
        assert ended["data"]["outcome"] == "completed"


async def test_session_is_running_for_as_long_as_its_turn(connect: Connect) -> None:
    """§4: status and activeTurnId."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid, led = await begin(peer, puppet)
        session = await peer.call("session.get", sessionId=sid)
        assert (session["status"], session["activeTurnId"]) == ("running", led.turn.id)
        led.finish()
        await peer.expect_event(sid, "turn.ended")
        session = await peer.call("session.get", sessionId=sid)
        assert session["status"] == "idle"
        assert "activeTurnId" not in session


# -- whenBusy --------------------------------------------------------------------------------------


async def test_queued_inputs_run_one_after_another_in_their_order(connect: Connect) -> None:
    """§5.1: queue is the default; §5.3: input.queued for those that wait."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid, led = await begin(peer, puppet)
        sent = [await send(peer, sid, text) for text in ("second", "third")]
        assert [result["state"] for result in sent] == ["queued", "queued"]
        queued = await peer.expect_durable(sid, "input.queued", "input.queued")
        assert queued[0]["data"] == {
            "inputId": sent[0]["inputId"],
            "messageId": sent[0]["messageId"],
            "turnId": sent[0]["turnId"],
            "content": "second",
            "whenBusy": "queue",
        }
        assert queued[0]["position"] == sent[0]["position"]
        for text in ("second", "third"):
            led.finish()
            led = await puppet.next_turn()
            assert led.turn.input.content == text
            await peer.expect_durable(sid, "turn.ended", *TURN_EVENTS[:3])
        led.finish()
        await peer.expect_event(sid, "turn.ended")


async def test_rejected_input_leaves_no_trace(connect: Connect) -> None:
    """§5.1, §10: SESSION_BUSY, and retryable."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid, led = await begin(peer, puppet)
        await peer.refused(
            "SESSION_BUSY", "message.send", sessionId=sid, content="x", whenBusy="reject"
        )
        assert (await peer.call("session.get", sessionId=sid))["queuedCount"] == 0
        led.finish()
        await peer.expect_durable(sid, "turn.ended")
        sent = await send(peer, sid, "now", whenBusy="reject")
        assert sent["state"] == "started"


async def test_config_says_what_an_input_does_that_does_not(connect: Connect) -> None:
    """§4, §5.1: config.whenBusy; the input's own goes first."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid, _ = await begin(peer, puppet, whenBusy="reject")
        await peer.refused("SESSION_BUSY", "message.send", sessionId=sid, content="x")
        assert (await send(peer, sid, "x", whenBusy="queue"))["state"] == "queued"


async def test_interrupting_input_cancels_the_turn_and_goes_first(connect: Connect) -> None:
    """§5.1: before all queued inputs; a second one goes behind the first."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid, led = await begin(peer, puppet)
        hold = trio.Event()

        async def linger(turn: Turn) -> None:
            with trio.CancelScope(shield=True):
                await hold.wait()

        led.start(linger)
        for text, policy in (
            ("queued", "queue"),
            ("urgent", "interrupt"),
            ("urgent too", "interrupt"),
            ("queued too", "queue"),
        ):
            assert (await send(peer, sid, text, whenBusy=policy))["state"] == "queued"
        inputs = (await peer.call("input.list", sessionId=sid))["inputs"]
        assert [waiting["content"] for waiting in inputs] == [
            "urgent",
            "urgent too",
            "queued",
            "queued too",
        ]
        hold.set()
        ended = await peer.expect_event(sid, "turn.ended")
        assert ended["data"]["outcome"] == "cancelled"
        for text in ("urgent", "urgent too", "queued", "queued too"):
            led = await puppet.next_turn()
            assert led.turn.input.content == text
            led.finish()
            await peer.expect_event(sid, "turn.ended", outcome="completed")


async def test_steered_input_is_handed_to_the_running_turn(connect: Connect) -> None:
    """§5.1, §5.3: input.delivered as steer and message.created, and no turn of its own."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid, led = await begin(peer, puppet)
        steered = await send(peer, sid, "left!", whenBusy="steer")
        assert (steered["state"], steered["turnId"]) == ("steered", led.turn.id)
        message = await led.do(lambda turn: turn.next_steering())
        assert (message.content, message.id) == ("left!", steered["messageId"])
        _, delivered, created = await peer.expect_durable(
            sid, "input.queued", "input.delivered", "message.created"
        )
        assert delivered["data"] == {
            "inputId": steered["inputId"],
            "turnId": led.turn.id,
            "as": "steer",
        }
        assert created["data"]["message"]["turnId"] == led.turn.id
        led.finish()
        await peer.expect_durable(sid, "turn.ended")
        assert (await peer.call("session.get", sessionId=sid))["status"] == "idle"


async def test_steered_input_that_is_waited_for_is_never_queued(connect: Connect) -> None:
    """§5.3: input.queued only if it waits."""
    agent = scripted([AwaitSteering(then=["Turning {steering}."])])
    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="go")
        await peer.expect_event(sid, "message.created")
        await wait_all_tasks_blocked()
        done = await send(peer, sid, "left", whenBusy="steer", wait=True)
        assert done["message"]["content"] == "Turning left."
        await peer.expect_durable(
            sid,
            "input.delivered",
            "message.created",
            "message.started",
            "message.completed",
            "turn.ended",
        )


async def test_steered_input_that_is_not_taken_gets_a_turn_of_its_own(connect: Connect) -> None:
    """§5.1: with a new turnId in its input.delivered; who waits for it waits for that turn."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid, led = await begin(peer, puppet)
        waiting = await peer.send_request(
            "message.send", sessionId=sid, content="left!", whenBusy="steer", wait=True
        )
        queued = await peer.expect_event(sid, "input.queued")
        assert queued["data"]["turnId"] == led.turn.id
        led.finish()
        _, delivered, started = await peer.expect_durable(
            sid, "turn.ended", "input.delivered", "turn.started"
        )
        assert delivered["data"]["as"] == "start"
        new_id = delivered["data"]["turnId"]
        assert new_id == started["data"]["turnId"] != led.turn.id
        assert not peer.is_answered(waiting)
        led = await puppet.next_turn()
        led.write("Left it is.")
        led.finish()
        done = await peer.expect_result(waiting)
        assert (done["turnId"], done["message"]["content"]) == (new_id, "Left it is.")


async def test_steer_into_a_turn_that_is_being_cancelled_means_the_next(connect: Connect) -> None:
    """§5.1."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid, led = await begin(peer, puppet)
        hold = trio.Event()

        async def linger(turn: Turn) -> None:
            with trio.CancelScope(shield=True):
                await hold.wait()

        led.start(linger)
        cancel = await peer.send_request("turn.cancel", sessionId=sid)
        steered = await send(peer, sid, "left!", whenBusy="steer")
        assert steered["state"] == "queued"
        assert steered["turnId"] != led.turn.id
        hold.set()
        await peer.expect_result(cancel)
        led = await puppet.next_turn()
        assert led.turn.input.content == "left!"


@pytest.mark.parametrize("policy", ["queue", "reject", "interrupt", "steer"])
async def test_with_no_turn_running_every_policy_starts_one(connect: Connect, policy: str) -> None:
    """§5.1."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("session.subscribe", sessionId=sid)
        sent = await send(peer, sid, "hi", whenBusy=policy)
        assert sent["state"] == "started"
        events = await peer.expect_durable(sid, *TURN_EVENTS)
        assert events[0]["data"]["as"] == "start"


# -- how a turn ends -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "outcome", "code", "status"),
    [
        (scripted("Hi."), "completed", None, "complete"),
        (scripted(["Hi.", Fail("No quota.")]), "failed", "AGENT_ERROR", "error"),
        (scripted(["Hi.", Crash("secret")]), "failed", None, "error"),
        (scripted(["Hi.", Stop("enough")]), "completed", None, "complete"),
    ],
)
async def test_turn_ends_in_exactly_one_event_with_its_messages_completed_before(
    connect: Connect, agent: Any, outcome: str, code: str | None, status: str
) -> None:
    """§5.5: whatever the agent does."""
    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        done = await peer.call(
            "message.stream",
            sessionId=sid,
            content="hi",
        )
        await peer.expect_event(sid, "message.created")
        _, completed, ended = await peer.expect_durable(
            sid, "message.started", "message.completed", "turn.ended"
        )
        assert completed["data"]["message"]["content"] == "Hi."
        assert completed["data"]["message"]["status"] == status
        assert ended["data"]["outcome"] == outcome
        assert ended["data"]["turnId"] == done["turnId"]
        if outcome == "failed":
            assert code in (None, ended["data"]["error"]["code"])
            assert ended["data"]["error"]["message"]
        assert "secret" not in str(peer.frames), "§10: no internals are shown"
        await peer.call("session.checkpoint", sessionId=sid)
        assert [e["type"] for e in await peer.read_until(sid, "session.checkpointed")] == [
            "session.checkpointed"
        ]


async def test_result_that_is_no_json_fails_the_call_and_nothing_else(connect: Connect) -> None:
    """§6.8, and a bug once seen: a set or a datetime broke the session's log for good."""
    seen: list[str] = []

    async def agent(turn: Turn) -> None:
        async def tool(_: object) -> Any:
            await trio.lowlevel.checkpoint()
            return {"rows": [{1, 2}]}

        for use in (
            turn.call_tool("t", {}, tool),
            turn.call_tool("t", {"when": datetime.now(UTC)}, tool),
        ):
            try:
                await use
            except LocalProtocolError as exc:
                seen.append(str(exc))
        for durable in (True, False):
            try:
                turn.emit("_e", {"x": math.nan}, durable=durable)
            except LocalProtocolError as exc:
                seen.append(str(exc))

    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        events = await peer.read_until(sid, "turn.ended")
        assert events[-1]["data"]["outcome"] == "completed"
        (completed,) = (e["data"] for e in events if e["type"] == "tool.completed")
        fault = "result.rows[0]: a set is no JSON value"
        assert (completed["status"], completed["error"]) == ("error", fault)
        nan = "data.x: nan is no JSON value"
        assert seen == [fault, "arguments.when: a datetime is no JSON value", nan, nan]


async def test_answer_that_is_returned_fails_the_turn_and_says_why(connect: Connect) -> None:
    """Our choice: it would be lost, and nobody would know."""

    async def agent(turn: Turn) -> Any:
        await turn.write("Well. ")
        return "The answer."

    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
        assert ended["outcome"] == "failed"
        assert ended["error"]["code"] == "AGENT_ERROR"
        said = "The agent returned 'str': what it says it has to turn.write"
        assert ended["error"]["message"] == said


async def forget_await(turn: Turn) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        turn.write("lost")  # type: ignore[unused-coroutine]  # noqa: RUF100
        gc.collect()
    await trio.lowlevel.checkpoint()


async def test_turn_without_a_word_is_logged(
    loopback: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Our choice: most often an ``await`` was forgotten. It completes all the same."""
    async with loopback({"silent": forget_await, "echo": echo}) as peer:
        for agent, warned in (("echo", 0), ("silent", 1)):
            sid = (await peer.call("session.create", config={"agent": agent}))["id"]
            done = await peer.call("message.send", sessionId=sid, content="hi", wait=True)
            assert done["outcome"] == "completed"
            assert caplog.text.count("is an await missing before turn.write?") == warned


async def test_turns_leave_nothing_for_the_garbage_collector(loopback: Connect) -> None:
    """Our choice: `trialogue serve` collects rarely, which must cost no memory."""
    async with loopback(echo) as peer:
        sid = (await peer.call("session.create"))["id"]

        async def take_turns(count: int) -> None:
            for _ in range(count):
                await peer.call("message.send", sessionId=sid, content="hi", wait=True)

        await take_turns(2)
        gc.collect()
        gc.disable()
        try:
            await take_turns(10)
            assert gc.collect() < 10
        finally:
            gc.enable()


async def test_wrong_use_of_a_turn_is_named(loopback: Connect) -> None:
    """Our choice: a TypeError that says what was expected, and the log is as it was."""
    puppet = Puppet()
    async with loopback(puppet) as peer:
        sid, led = await begin(peer, puppet)
        turn: Any = led.turn

        async def fine(_: object) -> int:
            await trio.lowlevel.checkpoint()
            return 1

        async def try_all(_: Turn) -> list[str]:
            said = list[str]()
            await turn.write("Begun.")
            asked: list[tuple[Any, tuple[Any, ...]]] = [
                (turn.write, (None,)),
                (turn.write, (5,)),
                (turn.write, (b"x",)),
                (turn.write, (["x"],)),
                (turn.call_tool, (None, {}, fine)),
                (turn.call_tool, ("t", [], fine)),
                (turn.call_tool, ("t", {}, 5)),
                (turn.call_tool, ("t", {}, id)),
            ]
            for use, arguments in asked:
                try:
                    await use(*arguments)
                except (TypeError, LocalProtocolError) as exc:
                    said.append(str(exc))
            for name, data in ((None, {"a": 1}), ("_e", None)):
                try:
                    turn.emit(name, data)
                except (TypeError, LocalProtocolError) as exc:
                    said.append(str(exc))
            try:
                turn.report_usage(input_tokens=1.5)
            except TypeError as exc:
                said.append(str(exc))
            try:
                turn.write_nowait("x", kind="loud")
            except ValueError as exc:
                said.append(str(exc))
            return said

        assert await led.do(try_all) == [
            "what turn.write is given is a str, and not 'NoneType'",
            "what turn.write is given is a str, and not 'int'",
            "what turn.write is given is a str, and not 'bytes'",
            "what turn.write is given is a str, and not 'list'",
            "a tool's name is a str, and not 'NoneType'",
            "arguments: expected an object, not a list",
            "the tool 't' is no function, but 5",
            "the tool 't' is not async: it returned 'int' at once",
            "an event's name is a str, and not 'NoneType'",
            "data: expected an object, not a NoneType",
            "a count of tokens is an int of 0 or more, and not 1.5",
            "a message's kind is one of text, reasoning, and not 'loud'",
        ]
        turn.stop_reason = 5
        led.finish()
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
        assert (ended["outcome"], ended["stopReason"]) == ("completed", "5")
        events = (await peer.call("event.list", sessionId=sid))["events"]
        tools = [e["data"] for e in events if e["type"].startswith("tool.")]
        assert [tool.get("status") for tool in tools] == [None, "error"]


async def leave(turn: Turn) -> None:
    """Be an agent that calls `sys.exit` in the place that it is told."""
    await turn.write("Hi.")

    async def tool(_: object) -> None:
        sys.exit("secret")

    match turn.input.content:
        case "itself":
            sys.exit(3)
        case "task":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(tool, None)
        case _:
            await turn.call_tool("leave", {}, tool)


@pytest.mark.parametrize("place", ["itself", "task", "tool"])
async def test_exit_of_an_agent_ends_its_turn_and_not_the_server(
    connect: Connect, place: str
) -> None:
    """§5.5, and a bug once seen: `sys.exit` in an agent ended every session."""
    async with connect({"leave": leave, "echo": echo}) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content=place)
        events = await peer.read_until(sid, "turn.ended")
        ended = events[-1]["data"]
        assert (ended["outcome"], ended["error"]["code"]) == ("failed", "AGENT_ERROR")
        tools = [event["data"]["status"] for event in events if event["type"] == "tool.completed"]
        assert tools == (["error"] if place == "tool" else [])
        assert "secret" not in str(peer.frames), "§10: no internals are shown"
        other = (await peer.call("session.create", config={"agent": "echo"}))["id"]
        done = await peer.call("message.send", sessionId=other, content="hi", wait=True)
        assert done["message"]["content"] == "hi"


class _LeftError(BaseException):
    """What no `except Exception` sees."""


def _cancelled_in_asyncio() -> None:
    """Be a framework in a thread whose task is cancelled."""

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    asyncio.run(work())


_NO_CANCELS: dict[str, BaseException | None] = {
    "asyncio": None,
    "own": _LeftError("secret"),
    "generator": GeneratorExit("secret"),
    "group": BaseExceptionGroup("both", [_LeftError("secret"), ValueError("secret")]),
    "exits": BaseExceptionGroup("both", [SystemExit("secret"), _LeftError("secret")]),
}


@pytest.mark.parametrize("place", ["itself", "task", "tool"])
@pytest.mark.parametrize("kind", _NO_CANCELS)
async def test_what_is_no_cancel_of_trios_fails_the_turn_and_not_the_server(
    loopback: Connect, kind: str, place: str
) -> None:
    """§5.5, and a bug once seen: asyncio's `CancelledError` in an agent ended every session."""

    async def leave_so(_: object) -> None:
        raised = _NO_CANCELS[kind]
        if raised is None:
            await trio.to_thread.run_sync(_cancelled_in_asyncio)
        else:
            raise raised

    async def agent(turn: Turn) -> None:
        await turn.write("Hi.")
        if place == "itself":
            await leave_so(None)
        elif place == "tool":
            await turn.call_tool("leave", {}, leave_so)
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(leave_so, None)

    async with loopback({"agent": agent, "echo": echo}) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        events = await peer.read_until(sid, "turn.ended")
        ended = events[-1]["data"]
        assert (ended["outcome"], ended["error"]["code"]) == ("failed", "AGENT_ERROR")
        tools = [event["data"]["status"] for event in events if event["type"] == "tool.completed"]
        assert tools == (["error"] if place == "tool" else [])
        assert "secret" not in str(peer.frames), "§10: no internals are shown"
        other = (await peer.call("session.create", config={"agent": "echo"}))["id"]
        done = await peer.call("message.send", sessionId=other, content="hi", wait=True)
        assert done["message"]["content"] == "hi"


async def test_failure_beside_a_cancel_is_no_end_of_the_server(loopback: Connect) -> None:
    """§5.5: the cancel is taken by its turn, and what failed on the way out is the turn's."""
    puppet = Puppet()
    async with loopback(puppet) as peer:
        sid, led = await begin(peer, puppet)

        async def fail_at_the_end() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise asyncio.CancelledError

        async def work(turn: Turn) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(fail_at_the_end)

        led.start(work)
        await wait_all_tasks_blocked()
        await peer.call("turn.cancel", sessionId=sid)
        ended = await peer.expect_event(sid, "turn.ended")
        assert ended["data"]["outcome"] == "failed"
        assert await peer.call("server.health")


@pytest.mark.parametrize(
    ("exc", "fails"),
    [
        (asyncio.CancelledError(), True),
        (BaseExceptionGroup("", [SystemExit(), GeneratorExit()]), True),
        (KeyboardInterrupt(), False),
        (BaseExceptionGroup("", [asyncio.CancelledError(), KeyboardInterrupt()]), False),
    ],
)
def test_only_trio_cancels_and_the_keyboard_interrupts(exc: BaseException, fails: bool) -> None:
    failure = find_failure(exc)
    assert (failure is not None) is fails
    assert failure is None or failure.__cause__ is exc


async def test_agents_error_is_shown_as_it_is(connect: Connect) -> None:
    """§10: AGENT_ERROR; the message is safe to show."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid, led = await begin(peer, puppet)
        led.fail(AgentError("The model is overloaded."))
        ended = await peer.expect_event(sid, "turn.ended")
        assert ended["data"]["error"] == {
            "code": "AGENT_ERROR",
            "message": "The model is overloaded.",
        }


async def test_agents_error_says_whether_and_when_to_try_again(connect: Connect) -> None:
    """§6.8: as its agent says; what cannot be sent as a time is left out."""
    for wait, said in ((1500.4, {"retryAfterMs": 1500}), (math.nan, {}), ("soon", {}), (-1, {})):
        puppet = Puppet()
        async with connect(puppet) as peer:
            sid, led = await begin(peer, puppet)
            led.fail(AgentError("Full.", retryable=True, data={"retryAfterMs": wait, "own": 1}))
            ended = await peer.expect_event(sid, "turn.ended")
            plain = {"code": "AGENT_ERROR", "message": "Full.", "retryable": True}
            assert ended["data"]["error"] == {**plain, **said}


async def test_agent_that_does_nothing_completes(connect: Connect) -> None:
    """§5.5: a turn need not have a message."""

    async def silent(turn: Turn) -> None:
        await trio.lowlevel.checkpoint()

    async with connect(silent) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        await peer.expect_durable(sid, *TURN_EVENTS[:3], "turn.ended")


async def test_what_an_agent_says_after_its_cancel_is_kept(
    connect: Connect,
) -> None:
    """§5.5: its message is partial, and the outcome is what was asked."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid, led = await begin(peer, puppet)

        async def farewell(turn: Turn) -> None:
            try:
                await trio.sleep_forever()
            finally:
                turn.write_nowait("Good bye.")

        led.start(farewell)
        await peer.call("turn.cancel", sessionId=sid)
        completed = await peer.expect_event(sid, "message.completed")
        assert completed["data"]["message"]["content"] == "Good bye."
        assert completed["data"]["message"]["status"] == "partial"
        ended = await peer.expect_event(sid, "turn.ended")
        assert ended["data"]["outcome"] == "cancelled"


async def test_turn_past_its_time_fails_with_timeout(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§5.5, §11: 30 minutes, exactly."""
    async with loopback(scripted(["Begun.", Wait(math.inf)])) as peer:
        sid = (await peer.call("session.create"))["id"]
        start = trio.current_time()
        await peer.call("message.stream", sessionId=sid, content="hi")
        ended = await peer.expect_event(sid, "turn.ended")
        assert trio.current_time() - start == 30 * 60
        assert ended["data"]["outcome"] == "failed"
        assert ended["data"]["error"]["code"] == "TIMEOUT"
        last = (await peer.call("message.list", sessionId=sid))["messages"][-1]
        assert (last["content"], last["status"]) == ("Begun.", "error")


async def test_turn_that_does_not_end_after_its_cancel_stays_running(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§5.5: it is counted after 5 s, no false turn.ended is written, and the true one comes."""
    async with loopback(scripted([Wait(60, stubborn=True), "Too late."])) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        await peer.expect_event(sid, "message.created")
        start = trio.current_time()
        cancel = await peer.send_request("turn.cancel", sessionId=sid)
        await trio.sleep(4.9)
        assert (await peer.call("server.stats"))["turnsStuck"] == 0
        await trio.sleep(0.2)
        assert (await peer.call("server.stats"))["turnsStuck"] == 1
        assert (await peer.call("session.get", sessionId=sid))["status"] == "running"
        assert not peer.is_answered(cancel)
        ended = await peer.expect_event(sid, "turn.ended")
        assert trio.current_time() - start == pytest.approx(60, abs=0.1)
        assert ended["data"]["outcome"] == "cancelled"
        assert (await peer.expect_result(cancel))["cancelled"] is True


async def test_turn_that_completed_before_it_saw_its_cancel_is_completed(
    connect: Connect,
) -> None:
    """§4, §5.5: one outcome, and the cancel's answer says the same."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid, led = await begin(peer, puppet)

        async def ignore_all(turn: Turn) -> None:
            with trio.CancelScope(shield=True):
                await hold.wait()

        hold = trio.Event()
        led.start(ignore_all)
        led.finish()
        cancel = await peer.send_request("turn.cancel", sessionId=sid)
        await peer.ping()
        hold.set()
        ended = await peer.expect_event(sid, "turn.ended")
        cancelled = (await peer.expect_result(cancel))["cancelled"]
        assert cancelled is (ended["data"]["outcome"] == "cancelled")


async def test_two_sessions_run_at_once(connect: Connect) -> None:
    """§5.1: one turn at a time is a session's rule, not the server's."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        one, first = await begin(peer, puppet)
        two, second = await begin(peer, puppet)
        second.finish()
        await peer.expect_event(two, "turn.ended")
        first.finish()
        await peer.expect_event(one, "turn.ended")


async def test_answer_that_was_waited_for_says_why_its_turn_failed(loopback: Connect) -> None:
    """§4: who waits for a turn and reads no events is told so, a repeat of the request as well."""

    async def agent(turn: Turn) -> None:
        await turn.write("So far.")
        raise AgentError("No quota.", retryable=True, data={"retryAfterMs": 500})

    async with loopback(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("session.subscribe", sessionId=sid)
        waiting = {"sessionId": sid, "content": "hi", "wait": True}
        answers = [
            await peer.call("message.send", params=waiting, idempotency_key="k") for _ in range(2)
        ]
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
    assert answers[0] == answers[1]
    assert answers[0]["outcome"] == "failed"
    assert answers[0]["message"]["content"] == "So far."
    assert answers[0]["error"] == ended["error"]
    assert answers[0]["error"] == {
        "code": "AGENT_ERROR",
        "message": "No quota.",
        "retryable": True,
        "retryAfterMs": 500,
    }


@pytest.mark.parametrize("is_held", [True, False])
async def test_error_that_has_no_room_beside_its_message_is_left_to_the_event(
    is_held: bool, loopback: Connect
) -> None:
    """§4: the answer is no error of its own, however long the message is."""
    sizes = {"max_send_frame_bytes": 64 * 1024, "max_message_bytes": 62 * 1024}
    sizes |= {"max_frame_bytes": 16 * 1024, "max_list_bytes": 16 * 1024}
    sizes |= {"max_config_bytes": 1024, "max_metadata_bytes": 1024}

    async def agent(turn: Turn) -> None:
        await turn.write("x" * (62 * 1024 - (500 if is_held else 2)))
        raise AgentError("No quota." if is_held else "No" * 4000)

    async with loopback(agent, **sizes) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("session.subscribe", sessionId=sid)
        done = await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
    assert (done["outcome"], "error" in done) == ("failed", is_held)
    assert done["message"]["content"].startswith("xxx")
    assert ended["error"]["message"].startswith("No")
