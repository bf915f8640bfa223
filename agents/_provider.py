"""What models behind HTTP have in common: a client, attempts, and errors that can be shown."""

from __future__ import annotations

import email.utils
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

from ..core._json import as_object
from ..core.errors import AgentError, SettingsError
from ._retrying import Patience, retry
from ._secrets import Secret
from ._streaming import Reader, StreamFailedError, read_reply
from .model import Model, ModelReply, ModelRequest, WriteText

if TYPE_CHECKING:
    import httpx2

    from ..core.models import MessageKind

__all__ = ["HttpModel", "check_url", "find_words", "import_extra"]

ClientT = TypeVar("ClientT")

#: Of a provider's own words in our message: a sentence or two, and no page of HTML.
_MAX_WORDS: Final = 300
#: Statuses that may be different the next time, beside all from 500 on.
_RETRYABLE: Final = frozenset({408, 409, 429})


def import_extra(extra: str, library: str) -> Any:
    """Import what an extra brings.

    Raises:
        SettingsError: It is not installed; says what to install.
    """
    try:
        return import_module(library)
    except ModuleNotFoundError as exc:
        raise SettingsError(
            f"a model of {extra!r} needs {exc.name!r}: pip install 'trialogue[{extra}]'"
        ) from exc


def check_url(url: str, source: str) -> str:
    """Check where a provider is to be found.

    Raises:
        SettingsError: That is no HTTP URL. It is not shown: there may be a password in it.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        port = -1
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise SettingsError(f"{source} is not a URL such as http://127.0.0.1:8080/v1")
    return url


def find_words(body: object) -> str | None:
    """Find what a provider says of its failure in the body of its response."""
    for name in ("error", "message", "detail"):
        found = as_object(body)
        if found is not None and name in found:
            body = found[name]
    # A page of HTML is a proxy's, and says nothing.
    return body if isinstance(body, str) and not body.lstrip().startswith("<") else None


class HttpModel(Model, Generic[ClientT]):
    """A model behind HTTP, by its provider's SDK.

    Attributes:
        service: Whom it asks, for errors: a name or a host.
        patience: How long it waits, and how often it asks.
    """

    def __init__(
        self, name: str, *, service: str, patience: Patience, secret: Secret | None
    ) -> None:
        self.name = name
        self.service = service
        self.patience = patience
        self._secret = secret
        self._client: ClientT | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @abstractmethod
    def _open_client(self) -> AbstractAsyncContextManager[ClientT]:
        """Make the SDK's client, with its own attempts switched off."""

    @abstractmethod
    def _send(
        self, client: ClientT, request: ModelRequest
    ) -> AbstractAsyncContextManager[httpx2.Response]:
        """Ask, and give what comes back, with its body not read."""

    @abstractmethod
    def _make_reader(self, request: ModelRequest, write: WriteText) -> Reader:
        """Make what reads one answer."""

    @abstractmethod
    def _explain(self, exc: Exception) -> AgentError | None:
        """Say what an exception of the SDK means, None if it is none of those."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Keep connections between calls."""
        if self._client is not None:  # two agents with one model
            yield
            return
        async with self._open_client() as client:
            self._client = client
            try:
                yield
            finally:
                self._client = None

    async def generate(self, request: ModelRequest, write: WriteText) -> ModelReply:
        """Answer one request. Cancelling it closes the stream, and with it the connection."""
        has_begun = False

        async def write_on(text: str, *, kind: MessageKind = "text") -> None:
            nonlocal has_begun
            has_begun = True
            await write(text, kind=kind)

        if self._client is not None:
            return await self._attempt(self._client, request, write_on, lambda: has_begun)
        async with self._open_client() as client:
            return await self._attempt(client, request, write_on, lambda: has_begun)

    async def _attempt(
        self,
        client: ClientT,
        request: ModelRequest,
        write: WriteText,
        has_begun: Callable[[], bool],
    ) -> ModelReply:
        async def ask() -> ModelReply:
            import httpx2

            try:
                async with self._send(client, request) as response:
                    reader = self._make_reader(request, write)
                    return await read_reply(response, reader, self.service)
            except httpx2.TimeoutException:
                raise self.silence() from None
            except httpx2.HTTPError:
                raise self.broken() from None
            except StreamFailedError as exc:
                raise self.failure(exc.words, retryable=exc.retryable) from None
            except Exception as exc:
                error = self._explain(exc)
                if error is None:
                    raise
                # Without the cause: it may quote the request.
                raise error from None

        return await retry(ask, self.patience, has_begun=has_begun)

    # -- errors --------------------------------------------------------------------------------

    def silence(self) -> AgentError:
        """Say that nothing came for too long."""
        return AgentError(f"Nothing came from {self.service} for too long", retryable=True)

    def broken(self) -> AgentError:
        """Say that there is no connection, or not any more."""
        return AgentError(f"The connection to {self.service} failed", retryable=True)

    def refusal(
        self, status: int, headers: Mapping[str, str], words: str | None, *, final: bool = False
    ) -> AgentError:
        """Say that the provider answered with an error.

        Args:
            status: Of HTTP.
            headers: Of the response.
            words: The provider's own, if it has some.
            final: Another attempt makes no sense, whatever the status.
        """
        if status == 401:
            # What it says then may quote a part of the key.
            return AgentError(f"The API key is not accepted by {self.service} (401)")
        retryable = status in _RETRYABLE or status >= 500
        should_retry = headers.get("x-should-retry")
        if should_retry in ("true", "false"):
            retryable = should_retry == "true"
        wait = _retry_after(headers)
        return self.failure(
            words,
            f" ({status})",
            retryable=retryable and not final,
            retry_after=wait,
        )

    def failure(
        self,
        words: str | None,
        status: str = "",
        *,
        retryable: bool,
        retry_after: float | None = None,
    ) -> AgentError:
        """Say that the provider failed, in its own words."""
        said = " ".join((words or "").split())
        if self._secret is not None:
            said = self._secret.hide_in(said)
        if len(said) > _MAX_WORDS:
            said = said[:_MAX_WORDS] + " …"
        data = None if retry_after is None else {"retryAfterMs": round(retry_after * 1000)}
        message = f"An error of {self.service}{status}" + (f": {said}" if said else "")
        return AgentError(message, data=data, retryable=retryable)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read how many seconds a provider wants to be left alone."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        date = email.utils.parsedate_to_datetime(headers["retry-after"])
        return max(0.0, date.timestamp() - time.time())
    except (KeyError, ValueError, OverflowError):
        return None
