"""Tables of the command line: names stand in them as they are."""

import pytest
from rich.table import Table

from relay.cli.tables import show


@pytest.mark.parametrize("name", ["[bold]ann", "room[7]", "[/x]", "team:star:1", "a" * 200])
def test_a_name_is_shown_as_it_is_whoever_chose_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Users and devices are called what an app likes: brackets are no markup, and colons no pictures."""
    table = Table("user")
    table.add_row(name)
    show(table)
    shown = capsys.readouterr().out
    assert "".join(line.strip("│ ") for line in shown.splitlines() if line.startswith("│")) == name
