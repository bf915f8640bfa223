"""What is OpenAI's own, and what servers that speak like it do in another way."""

import json
import subprocess
import sys
from typing import Any

import pytest

from trialogue.agents import resolve_agent
from trialogue.agents._openai_messages import build_body
from trialogue.agents.model import ModelRequest, malformed_arguments
from trialogue.agents.openai import OpenAIModel
from trialogue.core.errors import AgentError, SettingsError
from trialogue.core.models import Attachment, TokenUsage

from ._cases import CANARY, QUICK, WEATHER, Kit, OpenAICase, ask, calls_of, say
from ._server import Response, open_provider


async def heard(*chunks: str) -> Kit:
    """Ask a server that sends these chunks, as they stand."""
    pieces = [f"data: {chunk}\n\n".encode() for chunk in chunks]
    async with open_provider(Response(pieces=pieces)) as provider:
        return await ask(OpenAICase().open_model(provider.url))


# Written after what these servers document, with all that they send beside what is read.
OLLAMA = r"""
{"id":"chatcmpl-554","object":"chat.completion.chunk","created":1764331200,"model":"qwen3","system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning":"Hm"},"finish_reason":null}]}
{"id":"chatcmpl-554","object":"chat.completion.chunk","created":1764331200,"model":"qwen3","system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"role":"assistant","content":"","tool_calls":[{"id":"call_f0x","index":0,"type":"function","function":{"name":"weather","arguments":"{\"city\":\"Rome\"}"}}]},"finish_reason":null}]}
{"id":"chatcmpl-554","object":"chat.completion.chunk","created":1764331200,"model":"qwen3","system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"tool_calls"}]}
{"id":"chatcmpl-554","object":"chat.completion.chunk","created":1764331200,"model":"qwen3","system_fingerprint":"fp_ollama","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}
[DONE]
"""
LLAMA_CPP = r"""
{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":1764331200,"id":"chatcmpl-x","model":"m","system_fingerprint":"b6900","object":"chat.completion.chunk"}
{"choices":[{"finish_reason":null,"index":0,"delta":{"reasoning_content":"Hm"}}],"created":1764331200,"id":"chatcmpl-x","model":"m","object":"chat.completion.chunk"}
{"choices":[{"finish_reason":null,"index":0,"delta":{"tool_calls":[{"index":0,"id":"f0x","type":"function","function":{"name":"weather","arguments":"{"}}]}}],"id":"chatcmpl-x"}
{"choices":[{"finish_reason":null,"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\"city\": \"Rome\"}"}}]}}],"id":"chatcmpl-x"}
{"choices":[{"finish_reason":"tool_calls","index":0,"delta":{}}],"id":"chatcmpl-x"}
{"choices":[],"id":"chatcmpl-x","usage":{"completion_tokens":3,"prompt_tokens":5,"total_tokens":8},"timings":{"prompt_n":5,"predicted_n":3}}
[DONE]
"""
VLLM = r"""
{"id":"chatcmpl-v","object":"chat.completion.chunk","created":1764331200,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}
{"id":"chatcmpl-v","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"reasoning_content":"Hm","reasoning":"Hm"},"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":5,"total_tokens":6,"completion_tokens":1}}
{"id":"chatcmpl-v","choices":[{"index":0,"delta":{"tool_calls":[{"id":"chatcmpl-tool-1","type":"function","index":0,"function":{"name":"weather","arguments":"{\"city\": "}}]}}]}
{"id":"chatcmpl-v","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\"Rome\"}"}}]},"finish_reason":null}]}
{"id":"chatcmpl-v","choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"tool_calls","stop_reason":null}]}
{"id":"chatcmpl-v","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":5,"total_tokens":8,"completion_tokens":3}}
[DONE]
"""


@pytest.mark.parametrize("chunks", [OLLAMA, LLAMA_CPP, VLLM], ids=["ollama", "llama.cpp", "vllm"])
async def test_servers_that_speak_like_openai_are_understood(chunks: str) -> None:
    kit = await heard(*chunks.strip().split("\n"))
    assert kit.pieces == [("reasoning", "Hm")]
    assert kit.reply is not None
    assert kit.reply.stop_reason == "toolCalls"
    assert kit.reply.usage == TokenUsage(input_tokens=5, output_tokens=3, total_tokens=8)
    (call,) = kit.reply.tool_calls
    assert (call.name, call.arguments) == ("weather", {"city": "Rome"})


def calls_chunk(*calls: dict[str, Any], reason: str | None = None) -> str:
    return json.dumps({"choices": [{"delta": {"tool_calls": calls}, "finish_reason": reason}]})


async def test_calls_are_told_apart_by_their_ids_where_all_have_one_index() -> None:
    """As behind Gemini's door, which also says that it has just stopped."""
    kit = await heard(
        calls_chunk({"index": 0, "id": "a", "function": {"name": "x", "arguments": "{}"}}),
        calls_chunk({"index": 0, "id": "b", "function": {"name": "y", "arguments": '{"n":'}}),
        calls_chunk({"index": 0, "function": {"arguments": "1}"}}, reason="stop"),
    )
    assert kit.reply is not None
    assert kit.reply.tool_calls == calls_of(("a", "x", {}), ("b", "y", {"n": 1}))
    assert kit.reply.stop_reason == "toolCalls"


async def test_name_that_comes_with_each_piece_is_said_once() -> None:
    kit = await heard(
        calls_chunk({"index": 0, "id": "a", "function": {"name": "x", "arguments": "{"}}),
        calls_chunk(
            {"index": 0, "id": "a", "function": {"name": "x", "arguments": "}"}}, reason="stop"
        ),
    )
    assert kit.reply is not None
    assert kit.reply.tool_calls == calls_of(("a", "x", {}))


async def test_arguments_that_come_as_an_object_are_taken() -> None:
    kit = await heard(
        calls_chunk({"id": "a", "function": {"name": "x", "arguments": {"n": 1}}}, reason="stop"),
    )
    assert kit.reply is not None
    assert kit.reply.tool_calls == calls_of(("a", "x", {"n": 1}))


async def test_server_without_usage_and_done_is_understood() -> None:
    kit = await heard('{"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}')
    assert (kit.said(), kit.reply and kit.reply.usage) == ("Hi", TokenUsage())


@pytest.mark.parametrize("wrong", [-1, True, 2**80, "many", [1]])
async def test_count_that_is_none_does_not_spoil_the_answer(wrong: Any) -> None:
    usage = {"prompt_tokens": wrong, "completion_tokens": 3, "total_tokens": wrong}
    kit = await heard(
        '{"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}',
        json.dumps({"choices": [], "usage": usage}),
    )
    assert kit.said() == "Hi"
    assert kit.reply is not None
    assert kit.reply.usage == TokenUsage(input_tokens=0, output_tokens=3, total_tokens=3)


@pytest.mark.parametrize("wrong", [["stop"], {"is": "stop"}, 1])
async def test_members_of_another_type_are_passed_over(wrong: Any) -> None:
    call = {"index": wrong, "id": "a", "function": {"name": "x", "arguments": "{}"}}
    kit = await heard(
        json.dumps({"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": wrong}]}),
        "[DONE]",
    )
    assert kit.reply is not None
    assert kit.reply.tool_calls == calls_of(("a", "x", {}))


async def test_call_without_a_name_is_no_answer() -> None:
    """Left out, it would be an answer of no words."""
    nameless = {"index": 0, "id": "a", "function": {"arguments": "{}"}}
    for reason in ("tool_calls", "stop"):
        response = Response(pieces=[f"data: {calls_chunk(nameless, reason=reason)}\n\n".encode()])
        async with open_provider(response) as provider:
            with pytest.raises(AgentError, match="is no answer: a call names no tool"):
                await ask(OpenAICase().open_model(provider.url))
    kit = await heard(calls_chunk({"index": 0, "id": "a", "function": {}}, reason="length"))
    assert kit.reply is not None
    assert (kit.reply.stop_reason, kit.reply.tool_calls) == ("maxTokens", ())


async def test_pair_of_surrogates_may_be_split_over_chunks() -> None:
    """The turn joins those of text, see §6.2; those of arguments are joined before they are read."""
    halves = [r'"{\"a\": \"\ud83d"', r'"\ude00\"}"']
    calls = '{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":%s}]}}]}'
    kit = await heard(
        r'{"choices":[{"delta":{"content":"\ud83d"}}]}',
        r'{"choices":[{"delta":{"content":"\uDE00"}}]}',
        calls % f'{{"name":"x","arguments":{halves[0]}}}',
        calls % f'{{"arguments":{halves[1]}}}',
        '{"choices":[{"delta":{},"finish_reason":"stop"}]}',
    )
    assert kit.pieces == [("text", "\ud83d"), ("text", "\ude00")]
    assert kit.reply is not None
    assert kit.reply.tool_calls == calls_of(("a", "x", {"a": "😀"}))


async def test_arguments_with_half_a_pair_are_handed_on_as_text() -> None:
    kit = await heard(
        r'{"choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"x",'
        r'"arguments":{"a":"\ud83d"}}}]},"finish_reason":"stop"}]}'
    )
    assert kit.reply is not None
    assert malformed_arguments(kit.reply.tool_calls[0]) == r'{"a": "\ud83d"}'


async def test_refusal_is_text_and_a_reason() -> None:
    kit = await heard(
        '{"choices":[{"delta":{"refusal":"I will not."}}]}',
        '{"choices":[{"delta":{},"finish_reason":"stop"}]}',
    )
    assert (kit.said(), kit.reply and kit.reply.stop_reason) == ("I will not.", "refusal")


async def test_quota_that_is_used_up_is_not_tried_again() -> None:
    """OpenAI says it with the status of a rate limit."""
    error = {"message": "You exceeded your quota.", "type": "x", "code": "insufficient_quota"}
    body = json.dumps({"error": error}).encode()
    response = Response(status=429, pieces=[body], content_type="application/json")
    async with open_provider(response) as provider:
        with pytest.raises(Exception, match="exceeded your quota"):
            await ask(OpenAICase().open_model(provider.url))
    assert len(provider.received) == 1


async def test_request_is_what_the_server_expects() -> None:
    request = ModelRequest(
        messages=[say("Hello")], system="Be brief.", tools=[WEATHER], temperature=0.5, max_tokens=9
    )
    async with open_provider(OpenAICase().response("Hi")) as provider:
        await ask(OpenAICase().open_model(provider.url), request)
    (received,) = provider.received
    assert received.path == "/v1/chat/completions"
    assert received.headers["authorization"] == f"Bearer {CANARY}"
    function = {
        "name": WEATHER.name,
        "description": WEATHER.description,
        "parameters": WEATHER.schema,
    }
    assert received.body == {
        "model": "gpt-5",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ],
        "tools": [{"type": "function", "function": function}],
        "temperature": 0.5,
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_conversation_is_as_the_server_wants_it() -> None:
    messages = [
        say("Look", attachments=(Attachment(name="a.png", media_type="image/png", data="AAAA"),)),
        say("I look.", role="assistant", tool_calls=calls_of(("c1", "weather", {"city": "Rome"}))),
        say("sunny", role="tool", call_id="c1"),
        say("", role="assistant", tool_calls=calls_of(("c2", "weather", {"_malformed": "{city"}))),
        say("no JSON", role="tool", call_id="c2", status="error"),
    ]
    body = build_body(ModelRequest(messages=messages, model="other"), "m", limit_name="max_tokens")
    assert body["model"] == "other"
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c2",
                    "type": "function",
                    "function": {"name": "weather", "arguments": "{city"},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "no JSON"},
    ]


def test_openai_itself_is_told_the_limit_by_its_new_name() -> None:
    request = ModelRequest(messages=[say("Hello")], max_tokens=9)
    body = build_body(request, "gpt-5", limit_name="max_completion_tokens")
    assert body["max_completion_tokens"] == 9
    original, other = (OpenAIModel("m", api_key="k", base_url=url) for url in (None, "http://x/v1"))
    assert (original.is_original, original.service) == (True, "OpenAI")
    assert (other.is_original, other.service) == (False, "the model server at x")


async def test_other_server_needs_no_key() -> None:
    async with open_provider(OpenAICase().response("Hi")) as provider:
        environ = {"OPENAI_BASE_URL": f"{provider.url}/v1"}
        kit = await ask(OpenAIModel("llama", environ=environ, patience=QUICK))
    assert kit.said() == "Hi"
    assert provider.received[0].headers["authorization"] == "Bearer none"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "OpenAI wants a key: set OPENAI_API_KEY"),
        ({"OPENAI_BASE_URL": "127.0.0.1:8080"}, "OPENAI_BASE_URL is not a URL such as http://"),
        ({"OPENAI_BASE_URL": "http://h:port/v1"}, "OPENAI_BASE_URL is not a URL such as http://"),
        ({"OPENAI_BASE_URL": "ftp://h/v1"}, "OPENAI_BASE_URL is not a URL such as http://"),
    ],
)
def test_wrong_setting_is_said_at_the_start(environ: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        OpenAIModel("gpt-5", environ=environ)
    assert str(caught.value).startswith(said)


def test_missing_extra_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(SettingsError) as caught:
        resolve_agent("openai:gpt-5")
    assert str(caught.value).endswith("pip install 'trialogue[openai]'")


def test_attempt_that_is_repeated_is_logged_and_not_printed() -> None:
    """By default stamina writes to standard output, where `trialogue serve` says where it listens."""
    code = (
        "import logging, trio\n"
        "from trialogue.agents._retrying import Patience, retry\n"
        "from trialogue.core.errors import AgentError\n"
        "logging.basicConfig()\n"
        "tries = []\n"
        "async def fail():\n"
        "    tries.append(1)\n"
        "    if len(tries) < 2: raise AgentError('busy', retryable=True)\n"
        "    return 'done'\n"
        "patience = Patience(max_wait_seconds=0)\n"
        "assert trio.run(lambda: retry(fail, patience, has_begun=lambda: False)) == 'done'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("", "WARNING:trialogue.agents:a model is asked again\n")
