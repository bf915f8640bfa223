"""The built-in agents on a real server over loopback: what `FakeTurn` promises is what happens."""

from datetime import UTC, datetime
from pathlib import Path

import trio
from trio.testing import MockClock

from trialogue.agents.demo import Demo
from trialogue.agents.echo import echo
from trialogue.agents.script import load_script, scripted
from trialogue.testing import AwaitSteering, Fail, Say, Wait

from .talking import Talk, open_talk, texts

EXAMPLE = Path(__file__).parents[2] / "examples" / "demo-script.toml"
NOW = datetime(2026, 11, 23, 14, 5, tzinfo=UTC)


async def test_echo(autojump_clock: MockClock) -> None:
    async with open_talk(echo) as talk:
        assert await talk.ask("one  two\nthree ") == "one  two\nthree "


async def test_demo_remembers_and_calculates(autojump_clock: MockClock) -> None:
    async with open_talk(Demo(clock=lambda: NOW)) as talk:
        assert await talk.ask("My name is Ada") == "Nice to meet you, Ada!"
        events = await talk.tell("What is 7% of 250?")
        assert [event["type"] for event in events if "position" in event] == [
            "input.delivered",
            "turn.started",
            "message.created",
            "tool.called",
            "tool.completed",
            "message.started",
            "message.completed",
            "turn.ended",
        ]
        assert texts(events) == ["7% of 250 is 17.5."]
        assert events[-1]["data"]["usage"] == {
            "inputTokens": 4 + 5 + 5,
            "outputTokens": 5,
            "totalTokens": 19,
        }
        assert await talk.ask("Who am I?") == "Your name is Ada."
        fork = await talk.peer.call("session.fork", **talk.on)
        forked = Talk(talk.peer, fork["id"])
        assert await forked.ask("Who am I?") == "Your name is Ada."
        assert await forked.ask("What did I say first?") == (
            "The first thing you said was “My name is Ada”."
        )


async def test_demo_takes_steering_in_a_long_answer(autojump_clock: MockClock) -> None:
    async with open_talk(Demo(clock=lambda: NOW)) as talk:
        turn = await talk.peer.call("message.stream", **talk.on, content="Count to 20")
        await trio.sleep(1.5)
        steered = await talk.peer.call(
            "message.send", **talk.on, content="What is 2+2?", whenBusy="steer"
        )
        assert steered["state"] == "steered"
        events = await talk.peer.read_until(talk.session_id, "turn.ended", turnId=turn["turnId"])
        first, second = texts(events)
        assert first.endswith("– You say “What is 2+2?”.")
        assert second.startswith("2 + 2 is 4. I was at ")
        assert second.endswith("19, 20. Done!")
        assert await talk.ask("What did I say first?") == (
            "The first thing you said was “Count to 20”."
        )


async def test_demo_can_be_cancelled(autojump_clock: MockClock) -> None:
    async with open_talk(Demo(clock=lambda: NOW)) as talk:
        await talk.peer.call("message.stream", **talk.on, content="Count to 100")
        await trio.sleep(2)
        await talk.peer.call("turn.cancel", **talk.on)
        ended = await talk.peer.expect_event(talk.session_id, "turn.ended")
        assert ended["data"]["outcome"] == "cancelled"
        assert ended["data"]["usage"]["outputTokens"] > 3
        assert (await talk.ask("What did you say?")).startswith("The last thing I said was “1, 2,")


async def test_example_script_does_what_it_says(autojump_clock: MockClock) -> None:
    async with open_talk(load_script(EXAMPLE)) as talk:
        assert await talk.ask("Hi") == "Hello! I am a script, and this is my first line."
        assert len(texts(await talk.tell("and?"))) == 3
        events = await talk.tell("rivers")
        ended = [event["data"] for event in events if event["type"] == "tool.completed"]
        assert [tool["status"] for tool in ended[:3]] == ["ok", "error", "cancelled"]
        assert ended[1]["error"] == "Page b is gone."
        assert ended[2]["callId"] == "call_crawl"
        assert sum(event["type"] == "tool.progress" for event in events) == 2
        own = [event for event in await talk.tell("mood?") if event["type"].startswith("_")]
        assert [(event["type"], "position" in event) for event in own] == [
            ("_mood", False),
            ("_weather", True),
        ]
        brief = (await talk.tell("be brief"))[-1]["data"]
        assert (brief["outcome"], brief["stopReason"]) == ("completed", "max_tokens")
        failed = (await talk.tell("please fail"))[-1]["data"]
        assert failed["outcome"] == "failed"
        error = {"code": "AGENT_ERROR", "message": "I am out of breath.", "retryable": True}
        assert failed["error"] == error
        crashed = (await talk.tell("please crash"))[-1]["data"]
        assert "this stands in the log" not in str(crashed["error"])
        assert crashed["error"]["errorId"]


async def test_scripted_agent_waits_for_steering(autojump_clock: MockClock) -> None:
    script = scripted(
        ["Go?", AwaitSteering(60, then=" {steering}!"), Wait(1), Say(" Done.")], Fail("no more")
    )
    async with open_talk(script) as talk:
        turn = await talk.peer.call("message.stream", **talk.on, content="x")
        await trio.sleep(1)
        await talk.peer.call("message.send", **talk.on, content="go on", whenBusy="steer")
        events = await talk.peer.read_until(talk.session_id, "turn.ended", turnId=turn["turnId"])
        assert texts(events) == ["Go? go on! Done."]
        # What was steered was part of that turn, and this is the second.
        assert (await talk.tell("y"))[-1]["data"]["error"]["message"] == "no more"
