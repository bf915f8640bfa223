"""The providers under test: how each is made, and what its server sends, written after its documents."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs

from trialogue.agents._retrying import Patience
from trialogue.agents.anthropic import AnthropicModel
from trialogue.agents.model import Model, ModelReply, ModelRequest, ToolSpec
from trialogue.agents.openai import OpenAIModel
from trialogue.core.models import Message, MessageKind, ToolCallInfo

from ._server import Response

__all__ = [
    "CANARY",
    "HTTP_CASES",
    "QUICK",
    "Case",
    "Kit",
    "Words",
    "ask",
    "say",
]

#: A key that must be found nowhere.
CANARY = "sk-canary-4f9d1c7e2b8a"
#: Waits that a test can afford on a real clock.
QUICK = Patience(connect_seconds=5, silence_seconds=5, attempts=3, max_wait_seconds=0.02)

#: What a model wrote, by its kind.
Words: TypeAlias = "list[tuple[MessageKind, str]]"


def say(content: str, **changes: Any) -> Message:
    """Make a message of a person."""
    made: dict[str, Any] = {
        "id": "msg_1",
        "session_id": "ses_1",
        "role": "user",
        "timestamp": "2026-11-28T12:00:00.000Z",
        "content": content,
    }
    return Message(**{**made, **changes})


HELLO = ModelRequest(messages=[say("Hello")])
WEATHER = ToolSpec(
    name="weather",
    description="Tells the weather.",
    schema={"type": "object", "properties": {"city": {"type": "string"}}},
)


@attrs.define
class Kit:
    """What a call of a model came to."""

    pieces: Words = attrs.Factory(list[tuple[MessageKind, str]])
    reply: ModelReply | None = None

    async def write(self, text: str, *, kind: MessageKind = "text") -> None:
        self.pieces.append((kind, text))

    def said(self, kind: MessageKind = "text") -> str:
        return "".join(text for of, text in self.pieces if of == kind)


async def ask(model: Model, request: ModelRequest = HELLO) -> Kit:
    """Call a model to its end."""
    kit = Kit()
    kit.reply = await model.generate(request, kit.write)
    return kit


class Case(ABC):
    """A provider behind HTTP, and how its server speaks."""

    name: str
    #: The kind of an error event that another attempt may not meet.
    passing_error: str

    @abstractmethod
    def open_model(self, url: str, patience: Patience = QUICK, key: str = CANARY) -> Model:
        """Make a model that asks the server at a URL."""

    @abstractmethod
    def answer(
        self,
        *texts: str,
        thoughts: Sequence[str] = (),
        calls: Sequence[tuple[str, str, Sequence[str]]] = (),
        reason: str = "end",
        usage: tuple[int, int] | None = (11, 7),
    ) -> list[bytes]:
        """Make the events of an answer.

        Args:
            texts: Its pieces.
            thoughts: The pieces of the reasoning before it.
            calls: The id, the name and the pieces of the arguments of each.
            reason: Why it stops, as `ModelReply.stop_reason` says it.
            usage: Tokens that were read and said.
        """

    @abstractmethod
    def error_event(self, kind: str, words: str) -> bytes:
        """Make the event that says in mid-stream that the server failed."""

    @abstractmethod
    def error_body(self, status: int, words: str) -> bytes:
        """Make the body of an error with a status."""

    @abstractmethod
    def complete_at(self, pieces: Sequence[bytes]) -> int:
        """Say behind how many bytes an answer can be taken for a whole one."""

    def name_event(self, data: bytes) -> bytes:
        """Make an event of a line of data."""
        return data

    def response(self, *texts: str, **said: Any) -> Response:
        """Make a whole answer."""
        return Response(pieces=self.answer(*texts, **said))

    def failure(self, status: int, words: str, **headers: str) -> Response:
        """Make an answer with an error."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Response(
            status=status,
            pieces=[self.error_body(status, words)],
            content_type="application/json",
            headers=named,
        )


class OpenAICase(Case):
    """Chat completions."""

    name = "openai"
    passing_error = "server_error"
    _reasons = {  # noqa: RUF012
        "end": "stop",
        "toolCalls": "tool_calls",
        "maxTokens": "length",
        "refusal": "content_filter",
    }

    def open_model(self, url: str, patience: Patience = QUICK, key: str = CANARY) -> Model:
        return OpenAIModel("gpt-5", api_key=key, base_url=f"{url}/v1", patience=patience)

    def answer(
        self,
        *texts: str,
        thoughts: Sequence[str] = (),
        calls: Sequence[tuple[str, str, Sequence[str]]] = (),
        reason: str = "end",
        usage: tuple[int, int] | None = (11, 7),
    ) -> list[bytes]:
        chunks = [self._chunk({"role": "assistant", "content": "", "refusal": None})]
        chunks += [self._chunk({"reasoning_content": thought}) for thought in thoughts]
        chunks += [self._chunk({"content": text}) for text in texts]
        for index, (call_id, name, pieces) in enumerate(calls):
            first = {
                "index": index,
                "id": call_id,
                "type": "function",
                "function": {"name": name, "arguments": ""},
            }
            chunks.append(self._chunk({"tool_calls": [first]}))
            chunks += [
                self._chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
                for piece in pieces
            ]
        chunks.append(self._chunk({}, self._reasons[reason]))
        if usage is not None:
            read, said = usage
            counts = {
                "prompt_tokens": read,
                "completion_tokens": said,
                "total_tokens": read + said,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            }
            chunks.append(self._chunk(None, usage=counts))
        return [*chunks, b"data: [DONE]\n\n"]

    def _chunk(
        self, delta: dict[str, Any] | None, reason: str | None = None, usage: Any = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = {
            "id": "chatcmpl-BMxJt3k1",
            "object": "chat.completion.chunk",
            "created": 1764331200,
            "model": "gpt-5-2025-08-07",
            "service_tier": "default",
            "system_fingerprint": "fp_92f14e8683",
            "choices": [] if delta is None else [choice],
            "usage": usage,
            "obfuscation": "x7Jq",
        }
        return f"data: {json.dumps(chunk, separators=(',', ':'), ensure_ascii=False)}\n\n".encode()

    def complete_at(self, pieces: Sequence[bytes]) -> int:
        # Behind the reason; not all servers say [DONE].
        return sum(map(len, pieces[:-1]))

    def error_event(self, kind: str, words: str) -> bytes:
        error = {"message": words, "type": kind, "param": None, "code": None}
        return f"data: {json.dumps({'error': error})}\n\n".encode()

    def error_body(self, status: int, words: str) -> bytes:
        kind = "invalid_request_error" if status < 500 else "server_error"
        error = {"message": words, "type": kind, "param": None, "code": None}
        return json.dumps({"error": error}).encode()


class AnthropicCase(Case):
    """Messages."""

    name = "anthropic"
    passing_error = "overloaded_error"
    _reasons = {  # noqa: RUF012
        "end": "end_turn",
        "toolCalls": "tool_use",
        "maxTokens": "max_tokens",
        "refusal": "refusal",
    }

    def open_model(self, url: str, patience: Patience = QUICK, key: str = CANARY) -> Model:
        return AnthropicModel("claude-test", api_key=key, base_url=url, patience=patience)

    def answer(
        self,
        *texts: str,
        thoughts: Sequence[str] = (),
        calls: Sequence[tuple[str, str, Sequence[str]]] = (),
        reason: str = "end",
        usage: tuple[int, int] | None = (11, 7),
    ) -> list[bytes]:
        read, said = usage or (0, 0)
        # What is read is told in three parts, and what was said is counted up.
        cached = min(read, 4)
        counts = {
            "input_tokens": read - cached,
            "cache_creation_input_tokens": cached // 2,
            "cache_read_input_tokens": cached - cached // 2,
            "output_tokens": min(said, 1),
            "service_tier": "standard",
        }
        message: dict[str, Any] = {
            "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
            "type": "message",
            "role": "assistant",
            "model": "claude-test",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": counts,
        }
        events = [self._event("message_start", message=message)]
        index = 0

        def block(begun: dict[str, Any], *deltas: dict[str, Any]) -> None:
            nonlocal index
            events.append(self._event("content_block_start", index=index, content_block=begun))
            events.extend(
                self._event("content_block_delta", index=index, delta=delta) for delta in deltas
            )
            events.append(self._event("content_block_stop", index=index))
            index += 1

        if thoughts:
            thinking = [{"type": "thinking_delta", "thinking": thought} for thought in thoughts]
            signature = {"type": "signature_delta", "signature": "EqQBCgIYAhIM"}
            block({"type": "thinking", "thinking": "", "signature": ""}, *thinking, signature)
        events.append(self._event("ping"))
        if texts:
            block({"type": "text", "text": ""}, *({"type": "text_delta", "text": t} for t in texts))
        for call_id, name, pieces in calls:
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
            block({"type": "tool_use", "id": call_id, "name": name, "input": {}}, *deltas)
        delta = {"stop_reason": self._reasons[reason], "stop_sequence": None}
        events.append(self._event("message_delta", delta=delta, usage={"output_tokens": said}))
        return [*events, self._event("message_stop")]

    def _event(self, kind: str, **data: Any) -> bytes:
        text = json.dumps({"type": kind, **data}, separators=(",", ":"), ensure_ascii=False)
        return f"event: {kind}\ndata: {text}\n\n".encode()

    def complete_at(self, pieces: Sequence[bytes]) -> int:
        return sum(map(len, pieces))

    def name_event(self, data: bytes) -> bytes:
        return b"event: message_start\n" + data

    def error_event(self, kind: str, words: str) -> bytes:
        return self._event("error", error={"details": None, "type": kind, "message": words})

    def error_body(self, status: int, words: str) -> bytes:
        kind = "overloaded_error" if status == 529 else "api_error"
        error = {"type": "error", "error": {"type": kind, "message": words}}
        return json.dumps(error | {"request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}).encode()


def calls_of(*infos: tuple[str, str, dict[str, Any]]) -> tuple[ToolCallInfo, ...]:
    """Make calls as a reply has them."""
    return tuple(ToolCallInfo(call_id=i, name=n, arguments=a) for i, n, a in infos)


HTTP_CASES: list[Case] = [OpenAICase(), AnthropicCase()]
