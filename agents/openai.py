"""Models of OpenAI, and of every server that speaks its chat completions. Alone knows `openai`.

On the command line it is ``openai:MODEL``, with the key in ``OPENAI_API_KEY`` or in the file that
``OPENAI_API_KEY_FILE`` names. ``OPENAI_BASE_URL`` is another server, such as Ollama's
``http://127.0.0.1:11434/v1``, llama.cpp's ``http://127.0.0.1:8080/v1`` or vLLM's
``http://127.0.0.1:8000/v1``, which need no key.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from ..core.abc import Agent
from ..core.errors import AgentError, SettingsError
from ._answering import answer_with
from ._conversation import collect_call_ids
from ._loader import agent_loader
from ._openai_messages import build_body
from ._openai_stream import ChatReader
from ._provider import HttpModel, check_url, find_words, import_extra
from ._retrying import Patience as Patience
from ._secrets import Secret, find_secret
from ._streaming import Reader, http_timeout
from .model import ModelRequest, WriteText

if TYPE_CHECKING:
    import httpx2
    import openai

__all__ = ["OpenAIModel", "Patience", "load_openai"]

_DEFAULT_URL: Final = "https://api.openai.com/v1"
#: What is sent as a key where none is needed: the header must be there.
_NO_KEY: Final = "none"
#: Codes of errors with a status that another attempt could mend, which it does not.
_FINAL_CODES: Final = frozenset({"insufficient_quota"})


class OpenAIModel(HttpModel["openai.AsyncOpenAI"]):
    """A model behind OpenAI's chat completions, or a server that speaks as it does.

    Args:
        name: As the server calls it, e.g. ``gpt-5``.
        api_key: Taken from ``OPENAI_API_KEY`` or the file ``OPENAI_API_KEY_FILE`` if it is None.
            Only OpenAI itself cannot do without.
        base_url: Up to and with ``/v1``. Taken from ``OPENAI_BASE_URL`` if it is None.
        window_tokens: How many tokens fit into a request and its reply, where it is known.
        patience: How long to wait, and how often to ask.

    Raises:
        SettingsError: The key is missing, or one of these is wrong.
    """

    def __init__(
        self,
        name: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        window_tokens: int | None = None,
        patience: Patience | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._sdk = import_extra("openai", "openai")
        source = "base_url" if base_url else "OPENAI_BASE_URL"
        self._base_url = check_url(
            base_url or environ.get("OPENAI_BASE_URL") or _DEFAULT_URL, source
        )
        host = urlsplit(self._base_url).hostname or ""
        is_original = host.endswith("api.openai.com")
        secret = Secret(api_key) if api_key else find_secret("OPENAI_API_KEY", environ)
        if secret is None and is_original:
            raise SettingsError(
                "OpenAI wants a key: set OPENAI_API_KEY, or OPENAI_API_KEY_FILE to a file with it; "
                "or OPENAI_BASE_URL to another server"
            )
        super().__init__(
            name,
            service="OpenAI" if is_original else f"the model server at {host}",
            patience=patience or Patience(),
            secret=secret,
        )
        self.window_tokens = window_tokens
        # OpenAI's newer models refuse the old name; the other servers know only that one.
        self.limit_name = "max_completion_tokens" if is_original else "max_tokens"

    @asynccontextmanager
    async def _open_client(self) -> AsyncGenerator[openai.AsyncOpenAI]:
        client: openai.AsyncOpenAI = self._sdk.AsyncOpenAI(
            api_key=self._secret.reveal() if self._secret else _NO_KEY,
            base_url=self._base_url,
            max_retries=0,  # ours are the only ones: see `HttpModel`
            timeout=http_timeout(self.patience.connect_seconds, self.patience.silence_seconds),
        )
        async with client:
            yield client

    @asynccontextmanager
    async def _send(
        self, client: openai.AsyncOpenAI, request: ModelRequest
    ) -> AsyncGenerator[httpx2.Response]:
        body = build_body(request, self.name, limit_name=self.limit_name)
        create = cast("Any", client.chat.completions.with_streaming_response.create)
        async with create(**body) as response:
            yield response.http_response

    def _make_reader(self, request: ModelRequest, write: WriteText) -> Reader:
        return ChatReader(write, collect_call_ids(request.messages))

    def _explain(self, exc: Exception) -> AgentError | None:
        sdk = self._sdk
        if isinstance(exc, sdk.APITimeoutError):
            return self.silence()
        if isinstance(exc, sdk.APIStatusError):
            error = cast("openai.APIStatusError", exc)
            return self.refusal(
                error.status_code,
                error.response.headers,
                find_words(error.body),
                final=error.code in _FINAL_CODES,
            )
        if isinstance(exc, sdk.APIConnectionError):
            return self.broken()
        return None


@agent_loader(takes="MODEL")
def load_openai(name: str) -> Agent:
    """Make an agent of a model, as the environment says where it is.

    Raises:
        SettingsError: The extra is not installed, or the key is missing.
    """
    return answer_with(OpenAIModel(name))
