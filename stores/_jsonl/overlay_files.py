"""A folder that cannot be written, as if it could be: what would be changed stays in memory.

So a folder on a read-only disk is read as any other: what only the commit log has is there, and
what a start mends is mended, in memory. Nothing is written, so no lock has to be held.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

from .._files import Files, LockedError

__all__ = ["OverlayFiles"]

#: Handles of files in memory begin here: no process has so many others.
_FIRST_HANDLE: Final = 1 << 30


class OverlayFiles(Files):
    """The files of a folder, with changes of this process alone."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._changed: dict[str, bytearray] = {}
        self._gone: set[str] = set()
        self._handles: dict[int, bytearray] = {}
        self._next_handle = _FIRST_HANDLE

    # -- the folder ------------------------------------------------------------------------

    def list_names(self) -> list[str]:
        hidden = self._gone | self._changed.keys()
        return [*(name for name in super().list_names() if name not in hidden), *self._changed]

    def free_bytes(self) -> int:
        """Nothing is taken of the disk."""
        return 1 << 60

    def sync_folder(self) -> None:
        pass

    def size_of(self, name: str) -> int | None:
        data = self._changed.get(self._check(name))
        if data is not None:
            return len(data)
        return None if name in self._gone else super().size_of(name)

    def rename(self, old: str, new: str) -> None:
        data = self._find(old)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), old)
        self.remove(old)
        self._changed[self._check(new)] = data

    def remove(self, name: str) -> bool:
        is_there = self.size_of(name) is not None
        self._changed.pop(name, None)
        self._gone.add(name)
        return is_there

    # -- one file --------------------------------------------------------------------------

    def _find(self, name: str) -> bytearray | None:
        """Give a file that may be changed, None if there is none."""
        data = self._changed.get(self._check(name))
        if data is None and self.size_of(name) is not None:
            handle = super().open_to_read(name)
            try:
                data = bytearray(super().read(handle, 0, super().size(handle)))
            finally:
                super().close(handle)
        return data

    def open(self, name: str, *, create: bool = False, exclusive: bool = False) -> int:
        data = self._find(name)
        if data is not None and exclusive:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        if data is None:
            if not create and not exclusive:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            data = bytearray()
        self._changed[name] = data
        return self._hand_out(data)

    def open_to_read(self, name: str) -> int:
        data = self._changed.get(self._check(name))
        if data is not None:
            return self._hand_out(data)
        if name in self._gone:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return super().open_to_read(name)

    def _hand_out(self, data: bytearray) -> int:
        self._next_handle += 1
        self._handles[self._next_handle] = data
        return self._next_handle

    def size(self, handle: int) -> int:
        data = self._handles.get(handle)
        return super().size(handle) if data is None else len(data)

    def read(self, handle: int, offset: int, length: int) -> bytes:
        data = self._handles.get(handle)
        if data is None:
            return super().read(handle, offset, length)
        return bytes(data[offset : offset + length])

    def write(self, handle: int, data: bytes, offset: int) -> None:
        self._handles[handle][offset : offset + len(data)] = data

    def sync(self, handle: int) -> None:
        pass

    def truncate(self, handle: int, size: int) -> None:
        del self._handles[handle][size:]

    def close(self, handle: int) -> None:
        if self._handles.pop(handle, None) is None:
            super().close(handle)

    # -- the lock --------------------------------------------------------------------------

    def lock(self, name: str, *, steal: bool = False) -> tuple[int, bytes]:
        """See that nobody has the folder now, if there is a lock's file to see it by."""
        handle = self.open(name, create=True)
        before = self.read(handle, 0, 4096)
        try:
            shared = super().open_to_read(name)
        except OSError:
            return handle, before
        try:
            fcntl.flock(shared, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(before) from None
        finally:
            super().close(shared)
        return handle, before

    def is_named(self, name: str, handle: int) -> bool:
        return True
