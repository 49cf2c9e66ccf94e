"""`python -m tests.gates change`: the gates of a change, each with the time it took; `nightly` and `release` are the same at
their sizes (safety §0). `--only NAME` runs one of them; `--list` shows the commands; `--jobs` runs several at the same time.

A red gate leaves what its own command leaves: seed, ledger, image. It is not to be run again until it is green.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import click
from rich.console import Console
from rich.table import Table

console = Console(stderr=True, highlight=False)
SIZES = ("change", "nightly", "release")


@dataclass(frozen=True, slots=True)
class Gate:
    """A command, and what is different about it at each size; `{}` takes the number."""

    name: str
    command: tuple[str, ...]
    numbers: tuple[int, int, int] = (0, 0, 0)
    environ: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    at_length: tuple[str, ...] = ()  # what it is told beside it, when it runs for long

    def at(self, size: str) -> "Command":
        place = SIZES.index(size)
        words = self.command if place == 0 else self.command + self.at_length
        return Command(
            self.name,
            ("-m", *(word.format(self.numbers[place]) for word in words)),
            {name: str(values[place]) for name, values in self.environ.items()},
        )


@dataclass(frozen=True, slots=True)
class Command:
    """A gate at one size."""

    name: str
    words: tuple[str, ...]
    environ: Mapping[str, str]

    def __str__(self) -> str:
        return " ".join([*(f"{name}={value}" for name, value in self.environ.items()), "python", *self.words])

    def run(self, *, quietly: bool) -> "Verdict":
        """Runs it; `quietly` keeps what it prints for later."""
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *self.words],
            env={**os.environ, **self.environ},
            check=False,
            text=True,
            stdout=subprocess.PIPE if quietly else None,
            stderr=subprocess.STDOUT if quietly else None,
        )
        return Verdict(self, done.returncode, time.perf_counter() - began, done.stdout or "")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it."""

    command: Command
    code: int
    seconds: float
    printed: str


def _pytest(*paths: str) -> tuple[str, ...]:
    return ("pytest", "-q", "-n", "0", "-s", *paths)


# The longest first: side by side, they end at about the same time.
GATES = (
    Gate("planted", ("tests.planted", "--jobs", "1", "--no-healthy")),
    Gate("power-cut", ("tests.faults.power_cut", "--images", "{}"), (2_000, 100_000, 1_000_000)),
    Gate("simulation-calm", ("tests.simulation", "--calm", "--seeds", "{}", "--hours", "25"), (4, 100, 1_000)),
    Gate("kill", _pytest("tests/faults/test_kill.py"), environ={"RELAY_KILLS": (30, 1_000, 5_000)}),
    Gate(
        "simulation",
        ("tests.simulation", "--seeds", "{}", "--hours", "0.5"),
        (2, 10_000, 200_000),
        at_length=("--strict",),
    ),
    Gate("fuzz", _pytest("tests/api/test_fuzz.py"), environ={"RELAY_FUZZ": (1_000, 1_000_000, 10_000_000)}),
    Gate("kill-points", _pytest("tests/faults/test_kill_points.py"), environ={"RELAY_ROUNDS": (1, 10, 50)}),
    Gate("io-errors", _pytest("tests/faults/power_cut/test_io_errors.py"), environ={"RELAY_EVERY": (0, 1, 1)}),
    Gate(
        "overload",
        _pytest("tests/faults/test_heavy_load.py"),
        environ={
            "RELAY_OVERLOAD_S": (2, 60, 600),
            "RELAY_OVERLOAD_SHARE": (0.3, 0.8, 0.8),
            "RELAY_EXPIRING": (1_500, 20_000, 100_000),
        },
    ),
    Gate("corpus", _pytest("tests/api")),
)


@click.command(context_settings={"show_default": True})
@click.argument("size", type=click.Choice(SIZES))
@click.option("--only", multiple=True, type=click.Choice([gate.name for gate in GATES]), help="May be repeated.")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, help="So many at the same time; each prints when it ends."
)
@click.option("--list", "show", is_flag=True, help="Show the commands, and run none.")
def main(size: str, only: tuple[str, ...], jobs: int, show: bool) -> None:
    """Runs the gates of SIZE: change, nightly or release."""
    commands = [gate.at(size) for gate in GATES if not only or gate.name in only]
    for command in commands:
        console.print(f"[bold]{command.name}[/]: {command}", soft_wrap=True)
    if show:
        return
    table = Table("gate", "seconds", "verdict")
    red = False
    for verdict in _run(commands, jobs):
        if verdict.printed:
            console.rule(verdict.command.name)
            console.print(verdict.printed, markup=False, soft_wrap=True)
        red = red or verdict.code != 0
        how = "green" if verdict.code == 0 else f"red ({verdict.code})"
        table.add_row(verdict.command.name, f"{verdict.seconds:.0f}", how)
    console.print(table)
    sys.exit(1 if red else 0)


def _run(commands: list[Command], jobs: int) -> Iterable[Verdict]:
    """The verdicts, as they come."""
    if jobs == 1:
        yield from (command.run(quietly=False) for command in commands)
        return
    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(command.run, quietly=True) for command in commands]):
            yield done.result()


if __name__ == "__main__":
    main()
