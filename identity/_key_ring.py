"""The public keys that tokens may be signed by, from a file or a URL, as they come and go."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final, NoReturn

import attrs
import trio

from ..core.abc import Revocation
from ..core.errors import OverloadedError, SettingsError
from ._fetching import FETCH_SECONDS, check_fetchable, fetch
from ._joserfc import SigningKey, parse_key_set
from ._watched_file import LOOK_SECONDS, WatchedFile

__all__ = ["FileKeys", "HeldKey", "KeyRing", "UrlKeys"]

log = logging.getLogger("trialogue.identity")

#: A hundred keys are less.
MAX_SET_BYTES: Final = 256 * 1024
#: Between two looks at a URL: what is taken out there ends its connections then.
REFRESH_SECONDS: Final = 300.0
#: Not sooner, whatever keys strangers name: theirs are no reason to ask the issuer a thousand times.
MIN_REFRESH_SECONDS: Final = 10.0


@attrs.frozen
class HeldKey:
    """A key, and what tells of its end."""

    key: SigningKey
    revocation: Revocation


class KeyRing(ABC):
    """Keys by their ids. Those that are taken out end what they have opened."""

    def __init__(self) -> None:
        self._held: dict[str, HeldKey] = {}
        #: Counts how often they have changed.
        self.version = 0

    def _take(self, keys: Mapping[str, SigningKey]) -> None:
        """Hold these keys to be valid from now on, and no others."""
        before, self._held = self._held, {}
        for key in keys.values():
            held = before.get(key.id)
            if held is None or held.key != key:
                held = HeldKey(key, Revocation())
            self._held[key.id] = held
        gone = [held for held in before.values() if self._held.get(held.key.id) is not held]
        if gone or len(before) != len(self._held):
            self.version += 1
            log.info("tokens may be signed by %d keys", len(self._held), extra={"gone": len(gone)})
        for held in gone:
            held.revocation.revoke()

    def _look_up(self, key_id: str | None) -> HeldKey | None:
        if key_id is None and len(self._held) == 1:
            return next(iter(self._held.values()))
        return None if key_id is None else self._held.get(key_id)

    async def find(self, key_id: str | None) -> HeldKey | None:
        """Find the key of an id. A token that names none means the only one, if there is but one.

        Raises:
            OverloadedError: Nobody can say yet.
        """
        await trio.lowlevel.checkpoint()
        return self._look_up(key_id)

    async def open(self) -> None:
        """Get what there is, before anybody comes."""
        await trio.lowlevel.checkpoint()

    @abstractmethod
    async def watch(self) -> None:
        """Follow what becomes of the keys, until cancelled."""


class FileKeys(KeyRing):
    """The keys of a JWKS in a file.

    Raises:
        SettingsError: It cannot be read.
    """

    def __init__(self, path: str, *, look_seconds: float = LOOK_SECONDS) -> None:
        super().__init__()
        nothing: dict[str, SigningKey] = {}
        self._file = WatchedFile(path, parse_key_set, nothing, max_bytes=MAX_SET_BYTES)
        self._look_seconds = look_seconds
        self._take(self._file.load())

    async def watch(self) -> NoReturn:
        await self._file.watch(self._take, self._look_seconds)


class UrlKeys(KeyRing):
    """The keys of a JWKS that its issuer publishes.

    They are fetched now and then, and when a token names one that is not known: that is how an
    issuer changes keys. A set that cannot be had changes nothing.

    Args:
        url: ``https://…``, or ``http://`` on this machine.
        refresh_seconds: Between two fetches.
        min_refresh_seconds: The same where tokens name keys that are not known.

    Raises:
        SettingsError: The URL cannot be trusted.
    """

    def __init__(
        self,
        url: str,
        *,
        refresh_seconds: float = REFRESH_SECONDS,
        min_refresh_seconds: float = MIN_REFRESH_SECONDS,
    ) -> None:
        super().__init__()
        check_fetchable(url)
        self._url = url
        self._refresh_seconds = refresh_seconds
        self._min_refresh_seconds = min_refresh_seconds
        #: It was fetched just now.
        self._is_fresh = False
        self._wanted = trio.Event()
        self._fetched = trio.Event()

    async def find(self, key_id: str | None) -> HeldKey | None:
        held = self._look_up(key_id)
        if held is None and not self._is_fresh:
            self._wanted.set()
            # The same fetch for all who wait.
            with trio.move_on_after(FETCH_SECONDS + 1):
                await self._fetched.wait()
            held = self._look_up(key_id)
        if held is None and not self._held:
            raise OverloadedError(
                "The issuer's keys cannot be had at the moment", data={"retryAfterMs": 2000}
            )
        await trio.lowlevel.checkpoint()
        return held

    async def open(self) -> None:
        await self._fetch()

    async def watch(self) -> NoReturn:
        while True:
            await trio.sleep(self._min_refresh_seconds)
            self._is_fresh = False
            if self._held:
                with trio.move_on_after(
                    max(0.0, self._refresh_seconds - self._min_refresh_seconds)
                ):
                    await self._wanted.wait()
            await self._fetch()

    async def _fetch(self) -> None:
        try:
            with trio.fail_after(2 * FETCH_SECONDS):
                content = await trio.to_thread.run_sync(
                    fetch, self._url, MAX_SET_BYTES, abandon_on_cancel=True
                )
            self._take(parse_key_set(content))
        except (OSError, SettingsError, trio.TooSlowError) as exc:
            log.error("the keys at %s cannot be had: %s", self._url, str(exc) or repr(exc))
        finally:
            self._is_fresh = True
            self._wanted = trio.Event()
            fetched, self._fetched = self._fetched, trio.Event()
            fetched.set()
