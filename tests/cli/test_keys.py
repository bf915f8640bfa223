"""``trialogue keys``. Issue 6."""

import json
from pathlib import Path
from typing import Any

import pytest

from trialogue.cli.main import main


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which everything has its usual place."""
    return {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}


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
