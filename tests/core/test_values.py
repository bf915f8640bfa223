"""What agents and tools may hand over: JSON and nothing else, as it is (our choice)."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialogue.core._json import MAX_INTEGER, MAX_VALUE_DEPTH
from trialogue.core._values import take_object, take_value
from trialogue.core.errors import LocalProtocolError, PayloadTooLargeError

LIMIT = 10_000


class Colour(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    YES = "yes"


class Text(str):
    __slots__ = ()


@dataclasses.dataclass
class Place:
    x: int = 1


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=12,
)


@given(values)
def test_json_is_taken_as_it_is(value: Any) -> None:
    taken = take_value(value, "result", 100_000)
    assert json.dumps(taken) == json.dumps(value)


def test_what_is_taken_is_a_copy() -> None:
    """An agent that goes on with its list changes nothing that is in the log."""
    value = {"rows": [1]}
    taken = take_value(value, "result", LIMIT)
    value["rows"].append(2)
    assert taken == {"rows": [1]}


def test_tuples_and_words_are_taken_for_what_they_equal() -> None:
    taken = take_value({"a": (1, (2,)), "b": Word.YES}, "result", LIMIT)
    assert taken == {"a": [1, [2]], "b": "yes"}
    assert type(taken["b"]) is str
    assert take_object(MappingProxyType({"a": 1}), "data", LIMIT) == {"a": 1}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"when": datetime(2026, 1, 1, tzinfo=UTC)}, "result.when: a datetime is no JSON value"),
        ({"rows": [1, {"day": date(2026, 1, 1)}]}, "result.rows[1].day: a date is no JSON value"),
        (timedelta(1), "result: a timedelta is no JSON value"),
        ([{1, 2}], "result[0]: a set is no JSON value"),
        (frozenset("a"), "result: a frozenset is no JSON value"),
        (b"x", "result: a bytes is no JSON value"),
        (uuid.UUID(int=1), "result: an UUID is no JSON value"),
        (Decimal("1.5"), "result: a Decimal is no JSON value"),
        (Place(), "result: a Place is no JSON value"),
        (Colour.RED, "result: a Colour is no JSON value"),
        ({"t": Text("x")}, "result.t: a Text is no JSON value"),
        (object(), "result: an object is no JSON value"),
        ((1, [math.nan]), "result[1][0]: nan is no JSON value"),
        ({"a": -math.inf}, "result.a: -inf is no JSON value"),
        ({"a": {1: "x"}}, "result.a: the name 1 is no text"),
        ({"1": "x", 1: "y"}, "result: the name 1 is no text"),
        ([MAX_INTEGER + 1], "result[0]: an integer beyond"),
        ({"a": "\ud800"}, "result.a: a lone surrogate"),
        (nested(MAX_VALUE_DEPTH + 1), f"more than {MAX_VALUE_DEPTH} levels"),
        (nested(2000), f"more than {MAX_VALUE_DEPTH} levels"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(value: Any, said: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        take_value(value, "result", LIMIT)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


def test_limits_hold_at_their_edge() -> None:
    assert take_value(nested(MAX_VALUE_DEPTH), "result", LIMIT) == nested(MAX_VALUE_DEPTH)
    wide: list[list[str]] = [[]] * (MAX_VALUE_DEPTH + 1)  # as many brackets, and not deep
    assert take_value(wide, "result", LIMIT) == wide
    assert take_value("x" * 8, "result", 10) == "x" * 8
    with pytest.raises(PayloadTooLargeError, match="result has 11 bytes of JSON, where 10"):
        take_value("x" * 9, "result", 10)


def test_cycle_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(LocalProtocolError, match="levels"):
        take_value(value, "result", LIMIT)


@pytest.mark.parametrize("value", [[1], "text", 5, None])
def test_object_has_to_be_one(value: Any) -> None:
    with pytest.raises(LocalProtocolError, match="data: expected an object, not a"):
        take_object(value, "data", LIMIT)
