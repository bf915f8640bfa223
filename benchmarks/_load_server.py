"""The server under load: started for it, or found by its listening socket where it is local."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import attrs

from ._process import cpu_seconds, open_server, raise_file_limit, resident_bytes

__all__ = ["DEFAULT_AGENT", "ServerSample", "find_pids", "open_own_server", "sample_server"]

#: Says as many tokens as it is told to: see `_agents`.
DEFAULT_AGENT: Final = "trialogue.benchmarks._agents:agent"
_TCP_LISTEN: Final = "0A"


@attrs.frozen
class ServerSample:
    """What a server's processes had used at one moment."""

    at: float
    cpu_seconds: float
    resident_bytes: int


@contextmanager
def open_own_server(
    scheme: str, *, agent: str, store: str, sessions: int
) -> Generator[tuple[str, list[int]]]:
    """Start ``trialogue serve`` with limits that stop nobody; gives its URL and its process."""
    raise_file_limit()
    # Slow readers and the probe come on top.
    room = 2 * sessions + 100
    with tempfile.TemporaryDirectory() as folder:
        url = f"unix://{folder}/bench.sock" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
        opening = open_server(
            agent,
            *("--transport", url, "--store", store, "--rate-limit", "off"),
            *("--log-level", "warning", "--max-sessions", str(max(10_000, room))),
            *("--max-connections", str(max(4_000, room))),
        )
        with opening as process:
            yield process.endpoints[0], [process.pid]


def sample_server(pids: Iterable[int], at: float) -> ServerSample | None:
    """Read what they have used; None if they have gone."""
    try:
        used = [(cpu_seconds(pid), resident_bytes(pid)) for pid in pids]
    except (OSError, ProcessLookupError):
        return None
    return ServerSample(at, sum(cpu for cpu, _ in used), sum(memory for _, memory in used))


def find_pids(url: str) -> list[int]:
    """Find the processes that listen there; none if they are elsewhere, or hidden from us."""
    parts = urlsplit(url)
    try:
        if parts.scheme == "unix":
            inodes = _find_unix(parts.path)
        else:
            inodes = _find_tcp(parts.hostname or "", parts.port or 0)
        return _find_owners(inodes) if inodes else []
    except OSError:
        return []


def _find_unix(path: str) -> set[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {words[6] for line in lines if (words := line.split())[7:] == [path]}


def _find_tcp(host: str, port: int) -> set[str]:
    family, _, _, _, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    address = ipaddress.ip_address(sockaddr[0])
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        # Sends nothing: it only chooses the address to send from, which is a local one's own.
        asking.connect(sockaddr)
        if asking.getsockname()[0] != str(address):
            return set()
    wanted = {_write_address(address.packed)}
    wanted |= {"0" * 8, "0" * 32}
    found: set[str] = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            words = line.split()
            local, _, number = words[1].rpartition(":")
            if words[3] == _TCP_LISTEN and int(number, 16) == port and local in wanted:
                found.add(words[9])
    return found


def _write_address(packed: bytes) -> str:
    """Write an address as the kernel does: each word with its last byte first."""
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(word[::-1].hex() for word in words).upper()


def _find_owners(inodes: set[str]) -> list[int]:
    links = {f"socket:[{inode}]" for inode in inodes}
    owners: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            with os.scandir(process / "fd") as entries:
                if any(os.readlink(entry.path) in links for entry in entries):
                    owners.append(int(process.name))
        except OSError:
            continue
    return owners
