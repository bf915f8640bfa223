"""The server over every transport, for tests that are the same on all of them."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from trialogue.testing.transport_kit import Connect

TRANSPORTS: Final = ("loopback", "tcp", "unix", "tcps", "ws", "wss")

#: Test → transports that cannot promise what it tests, and why.
CANNOT: Final[dict[str, tuple[str, str]]] = {
    "test_invalid_utf8_is_answered_and_survived": (
        "ws wss",
        "RFC 6455 has the connection failed, with code 1007: test_websocket.py",
    ),
    "test_frame_over_the_largest_size_is_refused_and_ends_the_connection": (
        "ws wss",
        "says it with close code 1009: test_websocket.py",
    ),
    "test_frame_over_its_size_is_refused_before_its_end_has_come": (
        "ws wss",
        "a frame says its size before it comes, and is refused then: test_websocket.py",
    ),
    "test_first_line_that_is_no_envelope_ends_the_connection": (
        "loopback ws wss",
        "no web page reaches memory, and to a WebSocket it comes with its Origin",
    ),
    "test_dribbled_input_really_comes_byte_by_byte": (
        "tcps wss",
        "TLS hands its records on whole, after they have come byte by byte",
    ),
    "test_header_may_carry_the_credential": (
        "loopback tcp unix tcps",
        "lines have no headers",
    ),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that connects on every transport that can promise what it tests."""
    if "connect" in metafunc.fixturenames:
        cannot, _ = CANNOT.get(metafunc.function.__name__, ("", ""))
        names = [name for name in TRANSPORTS if name not in cannot.split()]
        metafunc.parametrize("connect", names, indirect=True)


@pytest.fixture(scope="session")
def certificate_authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def tls(certificate_authority: trustme.CA) -> tuple[Any, Any]:
    """The server's context and the client's."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate_authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)  # pyright: ignore[reportUnknownMemberType]
    client = ssl.create_default_context()
    certificate_authority.configure_trust(client)  # pyright: ignore[reportUnknownMemberType]
    return server, client


@pytest.fixture
def make_connect(tls: tuple[Any, Any], tmp_path: Path) -> Callable[..., Connect]:
    """Make a `Connect` of a transport's name."""

    def make(name: str, *, dribble: bool = False) -> Connect:
        url = "loopback://" if name == "loopback" else f"{name}://127.0.0.1:0"
        if name == "unix":
            url = f"unix://{tmp_path}/s"
        server_tls, client_tls = tls if name in ("tcps", "wss") else (None, None)
        return Connect(url, tls=server_tls, client_tls=client_tls, dribble=dribble)

    return make


@pytest.fixture
def connect(request: pytest.FixtureRequest, make_connect: Callable[..., Connect]) -> Connect:
    """The transport that this run of the test is about."""
    return make_connect(request.param)


@pytest.fixture
def loopback(make_connect: Callable[..., Connect]) -> Connect:
    """Loopback alone: for tests on ``autojump_clock``, and for what no transport can change."""
    return make_connect("loopback")
