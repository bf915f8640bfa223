"""Which requests become a WebSocket (PROTOCOL §1, issue: foreign Host and Origin are refused)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialogue.transports._handshake import (
    Policy,
    RefusalError,
    Upgrade,
    accept_token,
    check_upgrade,
    find_head_end,
    parse_head,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
GOOD = {
    "Host": "127.0.0.1:8765",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
LOCAL = Policy(own_hosts=("127.0.0.1",))


def request(start: str = "GET / HTTP/1.1", extra: str = "", **changes: str | None) -> bytes:
    headers = {**GOOD, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return ("\r\n".join([start, *lines]) + "\r\n" + extra + "\r\n").encode("latin-1")


def check(data: bytes, policy: Policy = LOCAL, local: str = "127.0.0.1") -> Upgrade | int:
    try:
        return check_upgrade(data, policy, local)
    except RefusalError as refusal:
        line, status = refusal.response.partition(b"\r\n")[0], refusal.status
    assert line.startswith(b"HTTP/1.1 %d " % status)
    return status


def test_good_requests_are_taken() -> None:
    assert check(request()) == Upgrade(key=KEY, credential=None, traceparent=None)
    for start in ("GET /v1/ws HTTP/1.1", "GET /?x=1 HTTP/1.1"):
        assert isinstance(check(request(start)), Upgrade)
    assert isinstance(check(request(Upgrade="WebSocket", Connection="upgrade")), Upgrade)
    assert isinstance(check(request(extra="Cookie: a=b\r\nCookie: c=d\r\n")), Upgrade)
    assert isinstance(check(request().replace(b"\r\n", b"\n")), Upgrade)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b'{"version":"1.0"}\r\n\r\n', 400),
        (request("GET / HTTP/1.0"), 400),
        (request("GET http://127.0.0.1/ HTTP/1.1"), 400),
        (request("GET  / HTTP/1.1"), 400),
        (request(extra="no colon\r\n"), 400),
        (request(extra=" folded: x\r\n"), 400),
        (request(extra="bad\x00name: x\r\n"), 400),
        (request(extra="X: nul\x00\r\n"), 400),
        (request(extra="Host: other\r\n"), 400),
        (request(Host=None), 400),
        (request(Sec_WebSocket_Key=None), 400),
        (request(Sec_WebSocket_Key="short"), 400),
        (request(Sec_WebSocket_Key="!" * 24), 400),
        (request(Sec_WebSocket_Key="ä" * 24), 400),
        (request("GET /other HTTP/1.1"), 404),
        (request("POST / HTTP/1.1"), 405),
        (request(Upgrade=None), 426),
        (request(Upgrade="h2c"), 426),
        (request(Connection="close"), 426),
        (request(Sec_WebSocket_Version="8"), 426),
        (request(Sec_WebSocket_Version=None), 426),
    ],
)
def test_other_requests_are_refused(data: bytes, status: int) -> None:
    assert check(data) == status


@pytest.mark.parametrize(
    ("host", "own", "local", "allow", "allowed"),
    [
        ("127.0.0.1:8765", "127.0.0.1", "127.0.0.1", (), True),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", (), True),
        ("localhost:8765", "127.0.0.1", "127.0.0.1", (), True),
        ("LocalHost:1", "127.0.0.1", "127.0.0.1", (), True),
        ("[::1]:8765", "::1", "::1", (), True),
        ("localhost", "::1", "::1", (), True),
        ("evil.example:8765", "127.0.0.1", "127.0.0.1", (), False),
        ("localhost.evil.example", "127.0.0.1", "127.0.0.1", (), False),
        ("127.0.0.1.evil.example", "127.0.0.1", "127.0.0.1", (), False),
        ("evil@127.0.0.1", "127.0.0.1", "127.0.0.1", (), False),
        ("127.0.0.1/x", "127.0.0.1", "127.0.0.1", (), False),
        ("127.0.0.1:x", "127.0.0.1", "127.0.0.1", (), False),
        ("", "127.0.0.1", "127.0.0.1", (), False),
        ("192.0.2.7", "127.0.0.1", "127.0.0.1", (), False),
        ("chat.example", "127.0.0.1", "127.0.0.1", ("chat.example",), True),
        ("Chat.Example:443", "127.0.0.1", "127.0.0.1", ("chat.example",), True),
        ("anything", "127.0.0.1", "127.0.0.1", ("*",), True),
        ("192.0.2.7:80", "0.0.0.0", "192.0.2.7", (), True),
        ("localhost", "0.0.0.0", "192.0.2.7", (), True),
        ("evil.example", "0.0.0.0", "192.0.2.7", (), False),
        ("myhost", "myhost", "192.0.2.7", (), True),
        ("localhost", "192.0.2.7", "192.0.2.7", (), False),
    ],
)
def test_foreign_hosts_are_refused(
    host: str, own: str, local: str, allow: tuple[str, ...], allowed: bool
) -> None:
    """A page that rebinds its DNS name to this machine sends that name."""
    policy = Policy(own_hosts=(own,), allow_hosts=allow)
    answer = check(request(Host=host), policy, local)
    assert isinstance(answer, Upgrade) if allowed else answer == 403


@pytest.mark.parametrize(
    ("origin", "host", "secure", "allow", "allowed"),
    [
        ("http://127.0.0.1:8765", "127.0.0.1:8765", False, (), True),
        ("http://localhost", "localhost", False, (), True),
        ("http://localhost:80", "localhost", False, (), True),
        ("http://localhost", "localhost:80", False, (), True),
        ("https://localhost:443", "localhost", True, (), True),
        ("http://localhost", "localhost", True, (), False),
        ("https://localhost", "localhost", False, (), False),
        ("http://localhost:3000", "localhost:8765", False, (), False),
        ("http://127.0.0.1:8765", "localhost:8765", False, (), False),
        ("https://evil.example", "localhost:8765", False, (), False),
        ("null", "localhost:8765", False, (), False),
        ("", "localhost:8765", False, (), False),
        ("null", "localhost:8765", False, ("null",), True),
        ("https://chat.example", "localhost:8765", False, ("https://chat.example/",), True),
        ("https://CHAT.example", "localhost:8765", False, ("https://chat.example",), True),
        ("https://chat.example.evil", "localhost:8765", False, ("https://chat.example",), False),
        ("https://evil.example", "localhost:8765", False, ("*",), True),
    ],
)
def test_foreign_origins_are_refused(
    origin: str, host: str, secure: bool, allow: tuple[str, ...], allowed: bool
) -> None:
    policy = Policy(is_secure=secure, own_hosts=("127.0.0.1",), allow_origins=allow)
    answer = check(request(Host=host, Origin=origin), policy)
    assert isinstance(answer, Upgrade) if allowed else answer == 403


def test_bearer_credential_and_trace_are_taken_from_the_headers() -> None:
    """PROTOCOL §3.1."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    upgrade = check(request(Authorization="bearer  s3cret ", traceparent=trace))
    assert isinstance(upgrade, Upgrade)
    assert upgrade.credential is not None
    assert (upgrade.credential.scheme, upgrade.credential.token) == ("bearer", "s3cret")
    assert upgrade.traceparent == trace
    for other in ("Basic YTpi", "Bearer", "Bearer "):
        upgrade = check(request(Authorization=other))
        assert isinstance(upgrade, Upgrade)
        assert upgrade.credential is None


def test_accept_token_is_the_one_of_the_rfc() -> None:
    assert accept_token(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(data: bytes) -> None:
    end = find_head_end(data)
    assert end == -1 or 0 < end <= len(data)
    assert check(data) == 400
    try:
        parse_head(data)
    except ValueError:
        pass
