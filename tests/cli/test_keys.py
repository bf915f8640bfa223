"""``trialogue keys``, and who is let in by ``trialogue serve --auth``. Issue 6."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import trustme

from trialogue.cli.main import main

from ._process import run_command, serving

TCP = "tcp://127.0.0.1:0"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which everything has its usual place."""
    return {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}


def keys(environ: dict[str, str], *arguments: str) -> int:
    return main(["keys", *arguments], environ)


def create(
    capsys: pytest.CaptureFixture[str], environ: dict[str, str], *arguments: str
) -> tuple[str, str]:
    """Make a key. Returns it and its id."""
    assert keys(environ, "create", *arguments) == 0
    token = capsys.readouterr().out.strip()
    return token, token.split("_")[1]


def listed(capsys: pytest.CaptureFixture[str], environ: dict[str, str]) -> list[dict[str, Any]]:
    assert keys(environ, "list", "--json") == 0
    shown: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return shown


def test_key_is_shown_once_and_then_listed_without_it(
    capsys: pytest.CaptureFixture[str], home: dict[str, str]
) -> None:
    """Scripts take it from standard output, where there is nothing else."""
    arguments = ["--tenant", "acme", "--scopes", "read,write", "--expires", "90d", "--note", "job"]
    assert keys(home, "create", "ann", *arguments) == 0
    printed = capsys.readouterr()
    token = printed.out.strip()
    assert printed.out == f"{token}\n"
    assert token.startswith("tlk_")
    assert "ann of acme: read, write, until 2" in printed.err
    assert "It is not shown again." in printed.err
    assert token not in printed.err
    (shown,) = listed(capsys, home)
    expected = {"principal": "ann", "tenant": "acme", "scopes": ["read", "write"], "note": "job"}
    assert expected.items() <= shown.items()
    assert shown["state"] == "valid"
    assert "hash" not in shown
    assert token not in str(shown)


def test_key_has_no_admin_and_no_end_unless_it_is_said(
    capsys: pytest.CaptureFixture[str], home: dict[str, str]
) -> None:
    create(capsys, home, "ann")
    (shown,) = listed(capsys, home)
    assert shown["scopes"] == ["read", "write", "answer"]
    assert "expiresAt" not in shown


def test_list_is_a_table_of_what_is_known(
    capsys: pytest.CaptureFixture[str], home: dict[str, str]
) -> None:
    _, first = create(capsys, home, "ann", "--note", "the nightly job")
    _, second = create(capsys, home, "bob", "--expires", "1ms")
    _, third = create(capsys, home, "carol")
    assert keys(home, "revoke", third) == 0
    capsys.readouterr()
    assert keys(home, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["key", "state", "principal"]
    rows = [line.split()[:3] for line in lines[1:]]
    expected = [[first, "valid", "ann"], [second, "expired", "bob"], [third, "revoked", "carol"]]
    assert rows == expected
    assert lines[1].rstrip().endswith("the nightly job")


def test_revoke_says_what_it_did(capsys: pytest.CaptureFixture[str], home: dict[str, str]) -> None:
    _, one = create(capsys, home, "ann")
    _, two = create(capsys, home, "ann")
    assert keys(home, "revoke", one, two) == 0
    assert capsys.readouterr().out == f"{one} is revoked\n{two} is revoked\n"
    assert keys(home, "revoke", one) == 0
    assert capsys.readouterr().out == f"{one} was revoked before\n"
    assert keys(home, "revoke", "none") == 2
    assert "there is no key 'none'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["create"], 2, "PRINCIPAL"),
        (["create", ""], 2, "empty principal"),
        (["create", "ann", "--scopes", "fly"], 2, "'fly' is no scope: there are read, write"),
        (["create", "ann", "--scopes", ""], 2, "allows nothing"),
        (["create", "ann", "--expires", "soon"], 2, "'soon' is not a time"),
        (["create", "ann", "--expires", "0"], 2, "--expires must be more than 0"),
        (["create", "ann", "--file", "/dev/null/keys"], 1, "/dev/null/keys: "),
        (["list", "--file", "/"], 1, "/: "),
    ],
)
def test_mistake_is_one_line_that_says_what(
    capsys: pytest.CaptureFixture[str],
    home: dict[str, str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    assert keys(home, *arguments) == code
    printed = capsys.readouterr()
    assert printed.err.startswith("trialogue keys: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert not printed.out


def test_no_keys_yet_is_an_empty_list(
    capsys: pytest.CaptureFixture[str], home: dict[str, str]
) -> None:
    assert listed(capsys, home) == []
    assert keys({}, "list") == 2
    assert "there is no home" in capsys.readouterr().err


# -- serve ---------------------------------------------------------------------------------------


def serve_config(
    capsys: pytest.CaptureFixture[str], environ: dict[str, str], *arguments: str
) -> tuple[int, str, str]:
    code = main(["serve", "--print-config", *arguments], environ)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    return code, next((line for line in lines if line.startswith("auth ")), ""), printed.err


def test_auth_is_a_setting_like_any_other(
    capsys: pytest.CaptureFixture[str], home: dict[str, str], tmp_path: Path
) -> None:
    """By flag, variable and file; the usual place is written out."""
    _, line, _ = serve_config(capsys, home)
    assert line.split("#") == ["auth = []".ljust(44) + "  ", " default"]
    _, line, _ = serve_config(capsys, home, "--auth", "keys")
    assert f'auth = ["keys:{tmp_path}/state/trialogue/keys.jsonl"]' in line
    assert line.endswith("# --auth")
    _, line, _ = serve_config(capsys, {**home, "TRIALOGUE_AUTH": "keys:~/mine"})
    assert f'auth = ["keys:{tmp_path}/mine"]' in line
    config = tmp_path / "trialogue.toml"
    config.write_text('auth = ["keys:/etc/keys"]\n')
    _, line, _ = serve_config(capsys, home, "--config", str(config))
    assert 'auth = ["keys:/etc/keys"]' in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--auth", "passwords:x"], "auth: 'passwords:x' is none of keys:"),
        (["--auth", "keys:"], "auth: 'keys' needs to know where: keys:FILE"),
        (["--auth", "keys:x", "--authenticate", "a:b"], "authenticate is set, too"),
    ],
)
def test_auth_that_cannot_be_is_refused_before_anything_is_opened(
    capsys: pytest.CaptureFixture[str], home: dict[str, str], arguments: list[str], said: str
) -> None:
    code, _, err = serve_config(capsys, home, *arguments)
    assert code == 2
    assert said in err


def test_file_of_keys_that_is_missing_is_said_at_the_start(
    capsys: pytest.CaptureFixture[str], home: dict[str, str]
) -> None:
    assert main(["serve", "echo", "--auth", "keys:/nowhere"], home) == 2
    assert capsys.readouterr().err == (
        "trialogue serve: auth: /nowhere: No such file or directory (set by --auth)\n"
    )


@pytest.mark.parametrize("url", ["ws://0.0.0.0:0", "tcp://[::]:0"])
def test_keys_without_tls_are_not_enough_beyond_this_machine(
    capsys: pytest.CaptureFixture[str], home: dict[str, str], url: str
) -> None:
    """Issue 6: refused unless --insecure says so; and the error names what is missing alone."""
    code, _, err = serve_config(capsys, home, "--auth", "keys", "--transport", url)
    assert code == 2
    assert "can be reached from other machines, without TLS;" in err
    code, _, err = serve_config(capsys, home, "--transport", url)
    assert "without TLS and credentials (--auth);" in err
    arguments = ("--auth", "keys", "--transport", url, "--insecure")
    assert serve_config(capsys, home, *arguments)[0] == 0


def test_keys_and_tls_are_enough_beyond_this_machine(
    capsys: pytest.CaptureFixture[str], home: dict[str, str], tmp_path: Path
) -> None:
    both = str(tmp_path / "both.pem")
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(both)
    arguments = ["--tls-cert", both, "--tls-key", both, "--transport", "tcps://0.0.0.0:0"]
    assert serve_config(capsys, home, *arguments)[0] == 2
    assert serve_config(capsys, home, *arguments, "--auth", "keys")[0] == 0


def test_key_opens_the_server_until_it_is_revoked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The commands as they are, over TCP and WebSocket; the last use is listed then."""
    file = str(tmp_path / "keys.jsonl")
    token, key_id = create(capsys, {}, "ann", "--file", file)
    transports = ("--transport", TCP, "--transport", "ws://127.0.0.1:0")
    with serving("echo", *transports, "--auth", f"keys:{file}", count=2) as server:
        for url in server.urls:
            said = run_command("sessions", "list", url, environ={"TRIALOGUE_TOKEN": token})
            assert (said.returncode, said.stderr) == (0, "")
            for wrong in ("", token[:-1]):
                said = run_command("sessions", "list", url, environ={"TRIALOGUE_TOKEN": wrong})
                assert said.returncode == 1
                assert "(UNAUTHORIZED)" in said.stderr
        assert keys({}, "revoke", key_id, "--file", file) == 0
        server.wait_stderr("a key holds no more")
        said = run_command("sessions", "list", server.urls[0], "--token", token)
        assert "Not a valid credential (UNAUTHORIZED)" in said.stderr
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert token.split("_", 2)[2] not in server.stderr
    capsys.readouterr()
    assert keys({}, "list", "--json", "--file", file) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["state"] == "revoked"
    assert shown["lastUsedAt"] > shown["createdAt"]
