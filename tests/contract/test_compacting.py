"""PROTOCOL §8: a turn that shortens what its model is shown. The log keeps everything."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue import AgentError
from trialogue.core._compaction import whole_steps
from trialogue.core.abc import ToolCall, Turn
from trialogue.core.errors import LocalProtocolError, PayloadTooLargeError
from trialogue.core.models import Message, ToolCallInfo
from trialogue.testing import ProtocolPeer, Puppet
from trialogue.testing.transport_kit import Connect

HEADING = "[Previous conversation summary]"


async def nothing(_: ToolCall) -> str:
    await trio.lowlevel.checkpoint()
    return "ok"


async def count(messages: Sequence[Message]) -> str:
    """Summarise by saying what was there."""
    await trio.lowlevel.checkpoint()
    return "; ".join(message.content.removeprefix(HEADING).strip() for message in messages)


async def begin(peer: ProtocolPeer, puppet: Puppet) -> Any:
    sid = (await peer.call("session.create"))["id"]
    await peer.call("message.stream", sessionId=sid, content="go")
    return sid, await puppet.next_turn()


def shown(turn: Turn) -> list[str]:
    return [message.content for message in turn.messages]


async def test_turn_compacts_its_own_steps_again_and_again(loopback: Connect) -> None:
    puppet = Puppet()
    async with loopback(puppet) as peer:
        sid, led = await begin(peer, puppet)

        async def work(turn: Turn) -> None:
            for number in range(3):
                await turn.write(f"step {number}")
                await turn.call_tool("look", {}, nothing)
            # A result stays with its call, even if that is more than was to be kept.
            assert await turn.compact(count, keep_last=1)
            assert shown(turn) == [
                f"{HEADING}\ngo; step 0; ok; step 1; ok",
                "step 2",
                "ok",
            ]
            assert not await turn.compact(count, keep_last=1)
            await turn.write("more")
            turn.complete_message()
            turn.report_usage(input_tokens=5)

            async def spend(messages: Sequence[Message]) -> str:
                turn.report_usage(input_tokens=50, output_tokens=2)
                return await count(messages)

            assert await turn.compact(spend, keep_last=1)
            assert shown(turn) == [
                f"{HEADING}\ngo; step 0; ok; step 1; ok; step 2; ok",
                "more",
            ]
            await turn.write("end")

        await led.do(work)
        led.finish()
        events = await peer.read_until(sid, "turn.ended")
        compacted = [e["data"] for e in events if e["type"] == "session.compacted"]
        assert [each["compactedCount"] for each in compacted] == [5, 7]
        # What was spent on the summary stands with it.
        assert compacted[1]["usage"]["totalTokens"] == 52
        last = next(e for e in reversed(events) if e["type"] == "message.completed")
        assert last["data"]["message"]["usage"]["totalTokens"] == 5
        assert events[-1]["data"]["usage"]["totalTokens"] == 57
        history = (await peer.call("message.list", sessionId=sid))["messages"]
        assert [m["content"] for m in history] == [
            *("go", "step 0", "ok", "step 1", "ok", "step 2", "ok", "more", "end")
        ]


async def test_extract_is_the_summary_where_nobody_makes_one(loopback: Connect) -> None:
    puppet = Puppet()
    async with loopback(puppet) as peer:
        _, led = await begin(peer, puppet)

        async def work(turn: Turn) -> None:
            await turn.write("One. Two.")
            turn.complete_message()
            assert not await turn.compact()  # as few as are kept anyway
            assert await turn.compact(keep_last=0)
            assert shown(turn) == [f"{HEADING}\nuser: go\nassistant: One."]

        await led.do(work)


async def test_extract_is_cut_to_what_a_message_may_have(loopback: Connect) -> None:
    puppet = Puppet()
    async with loopback(puppet, max_message_bytes=1024) as peer:
        _, led = await begin(peer, puppet)

        async def work(turn: Turn) -> None:
            for _ in range(10):
                await turn.write("é" * 190)
                turn.complete_message()
            assert await turn.compact(keep_last=0)
            summary = shown(turn)[0].removeprefix(f"{HEADING}\n")
            assert 800 < len(summary.encode()) <= 1022
            assert summary.startswith("user: go\nassistant: é")

        await led.do(work)


async def test_summary_that_fails_or_is_none_changes_nothing(loopback: Connect) -> None:
    puppet = Puppet()
    async with loopback(puppet, max_message_bytes=1024) as peer:
        sid, led = await begin(peer, puppet)

        async def work(turn: Turn) -> None:
            async def fail(_: Sequence[Message]) -> str:
                await trio.lowlevel.checkpoint()
                turn.report_usage(input_tokens=3)
                raise AgentError("no")

            async def lie(_: Sequence[Message]) -> Any:
                await trio.lowlevel.checkpoint()
                return 3

            async def talk(_: Sequence[Message], size: int = 1023) -> str:
                await trio.lowlevel.checkpoint()
                return "x" * size

            async def again(messages: Sequence[Message]) -> str:
                with pytest.raises(LocalProtocolError, match="another task"):
                    await turn.compact(count, keep_last=0)
                return await talk(messages, 1022)

            with pytest.raises(AgentError, match="no"):
                await turn.compact(fail, keep_last=0)
            with pytest.raises(TypeError, match="a summary is a str"):
                await turn.compact(lie, keep_last=0)
            with pytest.raises(PayloadTooLargeError, match="A summary may have 1024 bytes"):
                await turn.compact(talk, keep_last=0)
            with pytest.raises(ValueError, match="keep_last"):
                await turn.compact(talk, keep_last=-1)
            assert shown(turn) == ["go"]
            assert await turn.compact(again, keep_last=0)
            # Just fits; what the first one spent is not lost.
            assert len(turn.messages[0].content) == len(HEADING) + 1 + 1022
            await turn.write("x")

        await led.do(work)
        led.finish()
        events = await peer.read_until(sid, "turn.ended")
        assert len([e for e in events if e["type"] == "session.compacted"]) == 1
        assert events[-1]["data"]["usage"]["totalTokens"] == 3


async def test_calls_that_are_to_be_made_are_not_compacted(loopback: Connect) -> None:
    puppet = Puppet()
    async with loopback(puppet) as peer:
        _, led = await begin(peer, puppet)

        async def work(turn: Turn) -> None:
            await turn.write("I look.")
            turn.complete_message([ToolCallInfo(call_id=name, name="look") for name in ("a", "b")])
            await turn.call_tool("look", {}, nothing, call_id="a")
            assert await turn.compact(count, keep_last=0)
            assert shown(turn) == [f"{HEADING}\ngo", "I look.", "ok"]
            await turn.call_tool("look", {}, nothing, call_id="b")
            assert await turn.compact(count, keep_last=0)
            assert shown(turn) == [f"{HEADING}\ngo; I look.; ok; ok"]

        await led.do(work)


async def test_turn_goes_further_than_a_compaction_that_a_client_began_before(
    loopback: Connect,
) -> None:
    """The later one stands for less, and is refused."""
    go_on = trio.Event()

    class Slow:
        async def __call__(self, turn: Turn) -> None:
            assert await turn.compact(count, keep_last=0)
            await turn.write("x")

        async def summarize(self, messages: Sequence[Message]) -> str:
            await go_on.wait()
            return "too late"

    async with loopback(Slow()) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="one", wait=True)
        await peer.call("message.add", sessionId=sid, role="user", content="aside")
        request = await peer.send_request("session.compact", sessionId=sid, keepLast=0)
        await peer.call("message.send", sessionId=sid, content="two", wait=True)
        go_on.set()
        error = await peer.expect_error(request, "INVALID_REQUEST")
        assert error["data"]["issues"][0]["message"] == "nothing to compact"


@pytest.mark.parametrize("size", [1022, 1023])
async def test_summary_that_a_client_asked_for_is_not_larger_than_a_message(
    size: int, loopback: Connect
) -> None:
    """§11: a bug once seen: there was no limit, not even that of a frame."""

    class Wordy:
        async def __call__(self, turn: Turn) -> None:
            await turn.write("x")

        async def summarize(self, messages: Sequence[Message]) -> str:
            await trio.lowlevel.checkpoint()
            return "s" * size

    async with loopback(Wordy(), max_message_bytes=1024) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="one", wait=True)
        if size == 1022:
            done = await peer.call("session.compact", sessionId=sid, keepLast=0)
            assert len(done["summary"]) == size
        else:
            error = await peer.refused(
                "PAYLOAD_TOO_LARGE", "session.compact", sessionId=sid, keepLast=0
            )
            assert error["data"]["limitBytes"] == 1024


async def test_extract_that_a_client_asked_for_is_not_larger_than_a_message(
    loopback: Connect,
) -> None:
    async def agent(turn: Turn) -> None:
        await turn.write("é" * 190)

    async with loopback(agent, max_message_bytes=1024) as peer:
        sid = (await peer.call("session.create"))["id"]
        for _ in range(10):
            await peer.call("message.send", sessionId=sid, content="go", wait=True)
        done = await peer.call("session.compact", sessionId=sid, keepLast=0)
        assert 800 < len(done["summary"].encode()) <= 1022


@pytest.mark.parametrize("ends", ["timeout", "cancel", "close"])
async def test_summary_that_stalls_is_given_up(
    ends: str, loopback: Connect, autojump_clock: MockClock
) -> None:
    given_up = trio.Event()

    class Stalling:
        async def __call__(self, turn: Turn) -> None:
            await turn.write("x")

        async def summarize(self, messages: Sequence[Message]) -> str:
            try:
                await trio.sleep_forever()
            finally:
                given_up.set()

    async with loopback(Stalling()) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="one", wait=True)
        after = 50 if ends == "timeout" else None
        compact = {"sessionId": sid, "keepLast": 0}
        request = await peer.send_request("session.compact", timeout_ms=after, params=compact)
        if ends == "cancel":
            await peer.call("request.cancel", id=request)
        elif ends == "close":
            await peer.call("session.close", sessionId=sid)
        code = {"timeout": "TIMEOUT", "cancel": "CANCELLED", "close": "SESSION_CLOSED"}[ends]
        with trio.fail_after(5):
            await peer.expect_error(request, code)
            await given_up.wait()
        history = (await peer.call("event.list", sessionId=sid))["events"]
        assert not [e for e in history if e["type"] == "session.compacted"]


def test_cut_where_no_result_stands_without_its_call() -> None:
    def message(index: int, role: Any, *calls: str, of: str | None = None) -> Message:
        infos = tuple(ToolCallInfo(call_id=call, name="t") for call in calls) or None
        return Message(
            id=f"m{index}",
            session_id="s",
            turn_id="t2" if index > 2 else "t1",
            role=role,
            content="",
            timestamp="",
            tool_calls=infos,
            call_id=of,
        )

    messages = [
        message(0, "user"),
        message(1, "assistant", "c1"),
        message(2, "tool", of="c1"),
        message(3, "user"),
        message(4, "assistant", "c1", "c2"),  # many a model counts its calls anew
        message(5, "tool", of="c1"),
        message(6, "tool", of="c2"),
        message(7, "assistant", "c3"),  # never made
        message(8, "assistant"),
    ]
    assert [whole_steps(messages, count) for count in range(10)] == [0, 1, 1, 3, 4, 4, 4, 7, 8, 9]
    assert whole_steps(messages, 8, [("t2", "c3")]) == 7
    assert whole_steps(messages, -1) == 0


async def test_session_that_is_being_summarised_stays_in_memory(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """Else it would be loaded a second time, and both would write its log."""

    class Slow:
        async def __call__(self, turn: Turn) -> None:
            await turn.write("x")

        async def summarize(self, messages: Sequence[Message]) -> str:
            await trio.sleep(1000)
            return "Late."

    async with loopback(Slow(), evict_after_seconds=60) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="one", wait=True)
        request = await peer.send_request("session.compact", sessionId=sid, keepLast=0)
        await trio.sleep(500)
        await peer.call("message.add", sessionId=sid, role="user", content="aside")
        answer = await peer.expect_response(request)
        assert answer["data"]["summary"] == "Late."
        assert (
            answer["data"]["position"]
            == (await peer.call("session.get", sessionId=sid))["position"]
        )
        assert (await peer.call("server.stats"))["sessionsEvicted"] == 0
