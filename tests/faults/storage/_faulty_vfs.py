"""SQLite's way to the operating system, behind its own seam: it records, and fails as it is told.

What is written goes to real files, for SQLite to read them, and onto a `Disk`, which knows what a
power loss would leave. Nothing is really synced: no test cuts the power.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import attrs

from ._faulty_files import Call, Disk, Fault

__all__ = ["FaultyVfs", "open_vfs", "restore"]


class _Recorder:
    """One process's calls.

    Args:
        disk: What is recorded.
        fault: Which of the calls fail.
        swallows: The control: a call that fails is taken for one that went well.
    """

    def __init__(self, disk: Disk, fault: Fault, *, swallows: bool) -> None:
        self.disk = disk
        self.fault = fault
        self.swallows = swallows

    def do(self, call: Call, act: Callable[[bytes], object]) -> None:
        """Make a call that changes something, given what it writes, or fail it."""
        with self.disk.guard:
            if not self.fault.next_fails(call.kind):
                self.disk.calls.append(call)
                act(call.data)
                return
            if call.kind == "write" and self.fault.failure == "short":
                half = attrs.evolve(call, data=call.data[: len(call.data) // 2])
                self.disk.calls.append(half)
                act(half.data)
            elif call.kind in ("sync", "sync_folder"):
                self.disk.calls.append(attrs.evolve(call, failed=True))
        if not self.swallows:
            raise self.error()

    def error(self) -> Exception:
        """What SQLite makes of it."""
        if self.fault.failure == "EIO" or self.fault.hit[-1] == "sync":
            return apsw.IOError(os.strerror(errno.EIO))
        return apsw.FullError(os.strerror(errno.ENOSPC))

    def open(self, name: str) -> int:
        """Give the number of a file, made if it is missing."""
        with self.disk.guard:
            inode = self.disk.names.get(name)
            if inode is None:
                inode = self.disk.last_inode = self.disk.last_inode + 1
                self.do(Call("create", name=name, inode=inode), lambda _: None)
                self.disk.names[name] = inode
            return inode


class _File(apsw.VFSFile):
    def __init__(self, recorder: _Recorder, base: str, name: Any, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._recorder = recorder
        self._inode = recorder.open(os.path.basename(path))
        self._is_new = True
        super().__init__(base, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's name
        # Any: its annotations name a type that needs typing_extensions.
        write: Any = super().xWrite  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        call = Call("write", inode=self._inode, offset=offset, data=bytes(data))
        self._recorder.do(call, lambda some: write(some, offset))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - apsw's name
        truncate = super().xTruncate
        call = Call("truncate", inode=self._inode, offset=newsize)
        self._recorder.do(call, lambda _: truncate(newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's name
        self._recorder.do(Call("sync", inode=self._inode), lambda _: None)
        if self._is_new:
            # As SQLite's own does for a file that it made.
            self._is_new = False
            self._recorder.do(Call("sync_folder"), lambda _: None)


class FaultyVfs(apsw.VFS):
    """Registered by its name as long as it lives. From `open_vfs`."""

    def __init__(self, name: str, recorder: _Recorder) -> None:
        self._recorder = recorder
        super().__init__(name, "unix")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's name
        if name is None:  # for sorting, in nobody's folder
            return super().xOpen(name, flags)
        return _File(self._recorder, "unix", name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - apsw's name
        delete, name = super().xDelete, os.path.basename(filename)

        def act(_: bytes) -> None:
            delete(filename, syncdir)
            self._recorder.disk.names.pop(name, None)

        inode = self._recorder.disk.names.get(name, 0)
        self._recorder.do(Call("remove", name=name, inode=inode), act)
        if syncdir:
            self._recorder.do(Call("sync_folder"), lambda _: None)


@contextmanager
def open_vfs(disk: Disk, fault: Fault, *, swallows: bool = False) -> Generator[str]:
    """Let SQLite call through a fault. Gives the name by which it knows the way."""
    name = f"faulty-{id(fault)}"
    vfs = FaultyVfs(name, _Recorder(disk, fault, swallows=swallows))
    try:
        yield name
    finally:
        vfs.unregister()


def restore(disk: Disk, folder: Path) -> None:
    """Write what a disk holds into a new folder."""
    folder.mkdir()
    for name, data in disk.contents().items():
        (folder / name).write_bytes(data)
