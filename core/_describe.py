"""JSON Schema of every method and event, made from the attrs classes themselves."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from ._identity import SCOPES
from ._options import describe_options
from ._protocol import PROTOCOL_VERSION
from ._registry import Registry
from .abc import Agent
from .codec import NULLS, camel_case
from .events import DURABLE_EVENTS, TRANSIENT_EVENTS, EventBody

__all__ = ["SCALAR_SCHEMAS", "describe", "json_schema"]

SCALAR_SCHEMAS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}


def json_schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Make the JSON Schema of a type of the wire.

    Args:
        kind: An attrs class, or what their annotations are made of.
        definitions: Gets the schema of each attrs class, by its name.

    Raises:
        TypeError: There is no schema for it.
    """
    if kind in SCALAR_SCHEMAS:
        return dict(SCALAR_SCHEMAS[kind])
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        # None is null: it counts as absent where it comes in, and is left out of what goes out.
        return {"anyOf": [json_schema(arg, definitions) for arg in args]}
    if origin in (tuple, list):
        return {"type": "array", "items": json_schema(args[0], definitions)}
    if origin in (dict, Mapping) or kind in (dict, Mapping):
        values = args[1] if args else Any
        schema: dict[str, Any] = {"type": "object"}
        if values is not Any:
            schema["additionalProperties"] = json_schema(values, definitions)
        return schema
    if isinstance(kind, type) and attrs.has(kind):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}
            definitions[kind.__name__] = _object_schema(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    raise TypeError(f"no JSON Schema for {kind!r}")


def _object_schema(cls: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    fields = [field for field in attrs.fields(cls) if NULLS not in field.metadata]
    properties = {
        camel_case(field.name): json_schema(hints[field.name], definitions) for field in fields
    }
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    required = [camel_case(field.name) for field in fields if field.default is attrs.NOTHING]
    if required:
        schema["required"] = required
    doc = cls.__doc__
    if doc and not doc.startswith("Method generated"):
        schema["description"] = inspect.cleandoc(doc).partition("\n")[0]
    return schema


@cache
def _event_schemas() -> tuple[dict[str, Any], dict[str, Any]]:
    definitions: dict[str, Any] = {}

    def make(cls: type[EventBody], *, durable: bool) -> dict[str, Any]:
        return {"durable": durable, "data": json_schema(cls, definitions)}

    events = {cls.type: make(cls, durable=True) for cls in DURABLE_EVENTS}
    events |= {cls.type: make(cls, durable=False) for cls in TRANSIENT_EVENTS}
    return events, definitions


def describe(registry: Registry, agents: Mapping[str, Agent], default_agent: str) -> dict[str, Any]:
    """Answer ``server.describe``."""
    events, definitions = _event_schemas()
    definitions = dict(definitions)
    methods: dict[str, Any] = {}
    for name, method in sorted(registry.methods.items()):
        shown: dict[str, Any] = {}
        if method.params is not None:
            shown["params"] = json_schema(method.params, definitions)
        if method.result is not None:
            shown["result"] = json_schema(method.result, definitions)
        if method.description:
            shown["description"] = method.description
        if method.scopes:
            shown["scopes"] = [scope for scope in SCOPES if scope in method.scopes]
        methods[name] = shown
    return {
        "protocol": PROTOCOL_VERSION,
        "agents": [
            {"name": name, "default": name == default_agent, **_describe_agent(agent)}
            for name, agent in agents.items()
        ],
        "methods": methods,
        "events": events,
        "$defs": definitions,
    }


def _describe_agent(agent: Agent) -> dict[str, Any]:
    doc = inspect.getdoc(agent)
    described = {"description": doc.partition("\n")[0]} if doc else {}
    return {**described, **describe_options(agent)}
