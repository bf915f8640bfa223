"""PROTOCOL §4: what ``server.describe`` says of params is what the server takes."""

from typing import Any

import pytest

from trialogue.core._describe import json_schema
from trialogue.core._handlers import PROTOCOL_METHODS
from trialogue.core.codec import make_reader
from trialogue.core.errors import InvalidRequestError

PARAMS = {
    name: method.params
    for name, method in PROTOCOL_METHODS.methods.items()
    if method.params is not None
}


def allows_null(schema: dict[str, Any]) -> bool:
    return not schema or {"type": "null"} in schema.get("anyOf", ())


@pytest.mark.parametrize("name", sorted(PARAMS))
def test_null_is_taken_where_the_schema_has_it(name: str) -> None:
    """§1.2: in every optional member it counts as absent, and in no other."""
    params, definitions = PARAMS[name], dict[str, Any]()
    json_schema(params, definitions)
    schema = definitions[params.__name__]
    for member, shape in schema["properties"].items():
        refused = set[str]()
        try:
            make_reader(params)({member: None})
        except InvalidRequestError as exc:
            refused = {issue["path"] for issue in (exc.data or {})["issues"]}
        assert (f"params.{member}" in refused) != allows_null(shape), member
