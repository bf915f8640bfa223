"""What goes into a session's log beside its events: texts in progress, and snapshots.

Nobody waits for either. Partial texts are why a restart can show what was being said, snapshots
why it need not read the whole log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs
import trio

from . import codec
from ._clock import utc_now
from ._snapshot import encode_snapshot, take_snapshot, wants_snapshot
from .log import Note

if TYPE_CHECKING:
    from ._session import LiveSession

__all__ = ["NoteTaker", "join_partials"]

#: Text is in the log so long after it was written, at the latest (issue: 100 ms at most).
SAVE_TEXT_SECONDS: Final = 0.1


@attrs.frozen(kw_only=True)
class PartialText:
    """The data of a ``partial`` note: a piece of a message's text.

    Attributes:
        offset: The code points before it.
    """

    message_id: str
    offset: int
    text: str


class NoteTaker:
    """Takes the notes of one session.

    Attributes:
        is_due: The text in progress will be saved soon.
        last_snapshot: The seq that the newest snapshot was taken at.
    """

    def __init__(self, session: LiveSession) -> None:
        self._session = session
        self.is_due = False
        self._is_snapping = False
        self.last_snapshot = 0

    def text_written(self) -> None:
        """See that the text is saved soon."""
        if not self.is_due:
            self.is_due = True
            host = self._session.host
            host.timers.at(trio.current_time() + SAVE_TEXT_SECONDS, self._save_text)

    def _save_text(self) -> None:
        self.is_due = False
        session = self._session
        for message in session.journal.writing.values():
            if message.saved < message.length:
                # Of a `PartialText`, which by way of its class costs more.
                piece = {
                    "messageId": message.id,
                    "offset": message.saved,
                    "text": message.slice(message.saved, message.length),
                }
                message.saved = message.length
                session.journal.note(
                    Note(
                        session_id=session.id,
                        type="partial",
                        after=session.state.position,
                        timestamp=utc_now(),
                        data=codec.encode_json(piece),
                    )
                )

    def snapshot_if_due(self) -> None:
        """Take a snapshot if the log has grown by enough since the last one."""
        session = self._session
        if self._is_snapping or not (
            session.journal.wants_snapshot or wants_snapshot(session.state.seq, self.last_snapshot)
        ):
            return
        snapshot = take_snapshot(session.state)
        self._is_snapping = True

        async def write_down() -> None:
            # Some ten milliseconds for each thousand messages: not on the event loop.
            note = await trio.to_thread.run_sync(encode_snapshot, snapshot, utc_now())
            session.journal.note(note)
            self.last_snapshot = snapshot.after.seq
            self._is_snapping = False

        session.host.spawn_writer(write_down)


def join_partials(partials: Sequence[Note]) -> dict[str, str]:
    """Give the text so far of each message that partial texts were saved of."""
    texts: dict[str, str] = {}
    for note in partials:
        piece = codec.structure(codec.decode_json(note.data), PartialText)
        text = texts.get(piece.message_id, "")
        # A gap would be a lost piece: what is before it was really said, what is after it is not
        # shown without it.
        if piece.offset <= len(text):
            texts[piece.message_id] = text[: piece.offset] + piece.text
    return texts
