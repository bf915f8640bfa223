"""What `open_server` is given, looked at before anything is opened: a mistake is said at the start."""

from __future__ import annotations

import inspect
from typing import Any

from .errors import SettingsError

__all__ = ["check_authenticator", "describe_function", "is_function_of"]


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
            "it is an async function of (credential, peer) that returns a principal"
        )
