"""Appends to the sessions' own files: what a flush does in its worker thread."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from .._files import Files, IrregularError, NoRoomError
from .replay import cut_tail
from .segments import head_name, load_tail, segment_name
from .session import FlushJob, OwnedSession

__all__ = ["Heads"]

log = logging.getLogger("trialogue.store")


class Heads:
    """The only writer of the sessions' files, once a start is over. Synchronous.

    Args:
        files: The folder.
        sync: Whether what is written has to be durable some time.

    Attributes:
        mended: Ends that somebody else had left on files, and that were kept aside.
    """

    def __init__(self, files: Files, *, sync: bool) -> None:
        self.mended = 0
        self._files = files
        self._sync = sync
        self._names_changed = False

    def remove(self, names: Iterable[str]) -> None:
        """Remove files of sessions that are gone."""
        for name in names:
            self._names_changed |= self._files.remove(name)

    def write(self, jobs: Iterable[FlushJob]) -> None:
        """Do jobs, up to the first that finds no room: it and those behind it are undone."""
        is_full = False
        for job in jobs:
            if not is_full:
                try:
                    self._write(job)
                except NoRoomError:
                    is_full = True
                    self._undo(job)
            job.is_undone = is_full

    def _write(self, job: FlushJob) -> None:
        files = self._files
        session_id = job.session.id
        name = head_name(session_id)
        is_new = job.expected_size == 0
        try:
            handle = files.open(name, create=is_new)
        except (FileNotFoundError, IrregularError):
            # Whoever put a folder or a link there, that is one session's affair.
            job.foreign_size = 0
            return
        try:
            size = files.size(handle)
            if size > job.expected_size and self._cut_back(job.session, job.expected_size):
                size = files.size(handle)
            if size != job.expected_size:
                job.foreign_size = size
                return
            self._names_changed |= is_new
            if not job.roll:
                files.write(handle, job.after, size)
                return
            if job.before:
                files.write(handle, job.before, size)
            # Whatever is in an older segment is durable before the segment has its name,
            # and its name before another file has the head's: replaying by position then
            # only ever meets a torn head.
            if self._sync:
                files.sync(handle)
        finally:
            files.close(handle)
        files.rename(name, segment_name(session_id, job.session.first))
        if self._sync:
            files.sync_folder()
        if job.after:
            handle = files.open(name, exclusive=True)
            try:
                files.write(handle, job.after, 0)
            finally:
                files.close(handle)
        self._names_changed = True

    def mend(self, session: OwnedSession) -> bool:
        """Leave a session's head as long as it was left, if that can be. Returns whether it is."""
        size = self._files.size_of(head_name(session.id)) or 0
        if size > session.size and self._cut_back(session, session.size):
            size = self._files.size_of(head_name(session.id)) or 0
        return size == session.size

    def _cut_back(self, session: OwnedSession, expected_size: int) -> bool:
        """Cut off what somebody has appended, if it is nothing: what is to follow is acknowledged.

        An entry, another owner's say, is not cut off, nor is what one comes after.
        """
        tail = load_tail(self._files, session.id, session.older)
        if tail is None:
            end, is_whole = 0, True
        else:
            end, is_whole = tail.size, tail.fault is None or not tail.fault.is_damage
        if end != expected_size or not is_whole:
            return False
        self.mended += cut_tail(self._files, session.id, tail)
        self._names_changed = True
        return True

    def _undo(self, job: FlushJob) -> None:
        """Leave a session's files as they were before a write that found no room."""
        files = self._files
        name = head_name(job.session.id)
        segment = segment_name(job.session.id, job.session.first)
        if job.roll and files.size_of(segment) is not None:
            # In the place of a new head, if there is one already.
            files.rename(segment, name)
            self._names_changed = True
        try:
            handle = files.open(name)
        except (FileNotFoundError, IrregularError):
            return
        try:
            files.truncate(handle, job.expected_size)
        finally:
            files.close(handle)

    def sync(self, names: Sequence[str]) -> None:
        """Make files durable."""
        for name in names:
            try:
                handle = self._files.open(name)
            except (FileNotFoundError, IrregularError):
                # Deleted since, or rolled, and nothing came after; or put there by somebody else.
                continue
            try:
                self._files.sync(handle)
            finally:
                self._files.close(handle)

    def sync_names(self) -> None:
        """Make durable which files there are."""
        if self._names_changed:
            self._names_changed = False
            self._files.sync_folder()
