"""PROTOCOL §9.2: what an answer has to fit is checked in bounded time, on the event loop."""

from time import process_time
from typing import Any

import pytest

from trialogue.core._schema import CHECK_SECONDS, check_schema, find_issues
from trialogue.core.errors import LocalProtocolError

#: The longest answer that a server takes by default, about.
LARGE = 256 * 1024
EVIL = "^(a|aa)+$"


def nest(levels: int) -> Any:
    return [nest(levels - 1)] if levels else 0


FORK: Any = {"anyOf": [{"items": {"$ref": "#/$defs/fork"}, "minItems": 9}] * 3}


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        ({"pattern": EVIL}, "a" * 60 + "!"),
        ({"patternProperties": {EVIL: False}}, {"a" * 60 + "!": 1}),
        (
            {"patternProperties": {EVIL: {}}, "additionalProperties": False},
            {"a" * 60 + "!": 1},
        ),
        ({"propertyNames": {"pattern": EVIL}}, {"a" * 60 + "!": 1}),
        ({"items": {"pattern": EVIL}}, ["a" * 60 + "!"] * 5000),
        (
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "items": {"$ref": "#"},
                "pattern": EVIL,
            },
            ["a" * 60 + "!"],
        ),
        ({"$ref": "#/$defs/fork", "$defs": {"fork": FORK}}, nest(20)),
    ],
)
def test_answer_that_cannot_be_checked_in_time_does_not_fit(schema: Any, answer: Any) -> None:
    check_schema(schema, "schema")
    start = process_time()
    (issue,) = find_issues(answer, schema, "answer")
    assert issue["message"] == "it takes too long to check whether it fits"
    assert process_time() - start < 4 * CHECK_SECONDS


def test_unique_items_are_told_in_a_time_that_grows_with_them() -> None:
    """With the library's own check, so many objects take minutes."""
    schema = {"uniqueItems": True}
    many = [{"a": number} for number in range(LARGE // 12)]
    assert find_issues(many, schema, "answer") == []
    assert len(find_issues([*many, {"a": 7}], schema, "answer")) == 1


@pytest.mark.parametrize(
    ("items", "is_unique"),
    [
        ([1, True, "1", None, [1], [True], {"a": 1}, {"a": True}, {"a": [1]}, {}, []], True),
        ([1, 1.0], False),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1.0}], False),
        ([[0], [False]], True),
        ([[1, 2], [2, 1]], True),
        ([None, None], False),
    ],
)
def test_unique_items_differ_as_json_does(items: list[Any], is_unique: bool) -> None:
    assert (find_issues(items, {"uniqueItems": True}, "answer") == []) is is_unique


def test_patterns_say_what_does_not_fit_them() -> None:
    schema = {
        "properties": {"id": {"pattern": "^[0-9]+$"}},
        "patternProperties": {"^x-": {"type": "string"}},
        "additionalProperties": False,
    }
    check_schema(schema, "schema")
    assert find_issues({"id": "17", "x-a": "b"}, schema, "answer") == []
    issues = find_issues({"id": "q", "x-a": 1, "y": 2}, schema, "answer")
    assert sorted(issue["path"] for issue in issues) == ["answer", "answer.id", "answer.x-a"]


UNBOUNDED: list[Any] = [
    {"pattern": "("},
    {"items": {"$schema": "http://json-schema.org/draft-07/schema#"}},
    {"unevaluatedProperties": False, "anyOf": [{"patternProperties": {"a": {}}}]},
]


@pytest.mark.parametrize("schema", UNBOUNDED)
def test_schema_whose_check_has_no_bound_is_refused(schema: Any) -> None:
    with pytest.raises(LocalProtocolError, match=r"^schema"):
        check_schema(schema, "schema")
