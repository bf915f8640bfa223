"""The text of a message, put together from deltas. PROTOCOL.md §6.2."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trialogue.client._text import MessageText

#: Few different characters, so that texts overlap by accident; among them what is two units in
#: UTF-16, and line ends, which a text buffer might translate.
ALPHABET = st.sampled_from("ab😀\r\n")
#: In a text of up to forty.
PLACE = st.integers(0, 40)


def whole(text: MessageText) -> str:
    return text.slice(0, text.length)


def test_offsets_count_code_points() -> None:
    text = MessageText("m", "t")
    text.append("😀é")
    assert text.length == 2
    assert text.apply(2, "!") is None
    assert whole(text) == "😀é!"


def test_what_is_sent_again_changes_nothing() -> None:
    """A server may begin a text anew after a reconnect, in smaller pieces than before."""
    text = MessageText("m", "t")
    text.append("hello world")
    assert text.apply(0, "hel") is None
    assert text.apply(3, "lo") is None
    assert text.apply(5, " world!") is None
    assert whole(text) == "hello world!"


def test_a_text_that_was_taken_back_goes_on_as_another() -> None:
    """A server that crashed lost the end of the text, and the agent says something else."""
    text = MessageText("m", "t", "reasoning")
    text.append("one two three")
    other = text.apply(4, "2, 3")
    assert other is not None
    assert whole(other) == "one 2, 3"
    assert text.common(other) == 4
    assert other.kind == "reasoning"
    assert whole(text) == "one two three", "who noted a place in it still finds what was there"


@given(st.text(ALPHABET, max_size=40), st.lists(st.tuples(PLACE, PLACE), max_size=80))
def test_any_pieces_of_one_text_give_that_text(final: str, cuts: list[tuple[int, int]]) -> None:
    """Each piece begins at or before the end of what is there: nothing is lost or doubled."""
    text = MessageText("m", "t")
    reached = 0
    for cut in cuts:
        start, end = min(*cut, reached), min(max(cut), len(final))
        if start < end:
            assert text.apply(start, final[start:end]) is None
            reached = max(reached, end)
    if reached < len(final):
        assert text.apply(reached, final[reached:]) is None
    assert whole(text) == final


@given(st.text(ALPHABET, max_size=20), st.text(ALPHABET, max_size=20), st.data())
def test_a_delta_is_the_rule_of_the_protocol(had: str, delta: str, data: st.DataObject) -> None:
    """Cut back and append; but what is only heard again is kept."""
    offset = data.draw(st.integers(0, len(had)))
    by_the_rule = had[:offset] + delta
    text: Any = MessageText("m", "t")
    text.append(had)
    other = text.apply(offset, delta)
    result = whole(other or text)
    if had.startswith(by_the_rule):
        assert result == had
    else:
        assert result == by_the_rule
    if other is not None:
        common = text.common(other)
        assert had[:common] == by_the_rule[:common]
        assert had[common : common + 1] != by_the_rule[common : common + 1]
