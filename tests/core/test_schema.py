"""PROTOCOL §9.2: what an answer has to fit is checked in bounded time, on the event loop."""

from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialogue.core._patterns import MAX_PATTERN_SIZE, measure_pattern
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


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("", 0),
        ("abc", 3),
        (r"\d{4}-\d{2}", 7),
        ("(ab){3}", 12),
        ("((a{10}){10}){10}", 1220),
        ("(a|b)*c", 7),
        ("(?:a{2,5}b?){0,9}", 8),
        (r"\{1000\}", 6),
        ("[{9}]{20}", 20),
        (r"[^]\]{99}]", 1),
        (r"x{1000000000}", 10**9),
        ("x{" + "9" * 5000 + "}", 10**12 - 1),
        (")){3}((", 6),
    ],
)
def test_size_of_a_pattern_is_what_it_is_written_out(pattern: str, size: int) -> None:
    assert measure_pattern(pattern) == size


@given(st.text(alphabet="ab(){}[]\\|?*+^$,.:0123456789", max_size=40))
def test_size_of_any_pattern_is_found(pattern: str) -> None:
    assert measure_pattern(pattern) >= 0


def test_patterns_that_are_in_use_are_small() -> None:
    for pattern in (
        "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
        r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?$",
        r"^(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?!$)|$)){4}$",
        r"^[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){7}(?: ?[A-Z0-9]{1,3})?$",
        "^[A-Za-z0-9+/]{4096}={0,2}$",
    ):
        assert measure_pattern(pattern) < 5000 < MAX_PATTERN_SIZE
