"""What models behind HTTP have in common: a client, attempts, and errors that can be shown."""

from __future__ import annotations

import email.utils
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from ..core._json import as_object
from ..core.errors import AgentError, SettingsError
from ._retrying import Patience, retry
from ._secrets import Secret, find_secret
from ._streaming import Reader, StreamFailedError, http_timeout, read_reply, tls_context
from ._tool_names import restore_names, send_names
from ._urls import split_http_url
from .model import Model, ModelReply, ModelRequest, WriteText

if TYPE_CHECKING:
    import httpx2

    from ..core.models import MessageKind

__all__ = ["ApiResponse", "HttpModel", "import_extra"]

ClientT = TypeVar("ClientT")

#: What is sent as a key where none is needed: the header must be there.
_NO_KEY: Final = "none"

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


def _check_url(url: str, source: str) -> str:
    """Check where a provider is to be found.

    Raises:
        SettingsError: That is no HTTP URL. It is not shown: there may be a password in it.
    """
    if split_http_url(url) is None:
        raise SettingsError(f"{source} is not a URL such as http://127.0.0.1:8080/v1")
    return url


def _find_words(body: object) -> str | None:
    """Find what a provider says of its failure in the body of its response."""
    for name in ("error", "message", "detail"):
        found = as_object(body)
        if found is not None and name in found:
            body = found[name]
    # A page of HTML is a proxy's, and says nothing.
    return body if isinstance(body, str) and not body.lstrip().startswith("<") else None


class ApiResponse(Protocol):
    """What the SDKs give for a request whose body is not read."""

    @property
    def http_response(self) -> httpx2.Response:
        """What is behind it."""
        ...


class HttpModel(Model, Generic[ClientT]):
    """A model behind HTTP, by its provider's SDK. Those that there are were made by one generator.

    Attributes:
        extra: Of ours, and the SDK's name. Its variables are called after it.
        title: The provider's name for people.
        original_url: Where the provider itself is, and a key is needed.
        client_class: Of the SDK.
        final_codes: Of errors that another attempt does not mend, though their status says so.
        service: Whom this model asks, for errors: the provider, or another server.
        patience: How long it waits, and how often it asks.
    """

    extra: ClassVar[str]
    title: ClassVar[str]
    original_url: ClassVar[str]
    client_class: ClassVar[str]
    final_codes: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        name: str,
        *,
        api_key: str | None,
        base_url: str | None,
        window_tokens: int | None,
        patience: Patience | None,
        environ: Mapping[str, str],
    ) -> None:
        self._sdk = import_extra(self.extra, self.extra)
        prefix = self.extra.upper()
        source = "base_url" if base_url else f"{prefix}_BASE_URL"
        url = base_url or environ.get(f"{prefix}_BASE_URL") or self.original_url
        self._base_url = _check_url(url, source)
        host = urlsplit(url).hostname
        self.is_original = host == urlsplit(self.original_url).hostname
        key_name = f"{prefix}_API_KEY"
        self._secret = Secret(api_key) if api_key else find_secret(key_name, environ)
        if self._secret is None and self.is_original:
            raise SettingsError(
                f"{self.title} wants a key: set {key_name}, or {key_name}_FILE to a file with it; "
                f"or {prefix}_BASE_URL to another server"
            )
        self.name = name
        self.window_tokens = window_tokens
        self.service = self.title if self.is_original else f"the model server at {host}"
        self.patience = patience or Patience()
        self._client: ClientT | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @abstractmethod
    def _send(
        self, client: ClientT, request: ModelRequest
    ) -> AbstractAsyncContextManager[ApiResponse]:
        """Ask, and give what comes back, with its body not read."""

    @abstractmethod
    def _make_reader(self, request: ModelRequest, write: WriteText) -> Reader:
        """Make what reads one answer."""

    def _note_reply(self, reader: Reader, reply: ModelReply) -> None:
        """Keep what the next request needs of an answer."""

    @asynccontextmanager
    async def _open_client(self) -> AsyncGenerator[ClientT]:
        client: Any = getattr(self._sdk, self.client_class)(
            api_key=self._secret.reveal() if self._secret else _NO_KEY,
            base_url=self._base_url,
            max_retries=0,  # ours are the only ones
            timeout=http_timeout(self.patience.connect_seconds, self.patience.silence_seconds),
            http_client=self._sdk.DefaultAsyncHttpxClient(verify=tls_context()),
        )
        async with client:
            yield client

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

        request, names = send_names(request)
        if self._client is not None:
            reply = await self._attempt(self._client, request, write_on, lambda: has_begun)
        else:
            async with self._open_client() as client:
                reply = await self._attempt(client, request, write_on, lambda: has_begun)
        return restore_names(reply, names)

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
                    reply = await read_reply(response.http_response, reader, self.service)
                self._note_reply(reader, reply)
                return reply
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

    def _explain(self, exc: Exception) -> AgentError | None:
        """Say what an exception of the SDK means, None if it is none of those."""
        if isinstance(exc, self._sdk.APITimeoutError):
            return self.silence()
        if isinstance(exc, self._sdk.APIStatusError):
            error: Any = exc
            final = getattr(error, "code", None) in self.final_codes
            words = _find_words(error.body)
            return self.refusal(error.status_code, error.response.headers, words, final=final)
        if isinstance(exc, self._sdk.APIConnectionError):
            return self.broken()
        return None

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
