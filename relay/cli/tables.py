"""Tables for people: as wide as the terminal; or, in a file or a pipe, as wide as they need be within reason."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

PAPER = 160


def show(table: Table, *, marked: bool = False) -> None:
    """Prints it. No cell is cut short: a name that one has to type next goes on in the next line. On a terminal that is too
    narrow for whole words, each row is a list of its cells.

    `marked`: brackets in cells are rich's markup, and it stays a table. Else a cell is printed as it is, whoever chose the name
    in it.
    """
    terminal = Console()
    console = Console(width=terminal.width if terminal.is_terminal else PAPER, markup=marked, emoji=False)
    if terminal.is_terminal and not marked and table.row_count:
        words = Measurement.get(console, console.options.update(max_width=10 * PAPER), table).minimum
        if words > console.width:
            _list(console, table)
            return
    for column in table.columns:
        column.overflow = "fold"
    console.print(table)


def _list(console: Console, table: Table) -> None:
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        rows = Table.grid(padding=(0, 2))
        rows.add_column(no_wrap=True)
        rows.add_column(overflow="fold")
        for column, cell in zip(table.columns, cells, strict=True):
            if cell:
                rows.add_row(Text(str(column.header), style="bold"), cell)
        console.print(rows, "", sep="\n")
