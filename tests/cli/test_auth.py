"""Who is let in by ``trialogue serve --auth``: which settings there are, and that they hold. Issue 6."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme
from joserfc import jwt
from joserfc.jwk import ECKey

from trialogue import UnauthorizedError, connect_sync
from trialogue.cli.main import main
from trialogue.identity.keys import create_key

from ._process import serving

TCP = "tcp://127.0.0.1:0"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which everything has its usual place."""
    return {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}


def refusal(url: str, token: str | None) -> str:
    """Give what is said to somebody who is not let in."""
    with pytest.raises(UnauthorizedError) as caught, connect_sync(url, token=token):
        pass
    return caught.value.message


def wait_until_refused(url: str, token: str) -> None:
    """Come again until that is not possible any more."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            with connect_sync(url, token=token):
                time.sleep(0.1)
        except UnauthorizedError:
            return
    raise AssertionError("it was let in for 30 s after it was revoked")


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
    assert f'auth = ["keys:{tmp_path}/config/trialogue/keys.jsonl"]' in line
    assert line.endswith("# --auth")
    _, line, _ = serve_config(capsys, {**home, "TRIALOGUE_AUTH": "keys:~/mine"})
    assert f'auth = ["keys:{tmp_path}/mine"]' in line
    _, line, _ = serve_config(capsys, {"HOME": "/home/me"}, "--auth", "keys")
    assert 'auth = ["keys:/home/me/.config/trialogue/keys.jsonl"]' in line
    config = tmp_path / "trialogue.toml"
    config.write_text('auth = ["keys:/etc/keys"]\n')
    _, line, _ = serve_config(capsys, home, "--config", str(config))
    assert 'auth = ["keys:/etc/keys"]' in line


TOKEN = ["--jwt-issuer", "i", "--jwt-audience", "a"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--auth", "passwords:x"], "auth: 'passwords:x' is none of keys:"),
        (["--auth", "keys:"], "auth: 'keys' needs to know where: keys:FILE"),
        (["--auth", "keys:x", "--authenticate", "a:b"], "authenticate is set, too"),
        (["--auth", "jwt"], "auth: 'jwt' needs to know where: jwt:URL or jwt:FILE"),
        (["--auth", "jwt:x", "--jwt-audience", "a"], "auth: a token needs jwt_issuer to be"),
        (["--auth", "jwt:x", "--jwt-issuer", "i"], "auth: a token needs jwt_audience to be"),
        (["--auth", "jwt:x", "--auth", "jwt:y", *TOKEN], "tokens are of one issuer"),
        (["--jwt-issuer", "i"], "jwt_issuer: it says nothing without --auth jwt:… (set by --jwt"),
        (["--auth", "jwt:x", *TOKEN, "--jwt-skew-seconds", "1h"], "jwt_skew_seconds: it is 0 to"),
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
    token, key = create_key(file, principal="ann", scopes=("read",), seconds=600)
    transports = ("--transport", TCP, "--transport", "ws://127.0.0.1:0")
    quiet = ("--log-level", "error", "--log", "json")
    with serving("echo", *transports, "--auth", f"keys:{file}", *quiet, count=2) as server:
        for url in server.urls:
            with connect_sync(url, token=token) as client:
                assert client.list_sessions().sessions == ()
            assert refusal(url, None) == "A credential is needed"
            assert refusal(url, token[:-1]) == "Not a valid credential"
        assert main(["keys", "revoke", key.id, "--file", file], {}) == 0
        wait_until_refused(server.urls[0], token)
        assert refusal(server.urls[0], token) == "Not a valid credential"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert token.split("_", 2)[2] not in server.stderr
    lines = [json.loads(line) for line in server.stderr.splitlines()]
    noted = [line for line in lines if line["logger"] == "trialogue.audit"]
    assert [line["message"] for line in noted[:2]] == ["credential.accepted", "credential.refused"]
    assert noted[0]["credential_id"] == key.id, "the audit log, whatever the level of the others"
    assert noted == lines
    capsys.readouterr()
    assert main(["keys", "list", "--json", "--file", file], {}) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["state"] == "revoked"
    assert shown["lastUsedAt"] > shown["createdAt"]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("/nowhere", "auth: /nowhere: No such file or directory (set by --auth)"),
        ("http://login.example/jwks", "auth: http://login.example/jwks has to begin with https://"),
    ],
)
def test_keys_of_an_issuer_that_cannot_be_used_are_said_at_the_start(
    capsys: pytest.CaptureFixture[str], home: dict[str, str], where: str, said: str
) -> None:
    assert main(["serve", "echo", "--auth", f"jwt:{where}", *TOKEN], home) == 2
    assert said in capsys.readouterr().err


def test_extra_that_is_missing_is_named() -> None:
    """Not everybody who has keys wants a library for tokens."""
    argv = ["serve", "echo", "--auth", "jwt:x", *TOKEN]
    code = (
        "import sys; sys.modules['joserfc'] = None; "
        f"from trialogue.cli.main import main; sys.exit(main({argv!r}, {{}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, timeout=90
    )
    assert done.returncode == 2
    assert "tokens need 'joserfc': pip install 'trialogue[jwt]'" in done.stderr


def test_token_and_key_open_one_server(tmp_path: Path) -> None:
    """Programs by the one, people by the other; each is told the same if it is neither."""
    signer = ECKey.generate_key("P-256", {"kid": "k"})
    jwks, file = tmp_path / "jwks.json", str(tmp_path / "keys.jsonl")
    jwks.write_text(json.dumps({"keys": [signer.as_dict(private=False)]}))
    jwks.chmod(0o600)
    key, _ = create_key(file, principal="job", scopes=("read",), seconds=600)
    claims = {"iss": "i", "aud": "a", "sub": "ann", "exp": int(time.time()) + 600}
    token = jwt.encode({"alg": "ES256", "kid": "k"}, claims, signer)
    both = ("--auth", f"keys:{file}", "--auth", f"jwt:{jwks}")
    with serving("echo", "--transport", TCP, *both, *TOKEN) as server:
        url = server.urls[0]
        for credential, principal in ((key, "job"), (token, "ann")):
            with connect_sync(url, token=credential) as client:
                assert client.principal == principal
        for wrong in (key[:-1], token[:-8] + "AAAAAAAA"):
            assert refusal(url, wrong) == "Not a valid credential"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
