"""What `open_server` is given, looked at before anything is opened: a mistake is said at the start."""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, cast
from urllib.parse import urlsplit

from .abc import Agent, SessionStore
from .errors import SettingsError

__all__ = [
    "check_agents",
    "check_authenticator",
    "check_reach",
    "check_store",
    "check_urls",
    "describe_function",
    "is_encrypted",
    "is_function_of",
    "is_local",
]

#: Schemes of transports that no other machine can reach.
_LOCAL_SCHEMES: Final = frozenset({"loopback", "unix"})
_ENCRYPTED_SCHEMES: Final = frozenset({"https", "tcps", "wss"})


def is_function_of(found: Any, *names: str) -> bool:
    """Whether something is an async function that can be called with so many arguments."""
    if inspect.isclass(found) or not callable(found) or not _is_async(found):
        return False
    try:
        inspect.signature(found).bind(*names)
    except (TypeError, ValueError):
        return False
    return True


def _is_async(function: Any) -> bool:
    # A decorator may be a plain function that hands the coroutine on.
    return any(
        inspect.iscoroutinefunction(asked)
        for asked in (function, inspect.unwrap(function), type(function).__call__)
    )


def describe_function(found: Any) -> str:
    """Say what something is that is not the async function it should be."""
    if inspect.isclass(found):
        return "a class"
    if not callable(found):
        return f"{type(found).__name__!r} and no function"
    if inspect.isasyncgenfunction(found):
        return "an async generator"
    if _is_async(found):
        return "an async function of other parameters"
    return "not async"


def check_authenticator(authenticate: Any) -> None:
    """Check that it can be asked who a credential names.

    Raises:
        SettingsError: It would fail at the first credential.
    """
    if authenticate is not None and not is_function_of(authenticate, "credential", "peer"):
        raise SettingsError(
            f"the authenticator is {describe_function(authenticate)}: "
            "it is an async function of (credential, peer) that returns a principal or an Identity"
        )


def check_agents(agent: Any) -> dict[str, Agent]:
    """Give the agents by their names; one that has none is the ``default``.

    Raises:
        SettingsError: One is no async function of one turn, or there is none.
    """
    is_mapping = isinstance(agent, Mapping)
    agents = dict(cast("Mapping[Any, Any]", agent)) if is_mapping else {"default": agent}
    if not agents:
        raise SettingsError("a server needs at least one agent")
    for name, found in agents.items():
        if not (isinstance(name, str) and name):
            raise SettingsError(f"{name!r} is no name for an agent")
        if not is_function_of(found, "turn"):
            place = f"the agent {name!r}" if is_mapping else "the agent"
            raise SettingsError(
                f"{place} is {describe_function(found)}: an agent is an async function of one turn"
            )
    return agents


def check_store(store: Any) -> None:
    """Check that sessions can be kept in it, or in what it opens.

    Raises:
        SettingsError: It is neither.
    """
    if store is not None and not isinstance(store, (SessionStore, AbstractAsyncContextManager)):
        raise SettingsError(
            f"the store is {store!r:.80}: it is a SessionStore or what opens one, "
            "such as open_jsonl_store(folder), and None for memory"
        )


def check_urls(transports: Any) -> tuple[str, ...]:
    """Give the URLs to listen on.

    Raises:
        SettingsError: That is no list of texts.
    """
    is_list = isinstance(transports, Iterable) and not isinstance(transports, (str, bytes))
    urls = tuple(cast("Iterable[Any]", transports)) if is_list else ()
    if not is_list or not all(isinstance(url, str) for url in urls):
        raise SettingsError(
            f'transports is {transports!r:.80}: it is a list of URLs, as ["ws://127.0.0.1:8765"]'
        )
    return urls


def check_reach(url: str, *, asks: bool) -> None:
    """Check that a listener would let no strangers in.

    Args:
        url: To listen on.
        asks: Everybody is asked for a credential.

    Raises:
        SettingsError: Other machines can reach it, and TLS or credentials are missing.
    """
    missing = [] if is_encrypted(url) else ["TLS"]
    missing += [] if asks else ["credentials"]
    if missing and not is_local(url):
        raise SettingsError(
            f"{url} can be reached from other machines, without {' and '.join(missing)}"
        )


def is_encrypted(url: str) -> bool:
    """Whether what is said there is encrypted."""
    return urlsplit(url).scheme in _ENCRYPTED_SCHEMES


def is_local(url: str) -> bool:
    """Whether only this machine can connect. In doubt, no: a name may come to mean another."""
    parts = urlsplit(url)
    if parts.scheme in _LOCAL_SCHEMES or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
