"""A store of a benchmark's own in somebody's engine: none of it is left there.

Its keys have a prefix that nobody else has, and are removed by it, whatever became of the run.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, TypeVar

import trio

from trialogue.core.errors import SettingsError, StoreError
from trialogue.core.plugins import STORES, load_object, load_plugin

__all__ = ["Account", "check_engine", "open_account", "run_in_engine", "scratch_store"]

T = TypeVar("T")
#: Reads the numbers of an engine's ``INFO``.
Account: TypeAlias = Callable[[], Awaitable[Mapping[str, float]]]

#: Keys that the engine looks at in one step: it does nothing else meanwhile.
_SCAN_COUNT: Final = 1000
#: For an engine that does not let itself be tidied.
_REMOVE_SECONDS: Final = 60.0


def run_in_engine(url: str, measure: Callable[[str], Awaitable[T]]) -> T:
    """Measure with a new store in an engine, and remove that at the end, also of what failed.

    Args:
        url: The engine.
        measure: Is given the URL of the store. All that writes there ends before it returns.

    Raises:
        SettingsError: There is no engine. The message is one line, without a password.
        SystemExit: It was told to end, with SIGTERM.
    """
    store = _scratch_url(url)
    trio.run(check_engine, store)
    try:
        return trio.run(_until_terminated, measure, store)
    finally:
        # In a run of its own: what the other one had may be cancelled, or broken.
        trio.run(_remove, store)


def _scratch_url(url: str) -> str:
    """Name a store in an engine that nobody else has."""
    mark = "&" if "?" in url else "?"
    # The number says whose it is, and is another one's on another machine.
    return f"{url}{mark}prefix=bench-{os.getpid()}-{secrets.token_hex(4)}"


@asynccontextmanager
async def scratch_store(url: str) -> AsyncGenerator[str]:
    """Give the URL of a new store in an engine, and remove that at the end."""
    store = _scratch_url(url)
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):  # bounded: by its own deadline
            await _remove(store)


async def check_engine(url: str) -> None:
    """Find out whether there is an engine, before anything is begun.

    Raises:
        SettingsError: There is none. The message is one line, without a password.
    """
    load_plugin(STORES, "redis")(url)  # says what to install
    try:
        async with open_account(url) as account:
            await account()
    except StoreError as exc:
        raise SettingsError(f"{_place(url)}: {exc}") from exc


async def _until_terminated(measure: Callable[[str], Awaitable[T]], store: str) -> T:
    """Measure, and take SIGTERM for the end of it: servers have to be ended, and keys removed."""
    token = trio.lowlevel.current_trio_token()
    scope = trio.CancelScope()

    def end(_: int, __: object) -> None:
        token.run_sync_soon(scope.cancel)

    with scope:
        before = signal.signal(signal.SIGTERM, end)
        try:
            return await measure(store)
        finally:
            signal.signal(signal.SIGTERM, before)
    raise SystemExit(128 + signal.SIGTERM)


async def _remove(store: str) -> None:
    said = "it takes too long"
    try:
        with trio.move_on_after(_REMOVE_SECONDS):
            await _remove_keys(store)
            return
    except StoreError as exc:
        said = str(exc)
    keys = f"{_settings(store).key_prefix}:*"
    print(f"{_place(store)}: the keys {keys} are left in the engine: {said}", file=sys.stderr)


async def _remove_keys(store: str) -> None:
    """Remove all that a store has in its engine, to which nobody writes any more."""
    pattern = f"{_settings(store).key_prefix}:*"
    async with _open_engine(store) as engine:
        cursor = b"0"
        while True:
            cursor, keys = await engine.ask(
                b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _SCAN_COUNT
            )
            if keys:
                await engine.ask(b"UNLINK", *keys)
            if cursor == b"0":
                return


@asynccontextmanager
async def open_account(url: str) -> AsyncGenerator[Account]:
    """Connect to an engine to read what it says of itself, beside it ``main_thread_us``.

    That is the CPU time of the thread that carries out commands, in microseconds.
    """

    async def read() -> Mapping[str, float]:
        info = _read_info(await engine.ask(b"INFO", b"ALL"))
        used = info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]
        return {**info, "main_thread_us": 1e6 * used}

    async with _open_engine(url) as engine:
        yield read


@asynccontextmanager
async def _open_engine(url: str) -> AsyncGenerator[Any]:
    open_engine = load_object("trialogue.stores._redis.connection:open_engine")

    async def greet(_: Any) -> None:
        await trio.lowlevel.checkpoint()

    async with open_engine(_settings(url), greet) as engine:
        await engine.wait_connected()
        yield engine


def _settings(url: str) -> Any:
    return load_object("trialogue.stores._redis.settings:parse_url")(url)


def _place(url: str) -> str:
    return str(_settings(url).place)


def _read_info(text: bytes) -> dict[str, float]:
    """Read the numbers of an engine's INFO."""
    numbers: dict[str, float] = {}
    for line in text.decode().splitlines():
        name, _, value = line.partition(":")
        try:
            numbers[name] = float(value)
        except ValueError:
            pass
    return numbers
