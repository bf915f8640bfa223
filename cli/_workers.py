"""``serve --workers``: the processes, as the one that starts them sees them.

What each is given says `_place.py`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import trio

from ..core.plugins import find_transport
from ._place import WORKER_VARIABLE
from ._signals import StopSignals
from ._supervisor import KILL_SECONDS, Supervisor, Worker

__all__ = ["FORCE_WORKERS_SECONDS", "run_workers", "start_worker"]

#: After the second signal, for workers that do not end and are killed: they end before this process,
#: so that its end says that the addresses are free.
FORCE_WORKERS_SECONDS: Final = KILL_SECONDS + 1.5
#: More than all endpoints of a server take.
_ENOUGH_BYTES: Final = 64 * 1024


class _WorkerProcess(Worker):
    def __init__(
        self,
        number: int,
        process: trio.Process,
        channel: socket.socket,
        sockets: Sequence[socket.socket],
    ) -> None:
        self.number = number
        self._process = process
        self._channel = channel
        self._sockets = sockets

    async def wait_ready(self) -> Sequence[str] | None:
        said = b""
        while not said.endswith(b"\n"):
            await trio.lowlevel.wait_readable(self._channel)
            try:
                more = self._channel.recv(_ENOUGH_BYTES)
            except OSError:
                more = b""
            if not more:
                return None
            said += more
        endpoints: list[str] = json.loads(said)
        return endpoints

    async def wait(self) -> int:
        from ..transports._tcp import end_listening  # here, as whoever binds imports it

        code = await self._process.wait()
        self._channel.close()
        for sock in self._sockets:
            # It is open here, too. What comes while there is no process is for the others.
            end_listening(sock)
        return code

    def order(self, number: signal.Signals) -> None:
        try:
            self._channel.send(bytes((number,)))
        except OSError:
            pass  # it has ended

    def kill(self) -> None:
        self._process.kill()


async def start_worker(
    number: int, arguments: Sequence[str], environ: Mapping[str, str], sockets: Sequence[Any]
) -> Worker:
    """Start one with a socket for each transport, which is its own unless it is of no port."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    try:
        with theirs:
            descriptors = [sock.fileno() for sock in sockets]
            said = {
                "number": number,
                "channel": theirs.fileno(),
                "inode": os.fstat(theirs.fileno()).st_ino,
                "sockets": descriptors,
            }
            process = await trio.lowlevel.open_process(
                # -P: the folder that one stands in has perhaps a trialogue.py.
                [sys.executable, "-P", "-m", "trialogue", *arguments],
                env={**environ, WORKER_VARIABLE: json.dumps(said)},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *descriptors),
            )
    except BaseException:
        ours.close()
        raise
    own = [sock for sock in sockets if sock.family != socket.AF_UNIX]
    return _WorkerProcess(number, process, ours, own)


async def run_workers(
    count: int,
    transports: Sequence[str],
    *,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    signals: StopSignals,
    tell: Callable[[Sequence[str]], object],
) -> int:
    """Run ``trialogue`` with these arguments in so many processes, to their end.

    Args:
        count: How many.
        transports: The addresses that they share.
        arguments: Of each.
        environ: Of each.
        signals: What this process receives is passed on.
        tell: Is told where they listen.

    Returns:
        The exit code.

    Raises:
        OSError: An address cannot be bound.
    """
    async with AsyncExitStack() as stack:
        bound = [
            await stack.enter_async_context(find_transport(url).open_sockets(url, count))
            for url in transports
        ]

        async def start(number: int) -> Worker:
            sockets = [each[number] for each in bound]
            return await start_worker(number, arguments, environ, sockets)

        supervisor = Supervisor(count, start, signals, tell=tell, release=stack.aclose)
        return await supervisor.run()
