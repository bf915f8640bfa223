"""``trialogue serve --workers``: what is refused, what a worker is given, and a run of real ones."""

import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from trialogue.cli._place import WORKER_VARIABLE, Place, find_place
from trialogue.cli._signals import StopSignals
from trialogue.cli._watching import find_metrics
from trialogue.cli._workers import start_worker
from trialogue.cli.main import main
from trialogue.core.errors import SettingsError

from ..engines import LACKS_ENGINE, Engine
from ..stores._engine_cluster import EngineCluster
from ._command import environ_for
from ._process import PATIENCE, LineClient, ServerProcess, serving

REDIS = ("--store", "redis://127.0.0.1:1/0")


def refused(capsys: pytest.CaptureFixture[str], *argv: str, **environ: str) -> str:
    """Be refused with code 2, in one line, and give it."""
    assert main(["serve", *argv], environ) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.removeprefix("trialogue serve: ").rstrip("\n")


@pytest.mark.parametrize("store", ["jsonl:/nowhere", "sqlite:/nowhere/x.db", "memory"])
def test_workers_need_a_store_that_they_can_share(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Issue 7: it exits 2 and says so."""
    said = refused(capsys, "--store", store, TRIALOGUE_WORKERS="2")
    assert said.startswith(f"store: {store} is one process's, and there are to be 2 workers")
    assert said.endswith("they need redis://HOST:PORT/0 or the like (set by --store)")


def test_one_worker_is_a_server_as_always(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--print-config", "--workers", "1", "--store", "memory"], {}) == 0
    assert "\nworkers = 1 " in capsys.readouterr().out


@pytest.mark.parametrize("count", ["0", "257", "-1", "many"])
def test_count_of_workers_has_bounds(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, f"--workers={count}", *REDIS).startswith("workers: ")


@pytest.mark.parametrize("count", ["1", "256"])
def test_count_of_workers_may_be_its_bounds(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--print-config", "--workers", count, *REDIS], {}) == 0
    assert f"workers = {count} " in capsys.readouterr().out


def test_metrics_at_a_shared_address_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Counters would go up and down from scrape to scrape."""
    said = refused(capsys, "--workers", "2", *REDIS, "--metrics", "on")
    assert "a scrape would see one of them" in said


def test_each_worker_has_a_port_for_its_metrics() -> None:
    assert find_metrics("auto", asks=False, worker=0) is None
    assert find_metrics("127.0.0.1:9464", asks=False, worker=0) == "http://127.0.0.1:9464"
    assert find_metrics("[::1]:9464", asks=False, worker=3) == "http://[::1]:9467"
    assert find_metrics("127.0.0.1:0", asks=False, worker=3) == "http://127.0.0.1:0"
    with pytest.raises(SettingsError, match="out of range"):
        find_metrics("127.0.0.1:65535", asks=False, worker=1)


def test_address_that_is_taken_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Before a process is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        said = refused(capsys, "--workers", "2", *REDIS, "--transport", url)
    assert said == f"{url}: the address is in use; another program listens there"


# -- what a worker is given ----------------------------------------------------------------------


def given(channel: socket.socket, *sockets: socket.socket, **other: Any) -> dict[str, str]:
    """Write what a worker with these descriptors finds in its environment."""
    said = {
        "number": 3,
        "channel": channel.fileno(),
        "inode": os.fstat(channel.fileno()).st_ino,
        "sockets": [sock.fileno() for sock in sockets],
        **other,
    }
    return {WORKER_VARIABLE: json.dumps(said)}


def find(channel: socket.socket, *sockets: socket.socket) -> Place:
    """Make the place of a worker that has inherited these."""
    copies = [sock.dup() for sock in (channel, *sockets)]
    for copy in copies:
        copy.set_inheritable(True)
    place = find_place(given(copies[0], *copies[1:]))
    assert place is not None
    assert not any(copy.get_inheritable() for copy in copies)
    for copy in copies:
        copy.detach()
    return place


def test_worker_finds_what_it_was_given_and_passes_it_to_nobody() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as server:
        place = find(theirs, server)
        assert place.number == 3
        assert [sock.getsockname() for sock in place.sockets] == [server.getsockname()]
        place.tell_ready(["tcp://127.0.0.1:1"])
        assert json.loads(ours.recv(100)) == ["tcp://127.0.0.1:1"]
        for sock in (*place.sockets, place.channel):
            sock.close()


@pytest.mark.parametrize("said", ["", "x", "[]", "{}", '{"channel": 99999, "inode": 1}'])
def test_variable_of_no_worker_is_none(said: str) -> None:
    assert find_place({WORKER_VARIABLE: said}) is None


def test_what_a_worker_starts_is_no_worker() -> None:
    """It has the variable, and something else at the number of the descriptor."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert find_place(given(theirs, inode=1)) is None


def test_orders_are_signals() -> None:
    """Whatever the event loop does: a thread takes them."""
    ours, theirs = socket.socketpair()
    signals = StopSignals(threading.TIMEOUT_MAX)
    with ours, theirs:
        find(theirs).follow(signals)
        ours.send(bytes((signal.SIGINT,)))
        wait_received(signals, 1)
        ours.send(bytes((signal.SIGTERM,)))
        wait_received(signals, 2)
    assert signals.received == [signal.SIGINT, signal.SIGTERM]


def test_worker_drains_when_nobody_is_there_that_has_started_it() -> None:
    """Nobody would start it again, or end it."""
    ours, theirs = socket.socketpair()
    signals = StopSignals(threading.TIMEOUT_MAX)
    with theirs:
        place = find(theirs)
    ours.close()
    place.tell_ready(["tcp://127.0.0.1:1"])  # is no error
    place.follow(signals)
    wait_received(signals, 1)
    assert signals.received == [signal.SIGTERM]


def wait_received(signals: StopSignals, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(signals.received) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


async def test_port_of_a_worker_that_is_gone_is_left_to_the_others() -> None:
    """Until there is another: what comes to it meanwhile would wait for that."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = sock.getsockname()
        worker = await start_worker(0, ["version"], environ_for(), [sock])
        assert await worker.wait_ready() is None
        assert await worker.wait() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, PATIENCE)


# -- real ones -----------------------------------------------------------------------------------


def find_workers(server: ServerProcess) -> set[int]:
    """Find its processes. Each was started by some thread."""
    threads = Path(f"/proc/{server.process.pid}/task").iterdir()
    return {int(pid) for each in threads for pid in (each / "children").read_text().split()}


def scrape(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=PATIENCE) as answer:
        said: str = answer.read().decode()
        return said


@pytest.mark.slow
@pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))
@pytest.mark.parametrize(
    "start",
    [Engine, pytest.param(partial(EngineCluster, 1), marks=pytest.mark.campaign)],
    ids=["engine", "cluster"],
)
def test_real_workers_share_a_port_are_replaced_and_drain(
    start: Callable[[], Engine | EngineCluster], tmp_path: Path
) -> None:
    """Issue 7: one command. Both serve, a killed one is replaced, and one signal ends all."""
    with start() as engine:
        arguments = ("--workers", "2", "--store", engine.url, "--metrics", "127.0.0.1:0")
        addresses = ("--transport", "tcp://127.0.0.1:0", "--transport", f"unix://{tmp_path}/s")
        with serving("echo", *arguments, *addresses, count=2) as server:
            server.wait_stderr("serving with 2 workers")  # behind whatever they say of it
            before = find_workers(server)
            assert len(before) == 2
            pages = [
                line["message"].split()[2].removesuffix("/metrics")
                for line in map(json.loads, server.stderr.splitlines())
                if line["message"].startswith("metrics at ")
            ]
            deadline = time.monotonic() + PATIENCE
            while not all("trialogue_connections_opened_total 0.0" not in scrape(p) for p in pages):
                assert time.monotonic() < deadline
                with LineClient(server.urls[0]) as client:
                    assert client.request("server.health")["data"]["status"] == "ok"
            with LineClient(server.urls[0]) as client:
                session = client.request("session.create")["data"]["id"]
            # Each connection is at one of the two by chance; either has the session for it.
            for number in range(8):
                with LineClient(server.urls[0]) as client:
                    said = client.request(
                        "message.send", sessionId=session, content=f"{number}", wait=True
                    )
                assert said["data"]["message"]["content"] == f"{number}", said
            os.kill(min(before), signal.SIGKILL)
            server.wait_stderr("was killed by SIGKILL: another is started in 0 s")
            while len(find_workers(server) - before) < 1:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            for pid in find_workers(server):
                os.kill(pid, signal.SIGTERM)  # as systemd does
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
    logged = [json.loads(line) for line in server.stderr.splitlines()]
    assert {line.get("worker") for line in logged} == {None, 0, 1}
    assert len(pages) == 2
    assert server.rest_of_stdout == []
    assert not (tmp_path / "s").exists()
