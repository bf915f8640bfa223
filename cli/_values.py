"""Reads and writes the values of settings as people write them: sizes, times, rates, lists. Pure.

Each parser takes what a flag or a variable says (text) or what TOML has (a number too), raises
ValueError with the right form in its message, and has a writer whose text it reads back.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from ..core import Price, RateLimit

__all__ = [
    "mask_url",
    "parse_amount",
    "parse_choice",
    "parse_count",
    "parse_flag",
    "parse_hosts",
    "parse_list",
    "parse_metrics",
    "parse_origins",
    "parse_prices",
    "parse_rate",
    "parse_seconds",
    "parse_size",
    "parse_text",
    "write_prices",
    "write_rate",
    "write_seconds",
    "write_size",
]

_SIZE_UNITS: Final = {
    "": 1,
    "b": 1,
    "k": 1024,
    "kib": 1024,
    "kb": 1000,
    "m": 1024**2,
    "mib": 1024**2,
    "mb": 1000**2,
    "g": 1024**3,
    "gib": 1024**3,
    "gb": 1000**3,
}
_TIME_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER_AND_UNIT: Final = re.compile(r"\s*(\d[\d_]*(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
#: What browsers send: no path, no user. A slash at the end is forgiven.
_ORIGIN: Final = re.compile(r"[A-Za-z][\w+.-]*://(\[[0-9A-Fa-f:.]+\]|[^\s/:@?#]+)(:\d+)?/?")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/:@?#]+)(:\d+)?|[0-9A-Fa-f:.]+")
_HOST_AND_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/:@?#]+):\d{1,5}")
_TRUE: Final = frozenset({"1", "on", "true", "yes"})
_FALSE: Final = frozenset({"0", "off", "false", "no"})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def parse_text(value: Any) -> str:
    """Read a text that is not empty."""
    if not isinstance(value, str):
        message = f"{value!r} is not a text"
        raise ValueError(message)  # noqa: TRY004 - one kind for whoever names the setting
    if not value.strip():
        raise ValueError("it is empty")
    return value


def parse_count(value: Any) -> int:
    """Read a whole number: ``10000``, ``10_000``."""
    if _is_number(value) and value == int(value):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d[\d_]*\s*", value):
        return int(value)
    raise ValueError(f"{value!r} is not a whole number")


def parse_amount(value: Any) -> float:
    """Read a number that need not be whole: ``2.5``."""
    if _is_number(value):
        return float(value)
    if isinstance(value, str) and re.fullmatch(r"\s*\d[\d_]*(\.\d+)?\s*", value):
        return float(value)
    raise ValueError(f"{value!r} is not a number such as 10 or 2.5")


def parse_prices(value: Any) -> dict[str, Price]:
    """Read what models cost: a table of tables, or ``MODEL=1.25/10,MODEL=…``."""
    if isinstance(value, str):
        return dict(_read_price(said) for said in value.split(",") if said.strip())
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is no table of models")  # noqa: TRY004 - as all of them
    prices: dict[str, Price] = {}
    for model, said in cast("Mapping[str, Any]", value).items():
        if not isinstance(said, Mapping) or set(cast("Mapping[str, Any]", said)) != {
            "input",
            "output",
        }:
            raise ValueError(f"of {model!r} it needs input and output, and nothing else")
        prices[model] = _make_price(model, said["input"], said["output"])
    return prices


def _read_price(said: str) -> tuple[str, Price]:
    # A model's name may have any of these signs in it.
    model, equals, numbers = said.strip().rpartition("=")
    read, slash, written = numbers.partition("/")
    if not (model and equals and slash):
        raise ValueError(f"{said.strip()!r} is not a price such as MODEL=1.25/10")
    return model, _make_price(model, read, written)


def _make_price(model: str, read: Any, written: Any) -> Price:
    try:
        return Price(input=parse_amount(read), output=parse_amount(written))
    except ValueError as exc:
        raise ValueError(f"of {model!r}: {exc}") from None


def write_prices(prices: Mapping[str, Price]) -> dict[str, dict[str, float]]:
    """Write prices as the table that `parse_prices` reads."""
    return {name: {"input": price.input, "output": price.output} for name, price in prices.items()}


def parse_size(value: Any) -> int:
    """Read bytes: ``262144``, ``256KiB``, ``1.5 MiB``."""
    if _is_number(value) and value == int(value):
        return int(value)
    match = _NUMBER_AND_UNIT.fullmatch(value) if isinstance(value, str) else None
    unit = _SIZE_UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{value!r} is not a size such as 65536, 256KiB or 2MiB")
    return round(float(match[1]) * unit)


def write_size(value: int) -> str:
    """Write bytes with the largest unit that divides them."""
    for unit in ("GiB", "MiB", "KiB"):
        if value and value % _SIZE_UNITS[unit.lower()] == 0:
            return f"{value // _SIZE_UNITS[unit.lower()]}{unit}"
    return f"{value}"


def parse_seconds(value: Any) -> float:
    """Read a time: ``20`` seconds, ``1.5s``, ``500ms``, ``1h30m``, or ``off`` for never."""
    if _is_number(value):
        return float(value)
    if isinstance(value, str):
        if value.strip().lower() == "off":
            return math.inf
        if (seconds := _add_times(value)) is not None:
            return seconds
    raise ValueError(f"{value!r} is not a time such as 20s, 500ms, 1h30m or off")


def _add_times(text: str) -> float | None:
    """Add up ``1h30m``: the units become smaller, and only a lone number does without one."""
    total, last, end = 0.0, math.inf, 0
    while end < len(text):
        part = _NUMBER_AND_UNIT.match(text, end)
        unit = _TIME_UNITS.get(part[2].lower()) if part else None
        if part is None or unit is None or unit >= last:
            return None
        if not part[2] and part[0] != text:
            return None
        total, last, end = total + float(part[1]) * unit, unit, part.end()
    return total if text else None


def write_seconds(value: float) -> str:
    """Write a time with the largest unit in which it is a whole number."""
    if math.isinf(value):
        return "off"
    for unit in ("h", "m", "s"):
        if value and value % _TIME_UNITS[unit] == 0:
            return f"{value / _TIME_UNITS[unit]:.0f}{unit}"
    return f"{value * 1000:g}ms" if 0 < value < 1 else f"{value:.15g}s"


def parse_rate(value: Any) -> RateLimit | None:
    """Read a rate: ``1200/60s``, ``20/s burst 50``, or ``off``."""
    if not isinstance(value, str):
        message = f"{value!r} is not a rate such as 1200/60s, 20/s burst 50, or off"
        raise ValueError(message)  # noqa: TRY004 - one kind for whoever names the setting
    return RateLimit.parse(value)


def write_rate(value: RateLimit | None) -> str:
    """Write a rate, with its burst."""
    if value is None:
        return "off"
    window = write_seconds(value.window_seconds)
    return f"{value.max_requests:.15g}/{window} burst {value.burst:.15g}"


def parse_flag(value: Any) -> bool:
    """Read yes or no."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else None
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError(f"{value!r} is neither true nor false")


def parse_choice(*choices: str) -> Callable[[Any], str]:
    """Make a parser of one of several words."""

    def parse(value: Any) -> str:
        word = value.strip().lower() if isinstance(value, str) else value
        if word not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
        return str(word)

    return parse


def parse_list(value: Any) -> tuple[str, ...]:
    """Read several texts, parted by spaces or commas; quotes hold one together. Or a list of them."""
    if isinstance(value, str):
        lexer = shlex.shlex(value, posix=True, punctuation_chars=False)
        lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r\n,", True, ""
        try:
            value = list(lexer)
        except ValueError:
            raise ValueError(f"{value!r} has a quote that is not closed") from None
    if isinstance(value, Iterable):
        return tuple(parse_text(item) for item in cast("Iterable[object]", value))
    raise ValueError(f"{value!r} is not a list of texts")


def parse_metrics(value: Any) -> str:
    """Read ``auto``, ``on``, ``off``, or a host and a port."""
    text = parse_text(value).strip()
    if text.lower() in {"auto", "on", "off"}:
        return text.lower()
    if not _HOST_AND_PORT.fullmatch(text):
        raise ValueError(f"{value!r} is none of auto, on and off, and no HOST:PORT")
    return text


def parse_origins(value: Any) -> tuple[str, ...]:
    """Read origins, as browsers send them: ``https://my.example``, ``http://127.0.0.1:5173``."""
    origins = parse_list(value)
    for origin in origins:
        if origin not in {"*", "null"} and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is not an origin such as https://my.example, or *")
    return origins


def parse_hosts(value: Any) -> tuple[str, ...]:
    """Read names of hosts, as they stand in a URL: ``my.example``, ``my.example:8080``."""
    hosts = parse_list(value)
    for host in hosts:
        if host != "*" and not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} is not a host such as my.example, or *")
    return hosts


def mask_url(text: str) -> str:
    """Write a URL without the password in it."""
    # To the last @: whoever writes a password as it is may have any of them in it.
    return re.sub(r"(//[^@:]*:).+@", r"\1***@", text)
