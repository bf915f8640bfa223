"""Where the engine is: at an address, or wherever sentinels or others of its Redis Cluster say.

One of those may be down, and one that is cut off may still say what was true before: each time
somebody else is asked first. Which engines a Redis Cluster has is remembered, so that those which
the settings name may be gone.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

import trio

from ...core.errors import StoreError
from .errors import AwayError, RefusedError
from .settings import RedisSettings

__all__ = ["Address", "AskAt", "Finder"]

Address: TypeAlias = tuple[str, int]
#: Gives a command to whoever is at an address, and returns the answer.
AskAt: TypeAlias = Callable[..., Awaitable[Any]]

#: Of a Redis Cluster.
SLOTS: Final = 16384
#: The host of an engine that is to have a name, and has none.
UNKNOWN: Final = "?"
#: So many that answer nothing leave time to ask another one.
MOST_SILENT: Final = 4


class Finder:
    """Finds an engine.

    Args:
        settings: Whose engine.
        ask_at: Asks a sentinel or an engine, on a connection for that alone.
    """

    def __init__(self, settings: RedisSettings, ask_at: AskAt) -> None:
        self._settings = settings
        self._ask_at = ask_at
        self._slot = crc_hqx(settings.prefix.encode(), 0) % SLOTS
        #: Whom to ask, the next one first.
        self._guides = list(settings.addresses)

    async def find(self) -> Address | None:
        """Give the engine's address; None where it is a path.

        Raises:
            AwayError: Nobody knows it now. The message says what each of them answered.
        """
        settings = self._settings
        if settings.path is not None:
            return None
        if settings.service is not None:
            return await self._ask_in_turn(self._ask_sentinel)
        if settings.by_slot:
            return await self._ask_in_turn(self._ask_engine)
        return settings.addresses[0]

    async def _ask_in_turn(self, ask: Callable[[Address], Awaitable[Address]]) -> Address:
        guides = tuple(self._guides)
        seconds = self._settings.connect_seconds / (min(len(guides), MOST_SILENT) + 1)
        #: Who answered so.
        failures: dict[str, list[str]] = {}
        for guide in guides:
            self._guides.remove(guide)
            self._guides.append(guide)
            try:
                with trio.fail_after(seconds):
                    return await ask(guide)
            except StoreError as exc:
                said = str(exc)
            except trio.TooSlowError:
                said = "it does not answer"
            failures.setdefault(said, []).append(f"{guide[0]}:{guide[1]}")
        raise AwayError("; ".join(f"{', '.join(who)}: {said}" for said, who in failures.items()))

    async def _ask_sentinel(self, guide: Address) -> Address:
        service = self._settings.service
        try:
            found = await self._ask_at(guide, b"SENTINEL GET-MASTER-ADDR-BY-NAME", service)
        except RefusedError as exc:
            if "unknown command" in str(exc):
                raise AwayError("it is no sentinel") from exc
            raise
        if found is None:
            raise AwayError(f"the sentinels know no {service!r}")
        return found[0].decode(), int(found[1])

    async def _ask_engine(self, guide: Address) -> Address:
        try:
            parts = await self._ask_at(guide, b"CLUSTER SLOTS")
        except RefusedError as exc:
            if "cluster support disabled" in str(exc):
                raise AwayError("it is of no Redis Cluster") from exc
            raise
        known = dict.fromkeys(self._settings.addresses)
        primary: Sequence[Any] | None = None
        for first, last, *engines in parts:
            known |= dict.fromkeys(_read_address(engine, guide) for engine in engines)
            if first <= self._slot <= last:
                primary = engines[0]
        if primary is None:
            raise AwayError(f"no engine has slot {self._slot}, that of {self._settings.prefix!r}")
        found = _read_address(primary, guide)
        if found[0] == UNKNOWN:
            raise AwayError("the engines are to say their host names, and have none")
        self._guides = [each for each in self._guides if each in known]
        self._guides += [each for each in known if each not in self._guides and each[0] != UNKNOWN]
        return found


def _read_address(engine: Sequence[Any], guide: Address) -> Address:
    """Read what an engine says of one. The host that it leaves out is its own."""
    host, port, *_ = engine
    return host.decode() if host else guide[0], int(port)
