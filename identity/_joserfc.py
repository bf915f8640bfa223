"""Signed tokens and the keys that sign them. Alone knows joserfc.

Only signatures by a private key are taken: with a shared secret (HS256), whoever can check tokens
could make them, and a public key that is taken for a secret is the classical way in.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Final

import attrs
from joserfc import jws, jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from ..core import codec
from ..core._json import as_array, as_object
from ..core.errors import SettingsError

__all__ = ["ALGORITHMS", "SigningKey", "TokenError", "TokenHeader", "parse_key_set", "read_header"]

#: Those of RFC 7518 and 9864 with a private and a public key, and what RFC 8037 called Ed25519.
ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "Ed25519", "EdDSA"),
)
#: What a token may say that it is: nothing, or a token of access. RFC 7519, 9068.
_TYPES: Final = frozenset({None, "jwt", "at+jwt", "application/at+jwt"})
#: A set with more is none.
_MAX_KEYS: Final = 100


class TokenError(Exception):
    """A token is not valid; says why, for the log alone."""


@attrs.frozen
class TokenHeader:
    """What a token says of itself before anything was checked."""

    algorithm: str
    key_id: str | None


@attrs.frozen
class SigningKey:
    """A public key.

    Attributes:
        id: Its ``kid``; of one that has none, its thumbprint.
        algorithm: The only one that it is for, if it says so.
        public: All of it, to see whether it has changed.
    """

    id: str
    algorithm: str | None
    public: Mapping[str, Any]
    _key: Any = attrs.field(eq=False, repr=False)

    def verify(self, token: str, header: TokenHeader) -> dict[str, Any]:
        """Check that this key has signed a token, and give its claims. What they say is not checked.

        Raises:
            TokenError: It has not.
        """
        if self.algorithm not in (None, header.algorithm):
            raise TokenError(f"the key is for {self.algorithm}, not {header.algorithm:.32}")
        try:
            with warnings.catch_warnings():
                # That EdDSA has another name now is no news to whoever issues tokens.
                warnings.simplefilter("ignore", SecurityWarning)
                return jwt.decode(token, self._key, algorithms=[header.algorithm]).claims
        except Exception as exc:
            # Whatever a library makes of what a stranger has sent.
            raise TokenError(f"{type(exc).__name__}: {exc}") from exc


def read_header(token: str) -> TokenHeader:
    """Read which key a token wants to be checked with.

    Raises:
        TokenError: It is none, or of a kind that is not taken.
    """
    try:
        header: Mapping[str, Any] = jws.extract_compact(token.encode()).protected
    except Exception as exc:
        raise TokenError(f"{type(exc).__name__}: {exc}") from exc
    algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if algorithm not in ALGORITHMS:
        raise TokenError(f"{algorithm!r:.32} is no algorithm that is taken")
    if key_id is not None and not isinstance(key_id, str):
        raise TokenError("kid is no text")
    if (kind.lower() if isinstance(kind, str) else kind) not in _TYPES:
        raise TokenError(f"a token of type {kind!r:.32} is for something else")
    return TokenHeader(algorithm, key_id)


def parse_key_set(content: bytes) -> dict[str, SigningKey]:
    """Read a JWKS (RFC 7517): each key by its id. What is no public key for signatures is left out.

    Raises:
        SettingsError: It is none, or has no key that could be used.
    """
    try:
        said = as_object(codec.decode_json(content))
    except codec.JsonError as exc:
        raise SettingsError(f"this is no JWKS: {exc}") from exc
    listed = as_array((said or {}).get("keys"))
    if listed is None:
        raise SettingsError('this is no JWKS: it has no list "keys"')
    keys: dict[str, SigningKey] = {}
    reasons: list[str] = []
    for member in listed[:_MAX_KEYS]:
        try:
            key = _read_key(member)
        except Exception as exc:  # noqa: BLE001 - one that is not understood keeps no other out
            reasons.append(str(exc))
            continue
        keys.setdefault(key.id, key)
    if not keys:
        raise SettingsError(f"no key can be used: {'; '.join(reasons[:3]) or 'there is none'}")
    return keys


def _read_key(member: Any) -> SigningKey:
    with warnings.catch_warnings():
        # RSA with less than 2048 bits, say.
        warnings.simplefilter("error", SecurityWarning)
        key = JWKRegistry.import_key(member)
    if not isinstance(key, (RSAKey, ECKey, OKPKey)):
        raise TokenError("a shared secret is no key for this")
    public = key.as_dict(private=False)
    if public.get("use", "sig") != "sig":
        raise TokenError(f"it is for {public['use']!r:.32}")
    key.ensure_kid()
    algorithm = public.get("alg")
    if algorithm is not None and algorithm not in ALGORITHMS:
        raise TokenError(f"it is for {algorithm!r:.32}")
    return SigningKey(str(key.kid), algorithm, public, key)
