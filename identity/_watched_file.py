"""A file that is read again when it has changed, so that nobody need restart a server for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final, Generic, NoReturn, TypeVar

import trio

from ..core.errors import SettingsError

__all__ = ["LOOK_SECONDS", "WatchedFile"]

T = TypeVar("T")

log = logging.getLogger("trialogue.identity")

#: Between two looks at a file: what is taken back in it holds no more within 5 s (PROTOCOL §3.6).
LOOK_SECONDS: Final = 1.0


class WatchedFile(Generic[T]):
    """A file of credentials or keys.

    Args:
        path: Of the file.
        parse: Makes something of its content, or raises `SettingsError`.
        nothing: What it stands for when it is gone.
        max_bytes: A larger one is none.
    """

    def __init__(
        self, path: str, parse: Callable[[bytes], T], nothing: T, *, max_bytes: int
    ) -> None:
        self.path = path
        self._parse = parse
        self._nothing = nothing
        self._max_bytes = max_bytes
        #: What tells that it is the one that was read last; None if there was none.
        self._seen: tuple[int, ...] | None = None

    def load(self) -> T:
        """Read it for the first time.

        Raises:
            SettingsError: It cannot be read, or others may write it.
        """
        try:
            return self._read()
        except OSError as exc:
            raise SettingsError(f"{self.path}: {exc.strerror or exc}") from exc

    def look(self) -> T | None:
        """Read it if it has changed since it was read last; None if it has not.

        One that cannot be read changes nothing, and the log says so; one that is gone is empty.
        """
        try:
            if _signature(os.stat(self.path)) == self._seen:
                return None
            return self._read()
        except FileNotFoundError:
            if self._seen is None:
                return None
            self._seen = None
            log.warning("%s is gone: nobody is let in by it", self.path)
            return self._nothing
        except (OSError, SettingsError) as exc:
            log.error("what was known before is used on: %s", exc)  # it names the file
            return None

    async def watch(self, changed: Callable[[T], None], seconds: float = LOOK_SECONDS) -> NoReturn:
        """Look again and again, and tell what it holds when that has changed."""
        while True:
            await trio.sleep(seconds)
            found = await trio.to_thread.run_sync(self.look)
            if found is not None:
                log.info("%s was read again", self.path)
                changed(found)

    def _read(self) -> T:
        with open(self.path, "rb") as file:
            # First: what is written meanwhile is seen at the next look. So is one that is refused
            # not looked at again until it changes.
            status = os.fstat(file.fileno())
            self._seen = _signature(status)
            if status.st_mode & 0o022:
                raise SettingsError(f"{self.path} can be written by others: chmod 600 it")
            content = file.read(self._max_bytes + 1)
        if len(content) > self._max_bytes:
            raise SettingsError(f"{self.path} has more than {self._max_bytes} bytes")
        try:
            return self._parse(content)
        except SettingsError as exc:
            raise SettingsError(f"{self.path}: {exc}") from exc


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode
