"""``trialogue keys``: the file of API keys that ``trialogue serve --auth keys`` lets in."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, TypeAlias

from ..core import codec
from ..core.errors import SettingsError
from ..identity.keys import ApiKey, create_key, read_keys, read_uses, revoke_key
from ._auth import default_key_file
from ._command import CommandGroup, Environ, option
from ._exits import EXIT_OK, CommandError
from ._tables import print_table, write_age
from ._values import parse_list, parse_seconds

__all__ = ["create", "keys", "list_all", "revoke"]

keys: Final = CommandGroup(
    """Make, list and revoke API keys for a server.

    A server that runs with --auth keys sees a new key, and ends the connections of one that was
    revoked, within a few seconds.

    Exit codes: 0 done; 1 the file cannot be used; 2 wrongly asked, or there is no such key.
    """,
    {
        "create": ("trialogue.cli.keys:create", "Make a key, and print it this once."),
        "list": ("trialogue.cli.keys:list_all", "List the keys: whose, what for, until when."),
        "revoke": ("trialogue.cli.keys:revoke", "Take keys back."),
    },
)

File: TypeAlias = Annotated[
    str | None,
    option(
        "The file of keys. [$XDG_CONFIG_HOME/trialogue/keys.jsonl, or else in ~/.config]",
        metavar="FILE",
    ),
]


def create(
    principal: Annotated[str, option("Whom the key names.", name="PRINCIPAL")],
    /,
    *,
    tenant: Annotated[
        str | None,
        option("Whose customer that is. Tenants never see each other's sessions.", metavar="NAME"),
    ] = None,
    scopes: Annotated[
        str, option("What it allows, of read, write, answer, admin.", metavar="SCOPES")
    ] = "read,write,answer",
    expires: Annotated[
        str, option("How long it holds: 90d, 12h, off for ever. [off]", metavar="TIME")
    ] = "off",
    note: Annotated[str | None, option("What it is for, to be listed.", metavar="TEXT")] = None,
    file: File = None,
    environ: Environ,
) -> int:
    """Make a key, and print it: nobody can be told it again, since only its hash is kept.

    The key is all that is printed on standard output.
    """
    path = _find_file(file, environ)
    try:
        seconds, allowed = parse_seconds(expires), parse_list(scopes)
    except ValueError as exc:
        raise SettingsError(str(exc)) from None
    if seconds <= 0:
        raise SettingsError(f"--expires must be more than {expires}")
    if not allowed:
        raise SettingsError("--scopes: a key that allows nothing is of no use")
    try:
        token, key = create_key(
            path, principal=principal, tenant=tenant, scopes=allowed, seconds=seconds, note=note
        )
    except OSError as exc:
        raise _explain(exc, path) from exc
    print(token)
    whose = key.principal + (f" of {key.tenant}" if key.tenant else "")
    until = f"until {key.expires_at}" if key.expires_at else "for ever"
    print(
        f"key {key.id} of {whose}: {', '.join(key.scopes)}, {until}. It is not shown again.",
        file=sys.stderr,
    )
    return EXIT_OK


def list_all(
    *,
    as_json: Annotated[bool, option("Print a JSON array of keys.", name="--json")] = False,
    file: File = None,
    environ: Environ,
) -> int:
    """List the keys, in the order in which they were made. The keys themselves nobody knows."""
    path = _find_file(file, environ)
    try:
        found = read_keys(path)
    except OSError as exc:
        raise _explain(exc, path) from exc
    except SettingsError as exc:
        raise CommandError(str(exc)) from exc
    uses = read_uses(path)
    if as_json:
        shown = [_describe(key, uses) for key in found.values()]
        print(json.dumps(shown, indent=2, ensure_ascii=False))
        return EXIT_OK
    columns = ("key", "state", "principal", "tenant", "scopes", "expires", "last used", "note")
    print_table(
        columns,
        [
            (
                key.id,
                _state(key),
                key.principal,
                key.tenant or "",
                ",".join(key.scopes),
                (key.expires_at or "")[:16].replace("T", " "),
                write_age(uses[key.id]) if key.id in uses else "",
                key.note or "",
            )
            for key in found.values()
        ],
        rank=("key", "principal", "state", "tenant", "scopes", "last used", "expires"),
    )
    return EXIT_OK


def _describe(key: ApiKey, uses: Mapping[str, str]) -> dict[str, Any]:
    shown: dict[str, Any] = codec.unstructure(key)
    del shown["hash"]
    if key.id in uses:
        shown["lastUsedAt"] = uses[key.id]
    return {**shown, "state": _state(key)}


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at and datetime.fromisoformat(key.expires_at).timestamp() <= time.time():
        return "expired"
    return "valid"


def revoke(
    key_id: Annotated[str, option("The key's id, as keys list has it.", name="ID")],
    /,
    *more: Annotated[str, option("More of them.", name="ID")],
    file: File = None,
    environ: Environ,
) -> int:
    """Take keys back, for good: their connections are closed within 5 s."""
    path = _find_file(file, environ)
    for each in (key_id, *more):
        try:
            was_valid = revoke_key(path, each)
        except OSError as exc:
            raise _explain(exc, path) from exc
        print(f"{each} is revoked" if was_valid else f"{each} was revoked before")
    return EXIT_OK


def _find_file(file: str | None, environ: Mapping[str, str]) -> str:
    path = file or default_key_file(environ)
    if path is None:
        raise SettingsError("--file: there is no home to look for keys in")
    return path


def _explain(exc: OSError, path: str) -> CommandError:
    return CommandError(f"{path}: {exc.strerror or exc}")
