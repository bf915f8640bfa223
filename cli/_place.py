"""What a worker of ``serve --workers`` is given by the process that has started it.

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
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from ._signals import StopSignals

__all__ = ["WORKER_VARIABLE", "Place", "find_place"]

log = logging.getLogger("trialogue.serve")

WORKER_VARIABLE: Final = "TRIALOGUE_WORKER"


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
