"""PROTOCOL §9.3: tools that clients offer, and run by answering an ask."""

from typing import Any

import trio
from trio.testing import MockClock

from trialogue.core.abc import Turn
from trialogue.core.errors import ToolFailedError
from trialogue.testing import ProtocolPeer, Puppet
from trialogue.testing.transport_kit import Connect

NOW = {
    "name": "now",
    "description": "What time it is here.",
    "schema": {"type": "object", "properties": {"zone": {"type": "string"}}},
    "effect": "none",
}
OPEN = {"name": "open"}


class Caller:
    """An agent that calls a tool of a client's, and keeps what came of it."""

    def __init__(self, **members: Any) -> None:
        self.members = members
        self.results: list[Any] = []

    async def __call__(self, turn: Turn) -> None:
        try:
            result = await turn.call_client_tool("now", {"zone": "UTC"}, **self.members)
        except ToolFailedError as exc:
            result = f"failed: {exc}"
        self.results.append(result)


async def begin(peer: ProtocolPeer) -> tuple[str, Any]:
    """Start a turn that calls a client's tool, and give the session and the ask."""
    sid = (await peer.call("session.create"))["id"]
    await peer.call("message.stream", sessionId=sid, content="hi")
    return sid, (await peer.expect_event(sid, "ask.opened"))["data"]


async def test_tool_of_a_client_is_an_ask_whose_answer_is_its_result(connect: Connect) -> None:
    """§9.3: tool.called, ask.opened, ask.closed, tool.completed; the session waits."""
    agent = Caller(call_id="call_1")
    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        await peer.expect_event(sid, "message.created")
        called, opened = await peer.expect_durable(sid, "tool.called", "ask.opened")
        arguments = {"zone": "UTC"}
        assert called["data"]["arguments"] == arguments
        ask = opened["data"]
        assert (ask["kind"], ask["callId"], ask["name"]) == ("tool", "call_1", "now")
        assert ask["arguments"] == arguments
        assert (await peer.call("session.get", sessionId=sid))["status"] == "waiting"
        answer = {"time": "12:00"}
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer=answer)
        closed, completed, _ = await peer.expect_durable(
            sid, "ask.closed", "tool.completed", "turn.ended"
        )
        assert closed["data"]["answer"] == answer
        assert completed["data"]["status"] == "ok"
        assert completed["data"]["result"] == answer
        assert agent.results == [answer]


async def test_tool_that_failed_at_the_client_is_an_error(connect: Connect) -> None:
    """§9.3: error in place of an answer; of another ask than a tool's it is INVALID_REQUEST."""
    agent = Caller()
    async with connect(agent) as peer:
        sid, ask = await begin(peer)
        names = {"sessionId": sid, "askId": ask["askId"]}
        await peer.call("ask.answer", error="no clock here", params=names)
        closed = await peer.expect_event(sid, "ask.closed")
        assert closed["data"]["error"] == "no clock here"
        completed = await peer.expect_event(sid, "tool.completed")
        assert (completed["data"]["status"], completed["data"]["error"]) == (
            "error",
            "no clock here",
        )
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        assert agent.results == ["failed: no clock here"]

    async def question(turn: Turn) -> None:
        await turn.ask("Go on?")

    async with connect(question) as peer:
        sid, ask = await begin(peer)
        error = await peer.refused(
            "INVALID_REQUEST", "ask.answer", sessionId=sid, askId=ask["askId"], error="x"
        )
        assert error["data"]["issues"][0]["path"] == "params.error"
        await peer.call("turn.cancel", sessionId=sid)


async def test_other_client_runs_the_tool_when_the_first_has_gone(connect: Connect) -> None:
    """§9.3: the ask is open still, and in the answer of whoever attaches."""
    agent = Caller()
    async with connect(agent) as peer:
        async with connect.another() as first:
            sid = (await peer.call("session.create"))["id"]
            await first.call("session.subscribe", sessionId=sid, tools=[NOW])
            await peer.call("message.stream", sessionId=sid, content="hi")
            await first.expect_event(sid, "ask.opened")
        async with connect.another() as second:
            attached = await second.call("session.subscribe", sessionId=sid, tools=[NOW])
            (ask,) = attached["asks"]
            await second.call("ask.answer", sessionId=sid, askId=ask["askId"], answer="noon")
            await second.expect_event(sid, "turn.ended", outcome="completed")
        assert agent.results == ["noon"]


async def test_tool_that_nobody_runs_in_time_fails(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§9.3: the ask expires."""
    agent = Caller(expires_seconds=30)
    async with loopback(agent) as peer:
        start = trio.current_time()
        sid, _ = await begin(peer)
        await peer.expect_event(sid, "ask.closed", reason="expired")
        await peer.expect_event(sid, "tool.completed", status="error")
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        assert 29.9 < trio.current_time() - start < 30.1
        assert agent.results == ["failed: Nobody answered for the tool 'now' in time"]


async def test_cancelled_call_of_a_clients_tool_closes_its_ask(connect: Connect) -> None:
    """§9.2: whoever runs it can see that nobody waits any more."""
    async with connect(Caller()) as peer:
        sid, _ = await begin(peer)
        await peer.call("turn.cancel", sessionId=sid)
        events = await peer.read_until(sid, "turn.ended")
        ends = {event["type"]: event["data"] for event in events}
        assert ends["ask.closed"]["reason"] == "cancelled"
        assert ends["tool.completed"]["status"] == "cancelled"


async def test_agent_sees_the_tools_that_subscribers_offer_now(connect: Connect) -> None:
    """§9.3: while each subscription lives; a later one with tools replaces them."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        led = await puppet.next_turn()

        def offered() -> list[str]:
            return [tool.name for tool in led.turn.client_tools]

        assert offered() == []
        await peer.call("session.subscribe", sessionId=sid, tools=[NOW])
        (tool,) = led.turn.client_tools
        assert (tool.description, tool.schema, tool.effect) == (
            NOW["description"],
            NOW["schema"],
            "none",
        )
        await peer.call("session.subscribe", sessionId=sid)
        assert offered() == ["now"], "nothing was said of tools"
        async with connect.another() as other:
            await other.call(
                "session.subscribe", sessionId=sid, tools=[OPEN, {**NOW, "schema": {}}]
            )
            assert offered() == ["now", "open"]
            assert led.turn.client_tools[0].schema == NOW["schema"], "the first one's"
            assert led.turn.client_tools[1].effect == "unsafe", "the default"
            await peer.call("session.subscribe", sessionId=sid, after="0-0", tools=[])
            assert offered() == ["open", "now"]
            await other.call("session.unsubscribe", sessionId=sid)
            assert offered() == []
            await other.call("session.subscribe", sessionId=sid)
            assert offered() == [], "they went with their subscription"
            await other.call("session.subscribe", sessionId=sid, tools=[OPEN])
            assert offered() == ["open"]
        await connect.wait_until(lambda: offered() == [])
        led.finish()
        await peer.expect_event(sid, "turn.ended")


async def test_tools_that_cannot_be_called_are_refused_with_their_place(loopback: Connect) -> None:
    """§10, §11: and nobody is subscribed by that."""
    async with loopback(max_config_bytes=1024) as peer:
        sid = (await peer.call("session.create"))["id"]
        for tools, place in (
            ([OPEN, OPEN], "params.tools[1].name"),
            ([{"name": ""}], "params.tools[0].name"),
            ([{"name": "x" * 129}], "params.tools[0].name"),
            ([{"name": "a\nb"}], "params.tools[0].name"),
            ([{"name": "x", "effect": "some"}], "params.tools[0].effect"),
        ):
            error = await peer.refused(
                "INVALID_REQUEST", "session.subscribe", sessionId=sid, tools=tools
            )
            assert error["data"]["issues"][0]["path"] == place
        empty = len('[{"name":"x","description":"","schema":{},"effect":"unsafe"}]')
        fits = {"name": "x", "description": "d" * (1024 - empty)}
        larger = {"name": "x", "description": fits["description"] + "d"}
        await peer.refused("PAYLOAD_TOO_LARGE", "session.subscribe", sessionId=sid, tools=[larger])
        await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        assert peer.durable_events(sid) == []
        await peer.call("session.subscribe", sessionId=sid, tools=[{**fits, "name": "x" * 1}])


async def test_tool_whose_schema_no_provider_would_take_is_refused(loopback: Connect) -> None:
    """§9.3: its place is told; otherwise each turn of the session would fail at the provider."""
    inner: dict[str, Any] = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A"}},
        "$defs": {"A": {}},
    }
    async with loopback() as peer:
        sid = (await peer.call("session.create"))["id"]
        refused: list[tuple[dict[str, Any], str]] = [
            ({"type": "string"}, ".type"),
            ({"type": 5}, ".type"),
            ({"type": ["object"]}, ".type"),
            ({"properties": "no"}, ".properties"),
            ({"properties": {"a": {"type": "text"}}}, ".properties.a.type"),
            ({"properties": {"a": {"type": []}}}, ".properties.a.type"),
            ({"properties": {"a": 5}}, ".properties.a"),
            ({"properties": {"a": {"items": {"minLength": -1}}}}, ".properties.a.items.minLength"),
            ({"properties": {"a": {"items": [{"enum": 1}]}}}, ".properties.a.items[0].enum"),
            ({"additionalProperties": "no"}, ".additionalProperties"),
            ({"required": "a"}, ".required"),
            ({"anyOf": []}, ".anyOf"),
            ({"anyOf": [True, {"multipleOf": 0}]}, ".anyOf[1].multipleOf"),
            ({"$ref": "http://localhost/x"}, ".$ref"),
            ({"$ref": 1}, ".$ref"),
            (
                {"properties": {"a": {"$ref": "#/$defs/B"}}, "$defs": {"A": {}}},
                ".properties.a.$ref",
            ),
        ]
        for schema, place in refused:
            error = await peer.refused(
                "INVALID_REQUEST",
                "session.subscribe",
                sessionId=sid,
                tools=[OPEN, {"name": "x", "schema": schema}],
            )
            assert error["data"]["issues"][0]["path"] == f"params.tools[1].schema{place}"
        taken: list[dict[str, Any]] = [
            {},
            inner,
            {"properties": {"$ref": {"const": {"$ref": 1}}, "type": {"type": ["null", "number"]}}},
            {"patternProperties": {"^a": False}, "not": {"required": ["b"]}, "x-own": 5},
            {"allOf": [{"$ref": "#/$defs/a~1b"}, {"$ref": "#/allOf/0"}], "$defs": {"a/b": {}}},
        ]
        for schema in taken:
            tools = [{"name": "x", "schema": schema}]
            await peer.call("session.subscribe", sessionId=sid, tools=tools)


async def test_agent_sees_a_whole_schema_where_none_was_given(loopback: Connect) -> None:
    """§9.3: type and properties may be absent; providers want them."""
    puppet = Puppet()
    async with loopback(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("session.subscribe", sessionId=sid, tools=[OPEN, NOW])
        await peer.call("message.send", sessionId=sid, content="hi")
        led = await puppet.next_turn()
        empty, whole = (tool.schema for tool in led.turn.client_tools)
        assert empty == {"type": "object", "properties": {}}
        assert whole == NOW["schema"]
        led.finish()
        await peer.expect_event(sid, "turn.ended")


async def test_more_tools_than_a_subscription_may_offer_are_refused(loopback: Connect) -> None:
    """§11: maxClientTools, at its edge."""
    async with loopback(max_client_tools=3) as peer:
        assert (await peer.call("hello"))["limits"]["maxClientTools"] == 3
        sid = (await peer.call("session.create"))["id"]
        tools = [{"name": f"tool{number}"} for number in range(4)]
        error = await peer.refused(
            "INVALID_REQUEST", "session.subscribe", sessionId=sid, tools=tools
        )
        assert error["data"]["issues"][0]["path"] == "params.tools"
        await peer.call("session.subscribe", sessionId=sid, tools=tools[:3])
