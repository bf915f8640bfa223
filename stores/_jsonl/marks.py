"""Which sessions are known to be damaged, on disk: ``damaged.jsonl``.

A start does not read the sessions, so what was found of them is written down for the next one.
It is a hint and not the truth: that start looks again at each session that is named there, and a
file that is missing is made anew by whoever reads those sessions. Only of a session of which
nothing is left, lost with a record of the commit log, does nothing else know.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import trio

from ...core import codec
from ...core._json import UNREADABLE
from ...core._line import has_valid_crc, seal
from ...core.errors import FencedError
from ...core.log import Damage
from .._files import Files, IrregularError
from .sessions import Sessions

__all__ = ["MARKS_NAME", "Marks", "load_marks", "try_to_save"]

log = logging.getLogger("trialogue.store")

MARKS_NAME: Final = "damaged.jsonl"
_NEW_NAME: Final = "damaged.jsonl.new"


class _Mark(msgspec.Struct):
    session: str
    seq: int
    reason: str


_decoder: Final = msgspec.json.Decoder(_Mark)


def load_marks(files: Files) -> dict[str, Damage]:
    """Read the file. Synchronous, as is `try_to_save`. What is not as it was written is left out."""
    try:
        handle = files.open_to_read(MARKS_NAME)
    except FileNotFoundError:
        return {}
    except IrregularError as exc:
        log.warning("which sessions are damaged cannot be read", extra={"error": str(exc)})
        return {}
    try:
        lines = files.read(handle, 0, files.size(handle)).splitlines()
    finally:
        files.close(handle)
    marks: dict[str, Damage] = {}
    for line in lines:
        try:
            mark = _decoder.decode(line) if has_valid_crc(line) else None
        except UNREADABLE:
            mark = None
        if mark is None:
            log.warning("a line is damaged", extra={"file": MARKS_NAME})
        else:
            marks[mark.session] = Damage(seq=mark.seq, reason=mark.reason)
    return marks


def _save(files: Files, damaged: Mapping[str, Damage]) -> None:
    """Put another file in the place of the old one; none, if no session is damaged."""
    if not damaged:
        files.remove(MARKS_NAME)
        return
    files.remove(_NEW_NAME)
    handle = files.open(_NEW_NAME, exclusive=True)
    try:
        files.write(handle, b"".join(_encode(*item) for item in damaged.items()), 0)
        files.sync(handle)
    finally:
        files.close(handle)
    files.rename(_NEW_NAME, MARKS_NAME)
    files.sync_folder()


def try_to_save(files: Files, damaged: Mapping[str, Damage]) -> None:
    """Save it. A failure is logged: whoever reads those sessions finds it again."""
    try:
        _save(files, damaged)
    except OSError as exc:
        log.warning("which sessions are damaged could not be noted", extra={"error": str(exc)})


def _encode(session_id: str, damage: Damage) -> bytes:
    mark = {"session": session_id, "seq": damage.seq, "reason": damage.reason}
    return seal(codec.encode_json(mark)[:-1]) + b"\n"


class Marks:
    """Keeps the file as the sessions are. Used on the event loop.

    Args:
        files: The folder.
        sessions: Say when one is found to be damaged, or is gone.
        check_lock: Raises if the folder is not ours any more. Called in a worker thread.
    """

    def __init__(self, files: Files, sessions: Sessions, check_lock: Callable[[], None]) -> None:
        self._files = files
        self._sessions = sessions
        self._check_lock = check_lock
        self._changed = trio.Event()
        self._saving = trio.Lock()
        sessions.on_damage = self._note

    def _note(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Save whenever something has changed, until cancelled."""
        while True:
            await self._changed.wait()
            await self.save()

    async def save(self) -> None:
        """Save what has changed, if that can be done."""
        async with self._saving:
            if not self._changed.is_set():
                return
            self._changed = trio.Event()
            damaged = dict(self._sessions.damaged)

            def save() -> None:
                self._check_lock()
                try_to_save(self._files, damaged)

            try:
                with trio.CancelScope(shield=True):  # bounded by the disk, as every write is
                    await trio.to_thread.run_sync(save)
            except (OSError, FencedError) as exc:
                log.warning(
                    "which sessions are damaged could not be noted", extra={"error": str(exc)}
                )
