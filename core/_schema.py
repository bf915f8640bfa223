"""JSON Schema: what an answer has to fit. The one module that knows `jsonschema`.

It is imported when an ask first has a schema: with what it brings, that is a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from typing import Any, Final

import trio

from ._json import as_array, as_object
from .errors import LocalProtocolError
from .models import JsonObject

__all__ = ["check_schema", "find_issues", "load_validator"]

#: Of a value that does not fit: what is named, and how much is said of each, in characters.
_MAX_ISSUES: Final = 16
_MAX_SAID: Final = 200


async def load_validator() -> None:
    """Import what is needed, in a thread: the event loop goes on meanwhile."""
    await trio.to_thread.run_sync(_library)


def _library() -> Any:
    return import_module("jsonschema.validators")


def _make_validator(schema: JsonObject) -> Any:
    library = _library()
    registry = import_module("referencing").Registry()
    cls = library.validator_for(schema, default=library.Draft202012Validator)
    # The library's own registry would fetch what a reference names from the network.
    return cls(schema, registry=registry)


def check_schema(schema: JsonObject, place: str) -> None:
    """Check that something is a JSON Schema which refers to nothing but itself.

    Raises:
        LocalProtocolError: It is none; the message names the place.
    """
    cls = _library().validator_for(schema, default=_library().Draft202012Validator)
    try:
        cls.check_schema(schema)
    except import_module("jsonschema.exceptions").SchemaError as exc:
        raise LocalProtocolError(f"{_join(place, exc.absolute_path)}: {_say(exc)}") from exc
    referencing = import_module("referencing.jsonschema")
    resource = referencing.DRAFT202012.create_resource(schema)
    resolver = referencing.EMPTY_REGISTRY.with_resource("", resource).resolver()
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise LocalProtocolError(f"{place}: the reference {reference!r} is to somewhere else")
        try:
            resolver.lookup(reference)
        except import_module("referencing.exceptions").Unresolvable as exc:
            raise LocalProtocolError(f"{place}: the reference {reference!r} is to nothing") from exc


def _references(value: Any) -> Iterator[str]:
    """Find what a schema refers to."""
    stack = [value]
    while stack:
        value = stack.pop()
        members = as_object(value)
        if members is not None:
            for name in ("$ref", "$dynamicRef"):
                if isinstance(members.get(name), str):
                    yield members[name]
            stack += members.values()
        else:
            stack += as_array(value) or ()


def find_issues(value: Any, schema: JsonObject, place: str) -> list[dict[str, str]]:
    """Say where and why a value does not fit a schema; nothing if it does."""
    try:
        found: Iterator[Any] = _make_validator(schema).iter_errors(value)
        errors = list(islice(found, _MAX_ISSUES))
    except RecursionError:
        return [{"path": place, "message": "the schema goes round in a circle"}]
    return [{"path": _join(place, e.absolute_path), "message": _say(e)} for e in errors]


def _join(place: str, path: Any) -> str:
    return place + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def _say(error: Any) -> str:
    message: str = error.message
    return message if len(message) <= _MAX_SAID else message[: _MAX_SAID - 1] + "…"
