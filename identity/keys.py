"""API keys: random secrets in a file, for programs that come in by themselves.

    async with open_server(agent, authenticate=ApiKeys("keys.jsonl"), transports=[…]):
        ...

``trialogue keys create|list|revoke`` and the functions here write the file; a server that runs
sees it within a second or two.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import trio

from ..core._clock import utc_now
from ..core._json import as_object
from ..core.abc import Identity, PeerInfo, Revocation
from ..core.errors import UnauthorizedError
from ..core.methods import Credential
from ._key_file import (
    MAX_FILE_BYTES,
    ApiKey,
    create_key,
    hash_secret,
    parse_keys,
    read_keys,
    split_token,
)
from ._key_file import revoke_key as revoke_key
from ._watched_file import LOOK_SECONDS, WatchedFile

__all__ = ["ApiKey", "ApiKeys", "create_key", "read_keys", "read_uses", "revoke_key"]

log = logging.getLogger("trialogue.identity")

#: Between two notes of which keys were used: nobody asks for it to the second.
NOTE_SECONDS: Final = 60.0
#: What every other key is compared with: no secret has this hash.
_NO_HASH: Final = "0" * 64
#: Behind the name of the file of keys. Apart from it, since the server writes this one.
_USES: Final = ".used"


@attrs.frozen
class _Known:
    key: ApiKey
    identity: Identity


class ApiKeys:
    """An authenticator by a file of keys, which is read again when it changes.

    A key is taken as ``apiKey`` and as ``bearer``, which is all that a header can say.

    Args:
        path: The file's. It has to be there, and may be empty.
        look_seconds: Between two looks whether it has changed.
        note_seconds: Between two notes of the last uses.

    Raises:
        SettingsError: It cannot be read.
    """

    def __init__(
        self, path: str, *, look_seconds: float = LOOK_SECONDS, note_seconds: float = NOTE_SECONDS
    ) -> None:
        nothing: dict[str, ApiKey] = {}
        self._file = WatchedFile(path, parse_keys, nothing, max_bytes=MAX_FILE_BYTES)
        self._look_seconds = look_seconds
        self._note_seconds = note_seconds
        self._known: dict[str, _Known] = {}
        self._used: dict[str, str] = {}
        self._take(self._file.load())

    async def __call__(self, credential: Credential, peer: PeerInfo, /) -> Identity:
        await trio.lowlevel.checkpoint()
        parts = split_token(credential.token)
        key_id, secret = ("", "") if parts is None else parts
        known = self._known.get(key_id)
        # As much work, and the same answer, for an id that there is and for one that there is not.
        is_right = hmac.compare_digest(
            hash_secret(secret), _NO_HASH if known is None else known.key.hash
        )
        if known is None or not is_right or _is_over(known.identity):
            raise UnauthorizedError("Not a valid credential")
        self._used[key_id] = utc_now()
        return known.identity

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Look after the file, as long as the block lasts."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._file.watch, self._take, self._look_seconds)
            nursery.start_soon(self._note_uses)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel(reason="the server ends")
                with trio.move_on_after(1, shield=True):
                    await self._note()

    def _take(self, keys: Mapping[str, ApiKey]) -> None:
        """Hold these keys to be valid from now on, and no others."""
        before, self._known = self._known, {}
        for key in keys.values():
            if key.revoked_at is not None:
                continue
            known = before.get(key.id)
            if known is None or known.key != key:
                known = _Known(key, key.identity(revocation=Revocation()))
            self._known[key.id] = known
        for key_id, known in before.items():
            if self._known.get(key_id) is not known:
                log.info("a key holds no more", extra={"key_id": key_id})
                assert known.identity.revocation is not None
                known.identity.revocation.revoke()

    async def _note_uses(self) -> None:
        while True:
            await trio.sleep(self._note_seconds)
            await self._note()

    async def _note(self) -> None:
        if not self._used:
            return
        used, self._used = self._used, {}
        try:
            await trio.to_thread.run_sync(_write_uses, self._file.path, used)
        except OSError as exc:
            # Nobody is kept out for that.
            log.warning("when keys were used could not be noted: %s", exc)


def _is_over(identity: Identity) -> bool:
    return identity.expires_at is not None and identity.expires_at <= time.time()


def read_uses(path: str) -> dict[str, str]:
    """Read when each key was last used, as far as that is known.

    Args:
        path: Of the file of keys.
    """
    try:
        with open(path + _USES, "rb") as file:
            said: Any = json.loads(file.read(MAX_FILE_BYTES))
    except (OSError, ValueError):
        return {}
    members = as_object(said) or {}
    return {key_id: at for key_id, at in members.items() if isinstance(at, str)}


def _write_uses(path: str, used: Mapping[str, str]) -> None:
    """Note uses; whatever was noted later, by another server, stays."""
    uses = read_uses(path)
    for key_id, at in used.items():
        uses[key_id] = max(at, uses.get(key_id, ""))
    fresh = f"{path}{_USES}.{os.getpid()}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(uses, file)
    os.replace(fresh, path + _USES)
