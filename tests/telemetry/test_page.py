"""Where metrics are read (PROTOCOL §12, docs/operations.md): at the server's port, or at another."""

import json
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager

import pytest
import trio

from trialogue import open_server
from trialogue.agents.echo import echo
from trialogue.cli._watching import find_metrics
from trialogue.cli.main import main
from trialogue.core.errors import SettingsError
from trialogue.telemetry.pages import open_pages

from ..cli._process import ServerProcess, run_command, serving


def get(url: str) -> tuple[int, str, str]:
    """Ask for a page: its status, its media type, its text."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.headers["Content-Type"], exc.read().decode()


@contextmanager
def watched(*arguments: str) -> Generator[ServerProcess]:
    with serving("echo", "--store", "memory", *arguments) as server:
        yield server
        server.signal(signal.SIGTERM)
        assert server.wait() == 0, server.stderr


def test_metrics_are_a_page_of_the_http_transport() -> None:
    with watched("--transport", "http://127.0.0.1:0") as server:
        status, media_type, text = get(f"{server.urls[0]}/metrics")
        assert (status, media_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert "\ntrialogue_ready 1.0\n" in text
        assert get(f"{server.urls[0]}/health")[0] == 200


def test_metrics_have_a_port_of_their_own_where_that_is_said() -> None:
    """A server without HTTP is watched, too; and the port is good for nothing else."""
    arguments = ("--transport", "tcp://127.0.0.1:0", "--metrics", "127.0.0.1:0")
    with watched(*arguments) as server:
        server.wait_stderr("metrics at ")
        url = json.loads(
            next(line for line in server.stderr.splitlines() if "metrics at " in line)
        )["message"].removeprefix("metrics at ")
        assert "\ntrialogue_ready 1.0\n" in get(url)[2]
        base = url.removesuffix("/metrics")
        assert get(f"{base}/health/ready")[0] == 200
        status, _, text = get(f"{base}/v1/sessions")
        assert (status, json.loads(text)["code"]) == (503, "OVERLOADED")


def test_metrics_of_a_port_of_their_own_are_nowhere_else() -> None:
    arguments = ("--transport", "http://127.0.0.1:0", "--metrics", "127.0.0.1:0")
    with watched(*arguments) as server:
        assert get(f"{server.urls[0]}/metrics")[0] == 404


async def test_pages_are_shown_while_the_server_drains() -> None:
    """Its own listeners are unbound then, and that it is not ready is what somebody wants to see."""
    with trio.fail_after(30):
        async with (
            open_server(echo, transports=["tcp://127.0.0.1:0"]) as server,
            open_pages("http://127.0.0.1:0", server, server.pages) as url,
        ):
            await server.drain(0)
            status, _, text = await trio.to_thread.run_sync(get, f"{url}/health/ready")
            assert (status, json.loads(text)["status"]) == (503, "draining")


@pytest.mark.parametrize(
    ("where", "asks", "found"),
    [
        ("auto", False, ""),
        ("auto", True, None),
        ("on", True, ""),
        ("off", False, None),
        ("127.0.0.1:9464", True, "http://127.0.0.1:9464"),
    ],
)
def test_where_metrics_are_shown(where: str, asks: bool, found: str | None) -> None:
    """Anybody may read a page: with credentials asked for, somebody has to say so."""
    assert find_metrics(where, asks=asks) == found


@pytest.mark.parametrize("said", ["everywhere", "127.0.0.1", "http://127.0.0.1:9464", "a b:1"])
def test_address_that_is_none_is_refused(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "echo", "--metrics", said, "--print-config"], {}) == 2
    assert "--metrics" in capsys.readouterr().err


def test_missing_library_is_named_only_to_who_asks_for_metrics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find_nothing(_: str) -> None: ...

    monkeypatch.setattr("trialogue.cli._watching.find_spec", find_nothing)
    assert find_metrics("auto", asks=False) is None
    for where in ("on", "127.0.0.1:9464"):
        with pytest.raises(SettingsError, match=r"trialogue\[metrics\]"):
            find_metrics(where, asks=False)


def test_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ("--transport", "tcp://127.0.0.1:0", "--store", "memory", "--metrics", address)
        done = run_command("serve", "echo", *arguments)
    assert done.returncode == 2
    assert f"http://{address}" in done.stderr
