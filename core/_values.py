"""JSON values and texts that an agent or a tool hands over, where they come in. Pure.

An encoder makes something of nearly everything (a set becomes a list, NaN becomes null), and what
was kept would then differ from what was given. So a value that does not come back as it went is
refused, with its place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, Final, TypeGuard

from ._json import (
    MAX_INTEGER,
    MAX_VALUE_DEPTH,
    as_object,
    decode_any,
    decode_strict,
    encode_json,
    json_depth,
)
from .errors import LocalProtocolError, PayloadTooLargeError, WireError, as_text

__all__ = [
    "MAX_NAME",
    "MAX_SAID",
    "check_error",
    "check_name",
    "check_text",
    "cut_text",
    "encode_value",
    "take_object",
    "take_value",
]

#: Of a tool's and an event's name and a call's id, in characters: each stands in several places.
MAX_NAME: Final = 128
#: Of what is said about a failure, a stop or a tool's progress, in characters.
MAX_SAID: Final = 8 * 1024

#: Of a name that is shown in an error, in characters.
_SHOWN: Final = 64
#: Of what msgspec writes, only an integer beyond ±(2^53-1) is not strict: it has so many digits.
_MANY_DIGITS: Final = re.compile(rb"\d{16}")


def check_text(value: object, what: str) -> None:
    """Check that something is a text.

    Raises:
        TypeError: It is not.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} is a str, and not {type(value).__name__!r}")


def check_name(value: object, what: str, limit: int = MAX_NAME) -> None:
    """Check that something is a text of at most ``limit`` characters that can name things.

    Raises:
        TypeError: It is no text.
        LocalProtocolError: It is too long, or cannot be shown.
    """
    check_text(value, what)
    if isinstance(value, str) and not (len(value) <= limit and value.isprintable()):
        raise LocalProtocolError(f"{what} has at most {limit} characters, all of them printable")


def check_error(error: WireError, limit: int) -> None:
    """Check that an error of somebody's can be sent.

    Args:
        error: Whose class may be somebody's too.
        limit: Of its JSON, in bytes.

    Raises:
        Exception: It cannot, for whatever reason.
    """
    check_text(error.code, "error.code")
    take_object(error.to_wire(), "error", limit)


def cut_text(said: object) -> str:
    """Make what somebody says of himself fit to be sent: a text, and not too long. Never raises."""
    text = as_text(said)
    return text if len(text) <= MAX_SAID else text[: MAX_SAID - 1] + "…"


def take_value(value: Any, place: str, limit: int) -> Any:
    """Give a JSON value as it will be kept: a copy, made of what JSON has.

    Args:
        value: Of None, bool, int, float, str, list, tuple and dict; a tuple is kept as a list.
        place: What it is called in errors, e.g. ``result``.
        limit: Of its JSON, in bytes.

    Raises:
        LocalProtocolError: It is none; the message names the place in it.
        PayloadTooLargeError: It is larger.
    """
    _, taken = _take(value, place, limit)
    return taken


def encode_value(value: Any, place: str, limit: int) -> bytes:
    """As `take_value`, of what is sent and not kept: gives its JSON."""
    encoded, _ = _take(value, place, limit)
    return encoded


def _take(value: Any, place: str, limit: int) -> tuple[bytes, Any]:
    try:
        encoded = encode_json(value)
        taken = decode_strict(encoded) if _MANY_DIGITS.search(encoded) else decode_any(encoded)
    except (TypeError, ValueError, RecursionError) as exc:
        raise LocalProtocolError(_find_fault(value, place) or f"{place}: {exc}") from exc
    # Only where they differ can something have been lost, and most often that is a tuple.
    fault = _find_fault(value, place) if taken != value else None
    if fault is None and _may_be_deep(encoded) and json_depth(taken) > MAX_VALUE_DEPTH:
        fault = _too_deep(place)
    if fault is not None:
        raise LocalProtocolError(fault)
    if len(encoded) > limit:
        raise PayloadTooLargeError(
            f"{place} has {len(encoded)} bytes of JSON, where {limit} are allowed",
            data={"limitBytes": limit},
        )
    return encoded, taken


def _may_be_deep(encoded: bytes) -> bool:
    """Whether there are so many brackets at all: two counts cost less than a walk."""
    return encoded.count(b"{") + encoded.count(b"[") > MAX_VALUE_DEPTH


def take_object(value: Any, place: str, limit: int) -> dict[str, Any]:
    """As `take_value`, of what has to be an object."""
    # A mapping of another kind is as good, if what is in it is JSON.
    taken = as_object(take_value(dict(value) if _is_mapping(value) else value, place, limit))
    if taken is None:
        raise LocalProtocolError(f"{place}: expected an object, not {_kind(value)}")
    return taken


def _is_mapping(value: Any) -> bool:
    return hasattr(value, "keys") and hasattr(value, "__getitem__")


def _find_fault(value: Any, place: str) -> str | None:
    """Say what is the first thing that is no JSON, None if all of it is."""
    stack: list[tuple[Any, str, int]] = [(value, place, 0)]
    while stack:
        value, place, depth = stack.pop()
        if depth > MAX_VALUE_DEPTH:
            return _too_deep(place)
        if _is_dict(value):
            for name in value:
                if not isinstance(name, str):
                    return f"{place}: the name {name!r:.{_SHOWN}} is no text"
        fault = _find_own_fault(value)
        if fault is not None:
            return f"{place}: {fault}"
        stack += reversed([(child, where, depth + 1) for child, where in _children(value, place)])
    return None


def _children(value: Any, place: str) -> Iterator[tuple[Any, str]]:
    if _is_dict(value):
        for name, child in value.items():
            yield child, f"{place}.{name:.{_SHOWN}}"
    elif _is_list(value):
        for index, child in enumerate(value):
            yield child, f"{place}[{index}]"


def _find_own_fault(value: Any) -> str | None:
    """Say why something is no JSON value, whatever may be in it."""
    kind = value.__class__
    if kind is int and not -MAX_INTEGER <= value <= MAX_INTEGER:
        return "an integer beyond ±(2^53-1)"
    if kind is float and not math.isfinite(value):
        return f"{value} is no JSON value"
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return "a lone surrogate"
        return None
    if value is None or kind in (bool, int, float) or _is_dict(value) or _is_list(value):
        return None
    if isinstance(value, Enum) and isinstance(value, (str, int)):
        return None  # is its text or number, and equal to it
    return f"{_kind(value)} is no JSON value"


def _is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (list, tuple))


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"


def _too_deep(place: str) -> str:
    return f"{place[:_SHOWN]}: more than {MAX_VALUE_DEPTH} levels"
