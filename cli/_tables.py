"""Tables for people. Alone knows rich."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["open_display", "open_status", "print_table", "render_table", "write_age"]

#: Of a column that gives way, in cells.
_MIN_WIDTH: Final = 14
_GAP: Final = 2


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], rank: Sequence[str] = ()
) -> None:
    """Print a table: as wide as the terminal, or in full where the output goes elsewhere.

    Args:
        columns: Their headings. The last one has what may be long, and gives way.
        rows: Their cells.
        rank: Headings, the most needed first: what does not fit beside those before it is left
            out. What is not named goes last.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = 10_000
    console.print(_make_table(columns, rows, rank, console.width))


def render_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], rank: Sequence[str], width: int
) -> str:
    """Give a table of so many cells as text with ANSI escapes. See `print_table`."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=True, color_system="standard", highlight=False
    )
    console.print(_make_table(columns, rows, rank, width))
    return file.getvalue().rstrip("\n")


@contextmanager
def open_status() -> Generator[Callable[[str], None]]:
    """Show a line on standard error that changes, if that is a terminal; gives what changes it."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("") as status:
        yield lambda text: status.update(Text(text))


@contextmanager
def open_display() -> Generator[
    Callable[[Sequence[str], Sequence[str], Sequence[Sequence[str]]], None]
]:
    """Take the whole terminal for what changes; gives what shows lines, columns and rows there.

    Where the output goes elsewhere each is printed behind the one before. The terminal is given
    back as it was.
    """
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:

        def write(
            lines: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[str]]
        ) -> None:
            print("\n".join(lines) + "\n")
            print_table(columns, rows)
            print(flush=True)

        yield write
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def show(
            lines: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[str]]
        ) -> None:
            table = _make_table(columns, rows, columns[:1], console.width)
            said = (Text(line, no_wrap=True, overflow="ellipsis") for line in lines)
            live.update(Group(*said, Text(), table), refresh=True)

        yield show


def _make_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], rank: Sequence[str], width: int
) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    shown, room = _choose(columns, rows, rank, width)
    for number in shown:
        is_last = number == len(columns) - 1
        table.add_column(
            columns[number],
            no_wrap=True,
            overflow="ellipsis" if is_last else "fold",
            max_width=room if is_last else None,
        )
    for row in rows:
        table.add_row(*(Text(row[number]) for number in shown))
    return table


def _choose(
    columns: Sequence[str], rows: Sequence[Sequence[str]], rank: Sequence[str], width: int
) -> tuple[list[int], int]:
    """Choose the columns that fit, the most needed one in any case; and the last one's width."""
    from rich.cells import cell_len

    needed = sorted(range(len(columns)), key=lambda n: [*rank, columns[n]].index(columns[n]))
    shown: list[int] = []
    room = _MIN_WIDTH
    for number in needed:
        wide = max(cell_len(cell) for cell in (columns[number], *(row[number] for row in rows)))
        if number == len(columns) - 1:
            wide = room = min(wide, _MIN_WIDTH)
        if not shown or wide <= width:
            shown.append(number)
            width -= wide + _GAP
    return sorted(shown), room + max(0, width + _GAP)


def write_age(timestamp: str, now: datetime | None = None) -> str:
    """Say how long ago something was."""
    try:
        seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(timestamp)).total_seconds()
    except ValueError:
        return timestamp
    if seconds < 10:
        return "just now"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
