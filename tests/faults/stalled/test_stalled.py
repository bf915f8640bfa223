"""Clients that stop reading delay nobody, cost little, and are let go (PROTOCOL §6.6, §11)."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path

import pytest
import trio

from trialogue.core import Settings, open_server
from trialogue.core.abc import Channel, ConnectOptions, TlsFiles, Turn
from trialogue.core.plugins import find_transport

from ...certificates import Certificates
from .clients import Reader, stall
from .server import subscribe

SCHEMES = ("loopback", "tcp", "unix", "tcps", "ws", "wss")
#: In CI, on each transport; an ordinary run takes as many as tell 128 KiB each from the noise.
COUNT = 1000
LEAST = 200
MAX_BYTES_EACH = 128 * 1024
#: Of one flood, which is as much as fits on its way to a client that does not read.
FLOOD = "flood 25 8000"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path, Path]:
    """A certificate for localhost, and a context of those who trust it."""
    certificates = Certificates(tmp_path_factory.mktemp("tls"), "localhost", "127.0.0.1")
    files = certificates.files
    return certificates.client, Path(files.certificate), Path(files.key)


def make_url(scheme: str, folder: Path) -> str:
    match scheme:
        case "loopback":
            return "loopback://"
        case "unix":
            return f"unix://{folder / 's'}"
        case _:
            return f"{scheme}://127.0.0.1:0"


@contextmanager
def open_process(*arguments: str) -> Generator[tuple[subprocess.Popen[str], list[str]]]:
    """Run the server. Gives it and its endpoints."""
    count = sum("://" in argument for argument in arguments)
    command = [sys.executable, str(Path(__file__).with_name("server.py")), *arguments]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            yield process, [process.stdout.readline().strip() for _ in range(count)]
        finally:
            process.kill()


def resident_bytes(process: subprocess.Popen[str]) -> int:
    """Measure a process."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.02)


class Stage:
    """A server with readers that have stopped."""

    def __init__(self, scheme: str, tls: tuple[ssl.SSLContext, Path, Path], folder: Path) -> None:
        self.scheme = scheme
        self._tls = tls
        self._stack = ExitStack()
        self._folder = folder
        self._stalled: list[socket.socket] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, *flags: str) -> None:
        context, chain, key = self._tls
        self._context = context
        if self.scheme in {"tcps", "wss"}:
            flags = ("--tls", str(chain), str(key), *flags)
        urls = ("tcp://127.0.0.1:0", make_url(self.scheme, self._folder))
        opening = open_process(*flags, *urls)
        self.process, (control, self.url) = self._stack.enter_context(opening)
        self.reader = Reader(control)
        self._stack.callback(self.reader.close)
        # A session that others watch, and one of our own.
        self.watched, self.own = self.reader.create(), self.reader.create()

    def delay_alone(self) -> float:
        """Measure how late events are while nobody has stopped: the best of three."""
        return min(middle(self.reader.measure_delays(self.watched, 0.3)) for _ in range(3))

    def stall(self, count: int, first: str = FLOOD) -> int:
        """Open clients that subscribe and do not read; flood them until they are all stuck.

        Args:
            count: Of clients.
            first: What finds them all up to date.

        Returns:
            By how many bytes the server has grown from then on.
        """
        reader = self.reader
        if self.scheme == "loopback":
            reader.tell(self.own, f"stall {count} {self.watched}")
        else:
            for _ in range(count):
                sock = stall(self.url, subscribe(self.watched), self._context)
                self._stack.callback(sock.close)
                self._stalled.append(sock)
        wait_until(lambda: reader.stats()["subscriptions"] >= count)
        before = resident_bytes(self.process)
        reader.tell(self.watched, first)
        while reader.stats()["cursorsBehind"] < count:
            reader.tell(self.watched, FLOOD)
        # Once more, to see that it is over; and text, which is not the same for each of them.
        reader.tell(self.watched, FLOOD)
        reader.tell(self.watched, "write 50 8000")
        return resident_bytes(self.process) - before


def middle(delays: Sequence[float]) -> float:
    assert len(delays) >= 3
    return delays[len(delays) // 2]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measured by /proc")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_thousand_that_stop_reading_cost_little_and_delay_nobody(
    scheme: str, authority: tuple[ssl.SSLContext, Path, Path], tmp_path: Path, part: Fraction
) -> None:
    count = COUNT if part >= 1 else max(LEAST, int(COUNT * part))
    with Stage(scheme, authority, tmp_path) as stage:
        stage.start()
        alone = stage.delay_alone()
        grown = stage.stall(count)
        assert grown <= count * MAX_BYTES_EACH
        # The best of ten: a busy machine delays everybody.
        limit = 3 * alone + 0.01
        assert any(
            middle(stage.reader.measure_delays(stage.watched, 0.3)) <= limit for _ in range(10)
        )
        assert stage.reader.stats()["connections"] == count + 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measured by /proc")
@pytest.mark.parametrize("scheme", ["loopback", "tcp", "wss"])
@pytest.mark.parametrize("first", ["flood 1 900000", "write 1 900000"])
def test_one_large_event_costs_those_who_stop_no_copy_each(
    scheme: str, first: str, authority: tuple[ssl.SSLContext, Path, Path], tmp_path: Path
) -> None:
    """Found here: what did not go at once was joined and copied for each of them."""
    with Stage(scheme, authority, tmp_path) as stage:
        stage.start()
        # The event itself is kept once, and the log's few copies of it.
        assert stage.stall(60, first) <= 60 * MAX_BYTES_EACH + 6_000_000


def test_control_a_server_that_waits_for_them_is_detected(
    authority: tuple[ssl.SSLContext, Path, Path], tmp_path: Path
) -> None:
    """The comparison above would be worth nothing if it did not see this."""
    with Stage("tcp", authority, tmp_path) as stage:
        stage.start("--slow-fan-out")
        alone = stage.delay_alone()
        stage.stall(60)
        assert middle(stage.reader.measure_delays(stage.watched, 0.3)) > 3 * alone + 0.01


async def receive_for_ever(channel: Channel) -> None:
    while True:
        await channel.receive()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_one_that_takes_nothing_is_let_go_after_the_write_timeout(
    scheme: str, authority: tuple[ssl.SSLContext, Path, Path], tmp_path: Path
) -> None:
    """PROTOCOL §6.6: it can come back with its cursor."""
    context, chain, key = authority
    timeout = 0.5

    async def agent(turn: Turn) -> None:
        for _ in range(2000):
            turn.emit("_flood", {"text": "x" * 4000}, durable=True)
            await trio.sleep(0.001)

    settings = Settings(
        rate_limit=None, heartbeat_seconds=3600, write_timeout_seconds=timeout, drain_seconds=0
    )
    with trio.fail_after(30):
        async with open_server(
            agent,
            transports=[make_url(scheme, tmp_path)],
            settings=settings,
            tls=TlsFiles(certificate=str(chain), key=str(key)),
        ) as server:
            url = server.endpoints[0]
            options = ConnectOptions(tls=context)
            async with find_transport(url).open_channel(url, options) as channel:
                request = b'{"version":"1.0","type":"request","payload":{"id":1,"method":'
                await channel.send(request + b'"session.create","params":{}}}')
                session_id = (await channel.receive()).split(b'"id":"')[1].split(b'"')[0]
                await channel.send(
                    request
                    + b'"message.stream","params":{"sessionId":"%b","content":""}}}' % session_id
                )
                while not server.counters.cursors_behind:  # noqa: ASYNC110 - a counter
                    await trio.sleep(0.01)
                behind = trio.current_time()
                while server.connections:  # noqa: ASYNC110 - a counter
                    await trio.sleep(0.01)
                took = trio.current_time() - behind
                assert 0.5 * timeout < took < timeout + 20
                with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
                    await receive_for_ever(channel)
            assert server.stats()["subscriptions"] == 0
