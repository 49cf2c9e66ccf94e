"""`python -m tests.gates change`: the gates of a change, one after another, each with the time it took; `nightly` and `release`
are the same at their sizes (safety §0). `--only NAME` runs one of them; `--list` shows the commands.

A red gate leaves what its own command leaves: seed, ledger, image. It is not to be run again until it is green.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field

import click
from rich.console import Console
from rich.table import Table

console = Console(stderr=True)
SIZES = ("change", "nightly", "release")


@dataclass(frozen=True, slots=True)
class Gate:
    """A command, and what is different about it at each size; `{}` takes the number."""

    name: str
    command: tuple[str, ...]
    numbers: tuple[int, int, int]
    environ: dict[str, str] = field(default_factory=dict)

    def at(self, size: str) -> tuple[list[str], dict[str, str]]:
        number = str(self.numbers[SIZES.index(size)])
        return (
            [sys.executable, "-m", *(word.format(number) for word in self.command)],
            {name: value.format(number) for name, value in self.environ.items()},
        )


def _pytest(*paths: str) -> tuple[str, ...]:
    return ("pytest", "-q", "-n", "0", "-s", *paths)


GATES = (
    Gate(
        "simulation",
        ("tests.simulation", "--seeds", "{}", "--hours", "0.5", "--processes", "2"),
        (10, 10_000, 200_000),
    ),
    Gate(
        "simulation-calm",
        ("tests.simulation", "--calm", "--seeds", "{}", "--hours", "24", "--processes", "2"),
        (4, 100, 1_000),
    ),
    Gate("kill", _pytest("tests/faults/test_kill.py"), (30, 1_000, 5_000), {"RELAY_KILLS": "{}"}),
    Gate("power-cut", ("tests.faults.power_cut", "--images", "{}"), (2_000, 100_000, 1_000_000)),
    Gate("fuzz", _pytest("tests/api/test_fuzz.py"), (1_000, 1_000_000, 10_000_000), {"RELAY_FUZZ": "{}"}),
    Gate("corpus", _pytest("tests/api"), (0, 0, 0)),
    Gate("overload", _pytest("tests/faults/test_heavy_load.py"), (2, 60, 600), {"RELAY_OVERLOAD_S": "{}"}),
    Gate("planted", ("tests.planted", "--jobs", "2", "--no-healthy"), (0, 0, 0)),
)


@click.command()
@click.argument("size", type=click.Choice(SIZES))
@click.option("--only", multiple=True, type=click.Choice([gate.name for gate in GATES]), help="May be repeated.")
@click.option("--list", "show", is_flag=True, help="Show the commands, and run none.")
def main(size: str, only: tuple[str, ...], show: bool) -> None:
    """Runs the gates of SIZE: change, nightly or release."""
    table = Table("gate", "seconds", "verdict")
    red = False
    for gate in GATES:
        if only and gate.name not in only:
            continue
        command, environ = gate.at(size)
        words = [*(f"{name}={value}" for name, value in environ.items()), "python", *command[1:]]
        console.print(f"[bold]{gate.name}[/]: {' '.join(words)}", highlight=False)
        if show:
            continue
        began = time.perf_counter()
        code = subprocess.run(command, env=os.environ | environ, check=False).returncode
        red = red or code != 0
        table.add_row(gate.name, f"{time.perf_counter() - began:.0f}", "green" if code == 0 else f"red ({code})")
    if not show:
        console.print(table)
    sys.exit(1 if red else 0)


main()
