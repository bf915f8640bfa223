"""Strict JSON (PROTOCOL §1.4). Pure: no trio, no clock.

msgspec decodes five to ten times as fast as the standard library, and refuses all that the
protocol does but three things: duplicate names, large integers and deep nesting. So what it made
is looked over, and a frame that cannot be proved to be free of them is decoded again by the
standard library's decoder with hooks, which says what is wrong, if anything is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, Final, NoReturn, TypeGuard

import msgspec

__all__ = [
    "MAX_DEPTH",
    "MAX_INTEGER",
    "MAX_VALUE_DEPTH",
    "UNREADABLE",
    "JsonError",
    "as_array",
    "as_object",
    "count_names",
    "decode_any",
    "decode_carefully",
    "decode_strict",
    "encode_json",
    "has_names",
    "json_depth",
]

#: Levels of nested arrays and objects.
MAX_DEPTH: Final = 32
#: Of a value that somebody else chose and that we send on inside of ours (metadata, arguments,
#: results): what is around it has eight levels at most.
MAX_VALUE_DEPTH: Final = MAX_DEPTH - 8
#: The largest integer that survives a trip through a JavaScript number.
MAX_INTEGER: Final = 2**53 - 1
#: What a decoder of msgspec raises for bytes that are no JSON of the shape that it was made for.
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError)

encode_json = msgspec.json.Encoder().encode
decode_any: Final = msgspec.json.Decoder().decode


class JsonError(ValueError):
    """Not JSON, or JSON that the protocol does not allow. The message is safe to show."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise JsonError(f"duplicate name {name[:64]!a}")
            seen.add(name)
    return members


def _integer(digits: str) -> int:
    # Up to 15 digits cannot be too large; int() of a long string is quadratic, so ask first.
    if len(digits) > 15 and (len(digits) > 17 or not -MAX_INTEGER <= int(digits) <= MAX_INTEGER):
        raise JsonError("an integer beyond ±(2^53-1)")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise JsonError("a number too large")
    return value


def _constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is not JSON")


_decoder: Final = json.JSONDecoder(
    object_pairs_hook=_pairs,
    parse_int=_integer,
    parse_float=_number,
    parse_constant=_constant,
)


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return type(value) is dict


def _is_array(value: object) -> TypeGuard[list[Any]]:
    return type(value) is list


def as_object(value: Any) -> dict[str, Any] | None:
    """Give a JSON object as what it is, None for any other value."""
    return value if _is_object(value) else None


def as_array(value: Any) -> list[Any] | None:
    """Give a JSON array as what it is, None for any other value."""
    return value if _is_array(value) else None


def json_depth(value: Any) -> int:
    """Measure nesting without recursion."""
    depth, containers = 0, _containers([value])
    while containers:
        depth += 1
        containers = [
            child
            for container in containers
            for child in _containers(
                container.values() if isinstance(container, dict) else container
            )
        ]
    return depth


def _containers(values: Iterable[Any]) -> list[dict[str, Any] | list[Any]]:
    return [value for value in values if type(value) is dict or type(value) is list]


def count_names(value: Any, depth: int = 0) -> int:
    """Count the names in a decoded value, at all levels.

    Args:
        value: What msgspec made.
        depth: The levels around it.

    Returns:
        The number; -1, which no text has, if there is an integer beyond the protocol's, or too
        many levels.
    """
    names, containers = 0, _containers([value])
    while containers:
        depth += 1
        if depth > MAX_DEPTH:
            return -1
        deeper: list[dict[str, Any] | list[Any]] = []
        for container in containers:
            if isinstance(container, dict):
                names += len(container)
                values: Iterable[Any] = container.values()
            else:
                values = container
            for item in values:
                kind = item.__class__
                if kind is dict or kind is list:
                    deeper.append(item)
                elif kind is int and not -MAX_INTEGER <= item <= MAX_INTEGER:
                    return -1
        containers = deeper
    return names


def has_names(frame: bytes, number: int) -> bool:
    """Prove that a valid JSON text has no more than so many names.

    If that is how many there are in what was made of it, none of them came twice.

    Returns:
        False if it may have more: something in its strings looks like a name.
    """
    # A colon stands behind each name, and maybe in strings too.
    if frame.count(b":") == number:
        return True
    # It stands behind the name's quote, or behind white space: in strings that is rare.
    return (
        frame.count(b'":') == number
        and b" :" not in frame
        and b"\n:" not in frame
        and b"\t:" not in frame
        and b"\r:" not in frame
    )


def decode_strict(frame: bytes) -> Any:
    """Decode one JSON text.

    Raises:
        JsonError: It is not UTF-8, has a byte order mark, is not JSON, holds a duplicate name, a
            lone surrogate, NaN, Infinity, an integer beyond ±(2^53−1) or more than `MAX_DEPTH`
            levels.
    """
    try:
        value = decode_any(frame)
    except (*UNREADABLE, RecursionError):
        return decode_carefully(frame)
    # A number by itself is in no container that would be looked over.
    if type(value) is not int and has_names(frame, count_names(value)):
        return value
    return decode_carefully(frame)


def decode_carefully(frame: bytes) -> Any:
    """Decode as `decode_strict` does, slowly; the error says what is wrong."""
    try:
        text = frame.decode()
    except UnicodeDecodeError as exc:
        raise JsonError(f"not UTF-8 at byte {exc.start}") from None
    if text.startswith("\ufeff"):
        raise JsonError("a byte order mark")
    try:
        value = _decoder.decode(text)
    except JsonError:
        raise
    except RecursionError:
        raise JsonError(f"more than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as exc:
        raise JsonError(f"not JSON: {exc.msg} at character {exc.pos}") from None
    # Both checks below are needed for few frames; counting bytes tells which.
    if frame.count(b"{") + frame.count(b"[") > MAX_DEPTH and json_depth(value) > MAX_DEPTH:
        raise JsonError(f"more than {MAX_DEPTH} levels")
    if b"\\ud" in frame or b"\\uD" in frame:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise JsonError("a lone surrogate") from None
    return value
