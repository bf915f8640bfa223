"""Who may come in, as ``--auth`` says it: ``keys``, ``keys:FILE``, ``jwt:URL``, ``jwt:FILE``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ..core.abc import Authenticator
from ..core.errors import SettingsError
from ._options import Setting

__all__ = ["check_auth", "complete_auth", "default_key_file", "find_authenticator"]

#: Each kind, with what stands behind its colon.
_KINDS: Final = {"keys": "FILE", "jwt": "URL or jwt:FILE"}
#: Settings that say nothing without the kind.
_OF_TOKENS: Final = (
    "jwt_issuer",
    "jwt_audience",
    "jwt_tenant_claim",
    "jwt_scope_claim",
    "jwt_skew_seconds",
)


def default_key_file(environ: Mapping[str, str]) -> str | None:
    """Say where this user's API keys are; None without a home.

    Not where his sessions are: who copies those for somebody does not mean to hand over these.
    """
    config = environ.get("XDG_CONFIG_HOME") or ""
    if not Path(config).is_absolute():  # the XDG specification says to ignore it then
        if not environ.get("HOME"):
            return None
        config = str(Path(environ["HOME"]) / ".config")
    return str(Path(config) / "trialogue" / "keys.jsonl")


def complete_auth(specs: Sequence[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Write out a place that was left out, or said from the home: ``keys``, ``keys:~/my-keys``."""
    return tuple(_complete(spec, environ) for spec in specs)


def _complete(spec: str, environ: Mapping[str, str]) -> str:
    kind, colon, where = spec.partition(":")
    default = default_key_file(environ)
    if spec == "keys" and default is not None:
        return f"{kind}:{default}"
    if where.startswith("~/") and environ.get("HOME"):
        return f"{kind}{colon}{environ['HOME']}{where[1:]}"
    return spec


def check_auth(settings: Mapping[str, Setting]) -> None:
    """Refuse what nobody could come in by, without looking at files.

    Raises:
        SettingsError: A kind is not known, or it does not go with another setting.
    """
    auth = settings["auth"]
    kinds: list[str] = []
    for spec in auth.value:
        kind, _, where = spec.partition(":")
        if kind not in _KINDS:
            raise auth.error(f"{spec!r} is none of {', '.join(f'{each}:…' for each in _KINDS)}")
        if not where:
            raise auth.error(f"{kind!r} needs to know where: {kind}:{_KINDS[kind]}")
        kinds.append(kind)
    if kinds.count("jwt") > 1:
        raise auth.error("tokens are of one issuer: jwt:… may stand there once")
    for name in _OF_TOKENS:
        said = settings[name]
        if "jwt" not in kinds and said.value != said.option.default:
            raise said.error("it says nothing without --auth jwt:…")
        if "jwt" in kinds and name in _OF_TOKENS[:2] and not said.value:
            raise auth.error(f"a token needs {name} to be checked against")
    if auth.value and settings["authenticate"].value is not None:
        raise auth.error("authenticate is set, too: it is one or the other")


def find_authenticator(settings: Mapping[str, Setting]) -> Authenticator | None:
    """Make what checks credentials, as `check_auth` has let through; None if nothing does.

    Raises:
        SettingsError: A file cannot be used; says where it was set.
    """
    auth = settings["auth"]
    try:
        found = [_make(spec, settings) for spec in auth.value]
    except SettingsError as exc:
        raise auth.error(str(exc)) from exc
    if len(found) < 2:
        return found[0] if found else None

    from ..identity.first_of import FirstOf

    return FirstOf(*found)


def _make(spec: str, settings: Mapping[str, Setting]) -> Authenticator:
    kind, _, where = spec.partition(":")
    # Here, since most servers ask for no credential.
    if kind == "keys":
        from ..identity.keys import ApiKeys

        return ApiKeys(where)
    try:
        from ..identity.jwt import FileKeys, TokenCheck, UrlKeys
    except ModuleNotFoundError as exc:
        raise SettingsError(f"tokens need {exc.name!r}: pip install 'trialogue[jwt]'") from exc
    return TokenCheck(
        UrlKeys(where) if "://" in where else FileKeys(where),
        issuer=settings["jwt_issuer"].value,
        audience=settings["jwt_audience"].value,
        tenant_claim=settings["jwt_tenant_claim"].value,
        scope_claim=settings["jwt_scope_claim"].value,
        skew_seconds=settings["jwt_skew_seconds"].value,
    )
