"""Tables for people: as wide as the terminal; or, in a file or a pipe, as wide as they need be within reason."""

from rich.console import Console
from rich.table import Table

PAPER = 160


def show(table: Table, *, marked: bool = False) -> None:
    """Prints it. No cell is cut short: a name that one has to type next goes on in the next line.

    `marked`: brackets in cells are rich's markup. Else a cell is printed as it is, whoever chose the name in it.
    """
    for column in table.columns:
        column.overflow = "fold"
    console = Console()
    width = console.width if console.is_terminal else PAPER
    Console(width=width, markup=marked, emoji=False).print(table)
