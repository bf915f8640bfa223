"""What a benchmark has in somebody's engine is there no longer than it runs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trialogue.benchmarks.__main__ import main
from trialogue.benchmarks._scratch import run_in_engine
from trialogue.stores.redis import open_redis_store

from ..engines import LACKS_ENGINE, Engine

needs_engine = pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))


@needs_engine
@pytest.mark.parametrize(
    ("command", "number"), [("engine", signal.SIGINT), ("nodes", signal.SIGTERM)]
)
def test_who_interrupts_it_has_nothing_left_of_it(command: str, number: signal.Signals) -> None:
    """A bug once seen: its sessions stayed, also where it had run to its end (`test_nodes.py`)."""
    deadline = time.monotonic() + 60
    with Engine() as engine:
        engine.ask("SET", "bench-1:of-somebody", "1")
        with subprocess.Popen(
            [sys.executable, "-m", "trialogue.benchmarks", command, engine.url, "--quick"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Who runs these tests in the background has it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        ) as process:
            try:
                while int(engine.ask("DBSIZE")[1:]) < 50:
                    assert process.poll() is None, process.communicate()[1]
                    assert time.monotonic() < deadline, "it begins nothing"
                    time.sleep(0.05)
                process.send_signal(number)
                process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode != 0
        assert (engine.ask("DBSIZE"), engine.ask("EXISTS", "bench-1:of-somebody")) == (b":1", b":1")


@needs_engine
def test_measured_store_is_taken_away(tmp_path: Path) -> None:
    """A bug once seen: its sessions went, and what belongs to none stayed."""
    with Engine() as engine:
        engine.ask("SET", "bench-1:of-somebody", "1")
        command = [sys.executable, "-m", "trialogue.benchmarks", "storage", "--quick"]
        done = subprocess.run(
            [*command, "--only", "redis", "--redis", engine.url, "--dir", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "\nredis " in done.stdout
        assert (engine.ask("DBSIZE"), engine.ask("EXISTS", "bench-1:of-somebody")) == (b":1", b":1")


@needs_engine
def test_one_that_fails_leaves_nothing() -> None:
    """Not the keys of another one with the same number either, on another machine say."""

    async def fail(store: str) -> None:
        async with open_redis_store(store):
            assert int(engine.ask("DBSIZE")[1:]) > 1, "it is in that engine"
        raise ValueError("as a measurement may")

    with Engine() as engine:
        engine.ask("SET", f"bench-{os.getpid()}:x", "1")
        with pytest.raises(ValueError, match="as a measurement may"):
            run_in_engine(engine.url, fail)
        assert engine.ask("DBSIZE") == b":1"


@needs_engine
def test_more_keys_than_one_step_finds_are_removed() -> None:
    async def write(store: str) -> None:
        prefix = store.partition("prefix=")[2]
        values = [part for number in range(2500) for part in (f"{prefix}:{number}", "1")]
        engine.ask("MSET", *values)

    with Engine() as engine:
        run_in_engine(engine.url, write)
        assert engine.ask("DBSIZE") == b":0"


@needs_engine
def test_engine_that_goes_away_hides_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    """But it is said what is left there."""

    async def end_it(store: str) -> str:
        engine.kill()
        return store.partition("prefix=")[2]

    with Engine() as engine:
        prefix = run_in_engine(engine.url, end_it)
    said = capsys.readouterr().err
    assert said.startswith(f"{engine.socket}: the keys {prefix}:* are left in the engine: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["engine", "nodes", "storage --redis"])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://me:s3cret@127.0.0.1:1/0", "127.0.0.1:1: the engine cannot be reached: "),
        ("redis+unix:///nowhere/x", "/nowhere/x: the engine cannot be reached: "),
        ("localhost", "not of the form redis://…"),
    ],
)
def test_url_without_an_engine_is_said_in_one_line(
    command: str,
    url: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *command.split(), url])
    assert main() == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"python -m benchmarks {command.split(maxsplit=1)[0]}: {said}")
    assert "s3cret" not in err
