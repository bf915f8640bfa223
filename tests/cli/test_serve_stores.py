"""``trialogue serve`` and where it keeps sessions: the default folder, what is asked for, refusals."""

import json
import os
import signal
import sys
import uuid
from pathlib import Path

import pytest
import trio

from trialogue.cli._options import load_options
from trialogue.cli._settings import SERVE_OPTIONS, make_store_settings
from trialogue.cli.main import main
from trialogue.stores.jsonl import JsonlSettings
from trialogue.stores.redis import open_redis_store

from ..engines import LACKS_ENGINE, shared_engine
from ._process import LineClient, run_command, serving

TCP = ("--transport", "tcp://127.0.0.1:0")


def refused(capsys: pytest.CaptureFixture[str], *argv: str, **environ: str) -> str:
    """Be refused with code 2, in one line, and give it."""
    assert main(["serve", *TCP, *argv], environ) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.removeprefix("trialogue serve: ").rstrip("\n")


def test_sessions_outlive_the_server_in_the_state_folder(tmp_path: Path) -> None:
    """Issue 3: the default of `trialogue serve`, readable with `jq`, for its owner alone."""
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with serving("echo", *TCP, environ=environ) as server:
        with LineClient(server.urls[0]) as client:
            session_id = client.request("session.create", name="kept")["data"]["id"]
            client.request("message.send", sessionId=session_id, content="remember", wait=True)
        server.process.kill()
        server.wait()
    with serving("echo", *TCP, environ=environ) as server:
        with LineClient(server.urls[0]) as client:
            (listed,) = client.request("session.list")["data"]["sessions"]
            messages = client.request("message.list", sessionId=session_id)["data"]["messages"]
            assert client.request("server.stats")["data"]["store"]["sessions"] == 1
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    folder = tmp_path / "state" / "trialogue"
    lines = (folder / f"{session_id}.jsonl").read_text("utf-8").splitlines()
    assert (listed["id"], listed["name"]) == (session_id, "kept")
    assert [message["content"] for message in messages] == ["remember", "remember"]
    assert json.loads(lines[0])["event"] == "session.created"
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))
def test_sessions_outlive_the_server_in_an_engine() -> None:
    """Issue 7: `trialogue serve --store redis://…`."""
    url = f"{shared_engine().url}?prefix=cli-{uuid.uuid4().hex}"
    with serving("echo", *TCP, "--store", url) as server:
        with LineClient(server.urls[0]) as client:
            session_id = client.request("session.create", name="kept")["data"]["id"]
            client.request("message.send", sessionId=session_id, content="remember", wait=True)
            health = client.request("server.health")["data"]
            assert health["status"] == "ok"
        server.process.kill()
        server.wait()

    async def read() -> list[str]:
        async with open_redis_store(url) as store:
            return [entry.event for entry in await store.read(session_id, 0, 100)]

    assert trio.run(read)[-1] == "turn.ended"


@pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))
def test_two_servers_on_one_engine_serve_each_others_sessions() -> None:
    """Issue 7: any client on any node; who has a session is named as it is advertised."""
    store = ("--store", f"{shared_engine().url}?prefix=cli-{uuid.uuid4().hex}")
    at = "tcp://a.example:7000"
    with (
        serving("echo", *TCP, *store, "--advertise", at) as one,
        serving("echo", *TCP, *store) as other,
        LineClient(one.urls[0]) as first,
        LineClient(other.urls[0]) as second,
    ):
        made = first.request("session.create")["data"]
        assert made["node"]["url"] == at
        params = {"sessionId": made["id"], "content": "hello", "wait": True}
        assert second.request("message.send", **params)["data"]["outcome"] == "completed"
        assert second.request("session.get", sessionId=made["id"])["data"]["node"]["url"] == at
        assert second.request("server.stats")["data"]["cluster"]["forwarded"] == 1


@pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))
def test_servers_that_have_an_engine_open_are_warned_of_by_what_copies_or_checks_it(
    tmp_path: Path,
) -> None:
    """docs/storage.md: nothing holds them up. A bug once seen: what they wrote looked damaged."""
    url = f"{shared_engine().url}?prefix=cli-{uuid.uuid4().hex}"
    folder = f"jsonl:{tmp_path}/copy"
    with serving("echo", *TCP, "--store", url) as server, LineClient(server.urls[0]) as client:
        client.request("session.create")
        open_here = f"trialogue store: warning: servers have {url} open, or had just now (1)"
        for arguments, means in [
            (["check", url], "what they write meanwhile may look like damage"),
            (["copy", url, folder], "what they write meanwhile may be left out, or cut short"),
            (["copy", folder, url], "they may take up a session before all of it is there"),
        ]:
            done = run_command("store", *arguments)
            assert done.returncode == 0
            assert f"{open_here}: {means}\n" in done.stderr
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "warning: servers" not in run_command("store", "check", url).stderr


@pytest.mark.parametrize(
    ("store", "url", "said"),
    [
        ("memory", "tcp://h:1", "it is for servers that share a store, as redis://…; not memory"),
        ("redis://h", "ftp://h", "unknown transport 'ftp'"),
        ("redis://h", "tcp://h", "'tcp://h' names no port"),
    ],
)
def test_what_is_advertised_in_vain_is_refused(
    store: str, url: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "--store", store, "--advertise", url)
    assert line.startswith(f"advertise: {said}")
    assert line.endswith("(set by --advertise)")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis:localhost", "store: not of the form redis://… or rediss://…"),
        ("redis://me:s3cret@h?x=1", "store: unknown option 'x'"),
        ("redis+unix://me:s3cret@/nowhere/x?ca=x", "store: ca is for rediss"),
    ],
)
def test_engine_that_cannot_be_used_is_said_in_one_line(
    url: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "--store", url)
    assert line.startswith(said)
    assert line.endswith("(set by --store)")
    assert "s3cret" not in line


def test_engine_that_is_away_is_not_taken_for_a_wrong_setting(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bug once seen: with 2, which says that starting again does not help, systemd did not."""
    store = ("--store", "redis+unix://me:s3cret@/nowhere/x")
    assert main(["serve", *TCP, *store], {}) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("trialogue serve: store: redis+unix://me:***@/nowhere/x: the engine")


@pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))
def test_engine_that_refuses_the_password_is_a_wrong_setting(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = refused(capsys, "--store", f"redis+unix://nobody:s3cret@{shared_engine().socket}")
    assert "the engine refuses the user or the password" in line
    assert "s3cret" not in line


@pytest.mark.parametrize("missing", ["anyio", "coredis"])
@pytest.mark.parametrize(
    "command",
    [
        ("serve", *TCP, "--store"),
        ("sessions", "list"),
        ("store", "check"),
        ("store", "copy", "memory"),
    ],
)
def test_without_the_extra_redis_says_what_to_install(
    missing: str,
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bug once seen: anyio, which comes with coredis alone, was missed first: a traceback."""
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "trialogue.stores._redis.connection", raising=False)
    assert main([*command, "redis://localhost"], {}) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "the store 'redis' needs 'coredis': pip install 'trialogue[redis]'" in err


def test_without_the_extra_redis_workers_say_so_once(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['anyio'] = None")
    done = run_command(
        *("serve", *TCP, "--workers", "2", "--store", "redis://localhost"),
        environ={"PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "the store 'redis' needs 'coredis': pip install 'trialogue[redis]'" in done.stderr


def test_second_server_is_told_who_has_the_folder(tmp_path: Path) -> None:
    folder = f"jsonl:{tmp_path / 'sessions'}"
    with serving("echo", *TCP, "--store", folder) as server:
        second = run_command("serve", *TCP, "--store", folder)
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr.startswith(
        f"trialogue serve: store: {tmp_path / 'sessions'} is in use by process "
        f"{server.process.pid} on "
    )
    assert second.stderr.endswith(": one process at a time may have a folder (set by --store)\n")


@pytest.mark.parametrize("store", ["memory", "sqlite:{}/sessions.db", "jsonl:{}/sessions"])
def test_each_store_serves(store: str, tmp_path: Path) -> None:
    with serving("echo", *TCP, "--store", store.format(tmp_path)) as server:
        with LineClient(server.urls[0]) as client:
            assert client.request("session.create")["success"]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    kept = {path.name.partition("-")[0] for path in tmp_path.iterdir()}
    assert (
        kept
        == {"memory": set(), "sqlite": {"sessions.db"}, "jsonl": {"sessions"}}[
            store.partition(":")[0]
        ]
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--store", "jsonl:"], "store 'jsonl' needs to know where: jsonl:FOLDER"),
        (["--store", "sqlite"], "store 'sqlite' needs to know where: sqlite:FILE"),
        (["--store", "redis"], "store 'redis' needs to know where: redis://HOST:PORT/0"),
        (["--store", "redis+unix"], "store 'redis+unix' needs to know where: redis+unix:///PATH"),
        (
            ["--store", "redis+sentinel"],
            "store 'redis+sentinel' needs to know where: redis+sentinel://HOST:PORT/SERVICE/0",
        ),
        (["--store", "jsonl:{file}"], "store: {file} is not a folder"),
        (["--store", "jsonl:{file}/x"], "store: {file} is not a folder"),
        (["--store", "jsonl:/proc/x"], "store: /proc/x: No such file or directory"),
        (["--store", "sqlite:{file}"], "store: {file}: this file is not an SQLite database"),
        (["--store", "sqlite:{file}/x"], "store: {file} is not a folder"),
        (["--store-fsync", "often"], "store_fsync: 'often' is not one of always, interval, never"),
        (["--store-interval-seconds", "0"], "store_interval_seconds must be above 0, not 0.0"),
    ],
)
def test_store_that_cannot_be_used_is_said_in_one_line(
    argv: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("no database, and no folder, but longer than a header: " + "x" * 100)
    flag, value = argv
    line = refused(capsys, flag, value.format(file=file))
    assert line == f"{said.format(file=file)} (set by {flag})"


def test_folder_that_may_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever runs the tests may write everywhere, perhaps: so the system's refusal is a fake."""
    real = os.open

    def refuse(path: object, flags: int, *args: object, **kwargs: object) -> int:
        if flags & os.O_CREAT and path == "lock":
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    line = refused(capsys, TRIALOGUE_STORE=f"jsonl:{tmp_path}")
    assert line == f"store: {tmp_path}: Permission denied (set by TRIALOGUE_STORE)"


def test_without_the_extra_sqlite_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "apsw", None)
    monkeypatch.delitem(sys.modules, "trialogue.stores._sqlite.database", raising=False)
    line = refused(capsys, "--store", f"sqlite:{tmp_path}/x.db")
    assert line == "the store 'sqlite' needs 'apsw': pip install 'trialogue[sqlite]'"


def test_without_a_home_it_asks_where(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor is a relative XDG_STATE_HOME one, as its specification says."""
    said = "store 'jsonl' needs to know where: jsonl:FOLDER (set by default)"
    assert refused(capsys, XDG_STATE_HOME="state") == said


@pytest.mark.parametrize(
    ("argv", "environ", "line"),
    [
        ([], {"XDG_STATE_HOME": "/s", "HOME": "/h"}, 'store = "jsonl:/s/trialogue"'),
        ([], {"HOME": "/h"}, 'store = "jsonl:/h/.local/state/trialogue"'),
        (["--store", "jsonl"], {"HOME": "/h"}, 'store = "jsonl:/h/.local/state/trialogue"'),
        (["--store", "jsonl:~/x"], {"HOME": "/h"}, 'store = "jsonl:/h/x"'),
        ([], {"HOME": "/h", "TRIALOGUE_STORE": "memory"}, 'store = "memory"'),
    ],
)
def test_printed_configuration_says_where_sessions_are(
    argv: list[str], environ: dict[str, str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--print-config", *argv], environ) == 0
    assert [found.split("  #")[0].rstrip() for found in capsys.readouterr().out.splitlines()].count(
        line
    ) == 1


def test_how_the_store_keeps_sessions_is_set_as_everything_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "trialogue.toml"
    config.write_text('store_roll_bytes = "1MiB"\nstore_roll_entries = 7\n')
    environ = {"TRIALOGUE_STORE_AUTO_SAVE_SECONDS": "off", "TRIALOGUE_CONFIG": str(config)}
    flags = ["--store-fsync", "interval", "--store-interval-seconds", "50ms"]
    assert main(["serve", "--print-config", *flags], environ) == 0
    config.write_text(capsys.readouterr().out)
    loaded = load_options(SERVE_OPTIONS, flags={}, environ={}, config=str(config))
    assert make_store_settings(loaded) == JsonlSettings(
        fsync="interval",
        interval_seconds=0.05,
        auto_save_seconds=float("inf"),
        roll_bytes=1024 * 1024,
        roll_entries=7,
    )
