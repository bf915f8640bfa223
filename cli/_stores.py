"""Which store is meant: ``jsonl``, ``jsonl:FOLDER``, ``sqlite:FILE``, ``redis://…``, or others."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from ..core.abc import SessionStore
from ..core.errors import SettingsError, StoreError, StoreInUseError, UnavailableError
from ..core.plugins import STORES, load_plugin
from ..stores._redis.settings import SCHEMES
from ..stores.jsonl import JsonlSettings
from ._values import mask_url

__all__ = [
    "DEFAULT_STORE",
    "StoreUnavailableError",
    "complete_store",
    "find_store",
    "is_same_store",
    "is_shareable",
    "state_folder",
]

#: The name alone means the folder of this user.
DEFAULT_STORE: Final = "jsonl"
#: What each policy is called by SQLite.
_SYNCHRONOUS: Final = {"always": "full", "interval": "normal", "never": "off"}


class StoreUnavailableError(SettingsError):
    """The store exists, and cannot be used.

    Attributes:
        holder: Who has it, if somebody else has.
        is_away: It may come back by itself.
    """

    def __init__(self, message: str, holder: str | None = None, *, is_away: bool = False) -> None:
        super().__init__(message)
        self.holder = holder
        self.is_away = is_away


def state_folder(environ: Mapping[str, str]) -> Path | None:
    """Find where what this user's programs remember is kept; None without a home."""
    state = environ.get("XDG_STATE_HOME") or ""
    if not Path(state).is_absolute():  # the XDG specification says to ignore it then
        if not environ.get("HOME"):
            return None
        state = str(Path(environ["HOME"]) / ".local" / "state")
    return Path(state) / "trialogue"


def complete_store(spec: str, environ: Mapping[str, str]) -> str:
    """Write out a place that was left out, or said from the home: ``jsonl``, ``jsonl:~/talks``."""
    name, colon, where = spec.partition(":")
    folder = state_folder(environ)
    if spec == DEFAULT_STORE and folder is not None:
        return f"{name}:{folder}"
    if where.startswith("~/") and environ.get("HOME"):
        return f"{name}{colon}{environ['HOME']}{where[1:]}"
    return spec


def is_same_store(spec: str, other: str) -> bool:
    """Whether two names mean one store: by another path, or through links."""
    name, _, where = spec.partition(":")
    other_name, _, other_where = other.partition(":")
    if name != other_name or name not in {"jsonl", "sqlite"}:
        return spec == other
    try:
        return Path(where).samefile(other_where)
    except OSError:  # not there, or not to be looked at: opening it says so
        return spec == other


def is_shareable(spec: str) -> bool:
    """Whether several processes may have the store that is named."""
    return spec.partition(":")[0] in SCHEMES


def find_store(
    spec: str,
    settings: JsonlSettings | None = None,
    *,
    must_exist: bool = False,
    read_only: bool = False,
    url: str | None = None,
) -> AbstractAsyncContextManager[SessionStore]:
    """Find what opens the store that ``NAME``, ``NAME:WHERE`` or a URL names.

    Args:
        spec: As from `complete_store`.
        settings: How ours are kept. Of these SQLite has the policy and the room to be left.
        must_exist: Make no new one of ours.
        read_only: It is only read, and need not be writable, if it is ours.
        url: Where clients reach the server, if it is one of several.

    Raises:
        SettingsError: There is no such store, or it is not said where.

    Opening it raises `StoreUnavailableError`, whose text is one line for people.
    """
    name, colon, where = spec.partition(":")
    open_store = load_plugin(STORES, name)
    options: dict[str, Any] = {}
    if name in {"jsonl", "sqlite"}:
        if not where:
            kind = "FOLDER" if name == "jsonl" else "FILE"
            raise SettingsError(f"store {name!r} needs to know where: {name}:{kind}")
        if must_exist and not Path(where).exists():
            raise SettingsError(f"there is no store {spec}")
        settings = settings or JsonlSettings()
        options["read_only"] = read_only
        if name == "jsonl":
            options["settings"] = settings
        else:
            options["synchronous"] = _SYNCHRONOUS[settings.fsync]
            options["min_free_bytes"] = settings.min_free_bytes
    elif is_shareable(spec):
        if not colon:
            raise SettingsError(f"store {name!r} needs to know where: {SCHEMES[name]}")
        # The name is a part of the URL.
        where = spec
        options |= {"must_exist": must_exist, "url": url}
    try:
        store = open_store(where, **options) if colon else open_store()
    except TypeError:
        wants = "takes nothing after a colon" if colon else f"needs to know where: {name}:WHERE"
        raise SettingsError(f"store {name!r} {wants}") from None
    return _open(mask_url(where or name), store)


@asynccontextmanager
async def _open(
    where: str, store: SessionStore | AbstractAsyncContextManager[SessionStore]
) -> AsyncGenerator[SessionStore]:
    async with AsyncExitStack() as stack:
        try:
            if isinstance(store, AbstractAsyncContextManager):
                opened = await stack.enter_async_context(store)
            else:
                opened = store
                stack.push_async_callback(store.aclose)
        except StoreInUseError as exc:
            raise StoreUnavailableError(str(exc), exc.holder) from exc
        except StoreError as exc:
            said = str(exc)
            raise StoreUnavailableError(
                said if where in said else f"{where}: {said}",
                is_away=isinstance(exc, UnavailableError),
            ) from exc
        except (FileExistsError, NotADirectoryError) as exc:
            raise StoreUnavailableError(f"{exc.filename or where} is not a folder") from exc
        except OSError as exc:
            raise StoreUnavailableError(f"{where}: {exc.strerror or exc}") from exc
        yield opened
