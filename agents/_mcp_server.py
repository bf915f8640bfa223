"""What is to be known of an MCP server before it is reached, and where its secrets are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import unquote_plus, urlsplit

import attrs

from ..core.errors import SettingsError
from ..core.models import Effect
from ._urls import split_http_url
from .tools import ApprovalPolicy

__all__ = ["McpServer", "McpToolOptions", "Redactor", "find_hidden", "find_secrets"]

#: No underscore, so that SERVER_tool has one meaning; short, so that the tool has room.
_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,24}")
_SOURCE: Final = re.compile(r"env:[A-Za-z_]\w*|file:.+")
_VARIABLE: Final = re.compile(r"[A-Za-z_]\w*")
#: As RFC 9110 has the names of header fields.
_HEADER: Final = re.compile(r"[!#$%&'*+.^`|~\w-]+", re.ASCII)
#: In a URL's path: letters with a digit among them, or many letters; no word or version is so long.
_KEY_LIKE: Final = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w.~%+=-]{16,}|[\w.~%+=-]{32,}", re.ASCII)
#: Shorter secrets are not looked for in texts: they would be found everywhere.
_MIN_SECRET_CHARS: Final = 6
#: A list of tools has to have room.
_LEAST_ANSWER_BYTES: Final = 1024
#: A file with one secret in it.
_MAX_SECRET_BYTES: Final = 64 * 1024


def _one_of(*words: str) -> Any:
    return attrs.validators.optional(attrs.validators.in_(words))


def _some_seconds(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{attribute.name} is more than 0 seconds, not {value!r}")


def _some_bytes(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if type(value) is not int or value < _LEAST_ANSWER_BYTES:
        raise ValueError(f"{attribute.name} is at least {_LEAST_ANSWER_BYTES}, not {value!r}")


def _sources(names: re.Pattern[str]) -> Callable[[object, attrs.Attribute[Any], Any], None]:
    def check(_: object, attribute: attrs.Attribute[Any], value: Mapping[str, str]) -> None:
        for name, source in value.items():
            if not names.fullmatch(name):
                raise ValueError(f"{attribute.name}: {name!r} is no name for one")
            if not _SOURCE.fullmatch(source):
                raise ValueError(  # and does not show what may be a secret
                    f"{attribute.name}.{name}: write env:VARIABLE or file:PATH, "
                    "where the value is, and not the value"
                )

    return check


@attrs.frozen(kw_only=True)
class McpToolOptions:
    """What one tool of a server is held to be; None is what the server's options say.

    Attributes:
        effect: Of running it; see `Tool`.
        approval: Whether somebody is asked before.
        parallel: It may run beside others.
        timeout_seconds: Longer than this it fails; `math.inf` is for ever.
    """

    effect: Effect | None = attrs.field(
        default=None, validator=_one_of("none", "idempotent", "unsafe")
    )
    approval: ApprovalPolicy | None = attrs.field(
        default=None, validator=_one_of("never", "unsafe", "always")
    )
    parallel: bool | None = None
    timeout_seconds: float | None = attrs.field(default=None, validator=_some_seconds)


def _check_name(_: object, __: object, value: str) -> None:
    if not _NAME.fullmatch(value):
        raise ValueError(f"name: up to 24 letters, digits and -, not {value!r}")


def _check_token(_: object, __: object, value: str | None) -> None:
    if value is not None and not _SOURCE.fullmatch(value):
        raise ValueError("bearer_token: write env:VARIABLE or file:PATH, where it is")


def _check_url(_: object, __: object, value: str | None) -> None:
    if value is None:
        return
    parts = split_http_url(value)
    if parts is None:
        raise ValueError("url: it begins with http:// or https://, and has a host")
    if "@" in parts.netloc:
        raise ValueError("url: credentials belong into bearer_token or headers")


def _freeze(value: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(value or {})


@attrs.frozen(kw_only=True)
class McpServer(McpToolOptions):
    """An MCP server that gives tools: a program of ours, or somebody's URL.

    ``effect``, ``approval``, ``parallel`` and ``timeout_seconds`` (None is 60) hold for each of its
    tools that `tools` says nothing of. Without an ``effect``, each tool has the one that its server
    tells: ``none`` by readOnlyHint, ``idempotent`` by idempotentHint, else ``unsafe``. A server can
    lie; of one that is not trusted, say ``unsafe``.

    Secrets are named by where they are: ``env:VARIABLE`` or ``file:PATH``.

    Attributes:
        name: Stands before the names of its tools.
        command: What to run, and its arguments; talked to by standard input and output.
        url: Or where it is, for streamable HTTP.
        env: Variables of the program, by name, beside a few such as PATH and HOME; it sees no others.
        cwd: The folder that the program runs in.
        headers: Of each HTTP request.
        bearer_token: For ``Authorization: Bearer …``.
        connect_seconds: To connect, and to list its tools. A call waits so long for a server that
            is being started again.
        max_answer_bytes: Of one message that it sends. A program that sends more is ended; of a URL
            the call fails.
        required: Without it nothing starts; else it is tried until it is there.
        only: The tools that are taken, by the server's names for them. None takes all.
        tools: Options of single tools, by the server's names for them.

    Raises:
        ValueError: Something is wrong; begins with the attribute's name.
    """

    name: str = attrs.field(validator=_check_name)
    command: tuple[str, ...] = attrs.field(default=(), converter=tuple[str, ...])
    url: str | None = attrs.field(default=None, validator=_check_url)
    env: Mapping[str, str] = attrs.field(
        default=None, converter=_freeze, validator=_sources(_VARIABLE)
    )
    cwd: str | None = None
    headers: Mapping[str, str] = attrs.field(
        default=None, converter=_freeze, validator=_sources(_HEADER)
    )
    bearer_token: str | None = attrs.field(default=None, validator=_check_token)
    connect_seconds: float = attrs.field(default=30.0, validator=_some_seconds)
    max_answer_bytes: int = attrs.field(default=16 * 1024 * 1024, validator=_some_bytes)
    required: bool = True
    only: tuple[str, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(tuple[str, ...])
    )
    tools: Mapping[str, McpToolOptions] = attrs.field(default=None, converter=_freeze)

    def __attrs_post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise ValueError("command: give it or url, one of both")
        foreign = ("headers", "bearer_token") if self.command else ("env", "cwd")
        for name in foreign:
            if getattr(self, name):
                kind = "program" if self.command else "URL"
                raise ValueError(f"{name}: it is not for a {kind}")
        taken = self.tools if self.only is None else self.only
        for name in self.tools:
            if name not in taken:
                raise ValueError(f"tools.{name}: `only` leaves it out")

    @property
    def hidden(self) -> tuple[str, ...]:
        """What stands in the settings themselves, and is not to be shown."""
        return find_hidden(self.url or "")

    def options_of(self, tool: str) -> McpToolOptions:
        """Give what is said of a tool, or else of all."""
        own = self.tools.get(tool)
        if own is None:
            return self
        said = {name: value for name, value in _options(own).items() if value is not None}
        return McpToolOptions(**{**_options(self), **said})


def _options(given: McpToolOptions) -> dict[str, Any]:
    return {field.name: getattr(given, field.name) for field in attrs.fields(McpToolOptions)}


def find_hidden(url: str) -> tuple[str, ...]:
    """Find what may be secret in a URL: a query's values, and what looks like a key in its path.

    As they stand there, and as they read.
    """
    parts = urlsplit(url)
    found = [value for pair in parts.query.split("&") for value in pair.split("=", 1)[-1:]]
    found += [step for step in parts.path.split("/") if _KEY_LIKE.fullmatch(step)]
    return tuple(
        dict.fromkeys(each for text in found if text for each in (text, unquote_plus(text)))
    )


def find_secrets(
    place: str, sources: Mapping[str, str], environ: Mapping[str, str]
) -> dict[str, str]:
    """Find the values of what is named by its source.

    Blocks: a file is read.

    Raises:
        SettingsError: One is not there; names the place, and not the value.
    """
    return {
        name: _find_secret(f"{place}.{name}", source, environ) for name, source in sources.items()
    }


def _find_secret(place: str, source: str, environ: Mapping[str, str]) -> str:
    kind, _, where = source.partition(":")
    if kind == "env":
        if not environ.get(where):
            raise SettingsError(f"{place}: the variable {where} is not set")
        value = environ[where]
    else:
        try:
            with Path(where).expanduser().open("rb") as file:
                content = file.read(_MAX_SECRET_BYTES + 1)
            value = content.decode().strip()
        except OSError as exc:
            raise SettingsError(f"{place}: {where}: {exc.strerror}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{place}: {where} is not UTF-8") from None
        if not value or len(content) > _MAX_SECRET_BYTES:
            raise SettingsError(f"{place}: {where} is {'too large' if value else 'empty'}")
    if not value.isprintable():
        raise SettingsError(f"{place}: {source} has a line break or a control character in it")
    return value


class Redactor:
    """Takes secrets out of what is shown."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first: one may be the beginning of another.
        parts = {part for s in secrets for part in (s, s.rpartition(" ")[2])}  # Bearer SECRET
        found = sorted((s for s in parts if len(s) >= _MIN_SECRET_CHARS), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, found))) if found else None

    def text(self, text: str) -> str:
        """Give a text without them."""
        return text if self._pattern is None else self._pattern.sub("***", text)

    def value(self, value: Any) -> Any:
        """Give a JSON value without them."""
        if self._pattern is None:
            return value
        match value:
            case str():
                return self.text(value)
            case list():
                return [self.value(item) for item in cast("Sequence[Any]", value)]
            case dict():
                given = cast("Mapping[str, Any]", value)
                return {self.text(key): self.value(item) for key, item in given.items()}
            case _:
                return value
