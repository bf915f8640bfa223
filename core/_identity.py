"""Who a credential names, for how long, and what they may do (PROTOCOL §3.6). Pure."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from ._values import check_name

__all__ = [
    "ALL_SCOPES",
    "ANONYMOUS",
    "MAX_PRINCIPAL",
    "SCOPES",
    "Identity",
    "Revocation",
    "principal_of",
    "take_identity",
]

log = logging.getLogger("trialogue.connection")

#: The principal of whoever was not asked for a credential.
ANONYMOUS: Final = "anonymous"
#: What a credential may allow, in the order in which it is told.
SCOPES: Final = ("read", "write", "answer", "admin")
ALL_SCOPES: Final = frozenset(SCOPES)
#: Of a principal, in characters: it is shown, and stands in each session's log. The issuer and the
#: subject of an OpenID token, of which each has 255 at most, fit together.
MAX_PRINCIPAL: Final = 512
#: Between a tenant and a principal in an owner. It is not printable, so no principal has it: one
#: that belongs to no tenant can never be taken for one that does.
_UNIT_SEPARATOR: Final = "\x1f"


class Revocation:
    """Tells those who came in by a credential that it holds no more.

    An authenticator makes one for each credential that it may take back, and gives it with every
    `Identity` of that credential.

    Attributes:
        is_revoked: It was taken back.
    """

    __slots__ = ("_watchers", "is_revoked")

    def __init__(self) -> None:
        self.is_revoked = False
        self._watchers: set[Callable[[], object]] = set()

    def revoke(self) -> None:
        """Take the credential back, for good: every connection that it opened is closed."""
        self.is_revoked = True
        watchers, self._watchers = self._watchers, set()
        for told in watchers:
            try:
                told()
            except Exception:
                # It keeps none of the others open.
                log.exception("a connection could not be told that its credential was revoked")

    def watch(self, told: Callable[[], object]) -> None:
        """Call once, synchronously, when the credential is taken back."""
        self._watchers.add(told)

    def unwatch(self, told: Callable[[], object]) -> None:
        """Do not call any more."""
        self._watchers.discard(told)


def _check_principal(_: object, __: object, value: Any) -> None:
    check_name(value, "a principal", MAX_PRINCIPAL)
    if not value:
        raise ValueError("the authenticator returned an empty principal")


def _check_tenant(_: object, __: object, value: Any) -> None:
    check_name(value, "a tenant")
    if not value:
        raise ValueError("a tenant's name is empty")


def _check_scopes(_: object, __: object, value: frozenset[Any]) -> None:
    unknown = sorted(map(str, value - ALL_SCOPES))
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no scope: there are {', '.join(SCOPES)}")


def _check_expiry(_: object, __: object, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise ValueError(f"expires_at is {value!r}: it is a time in seconds since 1970")


def _as_scopes(value: Iterable[str]) -> frozenset[str]:
    # A text is an iterable of letters, none of which is a scope.
    return frozenset([value] if isinstance(value, str) else value)


@attrs.frozen(kw_only=True)
class Identity:
    """Whom a credential names, and what they may do: what an `Authenticator` gives.

    Attributes:
        principal: 1 to 512 characters, all of them printable.
        tenant: Whose customer it is, 1 to 128 printable characters. The same principal of another
            tenant is somebody else, and so is one of none.
        scopes: Of ``read``, ``write``, ``answer`` and ``admin``.
        expires_at: In seconds since 1970, as `time.time` has it; the connection ends then. None is
            never.
        revocation: Says when the credential is taken back, where that can be.
        credential_id: For the audit log, to tell two credentials of a principal apart.
    """

    principal: str = attrs.field(validator=_check_principal)
    tenant: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(_check_tenant)
    )
    scopes: frozenset[str] = attrs.field(
        default=ALL_SCOPES, converter=_as_scopes, validator=_check_scopes
    )
    expires_at: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_check_expiry)
    )
    revocation: Revocation | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.instance_of(Revocation)),
    )
    credential_id: str | None = None

    @property
    def owner(self) -> str | None:
        """As sessions are marked with it: None for anonymous."""
        if self.tenant is not None:
            return f"{self.tenant}{_UNIT_SEPARATOR}{self.principal}"
        return None if self.principal == ANONYMOUS else self.principal


def principal_of(owner: str | None) -> str:
    """Give the principal that a session's owner is, without its tenant."""
    return ANONYMOUS if owner is None else owner.rpartition(_UNIT_SEPARATOR)[2]


def take_identity(said: Any) -> Identity:
    """Take what an authenticator gave: an identity, or just the principal, who may do everything.

    Raises:
        Exception: It is neither.
    """
    return said if isinstance(said, Identity) else Identity(principal=said)
