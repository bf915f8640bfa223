"""Sums in plain English: which sentence asks for one, and what it comes to."""

import math
import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from trialogue.agents._arithmetic import SumError, evaluate, find_sum, format_number


@pytest.mark.parametrize(
    ("sentence", "answer"),
    [
        ("2+2", "4"),
        ("What is 2 plus two?", "4"),
        ("what's 12 × (3 + 4)?", "84"),
        ("How much is 7% of 250?", "17.5"),
        ("How much is 7 percent of 1,000?", "70"),
        ("twenty-one divided by seven", "3"),
        ("a hundred and one times 2", "202"),
        ("three hundred minus 1 =", "299"),
        ("What is the sum of 2 and 3?", "5"),
        ("the product of six and seven", "42"),
        ("the difference of 9 and 4", "5"),
        ("3 x 4", "12"),
        ("2^3^2", "512"),
        ("2**10", "1,024"),
        ("-2^2", "-4"),
        ("2 - -3", "5"),
        ("2^-1", "0.5"),
        ("seven squared", "49"),
        ("5² + 1", "26"),
        ("the square root of 16", "4"),
        ("√2", "about 1.41421356237"),
        ("8^(1/3)", "2"),
        ("10 mod 3", "1"),
        ("5!", "120"),
        ("0.1 + 0.2", "0.3"),
        ("1/3", "about 0.333333333333"),
        ("pi * 2", "about 6.28318530718"),
        ("100!", "about 9.33262 × 10^157"),
        ("1 / 10^20", "1 × 10^-20"),
        ("0^0", "1"),
    ],
)
def test_sum_is_found_and_worked_out(sentence: str, answer: str) -> None:
    expression = find_sum(sentence)
    assert expression is not None
    assert format_number(evaluate(expression)) == answer


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "Great!",
        "?!",
        "- yes -",
        "what is five",
        "I have 3 cats and 2 dogs",
        "call 555-1234 on Monday",
        "My age is 30 - 2",
        "Is it 12:30?",
        "We were of one mind",
    ],
)
def test_sentence_about_something_else_is_no_sum(sentence: str) -> None:
    assert find_sum(sentence) is None


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1 / 0", "Nothing can be divided by zero"),
        ("0 ^ -1", "Nothing can be divided by zero"),
        ("5 mod 0", "Nothing can be divided by zero"),
        ("(1 + 2", "A bracket is missing"),
        ("1 2", "I cannot read that sum"),
        ("1 + ", "I cannot read that sum"),
        ("", "I cannot read that sum"),
        ("__import__('os')", "I cannot read that sum"),
        ("1 + x", "I cannot read that sum"),
        ("(0 - 8) ^ (1/3)", "A negative number has no such root"),
        ("sqrt (0 - 1)", "A negative number has no square root"),
        ("2.5!", "Only whole numbers from zero on have a factorial"),
        ("9 ^ 9 ^ 9 ^ 9", "too large"),
        ("1.0000001 ^ 10000000", "too large"),
        ("2 ^ 4000.5 * 2 ^ 4000.5", "too large"),
        ("99999!", "too large"),
        ("400! * 400! * 400!", "too large"),
        ("1" * 5_000, "too long"),
        ("(" * 500 + "1", "too long"),
        ("-" * 500 + "1", "too long"),
    ],
)
def test_sum_without_an_answer_is_refused_with_a_reason(expression: str, message: str) -> None:
    with pytest.raises(SumError, match=message):
        evaluate(expression)


numbers = st.integers(0, 10**6).map(str) | st.decimals(
    min_value=0, max_value=1000, places=3, allow_nan=False
).map(lambda value: f"{value:f}")


def compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda text: f"(-{text})"),
    )


@given(st.recursive(numbers, compound, max_leaves=12))
def test_sums_agree_with_python(expression: str) -> None:
    """Python's own grammar is the other opinion; numbers are made exact for it."""
    exact = re.sub(r"\d+(?:\.\d+)?", lambda match: f"F('{match[0]}')", expression)
    try:
        expected = eval(exact, {"F": Fraction, "__builtins__": {}})
    except ZeroDivisionError:
        with pytest.raises(SumError, match="divided by zero"):
            evaluate(expression)
        return
    assert evaluate(expression) == expected


@given(st.text(max_size=60))
@example("((((((((")
@example("9^9^9^9^9")
@example("²³%!√")
@example("a hundred and hundred")
def test_any_text_is_answered_or_refused(text: str) -> None:
    """Whatever a peer types: no other exception, and no long wait."""
    find_sum(text)
    try:
        format_number(evaluate(text))
    except SumError:
        pass


@given(st.lists(st.sampled_from([*"129+-*/^%!()", "0.5", "sqrt", "mod", "of", "pi"]), max_size=20))
def test_any_row_of_signs_is_answered_or_refused(tokens: list[str]) -> None:
    try:
        format_number(evaluate(" ".join(tokens)))
    except SumError:
        pass


@given(st.fractions())
def test_number_is_written_exactly_or_with_about(value: Fraction) -> None:
    text = format_number(value)
    shown = text.removeprefix("about ").replace(",", "").replace(" × 10^", "e")
    if text.startswith("about "):
        assert math.isclose(Decimal(shown), value, rel_tol=1e-5)
    else:
        assert Fraction(shown) == value


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_what_is_found_is_found_again(a: int, b: int) -> None:
    """The form that is shown as the tool's argument is a sum itself."""
    found = find_sum(f"what is {a} plus {b} times 2?")
    assert found is not None
    assert find_sum(found) == found
    assume(a and b)
    assert evaluate(found) == a + b * 2
