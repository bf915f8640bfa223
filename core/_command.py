"""What a handler asks of a session, and how the answer comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs
import msgspec

from .abc import Connection, Span
from .codec import unstructure
from .log import KeyRecord

if TYPE_CHECKING:
    from ._feed import SessionFeed

__all__ = ["Command", "KeyClaim", "Reply", "make_claim", "record_key"]

#: Members that name the answer and not the effect (PROTOCOL §7).
_NOT_THE_EFFECT: Final = frozenset({"wait"})
#: JSON with the members of objects in the order of their names.
_canonical: Final = msgspec.json.Encoder(order="sorted").encode


class Reply(Protocol):
    """Where the answer of a command goes; exactly one of the three is called, once.

    Attributes:
        is_answered: One of them was, or nobody waits for it any more: the connection is lost.
    """

    is_answered: bool

    def when_abandoned(self, abandon: Callable[[str], None] | None) -> None:
        """Say that the command can be given up from here on.

        Args:
            abandon: Called with the reason when the request is cancelled or its time is over;
                the request has been answered then. At once, if that was so before. None: it cannot
                any more, since its effect is on its way to the log.
        """

    def succeed(self, result: Any) -> bool:
        """Answer with an attrs object or a JSON value.

        Returns False if the answer is an error instead: then it has no further effect.
        """
        ...

    def succeed_after(self, feed: SessionFeed, result: Any) -> None:
        """Answer as `succeed` does, behind what the feed has published until now.

        If this connection is sent the feed's events and is not that far, the answer waits.
        """

    def succeed_encoded(self, data: bytes) -> bool:
        """Answer with JSON that was made before."""
        ...

    def fail(self, exc: Exception) -> None:
        """Answer with an error."""


@attrs.frozen(kw_only=True)
class KeyClaim:
    """An idempotency key that a request brought, and what it stands for."""

    key: str
    method: str
    fingerprint: str


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One method call on one session.

    A `msgspec.Struct`: made for each request, in a tenth of the time of a frozen attrs class.

    Attributes:
        params: One of the parameter classes of `trialogue.core.methods`.
        principal: As sessions are marked with it, with its tenant; None for anonymous.
        claim: From the request's ``idempotencyKey``.
        connection: That of the request; subscribed by ``message.stream``.
        trace: What its turn belongs to, if a tracer was told of it.
    """

    params: Any
    principal: str | None = None
    claim: KeyClaim | None = None
    connection: Connection | None = None
    trace: Span | None = None


def make_claim(key: str, method: str, params: Any) -> KeyClaim:
    """Make the claim of a request's key.

    Args:
        key: As it came.
        method: ``message.send`` and ``message.stream`` have the same effect, so a key may pass from
            one to the other.
        params: As the method reads them: what it does not know says nothing, and what is absent is
            what it stands for.
    """
    effect = {k: v for k, v in unstructure(params).items() if k not in _NOT_THE_EFFECT}
    digest = hashlib.blake2b(_canonical(effect), digest_size=16).hexdigest()
    if method == "message.stream":
        method = "message.send"
    return KeyClaim(key=key, method=method, fingerprint=digest)


def record_key(claim: KeyClaim | None, result: Any) -> tuple[KeyRecord, ...]:
    """Make what an entry says of the key whose command it carries out, if there is one."""
    if claim is None:
        return ()
    return (
        KeyRecord(
            key=claim.key,
            method=claim.method,
            fingerprint=claim.fingerprint,
            result=unstructure(result),
        ),
    )
