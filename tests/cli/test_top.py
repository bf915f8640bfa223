"""``trialogue top``: what two answers of ``server.stats`` say, and the command at a real server."""

import signal
from pathlib import Path
from typing import Any

import pytest

from trialogue.cli._load import read_load, write_quantile
from trialogue.cli.main import main

from ._process import LineClient, serving
from ._pty import at_terminal


def make_stats(**members: Any) -> dict[str, Any]:
    return {"uptimeMs": 10_000, "turnsEnded": {}, "errors": {}, **members}


def make_times(count: int, *buckets: list[float | None]) -> dict[str, Any]:
    return {"count": count, "sumMs": 0, "buckets": list(buckets)}


def find_row(rows: Any, name: str) -> tuple[str, ...]:
    return tuple(next(row for row in rows if row[0] == name)[1:])


def test_rates_and_times_are_of_what_came_between() -> None:
    """What was slow before the view is not in it."""
    before = make_stats(
        uptimeMs=4_000,
        requestTimes={"message.send": make_times(5, [0.25, 1], [5000.0, 4])},
        tokensByModel={"large": {"inputTokens": 5, "outputTokens": 5}},
    )
    now = make_stats(
        requestTimes={"message.send": make_times(65, [0.25, 60], [1.0, 1], [5000.0, 4])},
        tokensByModel={"large": {"inputTokens": 25, "outputTokens": 15}},
    )
    rows = read_load(now, before).rows
    assert find_row(rows, "message.send") == ("10", "≤ 0.25 ms", "≤ 1 ms", "65")
    assert find_row(rows, "tokens of large") == ("5.0", "", "", "40")
    rows = read_load(now, None).rows
    assert find_row(rows, "message.send") == ("6.5", "≤ 0.25 ms", "≤ 5 s", "65")


def test_restarted_server_is_looked_at_from_its_start() -> None:
    """Its counters have begun anew: nothing is less than nothing."""
    before = make_stats(uptimeMs=99_000, turnTimes=make_times(500, [1.0, 500]))
    now = make_stats(turnTimes=make_times(20, [1.0, 20]))
    assert find_row(read_load(now, before).rows, "turns") == ("2.0", "≤ 1 ms", "≤ 1 ms", "20")


def test_server_that_counts_less_is_shown_as_far_as_it_does() -> None:
    """PROTOCOL §1.2: one of an earlier version has no times."""
    load = read_load(make_stats(connections=3), None)
    assert load.lines[0] == "3 connections"
    assert find_row(load.rows, "turns") == ("", "", "", "0")


@pytest.mark.parametrize(
    ("buckets", "share", "written"),
    [
        ({}, 0.5, ""),
        ({0.1: 1, 2500.0: 1}, 0.5, "≤ 0.1 ms"),
        ({0.1: 1, 2500.0: 1}, 0.51, "≤ 2.5 s"),
        ({None: 1, 60000.0: 99}, 0.99, "≤ 60 s"),
        ({None: 2, 60000.0: 98}, 0.99, "> 60 s"),
    ],
)
def test_quantile_is_the_bound_of_its_bucket(
    buckets: dict[float | None, int], share: float, written: str
) -> None:
    assert write_quantile(buckets, share) == written


def test_errors_show_which_of_them_are_new() -> None:
    before, now = (
        make_stats(errors={"TIMEOUT": 2}),
        make_stats(errors={"TIMEOUT": 5, "CONFLICT": 1}),
    )
    assert "errors: CONFLICT 1 (+1) · TIMEOUT 5 (+3)" in read_load(now, before).lines
    assert "errors: CONFLICT 1 · TIMEOUT 5" in read_load(now, None).lines


def test_views_of_a_server(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """In a pipe one behind the other; at a terminal in its place, until Ctrl-C."""
    with serving("echo", "--transport", "tcp://127.0.0.1:0", "--store", "memory") as server:
        url = server.urls[0]
        with LineClient(url) as client:
            session = client.request("session.create")["data"]["id"]
            client.request("message.send", sessionId=session, content="hello", wait=True)
        assert main(["top", url, "--count", "2", "--interval", "200ms"], {}) == 0
        first, second = capsys.readouterr().out.split(f"{url} · ok · up ")[1:]
        assert "1 completed" in first
        assert "message.send" in first
        assert "server.stats" in second
        with at_terminal("top", url, "--interval", "200ms", state=tmp_path) as terminal:
            terminal.see("1 completed")
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.wait() == 0
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.parametrize("wrong", [("--interval", "50ms"), ("--interval", "off"), ("--count", "0")])
def test_what_cannot_be_is_said(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "tcp://127.0.0.1:1", *wrong], {}) == 2
    assert wrong[0] in capsys.readouterr().err
