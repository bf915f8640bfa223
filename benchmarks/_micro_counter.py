"""Counts this thread's instructions in user mode, where the kernel and the machine let it.

Time differs from run to run; this repeats to about 1 %, also on a busy machine. Many virtual
machines have no counter: then there is none.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Final

__all__ = ["HARDWARE_INSTRUCTIONS", "SOFTWARE_TASK_CLOCK", "Counter", "open_counter"]

#: ``type`` and ``config`` of what to count: ``linux/perf_event.h``.
HARDWARE_INSTRUCTIONS: Final = (0, 1)
#: Nanoseconds on a CPU; for the test, since any kernel that has counters at all has this one.
SOFTWARE_TASK_CLOCK: Final = (1, 1)

_SYSCALLS: Final = {"x86_64": 298, "aarch64": 241}
#: The first version of ``struct perf_event_attr``.
_SIZE: Final = 64
#: Bits of its flags.
_EXCLUDE_KERNEL: Final = 1 << 5
_EXCLUDE_HYPERVISOR: Final = 1 << 6


class Counter:
    """Counts up; see `open_counter`."""

    def __init__(self, number: int) -> None:
        self._number = number

    def read(self) -> int:
        """Give the count so far."""
        (count,) = struct.unpack("q", os.read(self._number, 8))
        return int(count)

    def close(self) -> None:
        """Stop it."""
        os.close(self._number)


def open_counter(what: tuple[int, int] = HARDWARE_INSTRUCTIONS) -> Counter | None:
    """Start counting. None where the system does not let us."""
    call = _SYSCALLS.get(platform.machine())
    if platform.system() != "Linux" or call is None:
        return None
    kind, config = what
    flags = _EXCLUDE_HYPERVISOR | (_EXCLUDE_KERNEL if kind == 0 else 0)
    attributes = struct.pack("IIQQQQQIIQ", kind, _SIZE, config, 0, 0, 0, flags, 0, 0, 0)
    attributes = attributes.ljust(_SIZE, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    # Of this thread, on whatever CPU.
    number = libc.syscall(call, ctypes.c_char_p(attributes), 0, -1, -1, 0)
    return Counter(number) if number >= 0 else None
