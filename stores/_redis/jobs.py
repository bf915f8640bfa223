"""What is written to the engine: each job is one script, done whole or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ...core._line import encode_entry, encode_note
from ...core.codec import encode_json, unstructure
from ...core.errors import CreatedError, FencedError, SessionNotFoundError, StoreError
from ...core.log import Damage, Entry, Note, Position, Summary
from .scripts import (
    APPEND,
    DELETE,
    MARK,
    NOTE,
    OPEN,
    PRUNE,
    session_key,
    session_keys,
)

if TYPE_CHECKING:
    from .._committing_store import PruneLimits
    from .node import Node

__all__ = ["Append", "Delete", "Job", "Mark", "Open", "Prune", "WriteNote", "encode_id", "own"]

#: The largest seq of a session.
LAST_SEQ: Final = (1 << 32) - 1


def encode_id(session_id: str) -> bytes:
    """Give an id as the engine has it; what a client asks for may be no text."""
    return session_id.encode(errors="surrogatepass")


def own(owner: str | None) -> str:
    """Say whose sessions are meant, where nobody's has to be something as well."""
    return "-" if owner is None else f"={owner}"


class Job:
    """Something to write. It can be given to the engine again if it was not answered."""

    def command(self, node: Node) -> tuple[object, ...]:
        """Make what is sent."""
        raise NotImplementedError

    def settle(self, node: Node, answer: Any) -> Any:
        """Read the engine's answer, and give what the waiting task is told. May raise that."""
        raise NotImplementedError


class Append(Job):
    """A batch, and the summary after it.

    Args:
        holder: Who writes.
        life: Which session of this id is meant, None if this creates it.
    """

    def __init__(
        self,
        holder: str,
        session_id: str,
        life: str | None,
        term: int,
        batch: Sequence[Entry],
        summary: Summary,
    ) -> None:
        self._holder = holder
        self._id = session_id
        self.creates = life is None
        self._life = secrets.token_hex(8) if life is None else life
        first, last = batch[0], batch[-1]
        terms = [entry.term for entry in batch]
        if (
            last.seq - first.seq != len(batch) - 1
            or last.seq > LAST_SEQ
            or terms != sorted(terms)
            or (self.creates and first.seq != 1)
        ):
            raise StoreError(f"{first!r} to {last!r} are not {len(batch)} entries that follow")
        #: Entries that were written elsewhere bring their terms along.
        self._position = Position(max(term, last.term), last.seq)
        lines = [encode_entry(entry) for entry in batch]
        session = summary.session
        self._arguments: list[object] = [
            first.seq,
            last.seq,
            self._position.term,
            sum(map(len, lines)),
            own(summary.owner),
            session.status,
            session.last_activity_at,
            int(summary.has_open_work),
            "" if summary.created_key is None else f"={summary.created_key}",
            encode_json(unstructure(session)),
        ]
        self._entries: list[object] = []
        for entry, line in zip(batch, lines, strict=True):
            self._entries += (f"{entry.term}-{entry.seq}", line)

    def command(self, node: Node) -> tuple[object, ...]:
        return APPEND.call(
            session_keys(node.settings.key_prefix, self._id)[:3],
            node.settings.key_prefix,
            encode_id(self._id),
            node.epoch,
            self._holder,
            self._life,
            int(self.creates),
            *self._arguments,
            node.engine,
            *self._entries,
        )

    def settle(self, node: Node, answer: Any) -> tuple[str, Position]:
        match answer[0]:
            case b"ok" | b"done":
                node.know(self._id, self._life, self._position)
                return self._life, self._position
            case b"fenced":
                raise FencedError(
                    f"another process has taken the session {self._id}, in term {int(answer[1])}"
                )
            case b"gone":
                raise StoreError(f"the session {self._id} was deleted")
            case b"created":
                raise CreatedError(answer[1].decode())
            case b"exists":
                raise StoreError(f"the session {self._id} exists already")
            case _:
                node.rewinds += 1
                raise node.rewound(self._id)


class WriteNote(Job):
    """A note, if its session is still ours. A snapshot takes the place of what it was made of."""

    def __init__(self, holder: str, life: str, note: Note) -> None:
        self._holder = holder
        self._life = life
        self._id = note.session_id
        self._is_snapshot = note.type == "snapshot"
        self._line = encode_note(note)

    def command(self, node: Node) -> tuple[object, ...]:
        _, meta, _, notes = session_keys(node.settings.key_prefix, self._id)
        return NOTE.call(
            (meta, notes), self._holder, self._life, int(self._is_snapshot), self._line
        )

    def settle(self, node: Node, answer: Any) -> None:
        pass


class Open(Job):
    """The right to write, in a new term unless this process has it already."""

    def __init__(self, session_id: str) -> None:
        self._id = session_id
        self._holder = ""

    def command(self, node: Node) -> tuple[object, ...]:
        self._holder = node.holder
        return OPEN.call(
            session_keys(node.settings.key_prefix, self._id)[:2],
            self._holder,
            node.engine,
            *node.recall(self._id),
        )

    def settle(self, node: Node, answer: Any) -> tuple[str, str, Position]:
        """Give who may write, the session's life, and its term with the last seq."""
        if answer is None:
            node.forget(self._id)
            raise SessionNotFoundError(f"Session not found: {self._id}")
        life, term, seq, is_new, *wrong = answer
        if wrong:
            reason = f"its log is not as long as it is said to be: {wrong[0].decode()}"
            raise Damage(seq=1, reason=reason).error(self._id)
        position = Position(int(term), int(seq))
        if is_new:
            known_life, _, known_seq = node.recall(self._id)
            node.rewinds += known_life == life.decode() and position.seq < known_seq
        node.know(self._id, life.decode(), position)
        return self._holder, life.decode(), position


class Mark(Job):
    """Note that a session is damaged, for the next start to know it, or that it is not any more."""

    def __init__(self, session_id: str, damage: Damage | None) -> None:
        self._id = session_id
        self._damage = damage

    def command(self, node: Node) -> tuple[object, ...]:
        prefix = node.settings.key_prefix
        damage = self._damage
        said = b"" if damage is None else encode_json([damage.seq, damage.reason])
        meta = session_keys(prefix, self._id)[1]
        return MARK.call((f"{prefix}:damaged".encode(), meta), encode_id(self._id), said)

    def settle(self, node: Node, answer: Any) -> None:
        pass


class Delete(Job):
    """A session, with all that belongs to it.

    Where an answer got lost its grave says that it was there.
    """

    def __init__(self, session_id: str) -> None:
        self._id = session_id
        self._is_again = False

    def command(self, node: Node) -> tuple[object, ...]:
        prefix = node.settings.key_prefix
        keys = session_keys(prefix, self._id)[1], session_key(prefix, self._id, "grave")
        again, self._is_again = self._is_again, True
        return DELETE.call(keys, prefix, encode_id(self._id), node.lease_ms, int(again))

    def settle(self, node: Node, answer: Any) -> bool:
        node.forget(self._id)
        return bool(answer)


class Prune(Job):
    """Some sessions of oldest activity."""

    def __init__(self, limits: PruneLimits) -> None:
        bounds = (limits.keep, limits.older_than, limits.keep_bytes)
        self._bounds = ["" if bound is None else bound for bound in bounds]
        self._most = limits.most
        self._protect = [encode_id(session_id) for session_id in limits.protect]

    def command(self, node: Node) -> tuple[object, ...]:
        prefix = node.settings.key_prefix
        return PRUNE.call(
            (f"{prefix}:all".encode(),),
            prefix,
            node.name,
            node.lease_ms,
            self._most,
            *self._bounds,
            *self._protect,
        )

    def settle(self, node: Node, answer: Any) -> list[str]:
        gone = [session_id.decode() for session_id in answer]
        for session_id in gone:
            node.forget(session_id)
        return gone
