"""What `--help` says: of every command a whole sentence, of every option something."""

from collections.abc import Iterator

import click
import pytest

from relay.cli import main

WIDTH = 78  # in which click prints a list of commands


def commands(group: click.Group, path: str = "relay") -> Iterator[tuple[str, click.Command, int]]:
    """Every command with its path, and the room for what a list says of it."""
    context = click.Context(group)
    names = group.list_commands(context)
    room = WIDTH - 6 - max(map(len, names))
    for name in names:
        one = group.get_command(context, name)
        assert one is not None
        yield f"{path} {name}", one, room
        if isinstance(one, click.Group):
            yield from commands(one, f"{path} {name}")


ALL = list(commands(main))


@pytest.mark.parametrize(("path", "command", "room"), ALL, ids=[path for path, _, _ in ALL])
def test_a_command_and_its_options_say_what_they_do(path: str, command: click.Command, room: int) -> None:
    said = command.get_short_help_str(room)
    assert said.endswith((".", "?"))
    assert not said.endswith("..."), f"{path}: the first sentence is cut in the list of commands"
    silent = [one.name for one in command.params if isinstance(one, click.Option) and not one.help]
    assert silent == []
