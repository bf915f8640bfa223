"""What ``trialogue serve`` can be told: its own settings, and every limit of the server."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from ..core import Settings
from ..core.errors import SettingsError
from ..core.settings import DRIVERS, WHEN_EXCEEDED
from ..stores.jsonl import JsonlSettings
from ._mcp import parse_mcp, show_mcp, write_mcp
from ._options import Option, Setting
from ._place import WORKER_VARIABLE
from ._stores import DEFAULT_STORE
from ._values import (
    mask_url,
    parse_amount,
    parse_choice,
    parse_count,
    parse_flag,
    parse_hosts,
    parse_list,
    parse_metrics,
    parse_origins,
    parse_prices,
    parse_rate,
    parse_seconds,
    parse_size,
    parse_text,
    write_prices,
    write_rate,
    write_seconds,
    write_size,
)

__all__ = [
    "DEFAULT_URL",
    "LOG_LEVELS",
    "OTHER_VARIABLES",
    "SERVE_OPTIONS",
    "make_settings",
    "make_store_settings",
]

DEFAULT_URL: Final = "ws://127.0.0.1:8765"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
#: Variables of the other commands, and what a worker is given; of no setting in the file.
OTHER_VARIABLES: Final = ("TRIALOGUE_CONFIG", "TRIALOGUE_TOKEN", WORKER_VARIABLE)

_LISTENING: Final = "What is served, and where"
_ACCESS: Final = "Who may come in"
_LOGS: Final = "Logs, on standard error"
_STORE: Final = "How jsonl keeps sessions; sqlite heeds fsync and min-free-bytes alone"
_LIMITS: Final = "Limits and times: 256KiB, 20s, off"

#: What each policy can lose, in brief; docs/storage.md says more.
_FSYNC: Final = (
    "When what was acknowledged is on the disk. always: before; interval: after "
    "--store-interval-seconds; never: when the system likes. A power loss takes what is not there "
    "yet, a kill of the server nothing."
)
#: Before the names of the store's settings.
_STORE_PREFIX: Final = "store_"


#: A token that has expired for longer has, whatever clocks say.
_MAX_SKEW_SECONDS: Final = 600.0
#: More than machines have cores for; a typing error starts no thousands of processes.
_MAX_WORKERS: Final = 256


def _check_skew(value: float) -> None:
    if not 0 <= value <= _MAX_SKEW_SECONDS:
        raise ValueError(f"it is 0 to {_MAX_SKEW_SECONDS:g} s")


def _check_workers(value: int) -> None:
    if not 1 <= value <= _MAX_WORKERS:
        raise ValueError(f"it is 1 to {_MAX_WORKERS}")


def _own_options() -> list[Option]:
    return [
        Option(
            name="agent",
            help="A built-in agent (demo, echo, script:FILE), a model (openai:MODEL, "
            "anthropic:MODEL, local:PATH) or module:function. The first is the default; a session "
            "may ask for another by its NAME.",
            parse=parse_list,
            write=list,
            default=("demo",),
            metavar="[NAME=]AGENT",
            group=_LISTENING,
            is_positional=True,
        ),
        Option(
            name="mcp",
            help="MCP servers, whose tools are given to every agent that takes tools.",
            parse=parse_mcp,
            write=write_mcp,
            show=show_mcp,
            default=(),
            group=_LISTENING,
            is_file_only=True,
        ),
        Option(
            name="transport",
            help="Listen there, e.g. ws://127.0.0.1:8765, wss://…, tcp://127.0.0.1:7000, tcps://…, "
            "unix:///run/x.sock. Any number; port 0 takes a free one.",
            parse=parse_list,
            write=list,
            default=(DEFAULT_URL,),
            metavar="URL",
            group=_LISTENING,
            is_repeated=True,
        ),
        Option(
            name="workers",
            help="Processes that share the addresses, for the cores of one machine. More than one "
            "need a store that several may have: redis://…. Limits are those of each.",
            parse=parse_count,
            check=_check_workers,
            write=int,
            default=1,
            metavar="COUNT",
            group=_LISTENING,
        ),
        Option(
            name="store",
            help="Where sessions live: jsonl:FOLDER, sqlite:FILE, redis://HOST:PORT/0, rediss://…, "
            "redis+unix:///PATH, redis+sentinel://…, redis+cluster://… or memory. jsonl alone is the folder $XDG_STATE_HOME/trialogue, or "
            "else ~/.local/state/trialogue.",
            parse=parse_text,
            show=mask_url,
            default=DEFAULT_STORE,
            metavar="STORE",
            group=_LISTENING,
        ),
        Option(
            name="advertise",
            help="Where clients reach this one of the servers that share a store, e.g. "
            "ws://a.example:8765. They are told who has their session, and may move there.",
            parse=parse_text,
            default=None,
            metavar="URL",
            group=_LISTENING,
        ),
        Option(
            name="tls_cert",
            help="The certificate chain for wss and tcps, a PEM file.",
            parse=parse_text,
            default=None,
            metavar="FILE",
            group=_ACCESS,
        ),
        Option(
            name="tls_key",
            help="Its private key, a PEM file.",
            parse=parse_text,
            default=None,
            metavar="FILE",
            group=_ACCESS,
        ),
        Option(
            name="authenticate",
            help="module:function, async and of (credential, peer), that returns whom a credential "
            "names, or raises UnauthorizedError. In place of --auth; with neither everybody is let "
            "in.",
            parse=parse_text,
            default=None,
            metavar="FUNCTION",
            group=_ACCESS,
        ),
        Option(
            name="auth",
            help="Let in who has a credential of these. keys:FILE: an API key; keys alone is the "
            "file that trialogue keys writes by default. jwt:URL or jwt:FILE: a token that was "
            "signed by one of those keys, a JWKS. Any number.",
            parse=parse_list,
            write=list,
            default=(),
            metavar="KIND",
            group=_ACCESS,
            is_repeated=True,
        ),
        Option(
            name="jwt_issuer",
            help="Who has to have issued a token: its claim iss.",
            parse=parse_text,
            default=None,
            metavar="ISSUER",
            group=_ACCESS,
        ),
        Option(
            name="jwt_audience",
            help="For whom a token has to be, one of these: its claim aud.",
            parse=parse_list,
            write=list,
            default=(),
            metavar="AUDIENCE",
            group=_ACCESS,
            is_repeated=True,
        ),
        Option(
            name="jwt_tenant_claim",
            help="The claim that names a token's tenant. Without one all are of none.",
            parse=parse_text,
            default=None,
            metavar="CLAIM",
            group=_ACCESS,
        ),
        Option(
            name="jwt_scope_claim",
            help="The claim that says what a token allows: words, of which read, write, answer and "
            "admin count. Without one that is all but admin.",
            parse=parse_text,
            default=None,
            metavar="CLAIM",
            group=_ACCESS,
        ),
        Option(
            name="jwt_skew_seconds",
            help="By how much the issuer's clock may differ.",
            parse=parse_seconds,
            check=_check_skew,
            write=write_seconds,
            default=30.0,
            metavar="TIME",
            group=_ACCESS,
        ),
        Option(
            name="allow_origin",
            help="An origin that browsers may connect from, beside the listener's own; * for any.",
            parse=parse_origins,
            write=list,
            default=(),
            metavar="ORIGIN",
            group=_ACCESS,
            is_repeated=True,
        ),
        Option(
            name="allow_host",
            help="A name by which requests may call this server, beside the listener's address.",
            parse=parse_hosts,
            write=list,
            default=(),
            metavar="HOST",
            group=_ACCESS,
            is_repeated=True,
        ),
        Option(
            name="insecure",
            help="Listen beyond this machine although credentials or TLS are missing.",
            parse=parse_flag,
            default=False,
            group=_ACCESS,
        ),
        Option(
            name="log",
            help="json, console, or auto: console on a terminal, else json.",
            parse=parse_choice("auto", "console", "json"),
            default="auto",
            metavar="FORM",
            group=_LOGS,
        ),
        Option(
            name="log_level",
            help=f"From which level on: {', '.join(LOG_LEVELS)}.",
            parse=parse_choice(*LOG_LEVELS),
            default="info",
            metavar="LEVEL",
            group=_LOGS,
        ),
        Option(
            name="metrics",
            help="Where Prometheus reads them. on: at /metrics of http transports; HOST:PORT: there, "
            "and only there; auto: on, where the extra [metrics] is installed and nobody is asked "
            "for a credential, since anybody may read them; off.",
            parse=parse_metrics,
            default="auto",
            metavar="WHERE",
            group=_LOGS,
        ),
        Option(
            name="traces",
            help="Where spans of requests, turns, tools and models go: otlp (OTEL_EXPORTER_OTLP_ENDPOINT "
            "and the other variables of OpenTelemetry say where), console, or off.",
            parse=parse_choice("off", "otlp", "console"),
            default="off",
            metavar="WHERE",
            group=_LOGS,
        ),
    ]


def _options_of(cls: type[Any], group: str, prefix: str = "") -> list[Option]:
    """Make an option of each field of a class, by what its name says of its unit."""
    told = _describe_fields(cls)
    defaults = cls()
    options: list[Option] = []
    for field in attrs.fields(cls):
        default = getattr(defaults, field.name)
        parse, write, metavar = _kind_of(field.name, default)
        options.append(
            Option(
                name=prefix + field.name,
                help=told.get(field.name, ""),
                parse=parse,
                check=_checker(cls, field.name, prefix),
                write=write,
                default=default,
                metavar=metavar,
                group=group,
            )
        )
    return options


def _checker(cls: type[Any], name: str, prefix: str) -> Callable[[Any], object]:
    field = attrs.fields_dict(cls)[name]

    def check(value: Any) -> object:
        # By itself: whether it goes with the others is seen when all of them are known.
        try:
            if field.validator is not None:
                field.validator(None, field, value)
        except ValueError as exc:
            # It begins with the field's name.
            raise ValueError(f"{prefix}{exc}") from None
        return value

    return check


def _kind_of(name: str, default: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any], str]:
    """Say how a setting is read and written, and what stands for it in the help."""
    parse: Callable[[Any], Any]
    write: Callable[[Any], Any]
    match name:
        case "rate_limit":
            return parse_rate, write_rate, "RATE"
        case "prices":
            return parse_prices, write_prices, "MODEL=IN/OUT"
        case "when_budget_exceeded":
            return parse_choice(*WHEN_EXCEEDED), str, "end|ask"
        case "driver":
            return parse_choice(*DRIVERS), str, "DRIVER"
        case "server_name":
            return parse_text, str, "NAME"
        case "fsync":
            return parse_choice("always", "interval", "never"), str, "POLICY"
        case _ if name.endswith("_seconds"):
            parse, write, metavar = parse_seconds, write_seconds, "TIME"
        case _ if name.endswith("_cost"):
            parse, write, metavar = parse_amount, float, "AMOUNT"
        case _ if name.endswith("_bytes"):
            parse, write, metavar = parse_size, write_size, "SIZE"
        case _:
            parse, write, metavar = parse_count, int, "COUNT"
    if isinstance(default, bool):
        return parse_flag, lambda value: "on" if value else "off", "on|off"
    if default is None:
        # What the store decides has a word of its own: off is never.
        word = "auto" if name == "idle_timeout_seconds" else "off"
        return _or_word(word, parse), _write_or(word, write), metavar
    return parse, write, metavar


def _or_word(word: str, parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def parse_or_none(value: Any) -> Any:
        if isinstance(value, str) and value.strip().lower() == word:
            return None
        return parse(value)

    return parse_or_none


def _write_or(word: str, write: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: word if value is None else write(value)


def _describe_fields(cls: type[Any]) -> dict[str, str]:
    """Take the sentence on each field from the class's docstring: it is written for people."""
    # From 3.13 on it is not indented any more as it stands in the source.
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: _say(" ".join(text.split())) for name, text in found}


def _say(text: str) -> str:
    """Say what the words of the class mean to who types a flag."""
    text = text.replace("``", "").replace("None is 30 minutes", "auto is 30m")
    text = text.replace("None keeps all", "off keeps all").replace("math.inf", "off")
    if text.startswith("always, interval or never"):
        text = _FSYNC
    if text == "None is no limit.":
        text = (
            "Requests of a principal, or of a connection without one: 1200/60s, 20/s burst 50, off."
        )
    return text if text.endswith(".") else f"{text}."


SERVE_OPTIONS: Final[tuple[Option, ...]] = (
    *_own_options(),
    *_options_of(JsonlSettings, _STORE, _STORE_PREFIX),
    *_options_of(Settings, _LIMITS),
)


def make_settings(loaded: Mapping[str, Setting]) -> Settings:
    """Take the server's limits from what was loaded.

    Raises:
        SettingsError: Two of them contradict each other; says where each was set.
    """
    try:
        return Settings(**{name: loaded[name].value for name in attrs.fields_dict(Settings)})
    except ValueError as exc:
        said = [loaded[word] for word in re.findall(r"\w+", str(exc)) if word in loaded]
        sources = ", ".join(f"{setting.option.name}: {setting.source}" for setting in said)
        raise SettingsError(f"{exc} ({sources})") from None


def make_store_settings(loaded: Mapping[str, Setting]) -> JsonlSettings:
    """Take how the store is kept from what was loaded."""
    names = attrs.fields_dict(JsonlSettings)
    return JsonlSettings(**{name: loaded[_STORE_PREFIX + name].value for name in names})
