"""Writes to a store as a session's journal does, and remembers what was acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ..core.abc import SessionLog, SessionStore
from ..core.codec import decode_json, encode_json
from ..core.log import Entry, KeyRecord, Note, Position, Summary
from ..core.models import Session, SessionConfig, SessionStatus

__all__ = ["SessionWriter", "make_entry", "make_summary", "moment", "read_all", "same_entry"]

#: Entries of one page when a whole log is read.
PAGE: Final = 200


def moment(number: int) -> str:
    """Give the ``number``-th millisecond of a day of long ago, as the log writes times."""
    seconds, milliseconds = divmod(number, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"2020-01-01T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z"


def make_entry(
    session_id: str,
    seq: int,
    *,
    term: int = 1,
    text: str = "",
    keys: tuple[KeyRecord, ...] = (),
) -> Entry:
    """Make an entry of an agent's own event."""
    return Entry(
        session_id=session_id,
        term=term,
        seq=seq,
        timestamp=moment(seq),
        event="_kit.step",
        log_class="metadata",
        data=encode_json({"seq": seq, "text": text}),
        keys=keys,
    )


def make_summary(
    session_id: str,
    position: Position,
    *,
    owner: str | None = None,
    status: SessionStatus = "idle",
    activity: int = 0,
    has_open_work: bool = False,
    name: str | None = None,
    created_key: str | None = None,
) -> Summary:
    """Make the summary of a session as it is after the entry at ``position``."""
    return Summary(
        session=Session(
            id=session_id,
            name=name,
            status=status,
            config=SessionConfig(agent="echo", temperature=0.5, tools=("clock",)),
            created_at=moment(0),
            last_activity_at=moment(activity),
            message_count=position.seq,
            position=str(position),
            metadata={"of": "the kit", "nested": [1, None, {"ö": True}]},
        ),
        owner=owner,
        created_key=created_key,
        has_open_work=has_open_work,
    )


def same_entry(one: Entry, other: Entry) -> bool:
    """Say whether two entries hold the same; how their JSON is spaced is the store's affair."""
    return _contents(one) == _contents(other) and (
        one.data == other.data or decode_json(one.data) == decode_json(other.data)
    )


def _contents(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.session_id,
        entry.term,
        entry.seq,
        entry.timestamp,
        entry.event,
        entry.log_class,
        entry.keys,
    )


async def read_all(store: SessionStore, session_id: str) -> list[Entry]:
    """Read a whole log, page by page.

    Raises:
        SessionNotFoundError: There is none.
        AssertionError: Its entries do not count up from 1, or their terms go down.
    """
    entries: list[Entry] = []
    while page := await store.read(session_id, len(entries), PAGE):
        assert len(page) <= PAGE
        entries.extend(page)
        assert [entry.seq for entry in entries[-len(page) :]] == list(
            range(len(entries) - len(page) + 1, len(entries) + 1)
        )
    terms = [entry.term for entry in entries]
    assert terms == sorted(terms), "terms never go down"
    return entries


class SessionWriter:
    """One session's writer.

    Attributes:
        entries: What was acknowledged, in order.
        attempted: The batch whose append did not return; in the log or not, nobody knows.
    """

    def __init__(self, store: SessionStore, session_id: str, *, owner: str | None = None) -> None:
        self.store = store
        self.id = session_id
        self.owner = owner
        self.log: SessionLog = store.create(session_id)
        self.entries: list[Entry] = []
        self.attempted: Sequence[Entry] = ()
        self.activity = 0
        self.summary: Summary | None = None

    @property
    def position(self) -> Position:
        """Of the last entry that was acknowledged."""
        return self.entries[-1].position if self.entries else Position(0, 0)

    def make_batch(self, count: int = 1, *, text: str = "") -> list[Entry]:
        """Make the next entries, of the term that the log was given in."""
        first = len(self.entries) + 1
        return [
            make_entry(self.id, seq, term=self.log.term, text=text)
            for seq in range(first, first + count)
        ]

    async def append(
        self,
        count: int = 1,
        *,
        text: str = "",
        batch: Sequence[Entry] | None = None,
        status: SessionStatus = "idle",
        activity: int | None = None,
        has_open_work: bool = False,
        name: str | None = None,
        created_key: str | None = None,
    ) -> None:
        """Append the next entries and wait until they are durable."""
        batch = self.make_batch(count, text=text) if batch is None else batch
        self.activity = self.activity + 1 if activity is None else activity
        self.attempted = batch
        summary = make_summary(
            self.id,
            batch[-1].position,
            owner=self.owner,
            status=status,
            activity=self.activity,
            has_open_work=has_open_work,
            name=name,
            created_key=created_key,
        )
        await self.log.append(batch, summary)
        self.entries.extend(batch)
        self.attempted = ()
        self.summary = summary

    def note(self, kind: str, data: object) -> Note:
        """Note something behind what was acknowledged."""
        note = Note(
            session_id=self.id,
            type="snapshot" if kind == "snapshot" else "partial",
            after=self.position,
            timestamp=moment(len(self.entries)),
            data=encode_json(data),
        )
        self.log.note(note)
        return note

    async def reopen(self, store: SessionStore | None = None) -> None:
        """Take the session again, and find out what became of the last attempt.

        Raises:
            AssertionError: The log holds something else than what was acknowledged, and after
                it what was attempted: whole, in part from its beginning, or not at all.
        """
        self.store = self.store if store is None else store
        self.log = await self.store.open(self.id)
        await self.check()
        self.attempted = ()

    async def check(self) -> None:
        """Read the log, and compare it with what was acknowledged and attempted."""
        found = await read_all(self.store, self.id)
        known = len(self.entries)
        assert len(found) >= known, f"{self.id}: {known} acknowledged, {len(found)} there"
        expected = [*self.entries, *self.attempted]
        assert len(found) <= len(expected), f"{self.id}: {len(found)} of {len(expected)} written"
        for one, other in zip(found, expected, strict=False):
            assert same_entry(one, other), f"{one!r} is not {other!r}"
        self.entries = found
