"""JSON Schema: what an answer has to fit. The one module that knows `jsonschema` and `regex`.

They are imported when an ask first has a schema: with what they bring, that is a tenth of a second.

An answer is a client's, and is checked on the event loop: so the check has its time, after which
the answer does not fit. A thread would not help, since `re` lets no other thread run while it
matches; `regex` can be told when to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from itertools import islice
from time import perf_counter
from typing import Any, Final

import trio

from ._json import as_array, as_object
from ._patterns import MAX_PATTERN_SIZE, measure_pattern
from .errors import LocalProtocolError
from .models import JsonObject

__all__ = ["check_schema", "find_issues", "load_validator"]

#: Of a value that does not fit: what is named, and how much is said of each, in characters.
_MAX_ISSUES: Final = 16
_MAX_SAID: Final = 200
#: Of a pattern that is too large.
_MAX_SHOWN: Final = 64
#: What a check may take. The largest answer takes a small part of it with any usual schema.
CHECK_SECONDS: Final = 0.25

#: By `perf_counter`, when the check at work has to be over.
_deadline: ContextVar[float] = ContextVar("_deadline")


async def load_validator() -> None:
    """Import what is needed, in a thread: the event loop goes on meanwhile."""
    await trio.to_thread.run_sync(_load)


def _load() -> None:
    _library()
    import_module("regex")


def _library() -> Any:
    return import_module("jsonschema.validators")


def _make_validator(schema: JsonObject) -> Any:
    library = _library()
    registry = import_module("referencing").Registry()
    cls = library.validator_for(schema, default=library.Draft202012Validator)
    # Found again by a reference to the whole, its dialect would bring back the unbounded class.
    schema = {name: value for name, value in schema.items() if name != "$schema"}
    # The library's own registry would fetch what a reference names from the network.
    return _bounded(cls)(schema, registry=registry)


# -- checks that end in time ---------------------------------------------------------------------

_Keyword = Callable[[Any, Any, Any, Any], Any]


def _seconds_left() -> float:
    """Say how long the check may still take.

    Raises:
        TimeoutError: No longer.
    """
    left = _deadline.get() - perf_counter()
    if left <= 0:
        raise TimeoutError
    return left


def _search(pattern: str, text: str) -> bool:
    found = import_module("regex").search(pattern, text, timeout=_seconds_left())
    return found is not None


@cache
def _bounded(cls: Any) -> Any:
    """Make a validator of a dialect that ends by the deadline."""

    def in_time(check: _Keyword) -> _Keyword:
        def checked(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
            _seconds_left()
            return check(validator, value, instance, schema)

        return checked

    keywords: dict[str, _Keyword] = dict(cls.VALIDATORS)
    keywords["uniqueItems"] = _check_unique
    keywords["pattern"] = _check_pattern
    keywords["patternProperties"] = _check_pattern_properties
    additional = keywords["additionalProperties"]

    def check_additional(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        patterns, members = schema.get("patternProperties"), as_object(instance)
        if patterns and members is not None:
            schema = {k: v for k, v in schema.items() if k != "patternProperties"}
            instance = {
                name: member
                for name, member in members.items()
                if not any(_search(pattern, name) for pattern in patterns)
            }
        return additional(validator, value, instance, schema)

    keywords["additionalProperties"] = check_additional
    return _library().extend(cls, {name: in_time(check) for name, check in keywords.items()})


def _error(message: str) -> Any:
    return import_module("jsonschema.exceptions").ValidationError(message)


def _check_pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not _search(pattern, instance):
        yield _error(f"{instance[:_MAX_SAID]!r} does not match {pattern!r}")


def _check_pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, _: Any
) -> Iterator[Any]:
    members = as_object(instance) or {}
    for pattern, schema in patterns.items():
        for name, member in members.items():
            if _search(pattern, name):
                yield from validator.descend(member, schema, path=name, schema_path=pattern)


def _check_unique(_: Any, is_wanted: Any, instance: Any, __: Any) -> Iterator[Any]:
    """Compare the items by what they hash to: the library's way takes the square of the time."""
    items = as_array(instance)
    if is_wanted is True and items is not None and len(set(map(_freeze, items))) < len(items):
        yield _error("it has non-unique elements")


def _freeze(value: Any) -> object:
    """Make a value that can be hashed, and equals another as JSON Schema says: 1 is 1.0, not true."""
    if isinstance(value, bool):
        return (bool, value)
    members, items = as_object(value), as_array(value)
    if members is not None:
        return frozenset((name, _freeze(member)) for name, member in members.items())
    return value if items is None else (list, *map(_freeze, items))


# -- schemas and values --------------------------------------------------------------------------


def check_schema(schema: JsonObject, place: str) -> None:
    """Check that something is a JSON Schema which refers to nothing but itself.

    Raises:
        LocalProtocolError: It is none; the message names the place.
    """
    for pattern in _patterns(schema):
        if measure_pattern(pattern) > MAX_PATTERN_SIZE:
            said = f"{pattern[:_MAX_SHOWN]!r} is too large"
            raise LocalProtocolError(f"{place}: a pattern is no expression: {said}")
    cls = _library().validator_for(schema, default=_library().Draft202012Validator)
    try:
        cls.check_schema(schema)
        _check_bounds(schema, place)
    except import_module("jsonschema.exceptions").SchemaError as exc:
        raise LocalProtocolError(f"{_join(place, exc.absolute_path)}: {_say(exc)}") from exc
    except (OverflowError, RecursionError) as exc:
        raise LocalProtocolError(f"{place}: a pattern is no expression: {exc}") from exc
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


def _check_bounds(schema: JsonObject, place: str) -> None:
    """Check that a schema has nothing whose check would not end in time, or never begin."""
    has = set[str]()
    for members in _objects(schema):
        has |= members.keys() & {"unevaluatedProperties", "patternProperties"}
        if members is not schema and isinstance(members.get("$schema"), str):
            raise LocalProtocolError(f"{place}: only the whole of it may name its dialect")
    for pattern in _patterns(schema):
        try:
            import_module("regex").compile(pattern)
        except import_module("regex").error as exc:
            raise LocalProtocolError(f"{place}: the pattern {pattern!r}: {exc}") from exc
    if len(has) > 1:
        raise LocalProtocolError(f"{place}: {' and '.join(sorted(has))} do not go together")


def _patterns(schema: JsonObject) -> Iterator[str]:
    """Find every pattern in a schema."""
    for members in _objects(schema):
        if isinstance(pattern := members.get("pattern"), str):
            yield pattern
        yield from as_object(members.get("patternProperties")) or {}


def _references(schema: JsonObject) -> Iterator[str]:
    """Find what a schema refers to."""
    for members in _objects(schema):
        for name in ("$ref", "$dynamicRef"):
            if isinstance(members.get(name), str):
                yield members[name]


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Find every object in a schema, itself included."""
    stack = [value]
    while stack:
        value = stack.pop()
        members = as_object(value)
        if members is not None:
            yield members
            stack += members.values()
        else:
            stack += as_array(value) or ()


def find_issues(value: Any, schema: JsonObject, place: str) -> list[dict[str, str]]:
    """Say where and why a value does not fit a schema; nothing if it does.

    One that cannot be checked in `CHECK_SECONDS` does not fit.
    """
    token = _deadline.set(perf_counter() + CHECK_SECONDS)
    try:
        found: Iterator[Any] = _make_validator(schema).iter_errors(value)
        errors = list(islice(found, _MAX_ISSUES))
    except RecursionError:
        return [{"path": place, "message": "the schema goes round in a circle"}]
    except TimeoutError:
        return [{"path": place, "message": "it takes too long to check whether it fits"}]
    finally:
        _deadline.reset(token)
    return [{"path": _join(place, e.absolute_path), "message": _say(e)} for e in errors]


def _join(place: str, path: Any) -> str:
    return place + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def _say(error: Any) -> str:
    message: str = error.message
    return message if len(message) <= _MAX_SAID else message[: _MAX_SAID - 1] + "…"
