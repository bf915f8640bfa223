"""What is Anthropic's own."""

import json
from typing import Any

import attrs
import pytest

from trialogue.agents._anthropic_messages import build_body
from trialogue.agents.anthropic import AnthropicModel
from trialogue.agents.model import ModelReply, ModelRequest
from trialogue.core.errors import AgentError, SettingsError
from trialogue.core.models import Attachment, Message

from ._cases import CANARY, HELLO, QUICK, WEATHER, AnthropicCase, ask, calls_of, say
from ._server import Response, open_provider


def body_of(*messages: Message, **said: Any) -> dict[str, Any]:
    request = ModelRequest(messages=messages, **said)
    return build_body(request, "m", max_tokens=99, thinking=None, thoughts={})


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


async def test_request_is_what_the_server_expects() -> None:
    request = ModelRequest(
        messages=[say("Hello")], system="Be brief.", tools=[WEATHER], temperature=0.5
    )
    async with open_provider(AnthropicCase().response("Hi")) as provider:
        await ask(AnthropicCase().open_model(provider.url), request)
    (received,) = provider.received
    assert received.path == "/v1/messages"
    assert received.headers["authorization"] == f"Bearer {CANARY}"
    assert received.body == {
        "model": "claude-test",
        "max_tokens": 8192,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": [text("Hello")]}],
        "tools": [
            {
                "name": WEATHER.name,
                "description": WEATHER.description,
                "input_schema": WEATHER.schema,
            }
        ],
        "temperature": 0.5,
        "stream": True,
    }


def test_roles_alternate_and_results_are_the_users() -> None:
    body = body_of(
        say("one"),
        say("two"),
        say("I look.", role="assistant"),
        say("", role="assistant", tool_calls=calls_of(("c1", "weather", {"city": "Rome"}))),
        say("no", role="tool", call_id="c1", status="error"),
        say("hurry"),
        model="other",
        max_tokens=5,
    )
    use = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "no", "is_error": True}
    assert (body["model"], body["max_tokens"]) == ("other", 5)
    assert body["messages"] == [
        {"role": "user", "content": [text("one"), text("two")]},
        {"role": "assistant", "content": [text("I look."), use]},
        {"role": "user", "content": [result, text("hurry")]},
    ]


def test_summary_of_what_was_compacted_joins_the_system_prompt() -> None:
    answer = say("So.", role="assistant")
    body = body_of(say("Long ago …", role="system"), answer, say("And?"), system="Be brief.")
    assert body["system"] == "Be brief.\n\nLong ago …"
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]


def test_files_are_shown_and_an_empty_input_is_said_to_be() -> None:
    body = body_of(
        say(
            " ",
            attachments=(
                Attachment(name="a", media_type="image/png", data="AAAA"),
                Attachment(name="b", media_type="image/png", uri="https://example.com/b.png"),
                Attachment(name="c", media_type="application/pdf", data="AAAA"),
                Attachment(name="d", media_type="text/plain", data="aGk="),
            ),
        )
    )
    png = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
    assert body["messages"][0]["content"] == [
        {"type": "image", "source": png},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/b.png"}},
        {"type": "document", "source": pdf, "title": "c"},
        text("d:\nhi"),
    ]
    assert body_of(say(" "))["messages"] == [{"role": "user", "content": [text("(empty)")]}]


def conversation(reply: ModelReply) -> ModelRequest:
    called = say("", role="assistant", tool_calls=reply.tool_calls)
    result = say("sunny", role="tool", call_id=reply.tool_calls[0].call_id)
    return attrs.evolve(HELLO, messages=[*HELLO.messages, called, result])


async def test_thoughts_before_a_call_go_back_signed_as_they_came() -> None:
    """Anthropic refuses a call without them, where it is to think."""
    case = AnthropicCase()
    thinking = {"type": "enabled", "budget_tokens": 1024}
    calls = [("call_a", "weather", ["{}"])]
    first = case.response(thoughts=["Hm", "!"], calls=calls, reason="toolCalls")
    async with open_provider(first, case.response("Sunny.")) as provider:
        model = AnthropicModel("m", api_key=CANARY, base_url=provider.url, thinking=thinking)
        kit = await ask(model)
        assert kit.reply is not None
        await ask(model, conversation(kit.reply))
        # Another process does not know them, and has to do without.
        other = AnthropicModel("m", api_key=CANARY, base_url=provider.url, thinking=thinking)
        await ask(other, conversation(kit.reply))
    _, known, unknown = (received.body for received in provider.received)
    thought = {"type": "thinking", "thinking": "Hm!", "signature": "EqQBCgIYAhIM"}
    assert known["messages"][1]["content"][0] == thought
    assert known["thinking"] == thinking
    assert [block["type"] for block in unknown["messages"][1]["content"]] == ["tool_use"]
    assert "thinking" not in unknown


async def test_events_of_later_versions_are_passed_over() -> None:
    pieces = AnthropicCase().answer("Hi")
    unknown = [
        {"type": "new_event"},
        {"type": "content_block_start", "index": 7, "content_block": {"type": "new_block"}},
        {"type": "content_block_delta", "index": 7, "delta": {"type": "new_delta", "text": "no"}},
        {"type": "content_block_delta", "index": 9, "delta": {"type": "thinking_delta"}},
    ]
    pieces[1:1] = [f"data: {json.dumps(event)}\n\n".encode() for event in unknown]
    async with open_provider(Response(pieces=pieces)) as provider:
        kit = await ask(AnthropicCase().open_model(provider.url))
    assert kit.pieces == [("text", "Hi")]


async def test_pair_of_surrogates_in_a_thought_goes_back_joined() -> None:
    pieces = AnthropicCase().answer(
        thoughts=["<1>", "<2>"], calls=[("a", "weather", ["{}"])], reason="toolCalls"
    )
    split = [p.replace(b"<1>", rb"\ud83d").replace(b"<2>", rb"\ude00") for p in pieces]
    thinking = {"type": "adaptive"}
    async with open_provider(Response(pieces=split), AnthropicCase().response("Hi")) as provider:
        model = AnthropicModel("m", api_key=CANARY, base_url=provider.url, thinking=thinking)
        kit = await ask(model)
        assert kit.pieces == [("reasoning", "\ud83d"), ("reasoning", "\ude00")]
        assert kit.reply is not None
        await ask(model, conversation(kit.reply))
    assert provider.received[1].body["messages"][1]["content"][0]["thinking"] == "😀"


async def test_call_without_a_name_is_no_answer() -> None:
    pieces = AnthropicCase().answer(calls=[("a", "", [])], reason="toolCalls")
    async with open_provider(Response(pieces=pieces)) as provider:
        with pytest.raises(AgentError, match="is no answer: a call names no tool"):
            await ask(AnthropicCase().open_model(provider.url))


async def test_members_of_another_type_are_passed_over() -> None:
    pieces = AnthropicCase().answer("Hi")
    wrong = [
        {"type": "content_block_start", "index": [7], "content_block": {"type": "thinking"}},
        {"type": "content_block_delta", "index": {}, "delta": {"type": "thinking_delta"}},
        {"type": "message_delta", "delta": {"stop_reason": ["x"]}, "usage": {"input_tokens": -5}},
    ]
    pieces[-1:-1] = [f"data: {json.dumps(event)}\n\n".encode() for event in wrong]
    async with open_provider(Response(pieces=pieces)) as provider:
        kit = await ask(AnthropicCase().open_model(provider.url))
    assert kit.pieces == [("text", "Hi")]
    assert kit.reply is not None
    assert (kit.reply.stop_reason, kit.reply.usage.input_tokens) == ("end", 11)


async def test_arguments_that_come_with_the_beginning_of_a_call_are_taken() -> None:
    pieces = AnthropicCase().answer(calls=[("a", "weather", [])], reason="toolCalls")
    pieces = [piece.replace(b'"input":{}', b'"input":{"city":"Rome"}') for piece in pieces]
    async with open_provider(Response(pieces=pieces)) as provider:
        kit = await ask(AnthropicCase().open_model(provider.url))
    assert kit.reply is not None
    assert kit.reply.tool_calls == calls_of(("a", "weather", {"city": "Rome"}))


async def test_other_server_needs_no_key() -> None:
    async with open_provider(AnthropicCase().response("Hi")) as provider:
        model = AnthropicModel("m", environ={"ANTHROPIC_BASE_URL": provider.url}, patience=QUICK)
        assert (await ask(model)).said() == "Hi"


def test_missing_key_is_said_at_the_start() -> None:
    with pytest.raises(SettingsError, match="Anthropic wants a key: set ANTHROPIC_API_KEY"):
        AnthropicModel("m", environ={})
