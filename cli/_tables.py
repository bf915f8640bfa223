"""Tables for people. Alone knows rich."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["print_table", "render_table", "write_age"]


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: as wide as the terminal, or in full where the output goes elsewhere."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = 10_000
    console.print(_make_table(columns, rows))


def render_table(columns: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> str:
    """Give a table as text with ANSI escapes."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=True, color_system="standard", highlight=False
    )
    console.print(_make_table(columns, rows))
    return file.getvalue().rstrip("\n")


def _make_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        # The last column has what may be long, and gives way.
        is_last = number == len(columns) - 1
        table.add_column(column, no_wrap=True, overflow="ellipsis" if is_last else "fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


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
