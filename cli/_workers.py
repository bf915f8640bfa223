"""``serve --workers``: the processes, and what each is given by the one that has started it.

That is a variable, which names the descriptors that the worker inherits: a channel, and for each
transport a socket that is bound. On the channel the worker says where it listens, when it does,
and is told of signals. So it is told once of a signal that reaches every process of the service,
and notices when the one that has started it is gone.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import attrs
import trio

from ..core.plugins import find_transport
from ._signals import StopSignals
from ._supervisor import KILL_SECONDS, Supervisor, Worker

__all__ = [
    "FORCE_WORKERS_SECONDS",
    "WORKER_VARIABLE",
    "Place",
    "find_place",
    "print_endpoints",
    "run_workers",
    "start_worker",
]

log = logging.getLogger("trialogue.serve")

WORKER_VARIABLE: Final = "TRIALOGUE_WORKER"
#: After the second signal, for workers that do not end and are killed: they end before this process,
#: so that its end says that the addresses are free.
FORCE_WORKERS_SECONDS: Final = KILL_SECONDS + 1.5
#: More than all endpoints of a server take.
_ENOUGH_BYTES: Final = 64 * 1024


# -- in a worker ---------------------------------------------------------------------------------


@attrs.frozen
class Place:
    """What a worker was given.

    Attributes:
        number: From 0 on.
        sockets: One for each transport.
        channel: To whoever has started it.
    """

    number: int
    sockets: Sequence[socket.socket]
    channel: socket.socket

    def tell_ready(self, endpoints: Sequence[str]) -> None:
        """Say where it listens."""
        try:
            self.channel.sendall(json.dumps(endpoints).encode() + b"\n")
        except OSError:
            pass  # nobody is there: `follow` is ending it

    def follow(self, signals: StopSignals) -> None:
        """Take orders as signals, whatever the event loop does."""
        threading.Thread(target=self._follow, args=(signals,), daemon=True).start()

    def _follow(self, signals: StopSignals) -> None:
        with self.channel:
            while data := self._receive():
                signals.hear(signal.Signals(data[0]))
        if not signals.received:
            log.warning("whoever has started this worker is gone")
            signals.hear(signal.SIGTERM)

    def _receive(self) -> bytes:
        try:
            return self.channel.recv(1)
        except OSError:
            return b""


def find_place(environ: Mapping[str, str]) -> Place | None:
    """Find what this process was given, if it is a worker."""
    try:
        said: Any = json.loads(environ[WORKER_VARIABLE])
        channel, inode = int(said["channel"]), int(said["inode"])
        # What a worker starts has its variables, and not its descriptors.
        if os.fstat(channel).st_ino != inode:
            return None
        return Place(
            int(said["number"]),
            [_inherit(descriptor) for descriptor in said["sockets"]],
            _inherit(channel),
        )
    except (KeyError, TypeError, ValueError, OSError):
        return None


def _inherit(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)


# -- in the process that starts them -------------------------------------------------------------


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
) -> int:
    """Run ``trialogue`` with these arguments in so many processes, to their end.

    Prints where they listen as one server does.

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

        supervisor = Supervisor(count, start, signals, tell=print_endpoints, release=stack.aclose)
        return await supervisor.run()


def print_endpoints(endpoints: Sequence[str]) -> None:
    """Say on standard output where a server listens."""
    for url in endpoints:
        print(f"listening {url}")
    sys.stdout.flush()
