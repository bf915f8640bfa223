"""Frames that break PROTOCOL §1.4 and §2, made rather than collected: hundreds of each kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import attrs

from trialogue.core.codec import camel_case
from trialogue.core.methods import METHODS

from ._client import encode_request

__all__ = ["broken_texts", "broken_values", "valid_requests", "wrong_types"]

VALID = encode_request("r-1", "server.health", {"a": [1, {"b": "é😀\n"}, None, True, -2.5]})

#: What stands in place of a value, and is no JSON of the protocol.
BAD_VALUES = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"nan",
    b"1e400",
    b"-1e999",
    b"9007199254740992",
    b"-9007199254740992",
    b"1" + b"0" * 400,
    b"01",
    b"+1",
    b".5",
    b"1.",
    b"1e",
    b"0x10",
    b"1_000",
    b"'a'",
    b"a",
    b"undefined",
    b"True",
    b'"\\ud800"',
    b'"\\udfff"',
    b'"\\ude00\\ud83d"',
    b'"\\uD83Dx"',
    b'"\xed\xa0\xbd"',
    b'"\xed\xa0\xbd\xed\xb8\x80"',
    b'"\xff"',
    b'"\xc0\x80"',
    b'"\xc3"',
    b'"\xf4\x90\x80\x80"',
    b'"\xe2\x82"',
    b'"\\x41"',
    b'"\\u12"',
    b'"\\u12g4"',
    b'"a\tb"',
    b'"\x00"',
    b'"open',
    b"[1,]",
    b"[,1]",
    b"[1 2]",
    b"[1",
    b"1]",
    b'{"a":1,}',
    b'{"a" 1}',
    b"{a:1}",
    b"{1:1}",
    b'{"a":1,"a":2}',
    b'{"a":1,"\\u0061":2}',
    b'{"\\ud83d":1}',
    b"/* */1",
    b"1//",
    b"\xef\xbb\xbf1",
    b"\xc2\xa01",
    b"\x0b1",
    b"[" * 40 + b"]" * 40,
    b'{"a":' * 40 + b"1" + b"}" * 40,
    b"[" * 5000 + b"]" * 5000,
    b"",
)


def broken_values() -> Iterator[bytes]:
    """Put each of them into the params, and in place of them."""
    for value in BAD_VALUES:
        yield (
            b'{"version":"1.0","type":"request","payload":{"id":1,"method":"server.health",'
            b'"params":{"a":%b}}}' % value
        )
        yield (
            b'{"version":"1.0","type":"request","payload":{"params":%b,"id":1,'
            b'"method":"server.health"}}' % value
        )
        yield b'{"type":"ping","payload":{"nonce":%b},"version":"1.0"}' % value
        yield value


def broken_texts() -> Iterator[bytes]:
    """Cut a valid frame at every place, leave out every byte, and write it in other encodings."""
    for index in range(len(VALID)):
        yield VALID[:index]
        yield VALID[:index] + VALID[index + 1 :]
        yield VALID[:index] + b"\xff" + VALID[index:]
    text = VALID.decode()
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7"):
        yield text.encode(encoding)
    yield VALID + VALID
    yield VALID + b"x"
    yield b"x" + VALID
    yield VALID.upper()
    yield VALID.replace(b'"', b"'")
    yield b"GET / HTTP/1.1"
    yield b"\x16\x03\x01\x02\x00\x01\x00"


#: One of each JSON type, and the ends of the numbers.
OTHER_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**53 - 1,
    "",
    "x" * 200,
    "nul\0",
    [],
    [None],
    {},
    {"a": {}},
)


def wrong_types() -> Iterator[bytes]:
    """Put a value of every type into every member of every request, and leave each out."""
    for frame in valid_requests():
        envelope = json.loads(frame)
        yield from _changed(envelope, envelope)
        yield from _changed(envelope, envelope["payload"])
        yield from _changed(envelope, envelope["payload"]["params"])


def _changed(envelope: dict[str, Any], members: dict[str, Any]) -> Iterator[bytes]:
    for name in [*members, "extra"]:
        was = members.get(name, ...)
        for value in OTHER_VALUES:
            members[name] = value
            yield json.dumps(envelope).encode()
        del members[name]
        if was is not ...:
            yield json.dumps(envelope).encode()
            members[name] = was


def valid_requests() -> Iterator[bytes]:
    """Make a request of every method, with every parameter."""
    for method, (params, _) in METHODS.items():
        hints = get_type_hints(params)
        yield encode_request(
            7,
            method,
            {camel_case(field.name): _example(hints[field.name]) for field in attrs.fields(params)},
            timeoutMs=50,
            idempotencyKey="key",
            meta={"traceparent": "00-0-0-00"},
        )


def _example(hint: Any) -> Any:
    """Make a value of a parameter's type; what it names need not exist."""
    args = [arg for arg in get_args(hint) if arg is not type(None)]
    if hint is str or str in args:
        return "ses_1"
    if hint is bool:
        return False
    if hint is int or int in args:
        return 3
    if isinstance(hint, type) and attrs.has(hint):
        return {}
    if args and isinstance(args[0], str):
        return args[0]  # a word of a Literal
    return {} if not args or "Mapping" in str(hint) or "dict" in str(hint) else None
