"""Models of Anthropic. Alone knows `anthropic`.

On the command line it is ``anthropic:MODEL``, with the key in ``ANTHROPIC_API_KEY`` or in the file
that ``ANTHROPIC_API_KEY_FILE`` names. ``ANTHROPIC_BASE_URL`` is another server that speaks so.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, cast

from ..core.abc import Agent
from ._anthropic_messages import Block, build_body
from ._anthropic_stream import MessageReader
from ._conversation import collect_call_ids
from ._loader import agent_loader
from ._provider import ApiResponse, HttpModel
from ._retrying import Patience as Patience
from ._streaming import Reader
from .loop import ToolLoop
from .model import ModelReply, ModelRequest, WriteText

if TYPE_CHECKING:
    import anthropic

__all__ = ["AnthropicModel", "Patience", "load_anthropic"]

#: Of a reply that says no limit of its own. Every model since Claude 3.5 can.
_MAX_TOKENS: Final = 8192
#: Of every Claude, unless a larger one was asked for.
_WINDOW_TOKENS: Final = 200_000
#: Replies whose thoughts are kept: those whose calls are at work.
_MAX_THOUGHTS: Final = 1000


class AnthropicModel(HttpModel["anthropic.AsyncAnthropic"]):
    """A model behind Anthropic's messages.

    Args:
        name: As Anthropic calls it, e.g. ``claude-sonnet-4-5``.
        api_key: Taken from ``ANTHROPIC_API_KEY`` or the file ``ANTHROPIC_API_KEY_FILE`` if it is
            None. Only Anthropic itself cannot do without.
        base_url: Without ``/v1``. Taken from ``ANTHROPIC_BASE_URL`` if it is None.
        max_tokens: Of a reply, where a request does not say.
        thinking: As Anthropic wants it, e.g. ``{"type": "adaptive"}``; its thoughts are reasoning.
        window_tokens: How many tokens fit into a request and its reply.
        patience: How long to wait, and how often to ask.
        environ: Where the variables are looked up.

    Raises:
        SettingsError: The key is missing, or one of these is wrong.
    """

    extra = "anthropic"
    title = "Anthropic"
    original_url = "https://api.anthropic.com"
    client_class = "AsyncAnthropic"

    def __init__(
        self,
        name: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        max_tokens: int = _MAX_TOKENS,
        thinking: Mapping[str, Any] | None = None,
        window_tokens: int | None = _WINDOW_TOKENS,
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
        self._max_tokens = max_tokens
        self._thinking = thinking
        self._thoughts: OrderedDict[str, Sequence[Block]] = OrderedDict()

    def _send(
        self, client: anthropic.AsyncAnthropic, request: ModelRequest
    ) -> AbstractAsyncContextManager[ApiResponse]:
        body = build_body(
            request,
            self.name,
            max_tokens=self._max_tokens,
            thinking=self._thinking,
            thoughts=self._thoughts,
        )
        create = cast("Any", client.messages.with_streaming_response.create)
        return cast("AbstractAsyncContextManager[ApiResponse]", create(**body))

    def _make_reader(self, request: ModelRequest, write: WriteText) -> Reader:
        return MessageReader(write, collect_call_ids(request.messages))

    def _note_reply(self, reader: Reader, reply: ModelReply) -> None:
        if reply.tool_calls and isinstance(reader, MessageReader) and reader.thoughts:
            self._thoughts[reply.tool_calls[0].call_id] = reader.thoughts
            if len(self._thoughts) > _MAX_THOUGHTS:
                self._thoughts.popitem(last=False)


@agent_loader(takes="MODEL")
def load_anthropic(name: str) -> Agent:
    """Make an agent of a model, as the environment says where it is.

    Raises:
        SettingsError: The extra is not installed, or the key is missing.
    """
    return ToolLoop(AnthropicModel(name))
