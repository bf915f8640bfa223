"""Models of OpenAI, and of every server that speaks its chat completions. Alone knows `openai`.

On the command line it is ``openai:MODEL``, with the key in ``OPENAI_API_KEY`` or in the file that
``OPENAI_API_KEY_FILE`` names. ``OPENAI_BASE_URL`` is another server, such as Ollama's
``http://127.0.0.1:11434/v1``, llama.cpp's ``http://127.0.0.1:8080/v1`` or vLLM's
``http://127.0.0.1:8000/v1``, which need no key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, cast

from ..core.abc import Agent
from ._conversation import collect_call_ids
from ._loader import agent_loader
from ._openai_messages import build_body
from ._openai_stream import ChatReader
from ._provider import ApiResponse, HttpModel
from ._retrying import Patience as Patience
from ._streaming import Reader
from .loop import ToolLoop
from .model import ModelRequest, WriteText

if TYPE_CHECKING:
    import openai

__all__ = ["OpenAIModel", "Patience", "load_openai"]


class OpenAIModel(HttpModel["openai.AsyncOpenAI"]):
    """A model behind OpenAI's chat completions, or a server that speaks as it does.

    Args:
        name: As the server calls it, e.g. ``gpt-5``.
        api_key: Taken from ``OPENAI_API_KEY`` or the file ``OPENAI_API_KEY_FILE`` if it is None.
            Only OpenAI itself cannot do without.
        base_url: Up to and with ``/v1``. Taken from ``OPENAI_BASE_URL`` if it is None.
        window_tokens: How many tokens fit into a request and its reply, where it is known.
        patience: How long to wait, and how often to ask.
        environ: Where the variables are looked up.

    Raises:
        SettingsError: The key is missing, or one of these is wrong.
    """

    extra = "openai"
    title = "OpenAI"
    original_url = "https://api.openai.com/v1"
    client_class = "AsyncOpenAI"
    final_codes = frozenset({"insufficient_quota"})

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
        super().__init__(
            name,
            api_key=api_key,
            base_url=base_url,
            window_tokens=window_tokens,
            patience=patience,
            environ=environ,
        )
        # OpenAI's newer models refuse the old name; the other servers know only that one.
        self._limit_name = "max_completion_tokens" if self.is_original else "max_tokens"

    def _send(
        self, client: openai.AsyncOpenAI, request: ModelRequest
    ) -> AbstractAsyncContextManager[ApiResponse]:
        body = build_body(request, self.name, limit_name=self._limit_name)
        create = cast("Any", client.chat.completions.with_streaming_response.create)
        return cast("AbstractAsyncContextManager[ApiResponse]", create(**body))

    def _make_reader(self, request: ModelRequest, write: WriteText) -> Reader:
        return ChatReader(write, collect_call_ids(request.messages))


@agent_loader(takes="MODEL")
def load_openai(name: str) -> Agent:
    """Make an agent of a model, as the environment says where it is.

    Raises:
        SettingsError: The extra is not installed, or the key is missing.
    """
    return ToolLoop(OpenAIModel(name))
