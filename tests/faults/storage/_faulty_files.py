"""A folder in memory, behind the stores' own seam: it records, fails, and loses power.

`Disk` is what is there, `MemoryFiles` a process's way to it. Every call that changes something is
recorded, so that `Disk.after_power_loss` can build what would have been left at any moment.

What a power loss leaves (POSIX promises no more): of a file, what was synced, and of what was
written since then any sectors, in any order, with any length that it ever had; of names, what was
there at the last sync of the folder, and of what was done since then any part. A sync that failed
has lost what it was for, and the next one, though it succeeds, does not bring it back.
"""

from __future__ import annotations

import errno
import os
import random
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import attrs

from trialogue.stores._files import Files, LockedError, NoRoomError

SECTOR: Final = 512

Kind: TypeAlias = Literal[
    "create", "write", "truncate", "sync", "rename", "remove", "sync_folder", "mark"
]
#: How a call fails.
Failure: TypeAlias = Literal["EIO", "ENOSPC", "short"]
#: What becomes of what was not synced.
Loss: TypeAlias = Literal["all", "none", "prefix", "sectors"]


@attrs.frozen
class Call:
    """One call that changed something.

    Attributes:
        failed: It did not do it. A failed sync has lost what was unsynced.
    """

    kind: Kind
    name: str = ""
    inode: int = 0
    offset: int = 0
    data: bytes = b""
    new_name: str = ""
    failed: bool = False
    mark: Any = None


@attrs.define
class Fault:
    """Which calls fail.

    Attributes:
        at: The number of the first one, counted from 1; 0 never.
        failure: How.
        for_good: All that come after it, too.
        hit: The calls that failed.
    """

    at: int
    failure: Failure = "EIO"
    for_good: bool = False
    calls: int = 0
    hit: list[Kind] = attrs.Factory(list["Kind"])

    def next_fails(self, kind: Kind) -> bool:
        """Count a call, and say whether it fails."""
        self.calls += 1
        fails = self.calls == self.at or (self.for_good and 0 < self.at < self.calls)
        if fails:
            self.hit.append(kind)
        return fails

    def error(self, kind: Kind) -> OSError:
        if self.failure == "EIO":
            return OSError(errno.EIO, os.strerror(errno.EIO))
        named = NoRoomError if kind in ("create", "write") else OSError
        return named(errno.ENOSPC, os.strerror(errno.ENOSPC))


@attrs.define
class Disk:
    """Files by inode, and their names. What is here from the start is durable."""

    files: dict[int, bytearray] = attrs.Factory(dict[int, bytearray])
    names: dict[str, int] = attrs.Factory(dict[str, int])
    base_files: Mapping[int, bytes] = attrs.Factory(dict[int, bytes])
    base_names: Mapping[str, int] = attrs.Factory(dict[str, int])
    calls: list[Call] = attrs.Factory(list[Call])
    locks: dict[int, int] = attrs.Factory(dict[int, int])
    guard: threading.RLock = attrs.Factory(threading.RLock)
    last_inode: int = 0

    @classmethod
    def holding(cls, contents: Mapping[str, bytes]) -> Disk:
        """Make a disk with these files, by name, all durable."""
        disk = cls()
        for name, data in contents.items():
            disk.last_inode += 1
            disk.names[name] = disk.last_inode
            disk.files[disk.last_inode] = bytearray(data)
        disk.base_names = dict(disk.names)
        disk.base_files = {inode: bytes(data) for inode, data in disk.files.items()}
        return disk

    def contents(self) -> dict[str, bytes]:
        """Give every file that has a name."""
        with self.guard:
            return {name: bytes(self.files[inode]) for name, inode in self.names.items()}

    def after_kill(self) -> Disk:
        """Give what another process finds: all that was written, synced or not."""
        return Disk.holding(self.contents())

    def mark(self, mark: Any) -> None:
        """Note something in the recording, such as what was acknowledged by now."""
        with self.guard:
            self.calls.append(Call("mark", mark=mark))

    def after_power_loss(self, at: int, choose: random.Random, loss: Loss) -> Disk:
        """Give what may be left if the power goes before the ``at``-th recorded call."""
        durable = {inode: bytearray(data) for inode, data in self.base_files.items()}
        unsynced: dict[int, list[Call]] = {}
        names = dict(self.base_names)
        renames: list[Call] = []
        for call in self.calls[:at]:
            match call.kind:
                case "write" | "truncate":
                    unsynced.setdefault(call.inode, []).append(call)
                case "sync":
                    pending = unsynced.pop(call.inode, [])
                    if not call.failed:
                        for write in pending:
                            _apply(durable.setdefault(call.inode, bytearray()), write)
                case "sync_folder":
                    if not call.failed:
                        for rename in renames:
                            _apply_name(names, rename)
                        renames = []
                case "create" | "rename" | "remove":
                    renames.append(call)
                case "mark":
                    pass
        for inode, writes in unsynced.items():
            _lose(durable.setdefault(inode, bytearray()), writes, choose, loss)
        for rename in _survivors(renames, choose, loss):
            _apply_name(names, rename)
        return Disk.holding({name: bytes(durable.get(inode, b"")) for name, inode in names.items()})


def _apply(data: bytearray, call: Call) -> None:
    if call.kind == "truncate":
        if call.offset <= len(data):
            del data[call.offset :]
        else:
            data.extend(bytes(call.offset - len(data)))
        return
    if call.offset > len(data):
        data.extend(bytes(call.offset - len(data)))
    data[call.offset : call.offset + len(call.data)] = call.data


def _apply_name(names: dict[str, int], call: Call) -> None:
    match call.kind:
        case "create":
            names[call.name] = call.inode
        case "remove":
            if names.get(call.name) == call.inode:
                del names[call.name]
        case _:
            if names.get(call.name) == call.inode:
                del names[call.name]
            names[call.new_name] = call.inode


def _survivors(calls: Sequence[Call], choose: random.Random, loss: Loss) -> Sequence[Call]:
    match loss:
        case "all":
            return ()
        case "none":
            return calls
        case "prefix":
            return calls[: choose.randint(0, len(calls))]
        case "sectors":
            return [call for call in calls if choose.random() < 0.5]


def _lose(data: bytearray, writes: Sequence[Call], choose: random.Random, loss: Loss) -> None:
    """Write to a file what survived of what was not synced."""
    if loss != "sectors":
        survivors = _survivors(writes, choose, loss)
        for write in survivors:
            _apply(data, write)
        if loss == "prefix" and len(survivors) < len(writes):
            torn = writes[len(survivors)]
            if torn.kind == "write":
                cut = choose.randint(0, len(torn.data))
                _apply(data, attrs.evolve(torn, data=torn.data[:cut]))
        return
    chance = choose.choice((0.2, 0.5, 0.9))
    for write in writes:
        if write.kind == "truncate":
            if choose.random() < chance:
                _apply(data, write)
            continue
        start = write.offset
        end = start + len(write.data)
        while start < end:
            stop = min(end, (start // SECTOR + 1) * SECTOR)
            if choose.random() < chance:
                piece = write.data[start - write.offset : stop - write.offset]
                _apply(data, Call("write", offset=start, data=piece))
            start = stop


class MemoryFiles(Files):
    """One process's `Files` on a `Disk`.

    Args:
        disk: What is there.
        fault: Which of this process's calls fail.

    Attributes:
        handles: The open ones, and which file each is of.
        misused: Calls with a handle that was closed: its number may be another file's by then.
    """

    def __init__(self, disk: Disk, fault: Fault | None = None) -> None:
        # Not `Files.__init__`, which makes a real folder.
        self.folder = "/memory"
        self.disk = disk
        self.fault = Fault(0) if fault is None else fault
        self.handles: dict[int, int] = {}
        self._last_handle = 0
        self.misused: list[str] = []

    def opener(self) -> Callable[[str], Files]:
        """Give what a store takes to make its `Files`."""
        return lambda _: self

    def _record(self, call: Call) -> None:
        """Record a call, or fail it."""
        kind = call.kind
        if self.fault.next_fails(kind):
            if call.kind == "write" and self.fault.failure == "short":
                call = attrs.evolve(call, data=call.data[: len(call.data) // 2])
                self.disk.calls.append(call)
                _apply(self.disk.files[call.inode], call)
            else:
                self.disk.calls.append(attrs.evolve(call, failed=True, kind=_failed_kind(call)))
            raise self.fault.error(kind)
        self.disk.calls.append(call)

    def _inode(self, handle: int) -> int:
        try:
            return self.handles[handle]
        except KeyError:
            self.misused.append("".join(traceback.format_stack(limit=4)[:-1]))
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    # -- the folder ------------------------------------------------------------------------

    def close_folder(self) -> None:
        pass

    def is_private(self) -> bool:
        return True

    def list_names(self) -> list[str]:
        with self.disk.guard:
            return list(self.disk.names)

    def free_bytes(self) -> int:
        return 1 << 40

    def sync_folder(self) -> None:
        with self.disk.guard:
            self._record(Call("sync_folder"))

    def size_of(self, name: str) -> int | None:
        with self.disk.guard:
            inode = self.disk.names.get(self._check(name))
            return None if inode is None else len(self.disk.files[inode])

    def rename(self, old: str, new: str) -> None:
        with self.disk.guard:
            inode = self._find(old)
            self._record(Call("rename", name=old, inode=inode, new_name=self._check(new)))
            del self.disk.names[old]
            self.disk.names[new] = inode

    def remove(self, name: str) -> bool:
        with self.disk.guard:
            inode = self.disk.names.get(self._check(name))
            if inode is None:
                return False
            self._record(Call("remove", name=name, inode=inode))
            del self.disk.names[name]
            return True

    # -- one file --------------------------------------------------------------------------

    def _find(self, name: str) -> int:
        inode = self.disk.names.get(self._check(name))
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return inode

    def _open(self, inode: int) -> int:
        self._last_handle += 1
        self.handles[self._last_handle] = inode
        return self._last_handle

    def open(self, name: str, *, create: bool = False, exclusive: bool = False) -> int:
        with self.disk.guard:
            inode = self.disk.names.get(self._check(name))
            if inode is not None:
                if exclusive:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
                return self._open(inode)
            if not create and not exclusive:
                return self._open(self._find(name))
            inode = self.disk.last_inode + 1
            self._record(Call("create", name=name, inode=inode))
            self.disk.last_inode = inode
            self.disk.names[name] = inode
            self.disk.files[inode] = bytearray()
            return self._open(inode)

    def open_to_read(self, name: str) -> int:
        with self.disk.guard:
            return self._open(self._find(name))

    def size(self, handle: int) -> int:
        with self.disk.guard:
            return len(self.disk.files[self._inode(handle)])

    def read(self, handle: int, offset: int, length: int) -> bytes:
        with self.disk.guard:
            return bytes(self.disk.files[self._inode(handle)][offset : offset + length])

    def write(self, handle: int, data: bytes, offset: int) -> None:
        with self.disk.guard:
            inode = self._inode(handle)
            call = Call("write", inode=inode, offset=offset, data=bytes(data))
            self._record(call)
            _apply(self.disk.files[inode], call)

    def sync(self, handle: int) -> None:
        with self.disk.guard:
            self._record(Call("sync", inode=self._inode(handle)))

    def truncate(self, handle: int, size: int) -> None:
        with self.disk.guard:
            inode = self._inode(handle)
            call = Call("truncate", inode=inode, offset=size)
            self._record(call)
            _apply(self.disk.files[inode], call)

    def close(self, handle: int) -> None:
        with self.disk.guard:
            self._inode(handle)
            inode = self.handles.pop(handle)
            if self.disk.locks.get(inode) == id(self) + handle:
                del self.disk.locks[inode]

    # -- the lock --------------------------------------------------------------------------

    def lock(self, name: str, *, steal: bool = False) -> tuple[int, bytes]:
        with self.disk.guard:
            handle = self.open(name, create=True)
            inode = self._inode(handle)
            held = self.read(handle, 0, 4096)
            if inode in self.disk.locks:
                self.close(handle)
                if not steal:
                    raise LockedError(held)
                self.remove(name)
                handle = self.open(name, exclusive=True)
                inode = self._inode(handle)
            self.disk.locks[inode] = id(self) + handle
            return handle, held

    def is_named(self, name: str, handle: int) -> bool:
        with self.disk.guard:
            return self.disk.names.get(name) == self._inode(handle)


def _failed_kind(call: Call) -> Kind:
    """Give what is recorded of a call that did nothing: only a sync's failure has an effect."""
    return call.kind if call.kind in ("sync", "sync_folder") else "mark"
