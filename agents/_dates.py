"""Questions about days in plain English: finds them in a sentence and answers them. Pure.

The clock is given: `find_question` and `look_up` take the time that it is now.
"""

# Words in a row read better than a column of quoted ones.
# ruff: noqa: SIM905

from __future__ import annotations

import calendar
import re
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

import attrs

__all__ = ["DateError", "DateQuestion", "find_question", "look_up", "phrase"]

# Not calendar.month_name, which speaks the language of the process's locale.
_MONTH_NAMES: Final = (
    "January February March April May June July August September October November December"
).split()
_WEEKDAY_NAMES: Final = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_MONTHS: Final = {
    word: number
    for number, name in enumerate(_MONTH_NAMES, 1)
    for word in (name.lower(), name[:3].lower())
} | {"sept": 9}
_MONTH: Final = rf"(?P<month>{'|'.join(sorted(_MONTHS, key=len, reverse=True))})\b\.?"
_DAY: Final = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR: Final = r"(?:,? (?P<year>\d{4})\b)?"
_FORMS: Final = (
    re.compile(r"\b(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})\b"),
    re.compile(r"\b(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?P<year>\d{4})\b"),
    re.compile(rf"\b{_DAY} (?:of )?{_MONTH}{_YEAR}"),
    re.compile(rf"\b{_MONTH} {_DAY}\b{_YEAR}"),
)
_FEASTS: Final = {
    "christmas eve": (12, 24),
    "christmas": (12, 25),
    "new year's eve": (12, 31),
    "new years eve": (12, 31),
    "new year": (1, 1),
    "valentine": (2, 14),
    "halloween": (10, 31),
}
_RELATIVE: Final = {"today": 0, "tomorrow": 1, "yesterday": -1}

Kind: TypeAlias = Literal["now", "today", "until", "since", "weekday", "offset", "leap year"]


class DateError(ValueError):
    """A day that does not exist. The message is for the one who asked."""


@attrs.frozen(kw_only=True)
class DateQuestion:
    """What is asked.

    Attributes:
        kind: ``now`` is about the time, ``today`` about the date, ``until`` and ``since`` about
            how far a day is, ``weekday`` about which day of the week it is, ``offset`` about
            the day that is ``days`` from today, ``leap year`` about a year.
        day: The day in question.
        days: For ``offset``.
    """

    kind: Kind
    day: date
    days: int = 0


def find_question(sentence: str, today: date) -> DateQuestion | None:
    """Find what a sentence asks about days; None if it asks nothing of the kind.

    Raises:
        DateError: It is about a day that does not exist.
    """
    text = " ".join(sentence.lower().replace("’", "'").split())
    if re.search(r"\bwhat(?:'s| is)? (?:the )?time\b|\btime is it\b", text):
        return DateQuestion(kind="now", day=today)
    if match := re.search(r"\b(\d{1,4}) (?:is )?a leap year|\bis (\d{1,4}) a leap\b", text):
        return DateQuestion(kind="leap year", day=_date(int(match[1] or match[2]), 1, 1))
    if offset := _find_offset(text):
        return DateQuestion(kind="offset", day=_shift(today, offset), days=offset)
    if re.search(r"\b(?:days?|weeks?|how long|how far|countdown)\b.*\b(?:un)?till?\b", text) or (
        re.search(r"\bhow (?:many|long)\b.*\b(?:to|before|is it to)\b", text)
    ):
        return _about("until", text, today, later=True)
    if re.search(r"\b(?:days?|weeks?|how long)\b.*\bsince\b|\bhow long ago\b", text):
        return _about("since", text, today, later=False)
    if re.search(
        r"\bwhat(?:'s|s| is)? (?:the |today's )?(?:current )?(?:day|date)(?: is it)?(?: today)?\W*$"
        r"|\b(?:day|date|month|year) is it\b|\bwhat(?:'s| is| day is)? today\b",
        text,
    ):
        return DateQuestion(kind="today", day=today)
    if re.search(
        r"\b(?:what|which) (?:day|date|weekday)\b|\bday of the week\b|^when(?:'s| is)\b", text
    ):
        return _about("weekday", text, today, later=True)
    return None


def _about(kind: Kind, text: str, today: date, *, later: bool) -> DateQuestion | None:
    day = _find_day(text, today, later=later)
    return None if day is None else DateQuestion(kind=kind, day=day)


def _find_offset(text: str) -> int | None:
    """How many days from today is asked about: ``in 3 weeks``, ``100 days ago``; None if not."""
    match = re.search(
        r"\b(?:what|which|when)\b.*?"
        r"(?:\bin (?P<in>\d{1,7}) (?P<unit_in>day|week)|\b(?P<n>\d{1,7}) (?P<unit>day|week))",
        text,
    )
    if match is None:
        return None
    count = int(match["in"] or match["n"])
    days = count * (7 if (match["unit_in"] or match["unit"]) == "week" else 1)
    if match["in"] or re.search(r"\bfrom (?:now|today)\b", text):
        return days
    return -days if re.search(r"\bago\b", text) else None


def _find_day(text: str, today: date, *, later: bool) -> date | None:
    for form in _FORMS:
        if match := form.search(text):
            month = match["month"]
            number = int(month) if month.isdigit() else _MONTHS[month]
            return _pick_year(match["year"], number, int(match["day"]), today, later=later)
    for name, (month, day) in _FEASTS.items():
        if name in text:
            year = re.search(r"\b\d{4}\b", text)
            return _pick_year(year[0] if year else None, month, day, today, later=later)
    for word, days in _RELATIVE.items():
        if word in text:
            return _shift(today, days)
    for number, name in enumerate(_WEEKDAY_NAMES):
        if re.search(rf"\b{name.lower()}\b", text):
            ahead = (number - today.weekday()) % 7 or 7
            return _shift(today, ahead if later else ahead - 7 or -7)
    return None


def _pick_year(year: str | None, month: int, day: int, today: date, *, later: bool) -> date:
    """Take the year that was named, else the next or the last in which there is such a day."""
    if year is not None:
        return _date(int(year), month, day)
    step = 1 if later else -1
    if 1 <= month <= 12 and day > calendar.monthrange(2000, month)[1]:  # a leap year
        raise DateError(f"{_MONTH_NAMES[month - 1]} never has a day {day}.")
    for number in range(9):  # 29 February may be eight years off, round a century
        try:
            found = date(today.year + step * number, month, day)
        except ValueError:
            continue
        if (found >= today) if later else (found <= today):
            return found
    raise DateError("I cannot count that far.")


def _date(year: int, month: int, day: int) -> date:
    try:
        return date(year, month, day)
    except ValueError:
        if not 1 <= month <= 12:
            raise DateError(f"There is no month {month}.") from None
        if year < 1:
            raise DateError("I count years from 1 on.") from None
        raise DateError(f"{_MONTH_NAMES[month - 1]} {year} has no day {day}.") from None


def _shift(day: date, days: int) -> date:
    try:
        return day + timedelta(days=days)
    except OverflowError:
        raise DateError("I cannot count that far.") from None


def look_up(question: DateQuestion, now: datetime) -> dict[str, Any]:
    """Answer as a tool would, with JSON values."""
    day = question.day
    if question.kind == "now":
        return {"now": now.isoformat(timespec="seconds"), "zone": now.tzname()}
    if question.kind == "leap year":
        return {"year": day.year, "leap": calendar.isleap(day.year)}
    return {
        "date": day.isoformat(),
        "weekday": _WEEKDAY_NAMES[day.weekday()],
        "days": (day - now.date()).days,
    }


def phrase(question: DateQuestion, answer: dict[str, Any]) -> str:
    """Put what `look_up` found into a sentence."""
    if question.kind == "now":
        now = datetime.fromisoformat(answer["now"])
        return f"It is {now:%H:%M}{' ' + answer['zone'] if answer['zone'] else ''}."
    if question.kind == "leap year":
        word = "is" if answer["leap"] else "is not"
        return f"{answer['year']} {word} a leap year."
    day, days = _spell(question.day), answer["days"]
    weekday = answer["weekday"]
    if question.kind == "today":
        return f"It is {weekday}, {day}."
    if question.kind in {"until", "since"}:
        if days == 0:
            return f"That is today: {weekday}, {day}."
        length = _spell_days(abs(days))
        if days > 0:
            return f"{length} until {weekday}, {day}."
        return f"{length} since {weekday}, {day}."
    verb = "is" if days == 0 else "will be" if days > 0 else "was"
    return f"{day} {verb} a {weekday}."


def _spell(day: date) -> str:
    return f"{day.day} {_MONTH_NAMES[day.month - 1]} {day.year}"


def _spell_days(days: int) -> str:
    words = f"{days:,} day{'s' if days != 1 else ''}"
    weeks, rest = divmod(days, 7)
    if weeks < 2:
        return words
    return f"{words} ({weeks:,} weeks{f' and {rest} day' + 's' * (rest > 1) if rest else ''})"
