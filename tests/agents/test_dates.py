"""Questions about days: which sentence asks one, and what the answer is."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialogue.agents._dates import DateError, find_question, look_up, phrase

NOW = datetime(2026, 11, 23, 14, 5, 9, tzinfo=UTC)


def answer(sentence: str, now: datetime = NOW) -> str | None:
    question = find_question(sentence, now.date())
    return None if question is None else phrase(question, look_up(question, now))


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("What day is it?", "It is Monday, 23 November 2026."),
        ("what's the date today", "It is Monday, 23 November 2026."),
        ("What is today's date?", "It is Monday, 23 November 2026."),
        ("What month is it?", "It is Monday, 23 November 2026."),
        ("What time is it?", "It is 14:05 UTC."),
        ("what’s the time", "It is 14:05 UTC."),
        (
            "How many days until 24 December?",
            "31 days (4 weeks and 3 days) until Thursday, 24 December 2026.",
        ),
        (
            "days until december 24th",
            "31 days (4 weeks and 3 days) until Thursday, 24 December 2026.",
        ),
        ("days till Christmas", "32 days (4 weeks and 4 days) until Friday, 25 December 2026."),
        ("How long until New Year?", "39 days (5 weeks and 4 days) until Friday, 1 January 2027."),
        ("days until 22 November", "364 days (52 weeks) until Monday, 22 November 2027."),
        ("days until 23 November", "That is today: Monday, 23 November 2026."),
        ("days until Friday", "4 days until Friday, 27 November 2026."),
        ("days until Monday", "7 days until Monday, 30 November 2026."),
        ("days until tomorrow", "1 day until Tuesday, 24 November 2026."),
        ("days until 2 December 2026", "9 days until Wednesday, 2 December 2026."),
        (
            "days until 29 February",
            "463 days (66 weeks and 1 day) until Tuesday, 29 February 2028.",
        ),
        (
            "How many days since 1 January 2000?",
            "9,823 days (1,403 weeks and 2 days) since Saturday, 1 January 2000.",
        ),
        ("days since 24 November", "364 days (52 weeks) since Monday, 24 November 2025."),
        ("Which day of the week was 4 July 1976?", "4 July 1976 was a Sunday."),
        ("Which day is 2026-12-24?", "24 December 2026 will be a Thursday."),
        ("which day is 24.12.2026", "24 December 2026 will be a Thursday."),
        ("What day is tomorrow?", "24 November 2026 will be a Tuesday."),
        ("When is Christmas?", "25 December 2026 will be a Friday."),
        ("What day is it in 100 days?", "3 March 2027 will be a Wednesday."),
        ("What day was it 3 weeks ago?", "2 November 2026 was a Monday."),
        ("what date is 2 weeks from today", "7 December 2026 will be a Monday."),
        ("Is 2028 a leap year?", "2028 is a leap year."),
        ("Was 1900 a leap year?", "1900 is not a leap year."),
    ],
)
def test_question_about_days_is_answered(sentence: str, said: str) -> None:
    assert answer(sentence) == said


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "What a day!",
        "My day was good",
        "What did I say today?",
        "How long have you been here?",
        "days until my birthday",
        "When is my birthday?",
        "Maybe I may",
        "Since when?",
    ],
)
def test_other_sentences_ask_nothing_of_the_kind(sentence: str) -> None:
    assert answer(sentence) is None


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ("days until 30 February", "February never has a day 30."),
        ("days until 29 February 2027", "February 2027 has no day 29."),
        ("which day is 2026-13-01", "There is no month 13."),
        ("is 0 a leap year", "I count years from 1 on."),
        ("what day is it in 9999999 days", "I cannot count that far."),
        ("what day was it 999999 weeks ago", "I cannot count that far."),
    ],
)
def test_day_that_does_not_exist_is_said_so(sentence: str, message: str) -> None:
    with pytest.raises(DateError) as caught:
        answer(sentence)
    assert str(caught.value) == message


def test_time_has_the_zone_of_the_clock() -> None:
    zone = timezone(timedelta(hours=2), "EET")
    assert answer("what time is it", NOW.astimezone(zone)) == "It is 16:05 EET."


@given(st.dates(min_value=date(1, 1, 2), max_value=date(9990, 12, 31)), st.dates())
def test_days_until_a_day_are_those_between(today: date, day: date) -> None:
    now = datetime(today.year, today.month, today.day, tzinfo=UTC)
    question = find_question(f"How many days until {day.isoformat()}?", today)
    assert question is not None
    assert look_up(question, now)["days"] == (day - today).days


@given(st.dates(), st.integers(1, 12), st.integers(1, 31))
def test_day_without_a_year_is_the_next_one(today: date, month: int, day: int) -> None:
    name = "JanFebMarAprMayJunJulAugSepOctNovDec"[3 * month - 3 : 3 * month]
    try:
        question = find_question(f"days until {day} {name}", today)
    except DateError:
        return
    assert question is not None
    assert (question.day.month, question.day.day) == (month, day)
    assert 0 <= (question.day - today).days <= (366 if (month, day) != (2, 29) else 8 * 366)


@given(st.text(max_size=80))
def test_any_text_is_answered_or_refused(text: str) -> None:
    for sentence in (text, f"days until {text}", f"what day is {text}", f"{text} days ago, what"):
        try:
            answer(sentence)
        except DateError:
            pass
