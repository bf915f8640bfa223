"""The description of the resources in the form of OpenAPI 3.1, made of the table of methods."""

from __future__ import annotations

import re
from functools import cache
from http import HTTPStatus
from typing import Any, Final

from ...core._describe import json_schema
from ...core._handlers import PROTOCOL_METHODS
from ...core._protocol import PROTOCOL_VERSION
from ...core._registry import Method
from ...core.codec import encode_json
from ...core.methods import Health
from .routes import NOT_BY_RPC, ROUTES, STATUSES, Route

__all__ = ["make_openapi"]

_JSON: Final = "application/json"
_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "An error, of RFC 9457's form.",
    "required": ["type", "title", "status", "detail", "code", "retryable"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"enum": sorted(STATUSES)},
        "retryable": {"type": "boolean"},
        "data": {"type": "object"},
        "id": {"type": ["string", "integer"]},
    },
}
_REQUEST: Final[dict[str, Any]] = {
    "type": "object",
    "description": "An envelope; its params are those of its method, see `server.describe`.",
    "required": ["version", "type", "payload"],
    "properties": {
        "version": {"type": "string"},
        "type": {"enum": ["request", "ping"]},
        "payload": {"type": "object"},
    },
}
_HEADERS: Final[dict[str, Any]] = {
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "A repeat with the same key has no second effect.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
    },
    "Last-Event-ID": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The position of the last event that the client has.",
        "schema": {"type": "string"},
    },
}


@cache
def make_openapi() -> bytes:
    """Give the document, which is the same for each server of this version."""
    schemas: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        operation = _describe_route(route, PROTOCOL_METHODS.methods[route.method], schemas)
        paths.setdefault(route.path, {})[route.verb.lower()] = operation
    paths["/v1/rpc"] = {"post": _describe_rpc()}
    for path in ("/health", "/health/live", "/health/ready"):
        shown = json_schema(Health, schemas) if path == "/health" else {"type": "object"}
        paths[path] = {"get": _describe_health(path, shown)}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Trialogue", "version": PROTOCOL_VERSION},
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": _PROBLEM, "Request": _REQUEST},
            "parameters": _HEADERS,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }
    text = encode_json(document)
    return text.replace(b'"#/$defs/', b'"#/components/schemas/')


def _describe_route(route: Route, method: Method, schemas: dict[str, Any]) -> dict[str, Any]:
    assert method.params is not None
    assert method.result is not None
    json_schema(method.params, schemas)
    # The object of the params, of which a part stands in the path and the query.
    params = schemas.pop(method.params.__name__)
    properties = params.get("properties", {})
    in_path = re.findall(r"\{(\w+)\}", route.path)
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in in_path
    ]
    parameters += [
        {"name": name, "in": "query", "schema": _in_query(properties.get(name))}
        for name in route.query
    ]
    operation: dict[str, Any] = {
        "operationId": f"{route.verb.lower()} {method.name}",
        "summary": method.description,
        "parameters": parameters,
        "responses": _describe_answers(route, json_schema(method.result, schemas)),
    }
    if route.verb != "GET":
        parameters.append({"$ref": "#/components/parameters/Idempotency-Key"})
    elif route.stream is not None:
        parameters.append({"$ref": "#/components/parameters/Last-Event-ID"})
    if route.has_body:
        others = {name: each for name, each in properties.items() if name not in in_path}
        required = [name for name in params.get("required", ()) if name not in in_path]
        body: dict[str, Any] = {"type": "object", "properties": others}
        if required:
            body["required"] = required
        operation["requestBody"] = {
            "required": bool(required),
            "content": {_JSON: {"schema": body}},
        }
    return operation


def _in_query(schema: dict[str, Any] | None) -> dict[str, Any]:
    """Give the schema of a parameter, without the null that no query can say."""
    if schema is None:
        return {"type": "integer"}
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema


def _describe_answers(route: Route, result: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {_JSON: {"schema": result}}
    answers: dict[str, Any] = {}
    if route.stream is not None:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    answers[str(route.status)] = {
        "description": HTTPStatus(route.status).phrase,
        "content": content,
    }
    if route.verb == "GET":
        answers["304"] = {"description": "What `If-None-Match` names is what it is"}
        if route.stream is not None:
            answers["204"] = {"description": "Nothing will come any more"}
    return {**answers, "default": _PROBLEM_ANSWER}


_PROBLEM_ANSWER: Final = {
    "description": "An error",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def _describe_rpc() -> dict[str, Any]:
    return {
        "operationId": "post rpc",
        "summary": f"Call any method but {', '.join(sorted(NOT_BY_RPC))}.",
        "requestBody": {
            "required": True,
            "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Request"}}},
        },
        "responses": {
            "200": {
                "description": "The envelope of the response",
                "content": {_JSON: {"schema": {"type": "object"}}},
            },
            "default": _PROBLEM_ANSWER,
        },
    }


def _describe_health(path: str, schema: dict[str, Any]) -> dict[str, Any]:
    def answer(status: HTTPStatus) -> dict[str, Any]:
        return {"description": status.phrase, "content": {_JSON: {"schema": schema}}}

    return {
        "operationId": f"get {path}",
        "summary": "Say how the server does.",
        "responses": {
            "200": answer(HTTPStatus.OK),
            "503": answer(HTTPStatus.SERVICE_UNAVAILABLE),
        },
    }
