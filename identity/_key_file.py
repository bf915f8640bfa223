"""The file of API keys: a line for each that was made, and one for each that was taken back.

A key is shown when it is made, and never kept: the file has the SHA-256 of its secret, which for
256 random bits is enough. Lines are only ever added, so that whoever reads meanwhile sees a whole
file, and a line that is cut short by its end is one that is being written.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
from datetime import datetime
from typing import Any, Final

import attrs

from ..core import codec
from ..core._clock import utc_after, utc_now
from ..core._identity import ANONYMOUS
from ..core._json import as_object
from ..core.abc import Identity
from ..core.errors import InvalidRequestError, SettingsError

__all__ = [
    "MAX_FILE_BYTES",
    "ApiKey",
    "create_key",
    "hash_secret",
    "parse_keys",
    "read_keys",
    "revoke_key",
    "split_token",
]

#: Some 100,000 keys: more are not a file's business.
MAX_FILE_BYTES: Final = 32 * 1024 * 1024
#: So that whoever finds one knows what it is, and scanners for secrets find it.
_PREFIX: Final = "tlk"
_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 32
_TOKEN: Final = re.compile(rf"{_PREFIX}_([0-9a-f]{{{2 * _ID_BYTES}}})_([\w-]{{43}})", re.ASCII)


@attrs.frozen(kw_only=True)
class ApiKey:
    """A key as the file has it.

    Attributes:
        id: Stands in the key, and names it.
        hash: SHA-256 of its secret, in hex.
        expires_at: As all times here, as the wire writes them.
        note: What it is for, for people.
    """

    id: str
    hash: str = attrs.field(repr=False)
    principal: str
    tenant: str | None = None
    scopes: tuple[str, ...]
    created_at: str
    expires_at: str | None = None
    note: str | None = None
    revoked_at: str | None = None

    def identity(self, **more: Any) -> Identity:
        """Say whom it names.

        Raises:
            Exception: Nobody that could be.
        """
        if self.tenant is None and self.principal == ANONYMOUS:
            raise ValueError("anonymous is whoever has no key")
        expires_at = self.expires_at
        return Identity(
            principal=self.principal,
            tenant=self.tenant,
            scopes=frozenset(self.scopes),
            expires_at=None
            if expires_at is None
            else datetime.fromisoformat(expires_at).timestamp(),
            credential_id=self.id,
            **more,
        )


@attrs.frozen(kw_only=True)
class _Revoked:
    id: str
    revoked_at: str


def split_token(token: str) -> tuple[str, str] | None:
    """Take the id and the secret out of a key; None if it is none of ours."""
    match = _TOKEN.fullmatch(token)
    return None if match is None else (match[1], match[2])


def hash_secret(secret: str) -> str:
    """Give what is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def parse_keys(content: bytes) -> dict[str, ApiKey]:
    """Read the file's content: each key by its id, in the order in which they were made.

    Raises:
        SettingsError: A line is none; says which.
    """
    keys: dict[str, ApiKey] = {}
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            _take(keys, codec.decode_json(line))
        except codec.JsonError as exc:
            if number == len(lines):
                break  # it is being written
            raise SettingsError(f"line {number}: {exc}") from exc
        except InvalidRequestError as exc:
            raise SettingsError(f"line {number}: {exc.message}") from exc
        except Exception as exc:
            raise SettingsError(f"line {number}: {exc}") from exc
    return keys


def _take(keys: dict[str, ApiKey], record: Any) -> None:
    members = as_object(record) or {}
    if "revokedAt" in members and "hash" not in members:
        revoked = codec.structure(record, _Revoked)
        if revoked.id not in keys:
            raise ValueError(f"there is no key {revoked.id!r} to be revoked")
        keys[revoked.id] = attrs.evolve(keys[revoked.id], revoked_at=revoked.revoked_at)
        return
    key = codec.structure(record, ApiKey)
    if key.id in keys:
        raise ValueError(f"there are two keys {key.id!r}")
    key.identity()  # whoever cannot be is refused here, and not when he comes
    keys[key.id] = key


def read_keys(path: str) -> dict[str, ApiKey]:
    """Read a file of keys, as `parse_keys` does; one that is missing has none."""
    try:
        with open(path, "rb") as file:
            return _parse(path, file.read())
    except FileNotFoundError:
        return {}


def _parse(path: str, content: bytes) -> dict[str, ApiKey]:
    try:
        return parse_keys(content)
    except SettingsError as exc:
        raise SettingsError(f"{path}: {exc}") from exc


def create_key(
    path: str,
    *,
    principal: str,
    tenant: str | None = None,
    scopes: tuple[str, ...],
    seconds: float,
    note: str | None = None,
) -> tuple[str, ApiKey]:
    """Make a key, and add it to the file; that is made if it is missing, for its owner alone.

    Args:
        path: The file's.
        principal: Whom the key names; see `Identity`.
        tenant: Likewise.
        scopes: Likewise.
        seconds: How long it holds; ``math.inf`` is for ever.
        note: For people.

    Returns:
        The key itself, which nobody can be told again, and what is kept of it.

    Raises:
        SettingsError: There can be no such principal, tenant or scope; or the file cannot be
            understood, so that no server would take the key.
        OSError: The file cannot be read or written.
    """
    key_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
    key = ApiKey(
        id=key_id,
        hash=hash_secret(secret),
        principal=principal,
        tenant=tenant,
        scopes=scopes,
        created_at=utc_now(),
        expires_at=utc_after(seconds),
        note=note,
    )
    try:
        key.identity()
    except Exception as exc:
        raise SettingsError(str(exc)) from exc
    _add_line(path, key)
    return f"{_PREFIX}_{key_id}_{secret}", key


def revoke_key(path: str, key_id: str) -> bool:
    """Take a key back. Returns whether there was one that was not taken back before.

    Raises:
        SettingsError: There never was one of this id, or the file cannot be understood.
        OSError: The file cannot be read or written.
    """
    keys = read_keys(path)
    if key_id not in keys:
        raise SettingsError(f"there is no key {key_id!r} in {path}")
    if keys[key_id].revoked_at is not None:
        return False
    _add_line(path, _Revoked(id=key_id, revoked_at=utc_now()))
    return True


def _add_line(path: str, record: ApiKey | _Revoked) -> None:
    """Add a line, durably, behind what others add at the same time."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(descriptor, "r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        content = file.read()
        _parse(path, content)
        line = codec.encode_json(codec.unstructure(record)) + b"\n"
        whole, newline, rest = content.rpartition(b"\n")
        size = len(content)
        if rest and _is_json(rest):
            line = b"\n" + line  # somebody has edited it, and ended without one
        elif rest:
            # What a crash cut short would swallow this one: nobody writes it now.
            size = len(whole + newline)
            os.ftruncate(descriptor, size)
        if os.write(descriptor, line) != len(line):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.fsync(descriptor)
        if not content:
            _sync_folder(path)


def _is_json(line: bytes) -> bool:
    try:
        codec.decode_json(line)
    except codec.JsonError:
        return False
    return True


def _sync_folder(path: str) -> None:
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
