"""Finds transports, stores and agents by name, ours and other people's, as entry points.

Nothing is imported before its name is asked for, so that a server with a built-in agent pays for
no model SDK, and the core knows no transport.
"""

from __future__ import annotations

import os
import sys
import traceback
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any, Final, cast
from urllib.parse import urlsplit

from .abc import Transport
from .errors import SettingsError

__all__ = ["explain_import", "find_transport", "list_plugins", "load_object", "load_plugin"]

TRANSPORTS: Final = "trialogue.transports"
STORES: Final = "trialogue.stores"
AGENTS: Final = "trialogue.agents"


def list_plugins(group: str) -> dict[str, EntryPoint]:
    """Name what is installed in a group of entry points."""
    return dict(_list_plugins(tuple(sys.path), group))


@cache
def _list_plugins(path: tuple[str, ...], group: str) -> dict[str, EntryPoint]:
    """Select from hundreds of them, of every package: a millisecond, which each connect needs."""
    return {point.name: point for point in _scan(path).select(group=group)}


@cache
def _scan(_path: tuple[str, ...]) -> EntryPoints:
    """Read the metadata of every installed package: some 7 ms, so once for a path and all groups."""
    # Python 3.11 gives something else, which selects as well.
    return cast("EntryPoints", entry_points())


def load_plugin(group: str, name: str) -> Any:
    """Import the object that an entry point names.

    Raises:
        SettingsError: There is none of that name, and the message lists those there are; or
            importing it failed.
    """
    plugins = list_plugins(group)
    kind = group.rpartition(".")[2].removesuffix("s")
    if name not in plugins:
        raise SettingsError(
            f"unknown {kind} {name!r}: there are {', '.join(sorted(plugins)) or 'none installed'}"
        )
    try:
        return plugins[name].load()
    except (Exception, SystemExit) as exc:  # whatever somebody's module does
        raise SettingsError(f"{kind} {name!r} cannot be imported: {explain_import(exc)}") from exc


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

    The current folder is made importable for it, as ``python -m`` has it.

    Raises:
        SettingsError: The module or the name does not exist, or importing failed; says which.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise SettingsError(f"{path!r} is not of the form module:name")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # for good, since the module may import later
    try:
        found: Any = import_module(module_name)
    except (Exception, SystemExit) as exc:  # whatever somebody's module does
        missing = exc.name if isinstance(exc, ModuleNotFoundError) else None
        if missing is not None and (module_name + ".").startswith(missing + "."):
            raise SettingsError(f"{path!r}: there is no module {missing!r}") from None
        raise SettingsError(f"{path!r}: importing it failed: {explain_import(exc)}") from exc
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise SettingsError(f"{path!r}: module {module_name!r} has no {name!r}") from None
    return found


def explain_import(exc: BaseException) -> str:
    """Say why importing failed and, since no traceback is shown, where."""
    if isinstance(exc, ModuleNotFoundError):
        return str(exc)
    where = ""
    frames = traceback.extract_tb(exc.__traceback__)
    if frames and not isinstance(exc, SyntaxError):
        where = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})"
    return f"{type(exc).__name__}: {exc}{where}"
