"""How a chat's text is laid out: wrapped as it streams, marked, and harmless."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialogue.cli._screen import Line, Mark, Screen, cell_width, clean

PLAIN = Mark("> ", "m", "s")
MARKED = Mark("* ", "m", "", is_markup=True)


def texts(lines: list[Line]) -> list[str]:
    return ["".join(text for _, text in line) for line in lines]


def laid(mark: Mark, *pieces: str, width: int = 41) -> list[Line]:
    screen = Screen(lambda: width)
    screen.open(mark)
    for piece in pieces:
        screen.feed(piece)
    screen.close()
    return screen.take()


def test_text_is_wrapped_at_words_under_its_mark() -> None:
    lines = laid(PLAIN, "one two three four", " five six seven eight nine ten")
    assert texts(lines) == ["> one two three four five six seven", "  eight nine ten"]
    assert lines[0] == (("m", "> "), ("s", "one two three four five six seven"))


def test_line_in_progress_is_the_tail() -> None:
    screen = Screen(lambda: 41)
    screen.open(PLAIN)
    assert screen.tail == (("m", "> "), ("s", ""))
    screen.feed("one\ntwo")
    assert texts(screen.take()) == ["> one"]
    assert screen.tail == (("m", "  "), ("s", "two"))
    screen.close()
    assert texts(screen.take()) == ["  two"]
    assert screen.tail is None


def test_word_longer_than_a_line_is_cut() -> None:
    assert texts(laid(PLAIN, "x" * 50, width=31)) == ["> " + "x" * 28, "  " + "x" * 22]


def test_wide_characters_take_two_cells() -> None:
    assert [cell_width(line) for line in texts(laid(PLAIN, "日本" * 20, width=31))] == [30, 30, 26]
    assert cell_width("e\u0301") == 1


def test_indentation_and_empty_lines_stay() -> None:
    assert texts(laid(PLAIN, "a\n\n    b\n")) == ["> a", "  ", "      b"]


def test_gaps_stand_between_blocks_only() -> None:
    screen = Screen(lambda: 40)
    screen.gap()
    screen.block(PLAIN, "a")
    screen.gap()
    screen.block(PLAIN, "b")
    assert texts(screen.take()) == ["> a", "", "> b"]


def test_markup_is_shown_and_kept() -> None:
    """Our choice: whatever an agent writes can be copied as it was written."""
    (line,) = laid(MARKED, "see `x` and **that** at https://a.b/c", width=80)
    assert texts([line]) == ["* see `x` and **that** at https://a.b/c"]
    assert line[2:6:2] == (("code", "`x`"), ("strong", "**that**"))
    assert line[-1] == ("link", "https://a.b/c")
    assert ("", "2 ** 3 ** 4") in laid(MARKED, "2 ** 3 ** 4")[0]
    assert laid(MARKED, "# Head")[0][1] == ("strong", "# Head")
    assert laid(MARKED, "- item")[0][2] == ("bullet", "-")


def test_lists_hang_under_their_bullets() -> None:
    lines = laid(MARKED, "- one two three four five six\n10. seven\nand so on", width=24)
    assert texts(lines) == ["* - one two three four", "    five six", "  10. seven", "  and so on"]


def test_fenced_code_is_code_until_its_end() -> None:
    lines = laid(MARKED, "```py\n# x\n```\nafter")
    assert [line[1][0] for line in lines] == ["code", "code", "code", ""]


@pytest.mark.parametrize("text", ["\x1b[2Jgone", "a\rb", "\x9b31m", "\u202eevil", "\x07", "\x00"])
def test_what_drives_a_terminal_is_taken_out(text: str) -> None:
    shown = clean(text)
    assert "\N{REPLACEMENT CHARACTER}" in shown
    assert shown == clean(shown)
    assert not set(shown) & set("\x1b\r\x9b\u202e\x07\x00")


words = st.text(st.sampled_from("ab 日\u0301\n"), max_size=200)


@given(words, st.lists(st.integers(0, 200)), st.integers(5, 120))
def test_any_split_is_laid_out_within_the_width(text: str, cuts: list[int], width: int) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in pairwise(places)]
    lines = texts(laid(PLAIN, *pieces, width=width))
    assert lines == texts(laid(PLAIN, text, width=width))
    assert all(cell_width(line) <= max(20, width - 1) for line in lines)
    assert "".join("".join(lines)[2:].split()) == "".join(text.split())
