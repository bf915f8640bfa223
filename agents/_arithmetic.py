"""Sums in plain English: finds them in a sentence and works them out exactly. Pure, and no eval.

Whatever is typed, it answers or refuses quickly: numbers are kept below `_MAX_BITS`.
"""

# Words in a row read better than a column of quoted ones.
# ruff: noqa: SIM905

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Context, Decimal
from fractions import Fraction
from typing import Final

__all__ = ["SumError", "evaluate", "find_sum", "format_number"]

#: Of a numerator or denominator; 4096 bits are 1,233 digits, and a product of two takes 2 µs.
_MAX_BITS: Final = 4096
#: Tokens of one sum. Brackets and signs nest no deeper, which bounds the parser's recursion.
_MAX_TOKENS: Final = 200
_MAX_FACTORIAL: Final = 400
#: Digits that are shown of a number that does not end.
_SHOWN_DIGITS: Final = 12
#: For roots and powers that are not rational: far more than is shown.
_CONTEXT: Final = Context(prec=40)

_SMALL: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
).split()
_TENS: Final = "thirty forty fifty sixty seventy eighty ninety".split()
_NUMBER_WORDS: Final = {
    **{word: value for value, word in enumerate(_SMALL)},
    **{word: value for value, word in zip(range(30, 100, 10), _TENS, strict=True)},
}
#: What is said for a sign, as words and as other signs.
_PHRASES: Final = (
    ("^", r"to the power of|raised to(?: the)?", r"\*\*"),
    ("*", r"multiplied by|times", r"[×·]|(?<=[\d)])\s*x\s*(?=[\d(])"),
    ("/", r"divided by", r"÷"),
    ("sqrt", r"(?:the )?square root of|root of", r"√"),
    ("^2", r"squared", r"²"),
    ("^3", r"cubed", r"³"),
    ("%", r"per cent|percent", r"%"),
    ("+", r"plus", r"\+"),
    ("-", r"minus", r"[−–]"),  # the sign of mathematics, and the dash
    ("mod", r"modulo", r"(?<=\d)\s*mod\b"),
    ("!", r"factorial", r"!"),
)
_OF_BOTH: Final = (("sum of", "+"), ("product of", "*"), ("difference of", "-"))
_TOKEN: Final = re.compile(r"\d+(?:\.\d+)?|\.\d+|sqrt\b|mod\b|of\b|pi\b|[-+*/^%!()]")
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\S")
#: What may stand beside a sum in a question that is about nothing but the sum.
_ASKING: Final = frozenset(
    "a and answer are by calculate can compute could do does equal equals evaluate find for give "
    "hello hey hi how i is it make many me much now of ok out please result so solve sum tell the "
    "then to us value what what's whats will work would you , . ; = ? ! : \" '".split()
)
_CONSTANTS: Final = {"pi": Fraction("3.141592653589793238462643383279502884197")}


class SumError(ValueError):
    """A sum that cannot be worked out. The message is for the one who asked."""


def find_sum(sentence: str) -> str | None:
    """Find the sum that a sentence asks for, in the form that `evaluate` takes.

    ``"What is two plus 3?"`` has ``"2 + 3"``. None if it asks for none: numbers alone are not a
    sum, and a sentence that is about something else is left alone.
    """
    text = _normalise(sentence)
    runs: list[list[str]] = [[]]
    others: list[str] = []
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is not None:
            runs[-1].append(token[0])
        else:
            token = _WORD.match(text, place)
            if token is None:  # a space
                place += 1
                continue
            others.append(token[0])
            runs.append([])
        place = token.end()
    tokens = _trim(max(runs, key=len))
    if not _is_sum(tokens) or not _ASKING.issuperset(others):
        return None
    return " ".join(tokens)


def evaluate(expression: str) -> Fraction:
    """Work out a sum of numbers, ``+ - * / ^ % mod ! sqrt pi`` and brackets.

    ``%`` is "of a hundred", and ``of`` is a product, so that ``7 % of 250`` is 17.5.

    Raises:
        SumError: It is not a sum, has no answer, or one that is too large.
    """
    text = _normalise(expression)
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != "".join(text.split()):
        raise SumError("I cannot read that sum.")
    if len(tokens) > _MAX_TOKENS:
        raise SumError("That sum is too long for me.")
    return _Parser(tokens).parse()


def format_number(value: Fraction) -> str:
    """Write a number for people: ``1,234.5``, ``about 0.333333333333``, ``about 9.33 × 10^157``."""
    if value.denominator == 1 and abs(value) < 10**30:
        return f"{value.numerator:,}"
    exact = _decimal(value, Context(prec=_SHOWN_DIGITS))
    about = "" if Fraction(exact) == value else "about "
    if value and not -7 <= exact.adjusted() < 30:
        # Not E-notation, which reads as a letter; six digits tell the size.
        digits = _decimal(value, Context(prec=6)).normalize()
        mantissa = digits.scaleb(-digits.adjusted())
        about = "" if Fraction(digits) == value else "about "
        return f"{about}{mantissa.normalize():f} × 10^{digits.adjusted()}"
    return f"{about}{exact.normalize():,f}"


def _decimal(value: Fraction, context: Context) -> Decimal:
    return context.divide(Decimal(value.numerator), Decimal(value.denominator))


# -- reading ---------------------------------------------------------------------------------


def _normalise(text: str) -> str:
    text = text.lower()
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)  # 1,000
    text = re.sub(r"\b[a-z]+(?:-[a-z]+)?\b", _number_word, text)
    text = re.sub(r"\b(\d{1,2}|a) hundred(?: and)?(?: (\d{1,2}))?\b", _hundreds, text)
    for words, sign in _OF_BOTH:
        before, found, after = text.partition(words)
        if found:
            text = f"{before} {after.replace(' and ', f' {sign} ', 1)}"
    for sign, words, signs in _PHRASES:
        text = re.sub(rf"\b(?:{words})\b|{signs}", f" {sign} ", text)
    return text


def _hundreds(match: re.Match[str]) -> str:
    """``3 hundred and 7`` → ``307``."""
    hundreds = 1 if match[1] == "a" else int(match[1])
    return str(100 * hundreds + int(match[2] or 0))


def _number_word(match: re.Match[str]) -> str:
    """``seven`` → ``7``, ``twenty-one`` → ``21``; other words stay."""
    tens, _, ones = match[0].partition("-")
    if tens not in _NUMBER_WORDS:
        return match[0]
    value = _NUMBER_WORDS[tens]
    if not ones:
        return str(value)
    if value < 20 or not 0 < _NUMBER_WORDS.get(ones, 0) < 10:
        return match[0]
    return str(value + _NUMBER_WORDS[ones])


def _trim(tokens: Sequence[str]) -> list[str]:
    """Drop what cannot begin or end a sum: the "of" of "the sum of", a dash, a full stop."""
    start, end = 0, len(tokens)
    while start < end and tokens[start] in {"of", "*", "/", "^", "%", "!", ")", "mod"}:
        start += 1
    while end > start and tokens[end - 1] in {"of", "+", "-", "*", "/", "^", "(", "mod", "sqrt"}:
        end -= 1
    return list(tokens[start:end])


def _is_sum(tokens: Sequence[str]) -> bool:
    """Tell a sum from a number, or from "Great!"."""
    numbers = sum(token[0].isdigit() or token[0] == "." or token == "pi" for token in tokens)
    signs = [token for token in tokens if token in {"+", "-", "*", "/", "^", "of", "mod"}]
    return (numbers >= 2 and bool(signs)) or (
        numbers >= 1 and ("sqrt" in tokens or ("!" in tokens and len(tokens) >= 2))
    )


# -- working out -----------------------------------------------------------------------------


class _Parser:
    """Recursive descent: sum, product, sign, power, postfix, atom."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._place = 0

    def parse(self) -> Fraction:
        value = self._sum()
        if self._place < len(self._tokens):
            raise SumError("I cannot read that sum.")
        return value

    def _take(self, *wanted: str) -> str | None:
        if self._place < len(self._tokens) and self._tokens[self._place] in wanted:
            self._place += 1
            return self._tokens[self._place - 1]
        return None

    def _sum(self) -> Fraction:
        value = self._product()
        while sign := self._take("+", "-"):
            other = self._product()
            value = _checked(value + other if sign == "+" else value - other)
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while sign := self._take("*", "/", "of", "mod"):
            other = self._signed()
            if sign in {"/", "mod"} and other == 0:
                raise SumError("Nothing can be divided by zero.")
            if sign == "/":
                value = value / other
            elif sign == "mod":
                value = value % other
            else:
                value = value * other
            value = _checked(value)
        return value

    def _signed(self) -> Fraction:
        sign = self._take("+", "-")
        if sign is None:
            return self._power()
        value = self._signed()
        return -value if sign == "-" else value

    def _power(self) -> Fraction:
        base = self._postfix()
        return base if self._take("^") is None else _power(base, self._signed())

    def _postfix(self) -> Fraction:
        value = self._atom()
        while sign := self._take("!", "%"):
            value = _factorial(value) if sign == "!" else _checked(value / 100)
        return value

    def _atom(self) -> Fraction:
        if self._take("("):
            value = self._sum()
            if not self._take(")"):
                raise SumError("A bracket is missing.")
            return value
        if self._take("sqrt"):
            return _root(self._atom())
        if name := self._take(*_CONSTANTS):
            return _CONSTANTS[name]
        if self._place < len(self._tokens):
            token = self._tokens[self._place]
            if token[0].isdigit() or token[0] == ".":
                self._place += 1
                if len(token) > _MAX_BITS // 4:
                    raise SumError("That number is too long for me.")
                return _checked(Fraction(token))
        raise SumError("I cannot read that sum.")


def _checked(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise SumError("The answer is too large for me.")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if base == 0 and exponent < 0:
        raise SumError("Nothing can be divided by zero.")
    if exponent.denominator == 1:
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(base) != 1 and size * abs(exponent.numerator) > _MAX_BITS:
            raise SumError("The answer is too large for me.")
        if abs(base) == 1:
            return base if exponent.numerator % 2 else Fraction(1)
        return _checked(base**exponent.numerator)
    if base < 0:
        raise SumError("A negative number has no such root.")
    if exponent == Fraction(1, 2):
        return _root(base)
    if base == 0:
        return base
    if abs(math.log2(base.numerator) - math.log2(base.denominator)) * abs(exponent) > _MAX_BITS:
        raise SumError("The answer is too large for me.")
    power = _CONTEXT.power(_decimal(base, _CONTEXT), _decimal(exponent, _CONTEXT))
    return _checked(Fraction(power))


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise SumError("A negative number has no square root.")
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    if root * root == value:
        return root
    return _checked(Fraction(_CONTEXT.sqrt(_decimal(value, _CONTEXT))))


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or value < 0:
        raise SumError("Only whole numbers from zero on have a factorial.")
    if value > _MAX_FACTORIAL:
        raise SumError("The answer is too large for me.")
    return _checked(Fraction(math.factorial(value.numerator)))
