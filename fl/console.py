"""Tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """Print a table on standard output: numbers to the right, all else to the left."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for index, name in enumerate(header):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console = Console(highlight=False)
    if not console.is_terminal:  # A pipe or a file has no width of its own.
        console = Console(highlight=False, width=160)
    console.print(table)


def count(number: int, word: str) -> str:
    """Return a number with its word, such as "1 hospital" or "3 hospitals"."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def _cell(value: object) -> str:
    from rich.markup import escape

    # Square brackets in file names and shapes are no markup.
    return f"{value:g}" if isinstance(value, float) else escape(str(value))
