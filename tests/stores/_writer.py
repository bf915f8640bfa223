"""What the tests of the stores share: entries that a server could have written."""

from collections.abc import Sequence

from trialogue.core import codec
from trialogue.core._state import SessionState
from trialogue.core.abc import SessionLog, SessionStore
from trialogue.core.events import EventBody, MessageCreated, SessionCreated
from trialogue.core.log import Entry, KeyRecord
from trialogue.core.models import Message, Session, SessionConfig

TIME = "2026-01-02T03:04:05.{:03d}Z"


class Writer:
    """Makes entries of one session, and the summary after them."""

    def __init__(self, session_id: str, *, owner: str | None = None, term: int = 1) -> None:
        self.id = session_id
        self.owner = owner
        self.term = term
        self.state = SessionState(session_id)

    def entry(self, body: EventBody, *, keys: tuple[KeyRecord, ...] = ()) -> Entry:
        seq = self.state.seq + 1
        entry = Entry(
            session_id=self.id,
            term=self.term,
            seq=seq,
            timestamp=TIME.format(seq % 1000),
            event=body.type,
            log_class=body.log_class or "metadata",
            data=codec.encode_json(codec.unstructure(body)),
            keys=keys,
        )
        self.state.apply(entry)
        return entry

    def created(self) -> Entry:
        now = TIME.format(0)
        shape = Session(
            id=self.id,
            status="idle",
            config=SessionConfig(),
            created_at=now,
            last_activity_at=now,
            position=f"{self.term}-1",
        )
        return self.entry(SessionCreated(session=shape, owner=self.owner))

    def message(self, text: str = "hello") -> Entry:
        message_id = f"msg_{self.state.seq}"
        return self.entry(
            MessageCreated(
                message=Message(
                    id=message_id,
                    session_id=self.id,
                    role="user",
                    content=text,
                    timestamp=TIME.format(0),
                )
            )
        )

    def messages(self, count: int, text: str = "hello") -> Sequence[Entry]:
        return [self.message(f"{text} {index}") for index in range(count)]


async def append(log: SessionLog, writer: Writer, entries: Sequence[Entry]) -> None:
    """Append what the writer made."""
    await log.append(entries, writer.state.make_summary())


async def seqs(store: SessionStore, session_id: str) -> list[int]:
    """Read a whole session by small pages."""
    found: list[int] = []
    while page := await store.read(session_id, len(found), 7):
        found += [entry.seq for entry in page]
    assert found == list(range(1, len(found) + 1))
    return found
