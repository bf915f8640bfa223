"""PROTOCOL §12: ``/v1/openapi.json`` says what the resources are."""

import json
import re
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from trialogue.transports._http.openapi import make_openapi
from trialogue.transports._http.routes import ROUTES

from .conftest import Serve

DOCUMENT: dict[str, Any] = json.loads(make_openapi())


def find(reference: str) -> Any:
    place: Any = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        place = place[name]
    return place


def references(value: Any) -> list[str]:
    """Give every reference in it."""
    return re.findall(r'"\$ref":"([^"]+)"', json.dumps(value, separators=(",", ":")))


def schema_of(path: str, verb: str, status: str) -> Any:
    answer = DOCUMENT["paths"][path][verb]["responses"][status]
    (schema,) = (
        each["schema"] for kind, each in answer["content"].items() if kind.endswith("json")
    )
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def test_document_is_whole() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert references(DOCUMENT)
    for reference in references(DOCUMENT):
        assert find(reference) is not None
    names = list[str]()
    for path, verbs in DOCUMENT["paths"].items():
        for verb, operation in verbs.items():
            assert verb in {"get", "post", "patch", "delete"}
            assert operation["summary"]
            names.append(operation["operationId"])
            in_path = {p["name"] for p in operation.get("parameters", ()) if p.get("in") == "path"}
            assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            for answer in operation["responses"].values():
                for content in answer.get("content", {}).values():
                    Draft202012Validator.check_schema(content["schema"])
    assert len(names) == len(set(names))


def test_each_resource_is_in_it() -> None:
    shown = {(path, verb) for path, verbs in DOCUMENT["paths"].items() for verb in verbs}
    assert {(route.path, route.verb.lower()) for route in ROUTES} <= shown
    create = DOCUMENT["paths"]["/v1/sessions"]["post"]["requestBody"]["content"]
    assert set(create["application/json"]["schema"]["properties"]) == {
        "config",
        "name",
        "metadata",
    }
    send = DOCUMENT["paths"]["/v1/sessions/{sessionId}/messages"]["post"]["requestBody"]
    assert send["content"]["application/json"]["schema"]["required"] == ["content"]
    assert send["required"] is True


def test_a_body_may_have_null_and_a_query_has_none() -> None:
    """§1.2: an optional member that is null counts as absent."""
    cancel = DOCUMENT["paths"]["/v1/sessions/{sessionId}/cancel"]["post"]["requestBody"]
    body: Any = Draft202012Validator(cancel["content"]["application/json"]["schema"])
    assert body.is_valid({"turnId": None, "reason": None})
    assert not body.is_valid({"turnId": 1})
    listing = DOCUMENT["paths"]["/v1/sessions"]["get"]["parameters"]
    assert {each["name"]: each["schema"] for each in listing} == {
        "status": {"enum": ["idle", "running", "waiting", "closed", "expired"]},
        "limit": {"type": "integer"},
        "cursor": {"type": "string"},
    }


async def test_answers_are_as_it_says(serve: Serve) -> None:
    async with serve() as (_, client):
        served = await client.ask("GET", "/v1/openapi.json")
        assert served.json == DOCUMENT
        assert served.headers["content-type"] == "application/json"
        made = await client.data("POST", "/v1/sessions", {"name": "x"})
        path = f"/v1/sessions/{made['id']}"
        await client.data("POST", f"{path}/messages", {"content": "x", "wait": True})
        one = "/v1/sessions/{sessionId}"
        for template, verb, status, value in (
            ("/v1/sessions", "post", "201", made),
            ("/v1/sessions", "get", "200", await client.data("GET", "/v1/sessions")),
            (one, "get", "200", await client.data("GET", path)),
            (f"{one}/messages", "get", "200", await client.data("GET", f"{path}/messages")),
            (f"{one}/asks", "get", "200", await client.data("GET", f"{path}/asks")),
            (one, "get", "default", (await client.ask("GET", f"{path}x")).json),
            ("/health", "get", "200", await client.data("GET", "/health")),
        ):
            schema_of(template, verb, status).validate(value)
        assert not schema_of(one, "get", "200").is_valid({**made, "id": 1})
