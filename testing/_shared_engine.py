"""What the nodes of a cluster share, in memory: logs, leases, inboxes, mail and texts.

Each method is one step, as a script of a real engine is: nothing comes in between.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs
import trio

from ..core.errors import CreatedError, FencedError, RewoundError, SessionNotFoundError, StoreError
from ..core.log import Entry, Note, Position, Recollection, Summary
from ..stores.memory import MemoryStore

__all__ = ["Lease", "SharedEngineState", "Text"]


#: Terms that are left free behind what was lost.
LEAP: Final = 1000


@attrs.frozen
class Lease:
    """That a node has a session until a time of the engine's clock."""

    node: str
    until: float


@attrs.frozen
class Text:
    """Something published: its place in the order of all, when, and what."""

    number: int
    at: float
    payload: bytes


class SharedEngineState:
    """The engine.

    Args:
        lease_seconds: How long a node has a session that it does not renew.
        batch_seconds: How long what is published waits for more.
        fencing: Without it, whoever had a session may still write: the control of a campaign.

    Attributes:
        memory: Logs and lists.
        place_on: The node that new sessions are made on; None is the one that is asked.
        loses: Asked of what was sent, posted or given, whether its answer is lost, or it.
        fenced: Appends that were refused, by node.
        open_work: Sessions with a turn that has not ended, or with queued inputs.
    """

    def __init__(
        self, *, lease_seconds: float = 10.0, batch_seconds: float = 0.03, fencing: bool = True
    ) -> None:
        self.batch_seconds = batch_seconds
        self.lease_seconds = lease_seconds
        self.memory = MemoryStore()
        self.place_on: str | None = None
        self.loses: Callable[[str, bytes], bool] = lambda _what, _payload: False
        self.fenced: Counter[str] = Counter()
        self.leases: dict[str, Lease] = {}
        #: What each node has to do, and until when that holds.
        self._loads: dict[str, tuple[int, float]] = {}
        self.inboxes: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        self.mail: defaultdict[str, deque[bytes]] = defaultdict(deque)
        self.texts: defaultdict[str, list[Text]] = defaultdict(list)
        self.created: dict[tuple[str | None, str], str] = {}
        #: The entries of what was deleted, for those who follow it.
        self.graves: dict[str, Sequence[Entry]] = {}
        self.changed = trio.Event()
        self._fencing = fencing
        #: Who took each session last, and in which term.
        self._terms: dict[str, tuple[str, int]] = {}
        self._notes: defaultdict[str, list[Note]] = defaultdict(list)
        self._numbers = itertools.count(1)
        self.open_work: set[str] = set()
        #: Until when what was used of each owner counts.
        self._debts: dict[str, float] = {}

    def touch(self) -> None:
        """Wake who waits for something new."""
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    # -- logs ----------------------------------------------------------------------------------

    def entries(self, session_id: str) -> list[Entry] | None:
        """Give a session's log, None if there is no such session."""
        return self.memory.log_of(session_id)

    def holds(self, session_id: str, position: Position) -> bool:
        """Whether a session's log has just this position, or had it when it was deleted."""
        entries = self.graves.get(session_id) or self.entries(session_id) or ()
        seq = position.seq if self._fencing else 0  # else anything may stand anywhere
        return not seq or (len(entries) >= seq and entries[seq - 1].position == position)

    def take(self, session_id: str, node: str) -> int:
        """Give a node the right to write, in the next term unless it has had it last."""
        if self.entries(session_id) is None:
            raise SessionNotFoundError(f"Session not found: {session_id}")
        holder, term = self._terms[session_id]
        if holder != node:
            term += 1
            self._terms[session_id] = node, term
        return term

    def append(
        self, session_id: str, node: str, term: int, batch: Sequence[Entry], summary: Summary
    ) -> None:
        """Append, unless somebody has taken the session in a later term.

        Raises:
            FencedError: Somebody has.
            CreatedError: The key of the new one has created another one.
            StoreError: There is no such session any more, or one already.
        """
        known = self.entries(session_id)
        is_new = batch[0].seq == 1
        if not is_new and known is None:
            raise StoreError(f"the session {session_id} was deleted")
        created = self.created.get((summary.owner, summary.created_key or ""), session_id)
        if is_new and created != session_id:
            raise CreatedError(created)
        if is_new:
            self._terms.setdefault(session_id, (node, term))
        if self._fencing and known is not None and batch[0].seq > len(known) + 1:
            raise RewoundError(f"{session_id} has lost what came behind {len(known)}")
        if self._fencing and self._terms[session_id] != (node, term):
            self.fenced[node] += 1
            raise FencedError(f"{session_id} is {self._terms[session_id][0]}'s")
        if known is not None and not self._fencing:
            known.extend(batch)  # whatever comes of it
        else:
            self.memory.keep(session_id, known, batch, summary)
        (self.open_work.add if summary.has_open_work else self.open_work.discard)(session_id)
        if is_new and summary.created_key is not None:
            self.created[summary.owner, summary.created_key] = session_id
        self.touch()

    def rewind(self, session_id: str, seq: int) -> None:
        """Lose what came behind a seq, as an engine does whose place a replica took that lagged.

        Of what lists show, too, and of texts and notes, nothing is as it was before.
        """
        entries = self.entries(session_id)
        assert entries is not None
        del entries[seq:]
        term = self._terms[session_id][1] + LEAP
        # Nobody has the right to write it any more, and no term of what was lost comes back.
        self._terms[session_id] = "", term
        self.texts.pop(session_id, None)
        self._notes.pop(session_id, None)
        self.touch()

    def note(self, session_id: str, term: int, note: Note) -> None:
        """Keep a note, unless somebody has taken the session."""
        if self._terms.get(session_id, ("", 0))[1] != term:
            return
        if note.type == "snapshot":
            self._notes[session_id].clear()
        self._notes[session_id].append(note)

    def recall(self, session_id: str) -> Recollection:
        """As `SessionStore.recall`."""
        notes = self._notes[session_id]
        first = notes[0] if notes and notes[0].type == "snapshot" else None
        return Recollection(
            snapshot=first, partials=[note for note in notes if note.type == "partial"]
        )

    async def delete(self, session_id: str) -> bool:
        """Remove a session, and all that is kept of it."""
        entries = self.entries(session_id)
        if entries is not None:
            self.graves[session_id] = list(entries)
        for kept in (self.leases, self.inboxes, self._notes, self._terms):
            kept.pop(session_id, None)
        self.open_work.discard(session_id)
        existed = await self.memory.delete(session_id)
        self.touch()
        return existed

    # -- leases --------------------------------------------------------------------------------

    def holder(self, session_id: str) -> str | None:
        """Name the node that has a session, if one has."""
        lease = self.leases.get(session_id)
        return lease.node if lease is not None and lease.until > trio.current_time() else None

    def claim(self, session_id: str, node: str) -> str:
        """Give a session to a node if nobody has it, and name who has."""
        holder = self.holder(session_id)
        if holder is None or holder == node:
            self.leases[session_id] = Lease(node, trio.current_time() + self.lease_seconds)
            holder = node
        return holder

    def release(self, session_id: str, node: str) -> None:
        """Let go of a session that a node has."""
        lease = self.leases.get(session_id)
        if lease is not None and lease.node == node:
            del self.leases[session_id]
            self.touch()

    def give(self, session_id: str, node: str, to: str, payload: bytes) -> None:
        """Let another node have a session that a node has, and post it something."""
        if self.holder(session_id) == node:
            self.leases[session_id] = Lease(to, trio.current_time() + self.lease_seconds)
            self.post(to, payload)

    def leased_by_others(self, node: str) -> list[str]:
        """Name the sessions that other nodes have."""
        return [
            session_id for session_id in self.leases if self.holder(session_id) not in (None, node)
        ]

    def list_orphans(self) -> list[str]:
        """Name the sessions that no node has, and that somebody has to see to."""
        found = {session_id for session_id, items in self.inboxes.items() if items}
        found |= self.open_work
        return sorted(session_id for session_id in found if self.holder(session_id) is None)

    # -- inboxes, mail, debts, texts -------------------------------------------------------------

    def send(self, session_id: str, payload: bytes) -> str | None:
        """Put something into an inbox, if a node has that session."""
        holder = self.holder(session_id)
        if holder is not None:
            self.inboxes[session_id][str(next(self._numbers))] = payload
            self.touch()
        return holder

    def post(self, node: str, payload: bytes) -> None:
        """Put something into a node's mail."""
        self.mail[node].append(payload)
        self.touch()

    def charge(self, used: Mapping[str, float], most: float) -> list[float]:
        """Add to what was used of some owners, and give what that is then."""
        now = trio.current_time()
        for owner, more in used.items():
            debt = max(0.0, self._debts.get(owner, now) - now)
            if more:
                self._debts[owner] = now + min(debt + more, most)
        return [max(0.0, self._debts.get(owner, now) - now) for owner in used]

    def report(self, node: str, load: int | None) -> dict[str, int]:
        """Keep what a node has to do, and give that of all."""
        now = trio.current_time()
        if load is None:
            self._loads.pop(node, None)
        else:
            self._loads[node] = load, now + self.lease_seconds
        return {name: self._loads[name][0] for name in self.list_nodes()}

    def list_nodes(self) -> list[str]:
        """Name the nodes of which that is known."""
        now = trio.current_time()
        return [name for name, (_, until) in self._loads.items() if until > now]

    def publish(self, session_id: str, payloads: Sequence[bytes]) -> None:
        """Put texts behind those published before."""
        now = trio.current_time()
        self.texts[session_id] += [Text(next(self._numbers), now, text) for text in payloads]
        self.touch()

    def trim(self, session_id: str) -> None:
        """Drop texts that everybody has seen who follows within the time of a lease."""
        before = trio.current_time() - self.lease_seconds
        self.texts[session_id] = [text for text in self.texts[session_id] if text.at >= before]
