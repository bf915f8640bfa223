"""Reads a provider's answer off its HTTP stream, and leaves no stream behind. Alone knows httpx2."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

import trio

from ..core.errors import AgentError
from ._sse import BadEventError, EventDecoder, ServerEvent
from .model import ModelReply

if TYPE_CHECKING:
    import ssl

    import httpx2

__all__ = ["Reader", "StreamFailedError", "http_timeout", "read_reply", "tls_context"]

#: How long the end of a body is waited for, once the answer is complete: a connection that was read
#: to its end can be used again.
_END_SECONDS: Final = 0.1
#: How long closing a stream may take. It waits for nobody: the socket is closed first.
_CLOSE_SECONDS: Final = 1.0


class StreamFailedError(Exception):
    """A provider said within its stream that it failed.

    Args:
        words: Its own.
        retryable: Another attempt may go better.
    """

    def __init__(self, words: str, *, retryable: bool) -> None:
        super().__init__(words)
        self.words = words
        self.retryable = retryable


class Reader(ABC):
    """Makes a reply of a provider's events."""

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Whether the provider has said that its answer is over."""

    @abstractmethod
    async def take(self, event: ServerEvent) -> None:
        """Take the next event, and write what it says.

        Raises:
            StreamFailedError: It says that the provider failed.
            BadEventError: It is not what a provider says.
        """

    @abstractmethod
    def finish(self) -> ModelReply | None:
        """Give the reply when there is no more to read, None if it is not a whole one.

        Raises:
            BadEventError: It has a part that no provider sends.
        """


@cache
def tls_context() -> ssl.SSLContext:
    """Make what checks certificates, once in a process: to read the trusted ones takes 20 ms."""
    import httpx2

    return httpx2.create_ssl_context()


def http_timeout(connect_seconds: float, silence_seconds: float) -> httpx2.Timeout:
    """Make what the HTTP library waits for: for a free connection it waits as for an answer."""
    import httpx2

    return httpx2.Timeout(silence_seconds, connect=connect_seconds)


async def read_reply(response: httpx2.Response, reader: Reader, service: str) -> ModelReply:
    """Read an answer to its end.

    Args:
        response: Not read yet. It is closed when this returns or raises, its connection too unless
            it was read to its end.
        reader: Is given each event.
        service: Who answers, for errors.

    Raises:
        AgentError: It sent something else than an answer, or half of one.
        StreamFailedError: It said so.
        httpx2.HTTPError: It fell silent, or the connection went.
    """
    decoder = EventDecoder()
    try:
        async with _open_body(response) as body:
            with trio.CancelScope() as at_end:
                async for data in body:
                    for event in decoder.feed(data):
                        if not reader.is_complete:
                            await reader.take(event)
                    if reader.is_complete and at_end.deadline == float("inf"):
                        at_end.deadline = trio.current_time() + _END_SECONDS
        reply = reader.finish()
    except BadEventError as exc:
        raise AgentError(f"What came from {service} is no answer: {exc}") from None
    if reply is not None:
        return reply
    if "event-stream" not in response.headers.get("content-type", ""):
        raise AgentError(f"No answer came from {service}: is that the right base URL?")
    raise AgentError(f"The answer of {service} broke off", retryable=True)


@asynccontextmanager
async def _open_body(response: httpx2.Response) -> AsyncGenerator[AsyncIterator[bytes]]:
    """Iterate over a body, and end what iterates however this is left.

    It is generators within generators, the innermost at a socket. Closed by themselves, the inner
    ones would wait for the garbage collector, so they are run to their end, which comes at once
    when the response is closed.
    """
    import httpx2

    body = response.aiter_bytes()
    try:
        yield body
    finally:
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            await response.aclose()
            try:
                async for _ in body:
                    pass
            except (httpx2.HTTPError, httpx2.StreamError):
                pass  # there is no socket any more
