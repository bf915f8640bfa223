"""Where keys come from, and where they do not go."""

import traceback
from pathlib import Path

import pytest

from trialogue.agents._secrets import Secret, find_secret
from trialogue.core.errors import SettingsError

from ._cases import CANARY


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        find_secret("KEY", environ)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def test_key_comes_from_the_variable() -> None:
    found = find_secret("KEY", {"KEY": f" {CANARY}\n"})
    assert found is not None
    assert found.reveal() == CANARY


def test_key_comes_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{CANARY}\n", "utf-8")
    found = find_secret("KEY", {"KEY_FILE": str(tmp_path / "key")})
    assert found is not None
    assert found.reveal() == CANARY


@pytest.mark.parametrize("environ", [{}, {"KEY": ""}, {"KEY": "", "KEY_FILE": ""}])
def test_no_key_is_none(environ: dict[str, str]) -> None:
    assert find_secret("KEY", environ) is None


def test_what_is_wrong_with_a_key_is_said_without_it(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n", "utf-8")
    (tmp_path / "bytes").write_bytes(CANARY.encode() + b"\xff")
    (tmp_path / "two").write_text(f"{CANARY}\n{CANARY}", "utf-8")
    assert refusal({"KEY": "a", "KEY_FILE": "b"}).startswith("both KEY and KEY_FILE are set")
    assert refusal({"KEY_FILE": f"{tmp_path}/none"}).endswith("/none: No such file or directory")
    assert refusal({"KEY_FILE": f"{tmp_path}/empty"}).endswith("/empty: there is no key in it")
    assert refusal({"KEY_FILE": f"{tmp_path}/bytes"}).endswith("/bytes: no UTF-8")
    assert "a key has no spaces, line breaks" in refusal({"KEY_FILE": f"{tmp_path}/two"})
    assert "letters beyond ASCII" in refusal({"KEY": f"{CANARY}é"})


def test_secret_is_not_shown() -> None:
    secret = Secret(CANARY)
    assert CANARY not in f"{secret} {secret!r} {[secret]}"
    assert secret.hide_in(f"a {CANARY} b {CANARY}") == "a *** b ***"
