"""What clients offer as tools: the form of their JSON Schemas. Pure.

Providers refuse a whole request for one schema that is none. The library that checks what answers
have to fit (`_schema`) takes seconds for as large a schema as may come, so the form is looked at
here, each keyword once: what it says of a value is the agent's and the client's own business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from ._json import as_array, as_object
from .models import JsonObject

__all__ = ["complete_schema", "find_schema_fault"]

#: A place below the one that is known, and what is wrong there.
Fault: TypeAlias = tuple[str, str]

_TYPES: Final = frozenset(
    {"array", "boolean", "integer", "null", "number", "object", "string"},
)
_OF_SCHEMAS: Final = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)
_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
#: ``items`` may be a list as well, as up to draft 2019-09.
_SCHEMAS: Final = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_REFERENCES: Final = frozenset({"$dynamicRef", "$ref"})


def complete_schema(schema: JsonObject) -> JsonObject:
    """Say of a tool's schema what it may leave unsaid, and providers want to be told."""
    return {"type": "object", "properties": {}, **schema}


def find_schema_fault(schema: Mapping[str, Any]) -> Fault | None:
    """Say where and why something is no JSON Schema of a tool's arguments, None if it is one.

    Args:
        schema: JSON, nested no deeper than values may be.
    """
    if schema.get("type", "object") != "object":
        return ".type", "expected object: arguments have names"
    stack: list[tuple[Any, str]] = [(dict(schema), "")]
    while stack:
        value, place = stack.pop()
        members = as_object(value)
        if members is None:
            if isinstance(value, bool):
                continue
            return place, "expected a JSON Schema"
        for name, member in members.items():
            where = f"{place}.{name}"
            if name in _REFERENCES:
                wrong = _find_reference_fault(member, schema)
            elif name in _FORMS:
                expected, is_good = _FORMS[name]
                wrong = None if is_good(member) else f"expected {expected}"
            else:
                wrong = None
            if wrong is not None:
                return where, wrong
            stack += _find_inner(name, member, where)
    return None


def _find_inner(name: str, member: Any, where: str) -> Iterator[tuple[Any, str]]:
    """Give the schemas in a member whose form is good, and their places."""
    items = as_array(member)
    if name in _OF_SCHEMAS:
        for key, inner in member.items():
            yield inner, f"{where}.{key}"
    elif name in _LISTS or (name == "items" and items is not None):
        for index, inner in enumerate(items or ()):
            yield inner, f"{where}[{index}]"
    elif name in _SCHEMAS:
        yield member, where


def _find_reference_fault(reference: Any, schema: Mapping[str, Any]) -> str | None:
    if not isinstance(reference, str) or not reference.startswith("#"):
        return "expected a reference within the schema"
    if not reference.startswith("#/"):
        return None  # all of it, or an anchor
    found: Any = schema
    for escaped in unquote(reference[2:]).split("/"):
        step = escaped.replace("~1", "/").replace("~0", "~")
        items = as_array(found)
        if items is not None and step in map(str, range(len(items))):
            found = items[int(step)]
        elif (members := as_object(found)) is not None and step in members:
            found = members[step]
        else:
            return "the reference is to nothing"
    return None


# -- forms -----------------------------------------------------------------------------------


def _is_type(value: Any) -> bool:
    names = [value] if isinstance(value, str) else as_array(value)
    return bool(names) and all(isinstance(name, str) and name in _TYPES for name in names or ())


def _is_texts(value: Any) -> bool:
    items = as_array(value)
    return items is not None and all(isinstance(item, str) for item in items)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


_Form: TypeAlias = tuple[str, Callable[[Any], bool]]


def _make_forms() -> dict[str, _Form]:
    text: _Form = "a text", lambda value: isinstance(value, str)
    flag: _Form = "true or false", lambda value: isinstance(value, bool)
    number: _Form = "a number", _is_number
    count: _Form = "a whole number, 0 or more", _is_count
    forms: dict[str, _Form] = {
        "type": ("a type of JSON, or some", _is_type),
        "required": ("a list of texts", _is_texts),
        "enum": ("a list", lambda value: as_array(value) is not None),
        "multipleOf": ("a number above 0", lambda value: _is_number(value) and value > 0),
    }
    schemas: _Form = "an object of schemas", lambda value: as_object(value) is not None
    some: _Form = "a list of schemas", lambda value: bool(as_array(value))
    groups: list[tuple[Iterable[str], _Form]] = [
        (("$comment", "description", "format", "pattern", "title"), text),
        (("deprecated", "readOnly", "uniqueItems", "writeOnly"), flag),
        (("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum"), number),
        (("maxContains", "maxItems", "maxLength", "maxProperties"), count),
        (("minContains", "minItems", "minLength", "minProperties"), count),
        (sorted(_OF_SCHEMAS), schemas),
        (sorted(_LISTS), some),
    ]
    for names, form in groups:
        forms |= dict.fromkeys(names, form)
    return forms


_FORMS: Final = _make_forms()
