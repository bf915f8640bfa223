"""What nodes write into inboxes and to each other. Pure: no trio, no clock.

It is between servers of one version, or of two that follow each other: members may come, and those
that are not known are passed over.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from .. import methods
from .._command import Command, KeyClaim
from ..codec import structure, unstructure
from ..errors import WireError, error_from_wire

__all__ = [
    "METHOD_NAMES",
    "Alive",
    "Answer",
    "GiveUp",
    "Interest",
    "Item",
    "Mail",
    "Order",
    "Probe",
    "Take",
    "make_order",
    "read_command",
    "read_item",
    "read_mail",
    "write",
]

#: What may be asked of another node, by the class of its parameters.
_PARAMS: Final[dict[str, type[Any]]] = {
    cls.__name__: cls
    for cls in (
        *(params for params, _ in methods.METHODS.values()),
        methods.ChildReport,
        methods.ChildRaise,
        methods.ChildSettle,
        methods.ChildSpending,
    )
}
#: The method that a class of parameters is of.
METHOD_NAMES: Final[dict[type[Any], str]] = {
    params: name for name, (params, _) in methods.METHODS.items()
}


class _Claim(msgspec.Struct):
    key: str
    method: str
    fingerprint: str


class Order(msgspec.Struct, tag="order"):
    """A command that another node is to carry out.

    Attributes:
        node, number: Who asks, and what it calls this.
        kind: The class of the parameters.
        params: As on the wire.
        principal: See `Command`.
        claim: Its key: each order has one where it could have two effects.
    """

    node: str
    number: int
    kind: str
    params: dict[str, Any]
    principal: str | None = None
    claim: _Claim | None = None


class GiveUp(msgspec.Struct, tag="give up"):
    """Nobody waits for the answer of an order any more.

    Attributes:
        reason: Why it was given up, so that its work can be; None if only its connection is gone.
    """

    node: str
    number: int
    reason: str | None = None


class Interest(msgspec.Struct, tag="interest"):
    """Whether a node's clients follow a session, and the tools that they offer, from here on."""

    node: str
    is_followed: bool
    tools: list[dict[str, Any]]


class Alive(msgspec.Struct, tag="alive"):
    """A node is alive, for those that it has told of an interest, or that have told it of one."""

    node: str


class Take(msgspec.Struct, tag="take"):
    """A session that a node is given, which is to take it.

    Attributes:
        interests: What its followers have told the node that had it, and what that would tell.
    """

    session_id: str
    interests: list[Interest]


class Answer(msgspec.Struct, tag="answer"):
    """What became of an order.

    Attributes:
        seq: What was published of the session by then; 0 if there is nothing to wait for.
        data: The result.
        error: In its place.
    """

    number: int
    seq: int = 0
    data: Any = None
    error: dict[str, Any] | None = None

    @property
    def failure(self) -> WireError | None:
        """What to raise, if it is an error."""
        return None if self.error is None else error_from_wire(self.error)


class Probe(msgspec.Struct, tag="probe"):
    """What a node posts to itself, to see how late it is told of things."""

    number: int


Item: TypeAlias = Order | GiveUp | Interest
Mail: TypeAlias = Answer | Order | GiveUp | Probe | Alive | Take

write: Final = msgspec.json.Encoder().encode
read_item: Final = msgspec.json.Decoder(Item).decode
read_mail: Final = msgspec.json.Decoder(Mail).decode


def make_order(node: str, number: int, command: Command) -> Order:
    """Write a command down."""
    claim = command.claim
    return Order(
        node=node,
        number=number,
        kind=type(command.params).__name__,
        params=unstructure(command.params),
        principal=command.principal,
        claim=None if claim is None else _Claim(claim.key, claim.method, claim.fingerprint),
    )


def read_command(order: Order) -> Command:
    """Make the command again.

    Raises:
        InvalidRequestError: A later version wrote it.
        KeyError: Likewise.
    """
    claim = order.claim
    return Command(
        params=structure(order.params, _PARAMS[order.kind]),
        principal=order.principal,
        claim=None
        if claim is None
        else KeyClaim(key=claim.key, method=claim.method, fingerprint=claim.fingerprint),
    )
