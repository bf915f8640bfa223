"""The server over every transport, for tests that are the same on all of them."""

import re
import ssl
from collections.abc import Callable
from typing import Any, Final

import pytest
import trustme

from trialogue.testing.transport_kit import Connect

from ..engines import LACKS_ENGINE
from ._two_nodes import ConnectOverEngine, ConnectToOther

TRANSPORTS: Final[tuple[str, ...]] = ("loopback", "tcp", "unix", "tcps", "ws", "wss", "http")

#: Loopback, to a node of two that has no session itself: commands go to the other, events come
#: from the log. What a connection is, is the same there, so it runs where sessions matter.
OTHER_NODE: Final = "loopback@two"
#: The same with a real engine between the two, in the campaigns.
ENGINE_NODE: Final = "loopback@engine"
OTHER_NODE_IN: Final = {
    "test_asks",
    "test_budgets",
    "test_children",
    "test_client_tools",
    "test_compacting",
    "test_connection",
    "test_envelope",
    "test_events",
    "test_idempotency",
    "test_identity",
    "test_limits",
    "test_messages",
    "test_options",
    "test_sessions",
    "test_sizes",
    "test_testing",
    "test_turns",
}
#: Test → why it is not so from another node.
NOT_FROM_OTHER_NODE: Final[dict[str, str]] = {
    "test_agent_sees_the_tools_that_subscribers_offer_now": "the owner is told of tools soon",
    "test_hello_announces_every_limit_of_the_connection": "those of a store in memory",
    "test_message_in_progress_is_listed_with_its_text_so_far": "its text is told soon",
    "test_queued_input_does_not_start_in_a_drain": "it does on the other node",
    "test_server_that_ends_closes_each_connection_after_its_last_events": "its turns go on",
    "test_every_request_is_answered_before_the_goodbye": "its turns go on",
    "test_session_above_max_sessions_is_refused": "each node counts its own",
    "test_health_counts_what_there_is": "each node counts its own",
    "test_stats_are_counters": "each node counts its own",
}

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
        "loopback ws wss http",
        "no web page reaches memory, and to a WebSocket or by HTTP it comes with its Origin",
    ),
    "test_dribbled_input_really_comes_byte_by_byte": (
        "tcps wss",
        "TLS hands its records on whole, after they have come byte by byte",
    ),
    "test_header_may_carry_the_credential": (
        "loopback tcp unix tcps",
        "lines have no headers",
    ),
    "test_failing_check_of_a_header_ends_that_connection_only": (
        "loopback tcp unix tcps",
        "lines have no headers",
    ),
    "test_frames_behind_a_header_may_be_large": (
        "loopback tcp unix tcps",
        "lines have no headers",
    ),
    "test_credential_of_a_header_expires_and_is_revoked_too": (
        "loopback tcp unix tcps",
        "lines have no headers",
    ),
    "test_credential_that_came_as_a_header_is_not_checked_twice": (
        "loopback tcp unix tcps",
        "lines have no headers",
    ),
    "test_refusal_of_a_header_that_cannot_be_sent_is_a_bug_that_shows_nothing": (
        "loopback tcp unix tcps",
        "lines have no headers",
    ),
}


#: Tests that run again with what is sent coming byte by byte: where frames are cut matters to
#: them. For all that a conversation holds, the kit's own does that (test_transport_kit.py).
DRIBBLED: Final = {
    "test_frame_behind_a_refused_hello_does_nothing",
    "test_bad_line_after_a_good_one_is_survived",
    "test_connection_survives_all_that_is_malformed",
    "test_first_line_that_is_no_envelope_ends_the_connection",
    "test_frame_of_just_the_largest_size_is_taken",
    "test_frame_over_the_largest_size_is_refused_and_ends_the_connection",
    "test_frames_sent_at_once_are_each_answered",
    "test_header_may_carry_the_credential",
    "test_requests_to_one_session_take_effect_in_their_order",
    "test_text_comes_back_as_it_was_sent",
}

#: Modules whose tests run on the driver that is not the default here too: they are about what
#: drivers do. A session does not see which one feeds it, and the rest would take a minute more.
BOTH_DRIVERS: Final = {"test_frames", "test_transport_kit", "test_websocket"}
#: Tests of other modules of which that is true as well.
BOTH_DRIVERS_TOO: Final = {
    "test_frame_behind_a_hello_has_its_limit_too",
    "test_frame_behind_a_refused_hello_does_nothing",
    "test_frames_behind_a_header_may_be_large",
    "test_frames_behind_a_hello_may_be_large",
    "test_header_may_carry_the_credential",
}
OTHER_DRIVER: Final = ("tcp+task", "wss+task")

#: What an ordinary run has of some transports, and the campaigns have all: what is about their
#: connections, and of TLS and HTTP about frames and order. A session does not see how its commands
#: travel, and on a Unix socket all is as on TCP.
SOME_MODULES: Final = {
    "unix": {"test_connection", "test_transport_kit"},
    "tcps": {"test_connection", "test_transport_kit"},
    "wss": {"test_connection", "test_frames", "test_transport_kit"},
    "http": {"test_connection", "test_events", "test_frames", "test_transport_kit"},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that connects on every transport that can promise what it tests."""
    if "connect" in metafunc.fixturenames:
        test = metafunc.function.__name__
        cannot, _ = CANNOT.get(test, ("", ""))
        transports = TRANSPORTS
        module = metafunc.definition.path.stem
        if module in BOTH_DRIVERS or test in BOTH_DRIVERS_TOO:
            transports += OTHER_DRIVER
        if module in OTHER_NODE_IN and test not in NOT_FROM_OTHER_NODE:
            transports += (OTHER_NODE,) if LACKS_ENGINE else (OTHER_NODE, ENGINE_NODE)
        names = [name for name in transports if re.split("[+@]", name)[0] not in cannot.split()]
        # A request over HTTP costs ten times what it does elsewhere, byte by byte a hundred: that is
        # left to the kit's own conversation, once.
        whole = {OTHER_NODE, ENGINE_NODE, "http"}
        dribbled = [name for name in names if name not in whole and test in DRIBBLED]
        only = {name for name in names if module not in SOME_MODULES.get(name, {module})}
        only.add(ENGINE_NODE)
        if metafunc.config.getoption("--scale") is None:
            # Not even collected: each worker would do so for three thousand that do not run.
            names = [name for name in names if name not in only]
        metafunc.parametrize(
            "connect",
            [pytest.param(n, marks=pytest.mark.campaign if n in only else ()) for n in names]
            + [f"{name}-dribbled" for name in dribbled],
            indirect=True,
        )


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
def make_connect(tls: tuple[Any, Any], request: pytest.FixtureRequest) -> Callable[..., Connect]:
    """Make a `Connect` of a transport's name."""

    def make(name: str, *, dribble: bool = False) -> Connect:
        if name == OTHER_NODE:
            return ConnectToOther()
        if name == ENGINE_NODE:
            return ConnectOverEngine()
        name, _, driver = name.partition("+")
        url = "loopback://" if name == "loopback" else f"{name}://127.0.0.1:0"
        if name == "unix":
            # Asked for here, since a folder for each of two thousand tests is two seconds.
            url = f"unix://{request.getfixturevalue('tmp_path')}/s"
        server_tls, client_tls = tls if name in ("tcps", "wss", "https") else (None, None)
        return Connect(
            url, tls=server_tls, client_tls=client_tls, dribble=dribble, driver=driver or "auto"
        )

    return make


@pytest.fixture
def connect(request: pytest.FixtureRequest, make_connect: Callable[..., Connect]) -> Connect:
    """The transport that this run of the test is about."""
    name, _, dribbled = request.param.partition("-")
    return make_connect(name, dribble=bool(dribbled))


@pytest.fixture
def loopback(make_connect: Callable[..., Connect]) -> Connect:
    """Loopback alone: for tests on ``autojump_clock``, and for what no transport can change."""
    return make_connect("loopback")
