"""A model behind the whole server: what its clients see, and what nobody does."""

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from trialogue.agents import resolve_agent
from trialogue.agents._loader import AgentLoader
from trialogue.agents.anthropic import load_anthropic
from trialogue.agents.openai import load_openai
from trialogue.cli.main import main
from trialogue.client import Event, TextChunk
from trialogue.core.models import TokenUsage
from trialogue.stores.jsonl import open_jsonl_store
from trialogue.testing import open_test_server

from ._cases import CANARY, AnthropicCase, Case, OpenAICase
from ._server import Response, open_provider

LOADERS: dict[str, tuple[Case, AgentLoader[Any], str]] = {
    "anthropic": (AnthropicCase(), load_anthropic, ""),
    "openai": (OpenAICase(), load_openai, "/v1"),
}


@pytest.mark.parametrize("name", LOADERS)
async def test_turn_is_the_models_answer_and_its_error_can_be_shown(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Issue 5. The key is planted, and searched in all that came out: events, errors, logs, files."""
    case, loader, path = LOADERS[name]
    caplog.set_level("DEBUG")
    (tmp_path / "key").write_text(f"{CANARY}\n", "utf-8")
    quoting = case.failure(403, f"Not for {CANARY}.")
    async with open_provider(case.response("Good ", "day."), quoting) as provider:
        monkeypatch.setenv(f"{name.upper()}_BASE_URL", provider.url + path)
        monkeypatch.setenv(f"{name.upper()}_API_KEY_FILE", str(tmp_path / "key"))
        monkeypatch.delenv(f"{name.upper()}_API_KEY", raising=False)
        store = open_jsonl_store(tmp_path / "store")
        events: list[Event] = []
        async with open_test_server(loader("m-1"), store=store) as test:
            session = await test.client.create_session()
            await test.client.subscribe(session.id)
            with test.client.listening(events.append):
                turn = await test.client.send_message(session.id, "Hello")
                failed = await test.client.send_message(session.id, "And now?")
        await provider.wait_empty()
    assert turn.message is not None
    assert turn.message.content == "Good day."
    assert turn.message.usage == TokenUsage(input_tokens=11, output_tokens=7, total_tokens=18)
    assert failed.outcome == "failed"
    assert provider.received[1].body["messages"][1]["role"] == "assistant"
    assert CANARY in "".join(provider.received[0].headers.values())
    kept = "".join(file.read_text("utf-8") for file in (tmp_path / "store").rglob("*.*"))
    assert "Not for ***." in kept
    assert "Not for ***." in repr(events)
    logged = [repr(vars(record)) + record.getMessage() for record in caplog.records]
    told = [repr(events), repr(turn), repr(failed), kept, *logged, *capfd.readouterr()]
    assert not [text for text in told if CANARY in text]


@pytest.mark.parametrize("name", LOADERS)
def test_key_is_in_no_printed_configuration(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {**os.environ, f"{name.upper()}_API_KEY": CANARY}
    assert main(["serve", f"{name}:m-1", "--print-config"], environ) == 0
    out, err = capsys.readouterr()
    assert f"{name}:m-1" in out
    assert CANARY not in out + err


async def test_cancelled_turn_closes_the_stream_and_keeps_what_was_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Issue 5: from the client's request to the provider's socket."""
    case = OpenAICase()
    pieces = case.answer("Once upon")
    stall = Response(pieces=[*pieces[:2]], then="stall")
    async with open_provider(stall) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{provider.url}/v1")
        _, agent = resolve_agent("openai:m-1")
        async with open_test_server(agent) as test:
            session = await test.client.create_session()
            with trio.fail_after(10):
                async with test.client.stream_message(session.id, "Hello") as chunks:
                    async for chunk in chunks:
                        if isinstance(chunk, TextChunk):
                            break
                    before = trio.current_time()
                    await test.client.cancel_turn(session.id)
                while not provider.gone_at:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            listed = await test.client.list_messages(session.id)
    assert provider.gone_at[0] - before < 0.1
    assert [(m.content, m.status) for m in listed.messages][1:] == [("Once upon", "partial")]
