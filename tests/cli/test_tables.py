"""Tables for people: what stands in them is whole, or is not there."""

import pytest

from trialogue.cli._tables import render_table

ID = "ses_0123456789abcdef0123456789abcdef"
COLUMNS = ("", "#", "session", "status", "messages", "last used", "name")
RANK = ("", "#", "name", "session", "last used", "status")
ROWS = [
    ("●", "1", ID, "running", "12", "just now", "what is six times seven, and why"),
    ("", "20", ID, "idle", "112", "59 min ago", "hello"),
]


def render(width: int) -> list[str]:
    text = render_table(COLUMNS, ROWS, RANK, width)
    for sign in ("\x1b[0m", "\x1b[1m"):
        text = text.replace(sign, "")
    return text.splitlines()


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (119, ["#", "session", "status", "messages", "last used", "name"]),
        (79, ["#", "session", "last used", "name"]),
        (49, ["#", "status", "last used", "name"]),
        (24, ["#", "name"]),
    ],
)
def test_columns_that_do_not_fit_are_left_out(width: int, shown: list[str]) -> None:
    """A bug once seen: at 80 columns /sessions had no numbers, and ids without their end."""
    head, first, second = render(width)
    assert max(map(len, (head, first, second))) <= width
    assert " ".join(head.split()) == " ".join(shown)
    assert first.startswith("●  1 ")
    assert second.startswith("   20 ")
    assert "hello" in second
    assert (ID in first, ID in second) == ("session" in shown,) * 2


def test_a_long_name_gives_way() -> None:
    _, first, _ = render(79)
    assert first.rstrip().endswith("…")
    assert "what is six" in first
