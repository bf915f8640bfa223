"""The operating system's files, as the stores need them: the only module that calls it for them.

Synchronous: every method may take as long as the disk does, and runs in a worker thread. All
names are inside one folder, which is held open: nothing is followed out of it, neither a link nor
a ``..``. A test puts another `Files` in its place, to record, to fail, or to lose power.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import stat
from collections.abc import Sequence
from typing import Final

from ..core._clock import utc_now

__all__ = ["NOT_WRITABLE", "Files", "IrregularError", "LockedError", "NoRoomError", "make_stamp"]

log = logging.getLogger("trialogue.store")

#: How the system says that something, or the disk it is on, cannot be written.
NOT_WRITABLE: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,200}", re.ASCII)
#: Not blocking: opening a FIFO that somebody put there must not hang.
_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
#: How the system says that the disk is full.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
#: What opening a link, a folder, or a FIFO or socket with nobody at it fails with.
_IRREGULAR: Final = (errno.ELOOP, errno.EISDIR, errno.ENXIO)


def make_stamp() -> str:
    """Give a time for a file name, and something that no other has."""
    digits = "".join(char for char in utc_now() if char.isdigit())
    return f"{digits}-{os.urandom(3).hex()}"


class IrregularError(OSError):
    """The name is no regular file's, but a link's, a folder's or the like: it is not followed."""


class NoRoomError(OSError):
    """The disk, or the quota, is full. Never of a sync: what is lost then, nobody knows."""


class LockedError(Exception):
    """Somebody else holds the lock. ``holder`` is what that somebody wrote into its file."""

    def __init__(self, holder: bytes) -> None:
        super().__init__("locked")
        self.holder = holder


def _named(exc: OSError) -> OSError:
    """Give an error the name that it has here."""
    return NoRoomError(*exc.args) if exc.errno in _NO_ROOM else exc


class Files:
    """The files of one folder. Handles are file descriptors.

    Every method raises `OSError` as the system does, `open` and `write` a `NoRoomError` where there is none. There is one user of `write`, `rename` and
    the like at a time for a name; reading goes on beside it.

    Args:
        folder: Made if it is missing, with mode 0700.

    Attributes:
        irregular: The names that `list_names` has passed over.
    """

    irregular: Sequence[str] = ()

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)
        if not os.path.isdir(self.folder):
            os.makedirs(os.path.dirname(self.folder), exist_ok=True)
            os.mkdir(self.folder, FOLDER_MODE)
            self._sync_parent()
        self._folder: int | None = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _sync_parent(self) -> None:
        parent = os.open(os.path.dirname(self.folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)

    @property
    def _at(self) -> int:
        if self._folder is None:
            raise OSError(errno.EBADF, "the folder is closed", self.folder)
        return self._folder

    def _check(self, name: str) -> str:
        if not _NAME.fullmatch(name) or name in (".", ".."):
            raise OSError(errno.EINVAL, "not a safe file name", name)
        return name

    # -- the folder ------------------------------------------------------------------------

    def close_folder(self) -> None:
        """Let go of the folder. Idempotent."""
        if self._folder is not None:
            folder, self._folder = self._folder, None
            os.close(folder)

    def is_private(self) -> bool:
        """Whether nobody but its owner may look into the folder."""
        return not stat.S_IMODE(os.fstat(self._at).st_mode) & 0o077

    def list_names(self) -> list[str]:
        """Name the regular files in the folder, in no order. Links are none."""
        names: list[str] = []
        irregular: list[str] = []
        with os.scandir(self._at) as found:
            for entry in found:
                is_regular = entry.is_file(follow_symlinks=False)
                (names if is_regular else irregular).append(entry.name)
        self.irregular = irregular
        return names

    def free_bytes(self) -> int:
        """How much may still be written to this disk by us."""
        found = os.fstatvfs(self._at)
        return found.f_bavail * found.f_frsize

    def sync_folder(self) -> None:
        """Make names durable: what was created, renamed and removed."""
        os.fsync(self._at)

    def size_of(self, name: str) -> int | None:
        """Give a file's size: None if there is none, -1 if it is something else, a link say."""
        try:
            found = os.stat(self._check(name), dir_fd=self._at, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else -1

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, at once, in the place of whatever had that name."""
        try:
            self._rename(self._check(old), self._check(new))
        except IsADirectoryError:
            self._put_aside(new)
            self._rename(old, new)

    def remove(self, name: str) -> bool:
        """Remove a file or a link, and put a folder aside. Returns False if there was none."""
        try:
            os.unlink(self._check(name), dir_fd=self._at)
        except FileNotFoundError:
            return False
        except IsADirectoryError:
            self._put_aside(name)
        return True

    def _put_aside(self, name: str) -> None:
        """Give a folder a name that is none of ours: nobody knows what is in it."""
        aside = f"aside-{name}-{make_stamp()}"
        self._rename(name, aside)
        log.warning(
            "a folder was in the way, and is put aside",
            extra={"path": os.path.join(self.folder, name), "kept_in": aside},
        )

    def _rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._at, dst_dir_fd=self._at)

    # -- one file --------------------------------------------------------------------------

    def open(self, name: str, *, create: bool = False, exclusive: bool = False) -> int:
        """Open a file for writing (and reading).

        Args:
            name: In this folder.
            create: Make it if it is missing, with mode 0600.
            exclusive: Fail if it is there.
        """
        flags = os.O_RDWR | _FLAGS
        if create or exclusive:
            flags |= os.O_CREAT
        if exclusive:
            flags |= os.O_EXCL
        return self._open_regular(name, flags)

    def open_to_read(self, name: str) -> int:
        """Open a file for reading only."""
        return self._open_regular(name, os.O_RDONLY | _FLAGS)

    def _open_regular(self, name: str, flags: int) -> int:
        try:
            handle = os.open(self._check(name), flags, FILE_MODE, dir_fd=self._at)
        except OSError as exc:
            if exc.errno in _IRREGULAR:
                raise IrregularError(exc.errno, "not a regular file", name) from exc
            raise _named(exc) from exc
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise IrregularError(errno.EINVAL, "not a regular file", name)
        return handle

    def size(self, handle: int) -> int:
        """Give the size of an open file."""
        return os.fstat(handle).st_size

    def read(self, handle: int, offset: int, length: int) -> bytes:
        """Read up to ``length`` bytes; fewer only at the end."""
        return os.pread(handle, length, offset)

    def write(self, handle: int, data: bytes, offset: int) -> None:
        """Write all of it, or raise: then nobody knows how much of it is there."""
        written, rest = 0, memoryview(data)
        try:
            while written < len(data):
                count = os.pwrite(handle, rest[written:], offset + written)
                if not count:
                    raise OSError(errno.EIO, "nothing was written")
                written += count
        except OSError as exc:
            raise _named(exc) from exc

    def sync(self, handle: int) -> None:
        """Make durable what was written to an open file, and its size."""
        os.fdatasync(handle)

    def truncate(self, handle: int, size: int) -> None:
        """Cut an open file back."""
        os.ftruncate(handle, size)

    def close(self, handle: int) -> None:
        """Close an open file."""
        os.close(handle)

    # -- the lock --------------------------------------------------------------------------

    def lock(self, name: str, *, steal: bool = False) -> tuple[int, bytes]:
        """Take the folder's lock, which the system drops when this process ends.

        Args:
            name: Of the file that it is held by.
            steal: Put a new file in the place of one that is held.

        Returns:
            The handle, and what the last holder wrote.

        Raises:
            LockedError: Somebody holds it.
        """
        while True:
            handle = self.open(name, create=True)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                holder = self.read(handle, 0, 4096)
                self.close(handle)
                if exc.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                if not steal:
                    raise LockedError(holder) from None
                self.remove(name)
                handle = self.open(name, exclusive=True)
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle, holder
            # Its last holder may have removed it between our two calls.
            if self.is_named(name, handle):
                return handle, self.read(handle, 0, 4096)
            self.close(handle)

    def is_named(self, name: str, handle: int) -> bool:
        """Whether the file that we hold is still the one of that name."""
        try:
            found = os.stat(self._check(name), dir_fd=self._at, follow_symlinks=False)
        except FileNotFoundError:
            return False
        held = os.fstat(handle)
        return (found.st_ino, found.st_dev) == (held.st_ino, held.st_dev)
