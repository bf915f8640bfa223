"""Settings from flags, variables and a file: which one holds, and what is said of a wrong one."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialogue import Price, RateLimit, Settings
from trialogue.cli._options import load_options
from trialogue.cli._settings import SERVE_OPTIONS, make_settings
from trialogue.cli._values import (
    mask_url,
    parse_hosts,
    parse_list,
    parse_origins,
    parse_prices,
    parse_rate,
    parse_seconds,
    parse_size,
    write_prices,
    write_rate,
    write_seconds,
    write_size,
)
from trialogue.cli.main import main


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "trialogue.toml"


def printed(capsys: pytest.CaptureFixture[str], *argv: str, **environ: str) -> dict[str, str]:
    """Print the configuration, and give each setting's line."""
    assert main(["serve", "--print-config", *argv], environ) == 0
    out = capsys.readouterr().out
    return {line.removeprefix("# ").split(" ")[0]: line for line in out.splitlines()}


def refused(capsys: pytest.CaptureFixture[str], *argv: str, **environ: str) -> str:
    """Be refused with code 2, in one line, and give it."""
    assert main(["serve", *argv], environ) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.removeprefix("trialogue serve: ").rstrip("\n")


def test_flags_come_before_variables_before_the_file_before_defaults(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text("max_sessions = 3\nmax_connections = 3\nmax-in-flight = 3\n")
    lines = printed(
        capsys,
        *("--config", str(config), "--max-sessions", "1"),
        TRIALOGUE_MAX_SESSIONS="2",
        TRIALOGUE_MAX_CONNECTIONS="2",
        TRIALOGUE_MAX_SUBSCRIPTIONS="",
    )
    seen = {name: lines[name].split() for name in lines if name.startswith("max_")}
    assert seen["max_sessions"] == ["max_sessions", "=", "1", "#", "--max-sessions"]
    assert seen["max_connections"][2:] == ["2", "#", "TRIALOGUE_MAX_CONNECTIONS"]
    assert seen["max_in_flight"][2:] == ["3", "#", str(config)]
    assert seen["max_subscriptions"][2:] == ["64", "#", "default"]


def test_printed_configuration_can_be_used_as_it_is(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--transport", "tcp://127.0.0.1:0", "--transport", "ws://[::1]:0", "a=echo", "demo"]
    argv += [
        "--rate-limit",
        "20/s burst 5",
        "--idle-timeout-seconds",
        "off",
        "--server-name",
        '"\\',
    ]
    assert main(["serve", "--print-config", *argv, "--insecure"], {}) == 0
    config.write_text(capsys.readouterr().out)
    again = load_options(SERVE_OPTIONS, flags={}, environ={}, config=str(config))
    assert again["agent"].value == ("a=echo", "demo")
    assert again["transport"].value == ("tcp://127.0.0.1:0", "ws://[::1]:0")
    assert again["insecure"].value is True
    settings = make_settings(again)
    assert settings.rate_limit == RateLimit(max_requests=20, window_seconds=1, burst=5)
    assert settings.idle_timeout_seconds == math.inf
    assert settings.server_name == '"\\'
    assert settings.max_frame_bytes == Settings().max_frame_bytes
    assert {name for name, setting in again.items() if setting.source == "default"} == {
        "advertise",
        "tls_cert",
        "tls_key",
        "authenticate",
        "jwt_issuer",
        "jwt_tenant_claim",
        "jwt_scope_claim",
    }


def test_every_limit_is_a_flag_with_a_unit_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Issue 2: every limit has a default, is a setting."""
    assert main(["serve", "--help"], {}) == 0
    helped = capsys.readouterr().out
    for option in SERVE_OPTIONS:
        assert option.help, option.name
        if not option.is_positional and not option.is_file_only:
            assert option.flag in helped


def test_file_may_be_named_by_a_variable(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text('transport = "tcp://127.0.0.1:1"\n')
    lines = printed(capsys, TRIALOGUE_CONFIG=str(config))
    assert '["tcp://127.0.0.1:1"]' in lines["transport"]


def test_passwords_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    line = printed(capsys, TRIALOGUE_STORE="redis://me:secret@host:6379/0")["store"]
    assert "secret" not in line
    assert '"redis://me:***@host:6379/0"' in line
    assert mask_url("jsonl:/var/lib") == "jsonl:/var/lib"
    assert mask_url("redis://h:6379/0?prefix=a") == "redis://h:6379/0?prefix=a"
    assert mask_url("redis+unix://:a:b@/run/x") == "redis+unix://:***@/run/x"
    assert "secret" not in refused(capsys, TRIALOGUE_STORE="rediss://:secret@host:x")


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("drain_seconds = ", "config: {} is not valid TOML: "),
        ("drain_secnds = 5", "{} sets 'drain_secnds', which is no setting; did you mean 'drain_s"),
        ("[limits]\nx = 1", "{} sets 'limits', which is no setting"),
        ("drain_seconds = 'soon'", "drain_seconds: 'soon' is not a time such as"),
        ("drain_seconds = -1", "drain_seconds must be at least 0, not -1.0 (set by {})"),
        ("drain_seconds = true", "drain_seconds: True is not a time such as"),
        ("max_sessions = 1.5", "max_sessions: 1.5 is not a whole number (set by {})"),
        ("max_frame_bytes = '1 parsec'", "max_frame_bytes: '1 parsec' is not a size such as"),
        ("rate_limit = 5", "rate_limit: 5 is not a rate such as 1200/60s"),
        ("insecure = 'perhaps'", "insecure: 'perhaps' is neither true nor false (set by {})"),
        ("transport = 5", "transport: 5 is not a list of texts (set by {})"),
        ("transport = [5]", "transport: 5 is not a text (set by {})"),
        ("server_name = ' '", "server_name: it is empty (set by {})"),
        ("transport = ['']", "transport: it is empty (set by {})"),
        ("allow_origin = 'foo'", "allow_origin: 'foo' is not an origin such as https://my.example"),
        ("allow_origin = ['https://a/b']", "allow_origin: 'https://a/b' is not an origin such as"),
        ("allow_host = 'http://x'", "allow_host: 'http://x' is not a host such as my.example"),
        ("log = 'xml'", "log: 'xml' is not one of auto, console, json (set by {})"),
    ],
)
def test_wrong_file_is_said_in_one_line(
    toml: str, said: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(toml)
    assert refused(capsys, "--config", str(config)).startswith(said.format(config))


def test_file_that_is_missing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = f"config: {config}: No such file or directory"
    assert refused(capsys, "--config", str(config)) == said


@pytest.mark.parametrize(
    ("argv", "environ", "said"),
    [
        (["nobody"], {}, "agent: unknown agent 'nobody'"),
        (["no.such:agent"], {}, "agent 'no.such:agent': there is no module 'no'"),
        (["echo"], {"TRIALOGUE_TRANSPORT": "smtp://x"}, "transport: unknown transport 'smtp'"),
        (["--transport", "here"], {}, "transport: 'here' is not a URL"),
        (["--max-frame-bytes", "5"], {}, "max_frame_bytes must be at least 1024, not 5 (set by --"),
        (
            ["--max-list-bytes", "3MiB"],
            {"TRIALOGUE_MAX_SEND_FRAME_BYTES": "2MiB"},
            (
                "max_list_bytes must be at most 2095104, not 3145728, to fit into a frame of "
                "max_send_frame_bytes (2097152) (max_list_bytes: --max-list-bytes, "
                "max_send_frame_bytes: TRIALOGUE_MAX_SEND_FRAME_BYTES)"
            ),
        ),
        (["--rate-limit", "fast"], {}, "rate_limit: 'fast' is not a rate such as 1200/60s"),
        ([], {"TRIALOGUE_TURN_SECONDS": "x"}, "turn_seconds: 'x' is not a time"),
        (["--store", "tape"], {}, "store: unknown store 'tape': there are"),
        (["--store", "memory:x"], {}, "store 'memory' takes nothing after a colon (set by --sto"),
        (["--tls-cert", __file__], {}, "tls_cert: tls_key is missing"),
        (["--tls-cert", "/no", "--tls-key", "/no"], {}, "tls_cert: /no: No such file"),
        (
            ["--tls-cert", __file__, "--tls-key", __file__],
            {},
            f"tls_cert, tls_key: TLS files {__file__!r}, {__file__!r}: not a certificate chain",
        ),
        (["--transport", "wss://127.0.0.1:0"], {}, "transport: wss://127.0.0.1:0 needs tls_cert"),
        ([], {"TRIALOGUE_TRANSPORT": "tcp://h"}, "transport: 'tcp://h' names no port, such as"),
        (["--transport", "ws://127.0.0.1:0/x"], {}, "transport: 'ws://127.0.0.1:0/x': the path is"),
        (["--transport", "unix:///run/"], {}, "transport: 'unix:///run/' is not of the form"),
        (["--transport", "loopback://a/b"], {}, "transport: 'loopback://a/b' is not of the form"),
        (["--authenticate", "os:nobody"], {}, "authenticate: 'os:nobody': module 'os' has no"),
        (
            ["--authenticate", "trialogue.agents.echo:echo"],
            {},
            "authenticate: the authenticator is an async function of other parameters: it is",
        ),
        (["--authenticate", "os:getenv"], {}, "authenticate: the authenticator is not async: it"),
        (["--config="], {}, "--config: names no file"),
        (["--config"], {}, 'Command "serve" parameter --config requires an argument'),
    ],
)
def test_wrong_setting_is_said_in_one_line(
    argv: list[str], environ: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, *argv, **environ).startswith(said)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--transport=banana"], "transport: "),
        (["--transport=wss://127.0.0.1:0"], "transport: wss://127.0.0.1:0 needs tls_cert"),
        (["--transport=tcp://0.0.0.0:1"], "transport: tcp://0.0.0.0:1 can be reached"),
        (["--max-list-bytes=3MiB"], "max_list_bytes must be at most"),
    ],
)
def test_configuration_that_would_not_serve_is_not_printed(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bug once seen: it was printed, and code 0 said that it was well."""
    assert refused(capsys, "--print-config", *argv).startswith(said)
    assert refused(capsys, *argv).startswith(said)


def test_settings_that_only_fit_together_are_taken_together() -> None:
    """Each by itself would contradict the other's default."""
    flags = {"max_send_frame_bytes": "8MiB", "max_list_bytes": "4MiB", "max_message_bytes": "6MiB"}
    settings = make_settings(load_options(SERVE_OPTIONS, flags=flags, environ={}, config=None))
    assert settings.max_list_bytes == 4 * 1024 * 1024


@pytest.mark.parametrize(
    ("url", "missing"),
    [
        ("ws://0.0.0.0:0", "without TLS and credentials"),
        ("tcp://[::]:0", "without TLS and credentials"),
        ("ws://my.example:80", "without TLS and credentials"),
        ("wss://0.0.0.0:0", "without credentials"),
    ],
)
def test_bind_beyond_this_machine_needs_tls_and_credentials(
    url: str, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = ["--tls-cert", __file__, "--tls-key", __file__] if url.startswith("wss") else []
    said = refused(capsys, "--transport", url, *tls)
    assert said.startswith(f"transport: {url} can be reached from other machines, {missing}")
    assert said.endswith("listen on 127.0.0.1, or say --insecure (set by --transport)")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("20", 20), ("20s", 20), ("1.5 s", 1.5), ("500ms", 0.5), ("30m", 1800), ("24H", 86400)],
        *[("1h30m", 5400), ("1d 2h", 93600), ("1m 500ms", 60.5)],
        *[("1d", 86400), ("off", math.inf), (3, 3), (0.25, 0.25)],
    ],
)
def test_times(text: Any, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *[("65536", 65536), ("64KiB", 65536), ("64k", 65536), ("64 kB", 64000)],
        *[("1.5MiB", 1572864), ("2GiB", 2**31), ("1_000", 1000), (7, 7)],
    ],
)
def test_sizes(text: Any, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "x", "-5s", "5 parsec", "5s5s", "5s 1h", "1h 30", None, [], True]
)
def test_what_is_no_time_and_no_size(text: Any) -> None:
    for parse in (parse_seconds, parse_size):
        with pytest.raises(ValueError, match="is not a"):
            parse(text)


@given(st.integers(0, 2**50))
def test_sizes_are_read_as_they_were_written(size: int) -> None:
    assert parse_size(write_size(size)) == size


@given(st.integers(0, 10**9).map(lambda ms: ms / 1000) | st.just(math.inf))
def test_times_are_read_as_they_were_written(seconds: float) -> None:
    assert parse_seconds(write_seconds(seconds)) == pytest.approx(seconds)


@given(
    st.none()
    | st.builds(
        RateLimit,
        max_requests=st.integers(1, 10**6),
        window_seconds=st.integers(1, 10**5),
        burst=st.integers(1, 10**6),
    )
)
def test_rates_are_read_as_they_were_written(rate: RateLimit | None) -> None:
    assert parse_rate(write_rate(rate)) == rate


def test_prices_and_budgets_from_a_file_and_what_is_printed_is_the_same_file(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """ISSUE 5: a price table in the config."""
    config.write_text(
        'turn_max_cost = 0.5\nsession_max_tokens = 100_000\nwhen_budget_exceeded = "ask"\n'
        'turn_max_seconds = "5m"\n[prices."org/m-1.5"]\ninput = 1.25\noutput = 10\n'
    )
    assert main(["serve", "--print-config", "--config", str(config)], {}) == 0
    again = tmp_path / "again.toml"
    again.write_text(capsys.readouterr().out)
    for file in (config, again):
        loaded = load_options(SERVE_OPTIONS, flags={}, environ={}, config=str(file))
        settings = make_settings(loaded)
        assert settings.prices == {"org/m-1.5": Price(input=1.25, output=10)}
        assert (settings.turn_max_cost, settings.session_max_tokens) == (0.5, 100_000)
        assert (settings.turn_max_seconds, settings.turn_max_tokens) == (300, None)
        assert settings.when_budget_exceeded == "ask"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prices = 3", "prices: 3 is no table of models"),
        ("[prices.m]\ninput = 1", "prices: of 'm' it needs input and output, and nothing else"),
        ("[prices.m]\ninput=1\noutput=1\ntotal=1", "prices: of 'm' it needs input and output"),
        ("[prices]\nm = 3", "prices: of 'm' it needs input and output"),
        ("[prices.m]\ninput=1\noutput='much'", "prices: of 'm': 'much' is not a number such as"),
        ("[prices.m]\ninput=1\noutput=true", "prices: of 'm': True is not a number such as"),
        ("[prices.m]\ninput=-1\noutput=1", "prices of 'm': input must be at least 0, not -1"),
        ("turn_max_cost = 0", "turn_max_cost must be at least"),
        ("turn_max_cost = 'some'", "turn_max_cost: 'some' is not a number such as 10 or 2.5"),
        ("session_max_tokens = 0", "session_max_tokens must be at least 1"),
        ("when_budget_exceeded = 'cry'", "when_budget_exceeded: 'cry' is not one of end, ask"),
    ],
)
def test_wrong_price_or_budget_in_the_file_is_said_in_one_line(
    line: str, said: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(line)
    message = refused(capsys, "--config", str(config))
    assert message.startswith(said)
    assert message.endswith(f"(set by {config})")


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9./:=-]{0,10}", fullmatch=True),
        st.builds(Price, input=st.floats(0, 1e6), output=st.floats(0, 1e6)),
    )
)
def test_prices_are_read_as_they_were_written(prices: dict[str, Price]) -> None:
    assert parse_prices(write_prices(prices)) == prices


def test_prices_in_a_variable() -> None:
    prices = {"a=b": Price(input=1.25, output=10), "c": Price(input=0, output=2)}
    assert parse_prices("a=b=1.25/10, c=0/2") == prices
    for text in ("m", "m=", "m=1", "=1/2", "m=1/x"):
        with pytest.raises(ValueError, match="is not a"):
            parse_prices(text)


def test_origins_and_hosts_that_can_match() -> None:
    origins = ("https://my.example", "http://[::1]:5173", "http://127.0.0.1:1/", "null", "*")
    assert parse_origins(" ".join(origins)) == origins
    hosts = ("my.example", "my.example:8080", "[::1]:80", "::1", "10.0.0.1", "*")
    assert parse_hosts(",".join(hosts)) == hosts


def test_misspelt_variable_is_told_beside_the_configuration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bug once seen: only a server that ran told."""
    assert main(["serve", "--print-config"], {"TRIALOGUE_DRAIN_SECONSD": "5"}) == 0
    out, err = capsys.readouterr()
    assert "drain_seconds" in out
    said = "TRIALOGUE_DRAIN_SECONSD is no setting; did you mean TRIALOGUE_DRAIN_SECONDS?"
    assert err == f"trialogue serve: {said}\n"


def test_lists_in_a_variable() -> None:
    assert parse_list("echo,demo 'script:my,talk.toml'") == ("echo", "demo", "script:my,talk.toml")
    assert parse_list("ws://127.0.0.1:1, tcp://127.0.0.1:2\n") == (
        "ws://127.0.0.1:1",
        "tcp://127.0.0.1:2",
    )
    assert parse_list("demo 'script:my talk.toml'") == ("demo", "script:my talk.toml")
    assert tomllib.loads("a = ['x']")["a"] == list(parse_list(["x"]))
