"""``trialogue bench`` as it is called: what it prints, writes and returns."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from trialogue.cli.main import main

from ._command import Command, environ_for
from ._process import PATIENCE, run_command

SMALL = ("--sessions", "3", "--rate", "30")


@pytest.mark.slow
def test_without_url_a_server_is_started_measured_and_ended(tmp_path: Path) -> None:
    files = ("--json", f"{tmp_path}/load.json", "--html", f"{tmp_path}/load.html")
    done = run_command("bench", *SMALL, "--duration", "1s", "--scenario", "echo", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^events lost +0", done.stdout, re.MULTILINE)
    assert re.search(r"^server CPU +\d", done.stdout, re.MULTILINE)
    kept = json.loads((tmp_path / "load.json").read_text())
    assert kept["benchmark"] == "load"
    assert kept["results"]["ok"]
    assert kept["results"]["milliseconds"]["latency"]["count"] == kept["results"]["counts"]["done"]
    assert "token" not in kept["results"]["settings"]
    page = (tmp_path / "load.html").read_text()
    # The script stands in the page, so that it opens offline.
    assert "Plotly.newPlot" in page
    assert not re.search(r"<script[^>]+src=", page)


@pytest.mark.slow
def test_more_failures_than_are_allowed_are_told_by_code_and_exit() -> None:
    # The agent of the server that is started does not know what to do with it, and fails.
    message = ("--message", "nonsense", "--transport", "http")
    done = run_command("bench", *SMALL, "--duration", "500ms", *message)
    assert re.search(r"^error AGENT_ERROR +[1-9]", done.stdout, re.MULTILINE), done.stdout
    assert "FAILED: 100.0% of what was sent failed" in done.stdout
    assert done.returncode == 1


def has_ended_a_turn(folder: Path) -> bool:
    return any(b"turn.ended" in file.read_bytes() for file in folder.glob("store/commit*.log"))


@pytest.mark.slow
def test_ctrl_c_ends_it_with_what_was_measured(tmp_path: Path) -> None:
    store = ("--store", f"jsonl:{tmp_path / 'store'}")
    arguments = ("bench", *SMALL, "--duration", "1h", "--scenario", "echo", *store)
    with Command(
        arguments,
        env=environ_for(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while not has_ended_a_turn(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert re.search(r"^answered +[1-9]", out, re.MULTILINE)
    assert "stopped early" in out


def test_no_server_is_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # and does not listen
        assert main(["bench", f"tcp://127.0.0.1:{sock.getsockname()[1]}"], {}) == 3
    assert "no connection" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("loopback://a",), "a load is made over ws, wss, tcp, tcps, unix, http, https"),
        (("ws://127.0.0.1:1", "--transport", "tcp"), "is another one"),
        (("ws://127.0.0.1:1", "--store", "memory"), "has its own"),
        (("--rate", "0"), "--rate must be > 0"),
        (("--rate", "often"), "rate"),
        (("--duration", "0"), "--duration must be > 0"),
        (("--duration", "off"), "--duration must be"),
        (("--sessions", "0"), "--sessions must be >= 1"),
        (("--max-failed", "101"), "no percentage"),
        (("--json", "/no/such/folder/x"), "no such folder"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_started(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments], {}) == 2
    assert said in capsys.readouterr().err
