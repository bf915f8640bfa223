"""What a node of a cluster writes to the engine, between the appends of its sessions.

One connection writes all of it, in order: what is shown before an append is there before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .cluster_scripts import (
    CLAIM,
    FINISH_ITEM,
    GIVE,
    POST,
    PUBLISH,
    RELEASE,
    REPORT,
    REST,
    SEND,
)
from .jobs import Job, encode_id
from .scripts import session_key

if TYPE_CHECKING:
    from .node import Node

__all__ = [
    "Claim",
    "FinishItem",
    "Give",
    "Item",
    "Post",
    "Publish",
    "Release",
    "Report",
    "Rest",
    "Send",
    "read_stream",
]

#: The id and the payload of something in a stream.
Item = tuple[bytes, bytes]


def read_stream(found: Sequence[Any]) -> list[Item]:
    """Read what stands in a stream of payloads."""
    return [(name, fields[1]) for name, fields in found]


class Claim(Job):
    """A session that no other node has; its result names the node that has it, and the inbox.

    Args:
        wants_inbox: This node has not been told of it yet.
    """

    def __init__(self, session_id: str, *, wants_inbox: bool) -> None:
        self._id = session_id
        self._wants_inbox = wants_inbox

    def command(self, node: Node) -> tuple[object, ...]:
        prefix = node.settings.key_prefix
        keys = session_key(prefix, self._id, "lease"), session_key(prefix, self._id, "inbox")
        return CLAIM.call(keys, node.name, node.lease_ms, int(self._wants_inbox))

    def settle(self, node: Node, answer: Any) -> tuple[str, Sequence[Item]]:
        holder, *items = answer
        return holder.decode(), read_stream(items[0]) if items else ()


class Release(Job):
    """A session that this node lets go of."""

    def __init__(self, session_id: str) -> None:
        self._id = session_id

    def command(self, node: Node) -> tuple[object, ...]:
        key = session_key(node.settings.key_prefix, self._id, "lease")
        return RELEASE.call((key,), node.name)

    def settle(self, node: Node, answer: Any) -> None:
        pass


class Give(Job):
    """A session of this node that another one is to have, which is told of it.

    Done twice, it is done once: by then it is not this node's.
    """

    def __init__(self, session_id: str, to: str, payload: bytes) -> None:
        self._id = session_id
        self._to = to
        self._payload = payload

    def command(self, node: Node) -> tuple[object, ...]:
        keys = session_key(node.settings.key_prefix, self._id, "lease"), node.mail_key(self._to)
        return GIVE.call(keys, node.name, self._to, node.lease_ms, node.mail_ms, self._payload)

    def settle(self, node: Node, answer: Any) -> None:
        pass


class Send(Job):
    """Something for the inbox of a session; its result names the node that has it, if one has."""

    def __init__(self, session_id: str, payload: bytes) -> None:
        self._id = session_id
        self._payload = payload

    def command(self, node: Node) -> tuple[object, ...]:
        prefix = node.settings.key_prefix
        keys = (
            session_key(prefix, self._id, "lease"),
            session_key(prefix, self._id, "inbox"),
            f"{prefix}:inboxes".encode(),
        )
        return SEND.call(keys, prefix, encode_id(self._id), node.mail_ms, self._payload)

    def settle(self, node: Node, answer: Any) -> str | None:
        return None if answer is None else answer.decode()


class FinishItem(Job):
    """Something in an inbox that needs nobody any more."""

    def __init__(self, session_id: str, item_id: str) -> None:
        self._id = session_id
        self._item_id = item_id

    def command(self, node: Node) -> tuple[object, ...]:
        prefix = node.settings.key_prefix
        keys = session_key(prefix, self._id, "inbox"), f"{prefix}:inboxes".encode()
        return FINISH_ITEM.call(keys, encode_id(self._id), self._item_id, node.lease_ms)

    def settle(self, node: Node, answer: Any) -> None:
        pass


class Post(Job):
    """Something that another node is told."""

    def __init__(self, to: str, payload: bytes) -> None:
        self._to = to
        self._payload = payload

    def command(self, node: Node) -> tuple[object, ...]:
        return POST.call((node.mail_key(self._to),), node.mail_ms, self._payload)

    def settle(self, node: Node, answer: Any) -> None:
        pass


class Report(Job):
    """What this node has to do, or that it is to be given nothing; its result is that of all."""

    def __init__(self, load: int | None) -> None:
        self._load = load

    def command(self, node: Node) -> tuple[object, ...]:
        prefix = node.settings.key_prefix
        load = "" if self._load is None else self._load
        return REPORT.call((f"{prefix}:nodes".encode(),), prefix, node.name, node.lease_ms, load)

    def settle(self, node: Node, answer: Any) -> Mapping[str, int]:
        return {name.decode(): int(load) for name, load in answer}


class Publish(Job):
    """What those see who follow a session. Done twice, it is told twice."""

    def __init__(self, session_id: str, payloads: Sequence[bytes]) -> None:
        self._id = session_id
        self._payloads = payloads

    def command(self, node: Node) -> tuple[object, ...]:
        prefix = node.settings.key_prefix
        keys = session_key(prefix, self._id, "texts"), session_key(prefix, self._id, "meta")
        return PUBLISH.call(keys, *self._payloads)

    def settle(self, node: Node, answer: Any) -> None:
        pass


class Rest(Job):
    """What was shown of a session is needed by nobody who follows it later."""

    def __init__(self, session_id: str) -> None:
        self._id = session_id

    def command(self, node: Node) -> tuple[object, ...]:
        key = session_key(node.settings.key_prefix, self._id, "texts")
        return REST.call((key,), node.lease_ms)

    def settle(self, node: Node, answer: Any) -> None:
        pass
