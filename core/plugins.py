"""Finds transports, stores and agents by name, ours and other people's, as entry points.

Nothing is imported before its name is asked for, so that a server with a built-in agent pays for
no model SDK, and the core knows no transport.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final
from urllib.parse import urlsplit

from .abc import Transport
from .errors import SettingsError

__all__ = ["find_transport", "list_plugins", "load_object", "load_plugin"]

TRANSPORTS: Final = "trialogue.transports"
STORES: Final = "trialogue.stores"
AGENTS: Final = "trialogue.agents"


def list_plugins(group: str) -> dict[str, EntryPoint]:
    """Name what is installed in a group of entry points."""
    return _scan(group, tuple(sys.path))


@cache
def _scan(group: str, _path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Read the metadata of every installed package: some 7 ms, so once for a path."""
    return {point.name: point for point in entry_points(group=group)}


def load_plugin(group: str, name: str) -> Any:
    """Import the object that an entry point names.

    Raises:
        SettingsError: There is none of that name; the message lists those there are.
    """
    plugins = list_plugins(group)
    if name not in plugins:
        kind = group.rpartition(".")[2].removesuffix("s")
        raise SettingsError(
            f"unknown {kind} {name!r}: there are {', '.join(sorted(plugins)) or 'none installed'}"
        )
    return plugins[name].load()


def find_transport(url: str) -> Transport:
    """Find the transport for a URL's scheme.

    Raises:
        SettingsError: No installed transport has that scheme.
    """
    scheme = urlsplit(url).scheme
    if not scheme:
        raise SettingsError(f"{url!r} is not a URL such as ws://127.0.0.1:8765")
    transport = load_plugin(TRANSPORTS, scheme)
    if not isinstance(transport, Transport):
        raise SettingsError(f"the transport {scheme!r} is not a trialogue Transport")
    return transport


def load_object(path: str) -> Any:
    """Import ``module:name`` (``module:name.attribute`` too), the way ASGI servers name an app.

    Raises:
        SettingsError: The module or the name does not exist; says which.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise SettingsError(f"{path!r} is not of the form module:name")
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (module_name + ".").startswith(exc.name + "."):
            raise SettingsError(f"{path!r}: there is no module {exc.name!r}") from None
        raise SettingsError(f"{path!r}: importing it failed: {exc}") from exc
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise SettingsError(f"{path!r}: module {module_name!r} has no {name!r}") from None
    return found
