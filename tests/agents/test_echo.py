"""The agent `echo`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialogue.agents._speech import split_text, split_words
from trialogue.agents.echo import echo

from .fake import FakeSession


async def test_echo_says_it_back_in_words() -> None:
    turn = await FakeSession(echo).tell("one  two\nthree ")
    assert turn.text == "one  two\nthree "
    assert [text for _, _, text in turn.pieces] == ["one", "  two", "\nthree", " "]


async def test_echo_of_nothing_is_nothing() -> None:
    turn = await FakeSession(echo).tell("")
    assert turn.written == []


@given(st.text())
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(split_words(text)) == text
    assert all(split_words(text))


@pytest.mark.parametrize("chunk", ["words", "lines", "whole", 1, 3])
@given(text=st.text())
def test_pieces_joined_are_the_text(chunk: int, text: str) -> None:
    pieces = split_text(text, chunk)
    assert "".join(pieces) == text
    assert all(pieces)
