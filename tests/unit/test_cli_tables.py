"""Tables of the command line: names stand in them as they are."""

import re

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


def test_a_terminal_that_is_too_narrow_gets_each_row_as_a_list_with_its_words_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table("provider", "kinds", "state", "from")
    table.add_row("apns", "liveactivity_production, token", "", "push-relay")
    for width, listed in ((60, False), (50, True)):
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(width))
        show(table)
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in capsys.readouterr().out.splitlines()]
        assert all(len(line) <= width for line in lines)
        expected = ["provider  apns", "kinds     liveactivity_production, token", "from      push-relay", ""]
        assert (lines == expected) is listed
