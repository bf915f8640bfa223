"""PROTOCOL §2: requests, their ids and versions, and the order of answers and events."""

import math
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from trialogue.core import Request
from trialogue.core.errors import ConflictError
from trialogue.core.models import InputInfo
from trialogue.stores.memory import MemoryStore
from trialogue.testing import Puppet, Wait, scripted
from trialogue.testing.transport_kit import Connect

for_ever = scripted(default=["Begun.", Wait(math.inf)])


@pytest.mark.parametrize("request_id", ["r", "i" * 64, "é😀", 0, 1, -7, 2**53 - 1, -(2**53 - 1)])
async def test_id_comes_back_as_it_was_sent(connect: Connect, request_id: str | int) -> None:
    """§2.1: a string of 1–64 characters or an integer."""
    async with connect() as peer:
        await peer.call("server.health", request_id=request_id)
        await peer.refused("METHOD_NOT_FOUND", "no.such", request_id=request_id)


async def test_number_and_its_digits_are_two_ids(connect: Connect) -> None:
    """§2.1: 1 and "1" differ, and come back as they were sent."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sessions = [await peer.call("session.create") for _ in range(2)]
        for number, session in enumerate(sessions):
            await peer.send_request(
                "message.send",
                request_id="1" if number else 1,
                sessionId=session["id"],
                content="hi",
                wait=True,
            )
        led = [await puppet.next_turn() for _ in sessions]
        order = [session["id"] for session in sessions]
        first, second = sorted(led, key=lambda led: order.index(led.turn.session_id))
        second.finish()
        done = await peer.expect_result("1")
        assert done["turnId"] == second.turn.id
        assert not peer.is_answered(1)
        first.finish()
        assert (await peer.expect_result(1))["turnId"] == first.turn.id


async def test_second_use_of_an_unanswered_id_is_refused(connect: Connect) -> None:
    """§2.1: and the first is answered all the same, after which the id is free."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        session = await peer.call("session.create")
        hold = {"sessionId": session["id"], "content": "hi", "wait": True}
        await peer.send_request("message.send", request_id="same", params=hold)
        led = await puppet.next_turn()
        await peer.refused("INVALID_REQUEST", "server.health", request_id="same")
        led.finish()
        assert (await peer.expect_result("same"))["outcome"] == "completed"
        await peer.call("server.health", request_id="same")


async def test_same_id_on_two_connections_is_no_conflict(connect: Connect) -> None:
    """§2.1: ids are unique among one connection's requests."""
    puppet = Puppet()
    async with connect(puppet) as peer, connect.another() as other:
        session = await peer.call("session.create")
        members = {"sessionId": session["id"], "content": "hi", "wait": True}
        await peer.send_request("message.send", request_id="same", params=members)
        led = await puppet.next_turn()
        await other.call("server.health", request_id="same")
        led.finish()
        await peer.expect_result("same")


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.999"])
async def test_any_minor_version_is_accepted_and_answered_with_ours(
    connect: Connect, version: str
) -> None:
    """§2.4."""
    async with connect() as peer:
        payload = {"id": "v", "method": "server.health"}
        await peer.send({"version": version, "type": "request", "payload": payload})
        await peer.expect_result("v")
        assert [frame["version"] for frame in peer.said] == ["1.0"]


@pytest.mark.parametrize("version", ["0.9", "2.0", "10.0", "9" * 40 + ".0"])
async def test_another_major_version_is_refused_with_those_that_are_known(
    connect: Connect, version: str
) -> None:
    """§2.4: UNSUPPORTED_VERSION, the supported ones in error.data.supported."""
    async with connect() as peer:
        await peer.ping()
        payload = {"id": "v", "method": "server.health"}
        await peer.send({"version": version, "type": "request", "payload": payload})
        error = await peer.expect_error("v", "UNSUPPORTED_VERSION")
        assert error["data"]["supported"] == ["1.0"]
        assert await peer.call("server.health")


async def test_unknown_method_is_refused(connect: Connect) -> None:
    """§10: METHOD_NOT_FOUND; a name of nobody's is no bug of ours."""
    async with connect() as peer:
        for name in ("no.such", "_mine", "session", "__class__", "x" * 1000, "é\u0000"):
            error = await peer.refused("METHOD_NOT_FOUND", name)
            assert len(error["message"]) < 200, "the name is not sent back at length"


async def test_method_of_the_servers_own_is_served(connect: Connect) -> None:
    """§1.2: names that begin with ``_`` are extensions."""

    async def slow(request: Request, params: dict[str, object]) -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        return {"slow": params["text"]}

    def quick(request: Request, params: dict[str, object]) -> dict[str, object]:
        return {"quick": params["text"]}

    def broken(request: Request, params: dict[str, object]) -> None:
        raise RuntimeError("secret")

    async with connect(methods={"_slow": slow, "_quick": quick, "_broken": broken}) as peer:
        assert await peer.call("_slow", text="a") == {"slow": "a"}
        assert await peer.call("_quick", text="b") == {"quick": "b"}
        error = await peer.refused("SERVER_ERROR", "_broken")
        assert error["data"]["errorId"]
        assert "secret" not in str(peer.frames)


async def test_exit_of_a_method_of_the_servers_own_fails_that_request(connect: Connect) -> None:
    """§10: SERVER_ERROR. `sys.exit` is no way to end somebody's server."""

    def leave(request: Request, params: dict[str, Any]) -> Any:
        sys.exit(3)

    async def leave_later(request: Request, params: dict[str, Any]) -> Any:
        await trio.lowlevel.checkpoint()
        sys.exit(3)

    async with connect(methods={"_leave": leave, "_leave_later": leave_later}) as peer:
        await peer.refused("SERVER_ERROR", "_leave")
        await peer.refused("SERVER_ERROR", "_leave_later")
        assert await peer.call("server.health")


_NO_JSON: Final[dict[str, Any]] = {
    "NaN": math.nan,
    "infinity": [math.inf],
    "surrogate": {"a": "\ud800"},
    "name": {1: "one"},
    "time": {"a": datetime(2026, 1, 1, tzinfo=UTC)},
    "set": {"a": {"b", "c"}},
    "integer": [2**53],
    "bytes": b"bytes",
    "object": object(),
    "depth": [[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]],
}


@pytest.mark.parametrize("fault", _NO_JSON)
async def test_answer_of_the_servers_own_that_is_no_json_is_a_bug_of_that_method(
    loopback: Connect, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    """§1.4 and §10: SERVER_ERROR in its place, and the log says which method and where."""
    value = _NO_JSON[fault]

    def answer(request: Request, params: dict[str, Any]) -> Any:
        return value

    async def answer_later(request: Request, params: dict[str, Any]) -> Any:
        await trio.lowlevel.checkpoint()
        return {"inside": value}

    def refuse(request: Request, params: dict[str, Any]) -> Any:
        raise ConflictError("no", data={"inside": value})

    methods = {"_answer": answer, "_later": answer_later, "_refuse": refuse}
    async with loopback(methods=methods) as peer:
        for name in methods:
            caplog.clear()
            error = await peer.refused("SERVER_ERROR", name)
            [record] = caplog.records
            assert record.levelname == "ERROR"
            assert record.getMessage().startswith(f"{name} failed")
            assert vars(record)["error_id"] == error["data"]["errorId"]
        assert await peer.call("server.health")


async def test_json_of_the_servers_own_is_sent_as_it_is(loopback: Connect) -> None:
    """Our choice: what comes back as it went is taken, and classes have the wire's names."""
    results: dict[str, Any] = {
        "_none": None,
        "_number": 2**53 - 1,
        "_tuple": ("a", ("b",)),
        "_class": [InputInfo(input_id="i", message_id="m", turn_id="t", content="hi")],
    }

    def give(result: Any) -> Callable[[Request, dict[str, Any]], Any]:
        return lambda request, params: result

    async with loopback(methods={name: give(value) for name, value in results.items()}) as peer:
        assert await peer.call("_none") is None
        assert await peer.call("_number") == 2**53 - 1
        assert await peer.call("_tuple") == ["a", ["b"]]
        [shown] = await peer.call("_class")
        assert shown["inputId"] == "i"


async def test_statistics_of_a_store_that_are_no_json_end_that_request_only(
    loopback: Connect,
) -> None:
    """§10: SERVER_ERROR. A store of somebody's is as foreign as a method."""

    class Boastful(MemoryStore):
        def statistics(self) -> dict[str, Any]:
            return {"quality": math.inf}

    async with loopback(store=Boastful()) as peer:
        await peer.refused("SERVER_ERROR", "server.stats")
        assert await peer.call("server.health")


async def test_wrong_params_are_refused_with_each_place(connect: Connect) -> None:
    """§10: INVALID_REQUEST; error.data.issues names each place."""
    async with connect() as peer:
        error = await peer.refused("INVALID_REQUEST", "message.send", content=1, wait="yes")
        places = {issue["path"] for issue in error["data"]["issues"]}
        assert {"params.sessionId", "params.content", "params.wait"} == places
        error = await peer.refused(
            "INVALID_REQUEST",
            "session.create",
            config={"temperature": "hot", "whenBusy": "panic", "tools": ["a", 1]},
        )
        places = {issue["path"] for issue in error["data"]["issues"]}
        assert {"params.config.temperature", "params.config.whenBusy"} <= places
        assert any(place.startswith("params.config.tools") for place in places)


@pytest.mark.parametrize(
    ("method", "members"),
    [
        ("session.get", {"sessionId": 5}),
        ("session.get", {}),
        ("session.list", {"limit": "5"}),
        ("session.list", {"limit": 5.0}),
        ("session.list", {"limit": True}),
        ("session.list", {"status": "asleep"}),
        ("message.list", {"sessionId": "x", "role": "robot"}),
        ("request.cancel", {"id": None}),
        ("request.cancel", {"id": 1.5}),
        ("session.create", {"metadata": []}),
        ("session.create", {"config": {"agent": 7}}),
        ("session.subscribe", {"sessionId": "x", "partial": {"m": "3"}}),
        ("session.subscribe", {"sessionId": "x", "partial": []}),
        ("message.send", {"sessionId": "x", "content": "x", "attachments": {}}),
        ("message.send", {"sessionId": "x", "content": "x", "attachments": [{"name": "n"}]}),
    ],
)
async def test_param_of_the_wrong_kind_is_refused(
    connect: Connect, method: str, members: dict[str, object]
) -> None:
    """§10: INVALID_REQUEST, never a guess at what was meant."""
    async with connect() as peer:
        await peer.refused("INVALID_REQUEST", method, params=members)


@pytest.mark.parametrize(
    ("method", "members", "place"),
    [
        ("session.create", {"config": []}, "config"),
        ("session.create", {"config": ""}, "config"),
        ("session.create", {"config": {"budget": []}}, "config.budget"),
        ("session.compact", {"keepLast": -1}, "keepLast"),
        ("message.send", {"attachments": [{"name": "n", "mediaType": "m"}]}, "attachments[0]"),
        (
            "message.send",
            {"attachments": [{"name": "n", "mediaType": "m", "data": "", "uri": "u:"}]},
            "attachments[0]",
        ),
    ],
)
async def test_what_is_none_of_its_kind_is_refused(
    loopback: Connect, method: str, members: dict[str, Any], place: str
) -> None:
    """§4, §10: and was taken for an empty one, or for none. Bugs once seen."""
    async with loopback() as peer:
        sid = (await peer.call("session.create"))["id"]
        needed = {"session.compact": {"sessionId": sid}}
        needed["message.send"] = {"sessionId": sid, "content": "x"}
        error = await peer.refused(
            "INVALID_REQUEST", method, params={**needed.get(method, {}), **members}
        )
        assert [issue["path"] for issue in error["data"]["issues"]] == [f"params.{place}"]


async def test_numbers_of_a_request_have_bounds(loopback: Connect) -> None:
    """§2.3, §4, §6.4: each at its edges."""
    async with loopback(rate_limit=None) as peer:
        sid = (await peer.call("session.create"))["id"]
        here = {"sessionId": sid}
        for timeout_ms in (1, 604_800_000):
            await peer.call("server.health", timeout_ms=timeout_ms)
        for timeout_ms in (0, 604_800_001):
            await peer.refused("INVALID_REQUEST", "server.health", timeout_ms=timeout_ms)
        await peer.call("session.create", idempotency_key="k" * 128)
        for key in ("", "k" * 129):
            await peer.refused("INVALID_REQUEST", "session.create", idempotency_key=key)
        for method, name, low, high in (
            ("session.list", "limit", 1, 200),
            ("event.list", "limit", 1, 1000),
            ("message.list", "limit", 1, 1000),
            ("session.subscribe", "tail", 0, 10_000),
        ):
            needed = {} if method == "session.list" else here
            for value in (low, high):
                await peer.call(method, params={**needed, name: value})
            for value in (low - 1, high + 1):
                await peer.refused("INVALID_REQUEST", method, params={**needed, name: value})


async def test_create_is_answered_before_its_events(connect: Connect) -> None:
    """§2.2: and the session is there to be subscribed at once, without a wait for the answer."""
    async with connect() as peer:
        session = await peer.call("session.create")
        await peer.call("session.subscribe", sessionId=session["id"], after="0-0")
        events = await peer.expect_durable(session["id"], "session.created")
        assert events[0]["data"]["session"]["id"] == session["id"]


async def test_subscribe_is_answered_before_the_first_event(connect: Connect) -> None:
    """§2.2."""
    async with connect() as peer:
        session = await peer.call("session.create")
        before = len(peer.said)
        await peer.call("session.subscribe", sessionId=session["id"], after="0-0")
        await peer.expect_event(session["id"], "sync")
        assert [frame["type"] for frame in peer.said[before:]] == ["response", "event", "event"]


@pytest.mark.parametrize("method", ["message.stream", "message.send"])
async def test_input_is_answered_before_the_first_event_it_causes(
    connect: Connect, method: str
) -> None:
    """§2.2: message.stream, and message.send without wait."""
    async with connect() as peer:
        session = await peer.call("session.create")
        await peer.call("session.subscribe", sessionId=session["id"])
        await peer.expect_event(session["id"], "sync")
        before = len(peer.said)
        await peer.call(method, sessionId=session["id"], content="hi")
        await peer.expect_event(session["id"], "turn.ended")
        kinds = [frame["payload"].get("type", "the response") for frame in peer.said[before:]]
        assert kinds[:2] == ["the response", "input.delivered"]


async def test_wait_is_answered_after_the_turns_end(connect: Connect) -> None:
    """§2.2: wait: true after the terminal event that it waits for."""
    async with connect() as peer:
        session = await peer.call("session.create")
        await peer.call("session.subscribe", sessionId=session["id"])
        await peer.call("message.send", sessionId=session["id"], content="hi", wait=True)
        assert peer.frames[-1]["type"] == "response"
        assert peer.frames[-2]["payload"]["type"] == "turn.ended"


async def test_cancel_is_answered_after_the_turns_end(connect: Connect) -> None:
    """§2.2: every cancel of a turn, on whichever connection it came."""
    async with connect(for_ever) as peer, connect.another() as other:
        session = await peer.call("session.create")
        await other.call("session.subscribe", sessionId=session["id"])
        await peer.call("message.stream", sessionId=session["id"], content="hi")
        await peer.expect_event(session["id"], "message.delta")
        mine = await peer.send_request("turn.cancel", sessionId=session["id"])
        again = await peer.send_request("turn.cancel", sessionId=session["id"])
        theirs = await other.send_request("turn.cancel", sessionId=session["id"])
        for at, request_id in ((peer, mine), (peer, again), (other, theirs)):
            await at.expect_result(request_id)
            kinds = [frame["payload"].get("type", "a response") for frame in at.frames]
            assert kinds.index("turn.ended") < len(kinds) - 1 - kinds[::-1].index("a response")


async def test_close_is_answered_after_the_sessions_end(connect: Connect) -> None:
    """§2.2: session.close after session.closed."""
    async with connect(for_ever) as peer:
        session = await peer.call("session.create")
        await peer.call("message.stream", sessionId=session["id"], content="hi")
        await peer.call("session.close", sessionId=session["id"])
        assert peer.frames[-1]["type"] == "response"
        assert peer.frames[-2]["payload"]["type"] == "session.closed"


async def test_requests_to_one_session_take_effect_in_their_order(connect: Connect) -> None:
    """§2.2: without waiting for answers between them."""
    async with connect() as peer:
        session = await peer.call("session.create")
        texts = [f"text {number}" for number in range(20)]
        sent = [
            await peer.send_request(
                "message.add", sessionId=session["id"], role="user", content=text
            )
            for text in texts
        ]
        sent.append(await peer.send_request("session.update", sessionId=session["id"], name="n"))
        listed = await peer.call("message.list", sessionId=session["id"])
        assert [message["content"] for message in listed["messages"]] == texts
        for request_id in sent:
            await peer.expect_result(request_id)


async def test_response_comes_after_its_effect_can_be_read_by_others(connect: Connect) -> None:
    """§2.2: never before the durable effect that it reports."""
    async with connect() as peer, connect.another() as other:
        session = await peer.call("session.create")
        for number in range(10):
            await peer.call("session.update", sessionId=session["id"], name=f"name {number}")
            seen = await other.call("session.get", sessionId=session["id"])
            assert seen["name"] == f"name {number}"


async def test_request_past_its_deadline_is_answered_timeout(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§2.3, §10: the server cancels the work at timeoutMs, just then."""

    async def dawdle(request: Request, params: object) -> None:
        await trio.sleep(60)

    async with loopback(for_ever, methods={"_dawdle": dawdle}) as peer:
        start = trio.current_time()
        await peer.refused("TIMEOUT", "_dawdle", timeout_ms=1500)
        assert trio.current_time() - start == 1.5
        session = await peer.call("session.create")
        await peer.call("session.subscribe", sessionId=session["id"])
        members = {"sessionId": session["id"], "content": "hi", "wait": True}
        await peer.refused("TIMEOUT", "message.send", params=members, timeout_ms=2500)
        assert trio.current_time() - start == 4.0
        ended = await peer.expect_event(session["id"], "turn.ended")
        assert ended["data"]["outcome"] == "cancelled", "§4: the turn that it started is cancelled"


async def test_deadline_that_is_not_reached_changes_nothing(connect: Connect) -> None:
    """§2.3."""
    async with connect() as peer:
        session = await peer.call("session.create", timeout_ms=60_000)
        done = await peer.call(
            "message.send",
            sessionId=session["id"],
            content="hi",
            wait=True,
            timeout_ms=60_000,
            meta={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
        )
        assert done["outcome"] == "completed"
