"""Bearer tokens that an issuer has signed (JWT), for people who log in somewhere else.

    authenticate = TokenCheck(
        FileKeys("jwks.json"), issuer="https://login.example", audience=["https://chat.example"]
    )

It needs the extra ``trialogue[jwt]``.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import trio

from ..core._identity import ALL_SCOPES, ANONYMOUS
from ..core._json import as_array
from ..core.abc import Identity, PeerInfo, Revocation
from ..core.errors import SettingsError, UnauthorizedError
from ..core.methods import Credential
from ._joserfc import TokenError, read_header
from ._key_ring import FileKeys as FileKeys
from ._key_ring import KeyRing as KeyRing
from ._key_ring import UrlKeys as UrlKeys

__all__ = ["FileKeys", "KeyRing", "TokenCheck", "UrlKeys"]

#: By how much the issuer's clock may differ from ours.
SKEW_SECONDS: Final = 30.0
#: What a token allows that is not asked what: all that a person in a chat does.
_USUAL_SCOPES: Final = frozenset({"read", "write", "answer"})
#: Tokens that were checked, and what they said: a check takes a third of a millisecond, and over
#: HTTP each request brings its token.
_MAX_CHECKED: Final = 1024
#: Of a claim that is shown, in characters.
_SHOWN: Final = 64


class TokenCheck:
    """An authenticator by signed tokens.

    Args:
        keys: Those that tokens may be signed by.
        issuer: What ``iss`` has to be, just so.
        audience: Of which ``aud`` has to name one.
        tenant_claim: The claim that names the tenant; one without it is not let in then.
        scope_claim: The claim that says what is allowed, as a list or as words: those of them count
            that are scopes of ours. None allows ``read``, ``write`` and ``answer``.
        skew_seconds: By how much the issuer's clock may differ.

    Raises:
        SettingsError: Without an issuer or an audience, tokens of anybody for anything would do.
    """

    def __init__(
        self,
        keys: KeyRing,
        *,
        issuer: str,
        audience: Collection[str],
        tenant_claim: str | None = None,
        scope_claim: str | None = None,
        skew_seconds: float = SKEW_SECONDS,
    ) -> None:
        if not issuer or not audience or isinstance(audience, str):
            raise SettingsError("tokens need an issuer, and one audience or more")
        self._keys = keys
        self._issuer = issuer
        self._audience = frozenset(audience)
        self._tenant_claim = tenant_claim
        self._scope_claim = scope_claim
        self._skew_seconds = skew_seconds
        self._checked: dict[bytes, Identity] = {}
        self._checked_with = 0

    async def __call__(self, credential: Credential, peer: PeerInfo, /) -> Identity:
        try:
            return await self._check(credential.token)
        except TokenError as exc:
            raise UnauthorizedError("Not a valid credential") from exc

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Look after the keys, as long as the block lasts."""
        await self._keys.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keys.watch)
            yield
            nursery.cancel_scope.cancel(reason="the server ends")

    async def _check(self, token: str) -> Identity:
        now = time.time()
        # Not the token itself: it would lie about in memory for long.
        name = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._recall(name)
        if known is not None and known.expires_at is not None and now < known.expires_at:
            await trio.lowlevel.checkpoint()
            return known
        header = read_header(token)
        held = await self._keys.find(header.key_id)
        if held is None:
            raise TokenError(f"no key {header.key_id!r:.{_SHOWN}} is known")
        claims = held.key.verify(token, header)
        identity = self._read_claims(claims, now, held.key.id, held.revocation)
        if len(self._checked) >= _MAX_CHECKED:
            self._checked.clear()
        self._checked[name] = identity
        return identity

    def _recall(self, name: bytes) -> Identity | None:
        if self._checked_with != self._keys.version:
            self._checked_with = self._keys.version
            self._checked.clear()
        return self._checked.get(name)

    def _read_claims(
        self, claims: Mapping[str, Any], now: float, key_id: str, revocation: Revocation
    ) -> Identity:
        if claims.get("iss") != self._issuer:
            raise TokenError(f"it is from {claims.get('iss')!r:.{_SHOWN}}")
        audience = claims.get("aud")
        named = as_array(audience) or [audience]
        if not any(isinstance(each, str) and each in self._audience for each in named):
            raise TokenError(f"it is for {audience!r:.{_SHOWN}}")
        expires_at = _read_time(claims, "exp")
        if expires_at is None:
            raise TokenError("it never expires")
        if expires_at <= now:
            # Of a token whose time is over by our clock only, that of its issuer counts.
            expires_at += self._skew_seconds
        if expires_at <= now:
            raise TokenError("it has expired")
        for claim in ("nbf", "iat"):
            begins_at = _read_time(claims, claim)
            if begins_at is not None and begins_at > now + self._skew_seconds:
                raise TokenError(f"{claim} is still to come")
        tenant = None if self._tenant_claim is None else claims.get(self._tenant_claim)
        if self._tenant_claim is not None and not isinstance(tenant, str):
            raise TokenError(f"it has no {self._tenant_claim}")
        token_id = claims.get("jti")
        try:
            if claims.get("sub") == ANONYMOUS and tenant is None:
                raise ValueError("anonymous is whoever has no token")
            return Identity(
                principal=cast("str", claims.get("sub")),
                tenant=tenant,
                scopes=self._read_scopes(claims),
                expires_at=expires_at,
                revocation=revocation,
                credential_id=f"{token_id:.{_SHOWN}}" if isinstance(token_id, str) else key_id,
            )
        except Exception as exc:
            raise TokenError(f"its claims name nobody: {exc}") from exc

    def _read_scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        if self._scope_claim is None:
            return _USUAL_SCOPES
        said = claims.get(self._scope_claim, ())
        words = said.split() if isinstance(said, str) else said
        return frozenset(word for word in words if isinstance(word, str)) & ALL_SCOPES


def _read_time(claims: Mapping[str, Any], claim: str) -> float | None:
    value = claims.get(claim)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TokenError(f"{claim} is no time")
    return float(value)
