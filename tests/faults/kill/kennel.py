"""The processes that fork servers, to be killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

__all__ = ["Kennel", "open_kennel", "socket"]

SERVER = str(Path(__file__).with_name("server.py"))


class Kennel:
    """The process that forks a lane's servers, one at a time."""

    def __init__(self, process: trio.Process, where: str | None) -> None:
        self._process = process
        self._where = where
        self._unread = b""

    async def start(self, folder: Path, mode: str) -> int:
        """Begin to start a server. Returns its process's number."""
        assert self._process.stdin is not None
        socket(folder).unlink(missing_ok=True)
        line = f"{self._where or folder / 'store'} {socket(folder)} {mode or '-'}\n"
        await self._process.stdin.send_all(line.encode())
        return int((await self.wait_for("started")).split()[1])

    async def wait_for(self, *words: str) -> str:
        """Wait for a line that begins with one of the words."""
        assert self._process.stdout is not None
        while True:
            line, end, self._unread = self._unread.partition(b"\n")
            if not end:
                more = await self._process.stdout.receive_some()
                assert more, "the servers' parent has ended"
                self._unread = line + more
            elif line.decode().startswith(words):
                return line.decode()


def socket(folder: Path) -> Path:
    return folder / "s"


@asynccontextmanager
async def open_kennel(where: str | None = None) -> AsyncGenerator[Kennel]:
    """Begin a process for servers.

    Args:
        where: Their store; None is a folder in the one of their socket.
    """
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        yield Kennel(process, where)
        assert process.stdin is not None
        await process.stdin.aclose()
