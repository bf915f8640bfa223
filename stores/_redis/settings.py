"""Where an engine is, how it is talked to, and what a store in it is called: from a URL."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs

from ...core.errors import SettingsError

__all__ = ["SCHEMES", "RedisSettings", "parse_url"]

#: What a URL may begin with, and what is to follow; ``rediss`` is TLS.
SCHEMES: Final[Mapping[str, str]] = {
    "redis": "redis://HOST:PORT/0",
    "rediss": "rediss://HOST:PORT/0",
    "redis+unix": "redis+unix:///PATH",
    "redis+sentinel": "redis+sentinel://HOST:PORT/SERVICE/0",
    "rediss+sentinel": "rediss+sentinel://HOST:PORT/SERVICE/0",
    "redis+cluster": "redis+cluster://HOST:PORT/0",
    "rediss+cluster": "rediss+cluster://HOST:PORT/0",
}
PORT: Final = 6379
SENTINEL_PORT: Final = 26379


def _check_prefix(_: object, __: object, value: str) -> None:
    # A brace would be taken for the tag that says in which slot a key is.
    if not value or any(c in "{}*?[]\\" or not c.isprintable() or c.isspace() for c in value):
        raise SettingsError(f"prefix: {value!r} is no beginning of a key")


def _check_range(least: float, most: float) -> Callable[[object, Any, float], None]:
    def check(_: object, attribute: Any, value: float) -> None:
        if not math.isfinite(value) or not least <= value <= most:
            raise SettingsError(f"{attribute.name}: {value:g} is not from {least:g} to {most:g}")

    return check


def _check_by_slot(settings: RedisSettings, _: object, value: bool) -> None:
    if value and settings.database:
        raise SettingsError(
            f"the database: {settings.database} is not 0, the only one of a Redis Cluster"
        )


@attrs.frozen(kw_only=True)
class RedisSettings:
    """How a store reaches its engine, and what it asks of it.

    Attributes:
        addresses: Host and port of the engine; of the sentinels, where there is a ``service``; of
            some engines of the Redis Cluster, where it is found ``by_slot``.
        path: Of a unix socket, in place of an address.
        service: What the sentinels call the engine; None is no sentinel.
        by_slot: The engine is whichever of a Redis Cluster has the slot of ``prefix``.
        database: The engine's, by number.
        username: None is the engine's default user.
        password: None is no authentication.
        is_tls: Whether TLS is spoken. The engine's certificate has to be of its host name.
        ca: A file of certificates that are trusted; None trusts those of the system.
        cert: A file with the certificate chain of this side, if it has one.
        key: A file with its key.
        prefix: All keys begin with it: several stores can share an engine.
        replicas: So many replicas must have an append before it is acknowledged.
        lease_seconds: How long this process is taken to be alive after it was last heard of. It
            renews that at 0.3 of it, and at 0.8 of it takes itself to be cut off: appends that
            have waited so long for the engine fail.
        connect_seconds: For a new connection, with its greeting.
    """

    addresses: tuple[tuple[str, int], ...] = (("127.0.0.1", PORT),)
    path: str | None = None
    service: str | None = None
    database: int = attrs.field(default=0, validator=_check_range(0, 2**31 - 1))
    by_slot: bool = attrs.field(default=False, validator=_check_by_slot)
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    is_tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    prefix: str = attrs.field(default="trialogue", validator=_check_prefix)
    replicas: int = attrs.field(default=0, validator=_check_range(0, 100))
    lease_seconds: float = attrs.field(default=10.0, validator=_check_range(0.1, 3600))
    connect_seconds: float = attrs.field(default=5.0, validator=_check_range(0.1, 600))

    @property
    def patience_seconds(self) -> float:
        """How long what is to be written waits for an engine that is away."""
        return 0.8 * self.lease_seconds

    @property
    def answer_seconds(self) -> float:
        """How long an answer may take: two tries are within the patience."""
        return 0.4 * self.lease_seconds

    @property
    def key_prefix(self) -> str:
        """What all keys begin with. In braces it is the tag that keeps them in one slot."""
        return f"{{{self.prefix}}}" if self.by_slot else self.prefix

    @property
    def place(self) -> str:
        """Where the engine is, for people; without a password."""
        if self.path is not None:
            return self.path
        where = ",".join(f"{host}:{port}" for host, port in self.addresses)
        if self.by_slot:
            return f"the Redis Cluster of {where}"
        return where if self.service is None else f"{self.service} of the sentinels {where}"


_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "prefix": str,
    "replicas": int,
    "lease_seconds": float,
    "connect_seconds": float,
    "ca": str,
    "cert": str,
    "key": str,
}


def parse_url(url: str) -> RedisSettings:
    """Read ``redis://USER:PASSWORD@HOST:PORT/DATABASE?OPTION=…`` and its like.

    ``rediss`` is TLS, ``redis+unix:///PATH?db=0`` a unix socket.
    ``redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE`` asks sentinels where the engine is,
    ``redis+cluster://HOST:PORT,HOST:PORT`` engines of a Redis Cluster. Both are there with
    ``rediss`` too: TLS is spoken with all of them.

    Raises:
        SettingsError: It has another form, or an option that is not known or of a wrong kind.
            The message has no password in it.
    """
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES or not url.startswith(f"{scheme}://"):
        raise SettingsError(f"not of the form {' or '.join(f'{each}://…' for each in SCHEMES)}")
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise SettingsError("not a URL that can be read") from None
    try:
        return _read_parts(parts, dict(query))
    except SettingsError:
        if ":" in parts.netloc and "@" in parts.path + parts.query:
            # What is wrong is perhaps a part of a password, which is not to be shown.
            raise SettingsError(
                "not a URL that can be read; a '/' or '?' in a password is written %2F or %3F"
            ) from None
        raise


def _read_parts(parts: SplitResult, given: Mapping[str, str]) -> RedisSettings:
    if parts.fragment:
        raise SettingsError("a '#' in a URL, in a password too, is written %23")
    secure, _, kind = parts.scheme.partition("+")
    known = {*_OPTIONS, "db"} if kind == "unix" else {*_OPTIONS}
    found = _read_options(given, known, is_tls=secure == "rediss")
    login, at, where = parts.netloc.rpartition("@")
    if at:
        username, colon, password = login.partition(":")
        found["username"] = unquote(username) or None
        found["password"] = unquote(password) if colon else None
    path = unquote(parts.path)
    if kind == "unix":
        if where or not path.strip("/"):
            raise SettingsError("a unix socket is said as redis+unix:///PATH")
        found["path"] = path
    elif kind == "sentinel":
        service, _, path = path.lstrip("/").partition("/")
        if not service:
            raise SettingsError("sentinels are said as redis+sentinel://HOST:PORT/SERVICE")
        found["service"] = service
        found["addresses"] = _read_addresses(where, SENTINEL_PORT)
    elif kind == "cluster":
        found["by_slot"] = True
        found["addresses"] = _read_addresses(where, PORT)
    else:
        found["addresses"] = (_read_address(where, PORT),)
    if kind != "unix" and path.strip("/"):
        found["database"] = _read(int, "the database", path.strip("/"))
    return RedisSettings(**found)


def _read_options(given: Mapping[str, str], known: set[str], *, is_tls: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"is_tls": is_tls}
    for name, text in given.items():
        if name not in known:
            raise SettingsError(f"unknown option {name!r}: there are {', '.join(sorted(known))}")
        if name == "db":
            found["database"] = _read(int, name, text)
        else:
            found[name] = _read(_OPTIONS[name], name, text)
    for name in ("ca", "cert", "key"):
        if name in found and not is_tls:
            raise SettingsError(f"{name} is for rediss")
    if ("cert" in found) != ("key" in found):
        raise SettingsError("cert and key belong together")
    return found


def _read(kind: Callable[[str], Any], name: str, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise SettingsError(f"{name}: {text!r} is not a number") from None


def _read_addresses(text: str, default: int) -> tuple[tuple[str, int], ...]:
    return tuple(_read_address(one, default) for one in text.split(","))


def _read_address(text: str, default: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        raise SettingsError(f"{text!r} is not of the form HOST:PORT") from None
    if not parts.hostname:
        raise SettingsError("the URL names no host")
    return parts.hostname, default if port is None else port
