"""PROTOCOL §11: how large things may be, and that whatever is let in can be sent."""

import json
import math
from typing import Any

import pytest
import trio

from trialogue.core import Request, Settings
from trialogue.core.abc import ToolCall, Turn
from trialogue.core.errors import AgentError, LocalProtocolError, PayloadTooLargeError
from trialogue.testing import Puppet, Wait, scripted
from trialogue.testing.transport_kit import Connect

KIB = 1024

#: With the smallest frames that a server may send.
SMALL: dict[str, Any] = {
    "max_send_frame_bytes": 64 * KIB,
    "max_frame_bytes": 62 * KIB,
    "max_list_bytes": 62 * KIB,
    "max_message_bytes": 62 * KIB,
    "max_config_bytes": 22 * KIB,
    "max_metadata_bytes": 23 * KIB,
}

for_ever = scripted(default=["Begun.", Wait(math.inf)])


async def test_message_of_an_agent_may_be_just_so_large(connect: Connect) -> None:
    """§11: maxMessageBytes of JSON; a larger one ends its turn as failed, with what was said."""

    async def say_much(turn: Turn) -> None:
        size = int(turn.input.content)
        await turn.write("x" * 2000)
        await turn.write("x" * (size - 2000))

    async with connect(say_much, max_message_bytes=4000) as peer:
        sid = (await peer.call("session.create"))["id"]
        done = await peer.call("message.send", sessionId=sid, content="3998", wait=True)
        assert (done["outcome"], len(done["message"]["content"])) == ("completed", 3998)
        await peer.call("message.stream", sessionId=sid, content="3999")
        completed = await peer.expect_event(sid, "message.completed")
        assert completed["data"]["message"]["content"] == "x" * 2000
        assert completed["data"]["message"]["status"] == "error"
        ended = await peer.expect_event(sid, "turn.ended")
        assert ended["data"]["outcome"] == "failed"
        assert ended["data"]["error"]["code"] == "PAYLOAD_TOO_LARGE"


@pytest.mark.parametrize("method", ["message.send", "message.stream", "message.add"])
async def test_message_of_a_client_may_be_just_so_large(connect: Connect, method: str) -> None:
    """§10, §11: PAYLOAD_TOO_LARGE for a field over its limit, with data.limitBytes."""
    async with connect(max_message_bytes=4000) as peer:
        sid = (await peer.call("session.create"))["id"]
        members = {"role": "user"} if method == "message.add" else {}
        error = await peer.refused(
            "PAYLOAD_TOO_LARGE", method, sessionId=sid, content="x" * 3999, params=members
        )
        assert error["data"]["limitBytes"] == 4000
        assert (await peer.call("session.get", sessionId=sid))["messageCount"] == 0
        await peer.call(method, sessionId=sid, content="x" * 3998, params=members)


async def test_tools_result_may_be_just_so_large(connect: Connect) -> None:
    """§11: maxMessageBytes, as JSON; a larger one is the call's error."""
    puppet = Puppet()
    async with connect(puppet, max_message_bytes=4000) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        led = await puppet.next_turn()

        async def call_both(turn: Turn) -> None:
            for size in (3998, 3999):  # and two quotation marks

                async def answer(_: object, size: int = size) -> str:
                    await trio.lowlevel.checkpoint()
                    return "x" * size

                await turn.call_tool("t", {}, answer)

        led.start(call_both)
        first = await peer.expect_event(sid, "tool.completed")
        assert first["data"]["status"] == "ok"
        second = await peer.expect_event(sid, "tool.completed")
        assert second["data"]["status"] == "error"
        assert "result" not in second["data"]


async def test_calls_of_one_message_fit_into_a_frame_with_it(loopback: Connect) -> None:
    """§11: what no frame could hold is the agent's error, and is not logged.

    A bug once seen: calls made at once, and a text with a call, each within its limit.
    """
    text, arguments = "x" * 30 * KIB, {"a": "x" * 20 * KIB}
    refusals: list[PayloadTooLargeError] = []

    async def answer(_: object) -> str:
        await trio.sleep(0.01)
        return "done"

    async def call_much(turn: Turn) -> None:
        async def call() -> None:
            try:
                await turn.call_tool("t", arguments, answer)
            except PayloadTooLargeError as exc:
                refusals.append(exc)

        for _ in range(2):  # what came back ends the message: the next begins anew
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(call)
        assert len(refusals) == 2
        await turn.write(text)
        await turn.call_tool("t", {"a": "x" * 30 * KIB}, answer)
        await turn.write(text)
        with pytest.raises(PayloadTooLargeError):
            await turn.call_tool("t", {"a": "x" * 40 * KIB}, answer)
        await turn.write(" and on")

    async with loopback(call_much, **SMALL) as peer:
        sid = (await peer.call("session.create"))["id"]
        done = await peer.call("message.send", sessionId=sid, content="go", wait=True)
        assert (done["outcome"], done["message"]["content"]) == ("completed", text + " and on")
        assert refusals[0].data == {"limitBytes": 62 * KIB}
        before, shown = None, list[Any]()
        while page := await peer.call("message.list", sessionId=sid, before=before):
            shown[:0] = page["messages"]
            before = shown[0]["id"]
            if not page["hasMore"]:
                break
        calls = [len(m.get("toolCalls", ())) for m in shown if m["role"] == "assistant"]
        assert calls == [3, 3, 1, 0]
        after, types = "0-0", list[str]()
        while page := await peer.call("event.list", sessionId=sid, after=after):
            types += [event["type"] for event in page["events"]]
            after = page["events"][-1]["position"]
            if not page["hasMore"]:
                break
        assert types.count("tool.called") == types.count("tool.completed") == 7


async def test_result_of_many_letters_is_listed_as_a_text(loopback: Connect) -> None:
    """§4, §11: it had six characters for each, and no list could hold it. A bug once seen."""
    fitting, doubled = {"a": "é" * 14 * KIB}, ["" for _ in range(20 * KIB)]
    puppet = Puppet()
    async with loopback(puppet, **SMALL) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        led = await puppet.next_turn()

        async def call_both(turn: Turn) -> None:
            for result in (fitting, doubled):

                async def answer(_: object, result: Any = result) -> Any:
                    await trio.lowlevel.checkpoint()
                    return result

                await turn.call_tool("t", {}, answer)

        led.start(call_both)
        first = await peer.expect_event(sid, "tool.completed")
        assert first["data"]["result"] == fitting
        second = await peer.expect_event(sid, "tool.completed")
        assert second["data"]["status"] == "error", "its quotation marks take twice the room"
        shown = (await peer.call("message.list", sessionId=sid, role="tool"))["messages"]
        assert json.loads(shown[0]["content"]) == fitting


@pytest.mark.parametrize(
    "said", ["x" * 3 * KIB * KIB, "half \ud83d of a pair"], ids=["long", "surrogate"]
)
async def test_what_an_agent_says_of_its_end_fits(loopback: Connect, said: str) -> None:
    """§6.2, §11: it is cut, and a lone surrogate replaced; the turn ends in any case."""

    async def tell(call: ToolCall) -> None:
        call.report_progress(said)
        await trio.lowlevel.checkpoint()
        raise AgentError(said)

    async def fail(turn: Turn) -> None:
        turn.stop_reason = said
        with pytest.raises(AgentError):
            await turn.call_tool("t", {}, tell)
        raise AgentError(said)

    async with loopback(fail) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="go")
        events = {
            event["type"]: event["data"] for event in await peer.read_until(sid, "turn.ended")
        }
        told = (
            events["tool.progress"]["text"],
            events["tool.completed"]["error"],
            events["turn.ended"]["error"]["message"],
            events["turn.ended"]["stopReason"],
        )
        assert len(set(told)) == 1
        cut = "x" * (8 * KIB - 1) + "…"
        assert told[0] == (cut if said.startswith("x") else "half \ufffd of a pair")


class MuteError(Exception):
    """One whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class BareError(AgentError):
    """One that leaves our constructor out."""

    def __init__(self, said: object) -> None:
        self.said = said


class CodedError(AgentError):
    """One whose code is none."""

    code = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (AgentError(KeyError("x")), "'x'"),  # type: ignore[arg-type]
        (AgentError(None), "None"),  # type: ignore[arg-type]
        (AgentError(b"x"), "b'x'"),  # type: ignore[arg-type]
        (AgentError(MuteError()), "(MuteError)"),  # type: ignore[arg-type]
        (BareError(5), "5"),
        (CodedError("x"), "x"),
        (MuteError(), None),
    ],
    ids=["exception", "none", "bytes", "mute inside", "bare", "coded", "mute"],
)
async def test_whatever_an_agent_raises_ends_its_turn_only(
    loopback: Connect, raised: Exception, told: str | None
) -> None:
    """§5.5, and a bug once seen: `raise AgentError(exc)` ended the whole server."""

    async def fail(call: ToolCall) -> None:
        await trio.lowlevel.checkpoint()
        raise raised

    async def agent(turn: Turn) -> None:
        with pytest.raises(type(raised)):
            await turn.call_tool("t", {}, fail)
        raise raised

    async with loopback(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="go")
        events = {
            event["type"]: event["data"] for event in await peer.read_until(sid, "turn.ended")
        }
        assert events["turn.ended"]["outcome"] == "failed"
        error = events["turn.ended"]["error"]
        assert isinstance(error["code"], str)
        if told is not None:
            assert events["tool.completed"]["error"] == error["message"] == told
        assert (await peer.call("server.health"))["status"] == "ok"


@pytest.mark.parametrize("name", ["x" * 129, "a\nb", "\ud800"])
async def test_names_that_an_agent_gives_are_short(loopback: Connect, name: str) -> None:
    """Our choice: 128 characters that can be seen."""

    async def answer(_: object) -> None:
        await trio.lowlevel.checkpoint()

    async def misname(turn: Turn) -> None:
        with pytest.raises(LocalProtocolError, match="128"):
            await turn.call_tool(name, {}, answer)
        with pytest.raises(LocalProtocolError, match="128"):
            await turn.call_tool("t", {}, answer, call_id=name)
        with pytest.raises(LocalProtocolError, match="128"):
            turn.emit(f"_{name}", {}, durable=True)
        await turn.call_tool("t" * 128, {}, answer, call_id="c" * 128)
        turn.emit("_" + "e" * 127, {}, durable=True)

    async with loopback(misname) as peer:
        sid = (await peer.call("session.create"))["id"]
        done = await peer.call("message.send", sessionId=sid, content="go", wait=True)
        assert done["outcome"] == "completed"


async def test_summary_that_no_frame_could_hold_is_refused(loopback: Connect) -> None:
    """§11: nothing is logged that cannot be sent, the agent's own summary included."""

    class Talkative:
        size = 0

        async def __call__(self, turn: Turn) -> None:
            await turn.write("Yes.")

        async def summarize(self, messages: object) -> str:
            await trio.lowlevel.checkpoint()
            return "x" * self.size

    agent = Talkative()
    async with loopback(agent, **SMALL) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="go", wait=True)
        # As a message; and, with a key, together with the answer that is kept for it.
        for agent.size, key, limit in ((62 * KIB, None, 62 * KIB), (40 * KIB, "k", 63 * KIB)):
            error = await peer.refused(
                "PAYLOAD_TOO_LARGE",
                "session.compact",
                sessionId=sid,
                params={"keepLast": 0},
                idempotency_key=key,
            )
            assert error["data"]["limitBytes"] == limit
        await peer.call("session.compact", sessionId=sid, params={"keepLast": 0})
        assert len((await peer.call("session.export", sessionId=sid))["entries"]) > 3


def just_text(size: int) -> str:
    return "x" * (size - 2)


def just_metadata(size: int) -> dict[str, str]:
    return {"m": "x" * (size - 8)}


def just_config(size: int) -> dict[str, str]:
    return {"systemPrompt": "x" * (size - 19)}


SESSION_MEMBERS = [
    ("name", "max_name_bytes", 1, just_text),
    ("summary", "max_summary_bytes", 16, just_text),
    ("metadata", "max_metadata_bytes", 64, just_metadata),
    ("config", "max_config_bytes", 128, just_config),
]


@pytest.mark.parametrize(("member", "setting", "kib", "make"), SESSION_MEMBERS)
async def test_member_of_a_session_may_be_just_so_large(
    loopback: Connect, member: str, setting: str, kib: int, make: Any
) -> None:
    """§10, §11: by default and by setting, created or updated; the error names the place."""
    limits: list[tuple[dict[str, Any], int]] = [({}, kib * KIB), ({setting: 500}, 500)]
    for options, limit in limits:
        async with loopback(**options) as peer:
            sid = (await peer.call("session.create"))["id"]
            calls: list[tuple[str, Any]] = [("session.update", {"sessionId": sid})]
            if member != "summary":  # which a session gets in its life
                calls.append(("session.create", {}))
            for method, members in calls:
                session = await peer.call(method, params={**members, member: make(limit)})
                assert session[member] == make(limit)
                error = await peer.refused(
                    "PAYLOAD_TOO_LARGE", method, params={**members, member: make(limit + 1)}
                )
                assert error["data"]["limitBytes"] == limit
                assert error["data"]["issues"][0]["path"] == f"params.{member}"
            assert (await peer.call("session.get", sessionId=sid))[member] == make(limit)


async def test_config_may_be_just_so_large_when_it_is_merged(loopback: Connect) -> None:
    """§11: what a session is left with counts, not what one update brings."""
    async with loopback(max_config_bytes=100) as peer:
        sid = (await peer.call("session.create", config={"systemPrompt": "x" * 69}))["id"]
        await peer.refused(
            "PAYLOAD_TOO_LARGE", "session.update", sessionId=sid, config={"model": "m" * 20}
        )
        await peer.call("session.update", sessionId=sid, config={"model": "m"})
        session = await peer.call("session.update", sessionId=sid, name="n")
        assert session["config"] == {"systemPrompt": "x" * 69, "model": "m"}


async def test_list_of_sessions_is_cut(loopback: Connect) -> None:
    """§11: at maxListBytes, with nextCursor; whatever is in them. A bug once seen."""
    async with loopback(rate_limit=None) as peer:
        prompt, metadata = {"systemPrompt": "x" * 127 * KIB}, {"m": "x" * 63 * KIB}
        ids = [
            (await peer.call("session.create", config=prompt, metadata=metadata))["id"]
            for _ in range(12)
        ]
        listed: list[str] = []
        cursor: dict[str, str] = {}
        pages = 0
        while True:
            page = await peer.call("session.list", params=cursor)
            listed += [session["id"] for session in page["sessions"]]
            pages += 1
            if "nextCursor" not in page:
                break
            cursor = {"cursor": page["nextCursor"]}
        assert sorted(listed) == sorted(ids)
        assert pages == 6, "two of them and no third are below 512 KiB"


async def test_session_above_max_list_bytes_is_a_page_by_itself(loopback: Connect) -> None:
    """§11: at least one a page."""
    async with loopback(max_list_bytes=KIB) as peer:
        for _ in range(2):
            await peer.call("session.create", metadata={"m": "x" * 2 * KIB})
        page = await peer.call("session.list")
        assert len(page["sessions"]) == 1
        page = await peer.call("session.list", cursor=page["nextCursor"])
        assert len(page["sessions"]) == 1
        assert "nextCursor" not in page


async def test_list_of_queued_inputs_is_cut(loopback: Connect) -> None:
    """§6.3, §11: in both answers, and the rest is listed from there. A bug once seen."""
    async with loopback(for_ever, rate_limit=None) as peer:
        sid = (await peer.call("session.create"))["id"]
        for number in range(14):
            await peer.call("message.send", sessionId=sid, content=f"{number:02}" + "x" * 200 * KIB)
        answer = await peer.call("session.subscribe", sessionId=sid)
        assert [info["content"][:2] for info in answer["inputs"]] == ["01", "02"]
        assert answer["hasMoreInputs"] is True
        page = await peer.call("input.list", sessionId=sid)
        assert page == {"inputs": answer["inputs"], "hasMore": True}
        listed = page["inputs"]
        while page["hasMore"]:
            page = await peer.call("input.list", sessionId=sid, after=listed[-1]["inputId"])
            listed += page["inputs"]
        assert [info["content"][:2] for info in listed] == [f"{n:02}" for n in range(1, 14)]
        await peer.call("input.withdraw", sessionId=sid, inputId=listed[0]["inputId"])
        await peer.refused(
            "INPUT_NOT_FOUND", "input.list", sessionId=sid, after=listed[0]["inputId"]
        )


@pytest.mark.parametrize(
    ("setting", "size"),
    [
        ("max_frame_bytes", 62 * KIB),
        ("max_list_bytes", 62 * KIB),
        ("max_message_bytes", 62 * KIB),
        ("max_metadata_bytes", 23 * KIB),  # and the rest of a session
        ("max_config_bytes", 22 * KIB),
        ("max_summary_bytes", 16 * KIB),
        ("max_name_bytes", 1 * KIB),
    ],
)
def test_settings_that_contradict_each_other_are_refused(setting: str, size: int) -> None:
    """§11: what is let in has to fit into a frame; the error names both."""
    fitting: dict[str, Any] = {**SMALL, setting: size}
    too_large: dict[str, Any] = {**SMALL, setting: size + 1}
    Settings(**fitting)
    with pytest.raises(ValueError, match=rf"{setting}.* at most 63488, .*max_send_frame_bytes"):
        Settings(**too_large)


async def test_whole_session_and_its_inputs_can_be_attached_to(loopback: Connect) -> None:
    """§6.3, §11: an answer to subscribe fits, however large its parts; the rest is listed."""
    async with loopback(for_ever, **SMALL) as peer:
        session = await peer.call(
            "session.create",
            name=just_text(1 * KIB),
            metadata=just_metadata(23 * KIB),
            config=just_config(22 * KIB),
        )
        sid = session["id"]
        await peer.call("session.update", sessionId=sid, summary=just_text(16 * KIB))
        for _ in range(2):
            await peer.call("message.send", sessionId=sid, content="x" * 60_000)
        answer = await peer.call("session.subscribe", sessionId=sid)
        assert (answer["inputs"], answer["hasMoreInputs"]) == ([], True)
        assert len((await peer.call("input.list", sessionId=sid))["inputs"]) == 1


async def test_answer_above_max_send_frame_bytes_is_an_error(connect: Connect) -> None:
    """§11: PAYLOAD_TOO_LARGE, and the connection lives on."""

    def answer(request: Request, params: dict[str, Any]) -> str:
        return "x" * int(params["size"])

    around = len(
        b'{"version":"1.0","type":"response","payload":{"id":"r1","success":true,"data":""}}'
    )
    async with connect(methods={"_large": answer}, **SMALL) as peer:
        fitting = 64 * KIB - around
        assert len(await peer.call("_large", request_id="r1", size=fitting)) == fitting
        error = await peer.refused("PAYLOAD_TOO_LARGE", "_large", request_id="r1", size=fitting + 1)
        assert error["data"]["limitBytes"] == 64 * KIB
        assert await peer.call("server.health")


async def test_peer_that_asks_much_and_reads_late_gets_every_answer(connect: Connect) -> None:
    """§11: reading stops while the outbox is above its high-water mark, and goes on after."""

    def answer(request: Request, params: dict[str, Any]) -> str:
        return "x" * 60_000

    async with connect(methods={"_large": answer}, rate_limit=None) as peer:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                for number in range(200):
                    await peer.send_request("_large", request_id=number)

            with peer.not_reading():
                await connect.wait_until(
                    lambda: connect.server.stats()["requests"].get("_large", 0) > 0
                )
                await trio.sleep(0.05)
                asked = connect.server.stats()["requests"]["_large"]
        for number in range(200):
            await peer.expect_result(number)
        assert asked < 200, "it was not read from for a while"
