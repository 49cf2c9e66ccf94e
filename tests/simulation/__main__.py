"""`python -m tests.simulation --seeds 100 --hours 1`: runs seeds, and makes the first failure small enough to read."""

import sys
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

import click
from msgspec.structs import replace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .faults import KINDS
from .goals import missed
from .report import story_of
from .run import Result, simulate
from .scenario import Scenario, calm, drawn, read
from .shrink import shrink

console = Console(stderr=True)


@click.command(context_settings={"show_default": True})
@click.option("--seeds", default=20, help="How many seeds to run.")
@click.option("--first", default=0, help="The first seed.")
@click.option("--seed", type=int, help="Run this seed alone, and tell its story.")
@click.option("--hours", default=0.5, help="Virtual hours of faults in each run, before everything heals.")
@click.option(
    "--rate", "rates", type=(click.Choice(KINDS), float), multiple=True, help="How often a kind of fault strikes."
)
@click.option("--calm", "quiet", is_flag=True, help="Small worlds in which little is sent, for many hours.")
@click.option("--replay", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Run a scenario file.")
@click.option("--processes", "--jobs", default=1, help="Runs at the same time.")
@click.option("--shrink-s", default=300.0, help="How long a failure is made smaller at most, in real seconds.")
@click.option("--out", default=Path(), type=click.Path(file_okay=False, path_type=Path), help="Where failures go.")
@click.option("--hash-only", is_flag=True, help="Print the hash of each run and nothing else.")
@click.option("--strict", is_flag=True, help="Fail if a kind of fault was hardly seen: for long series.")
def main(
    seeds: int,
    first: int,
    seed: int | None,
    hours: float,
    rates: tuple[tuple[str, float], ...],
    quiet: bool,
    replay: Path | None,
    processes: int,
    shrink_s: float,
    out: Path,
    hash_only: bool,
    strict: bool,
) -> None:
    """Runs the whole relay in virtual time, with faults, and checks what must always hold."""
    make = calm if quiet else drawn
    if replay is not None:
        scenarios = [read(replay)]
    elif seed is not None:
        scenarios = [make(seed, minutes=hours * 60)]
    else:
        scenarios = [make(n, minutes=hours * 60) for n in range(first, first + seeds)]
    if rates:
        scenarios = [replace(one, rates={**one.rates, **dict(rates)}) for one in scenarios]
    if hash_only:
        for scenario in scenarios:
            click.echo(f"{scenario.seed} {simulate(scenario, keep=False).hash}")
        return
    failed, rare = _all(scenarios, processes)
    if failed is None:
        sys.exit(1 if strict and rare else 0)
    result = simulate(failed) if len(scenarios) == 1 else shrink(failed, limit_s=shrink_s, say=console.print)
    console.print(story_of(result, out), markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


def _all(scenarios: list[Scenario], processes: int) -> tuple[Scenario | None, list[str]]:
    """Runs them; gives the first that failed, and the kinds of faults that were hardly seen in all of them."""
    fired: Counter[str] = Counter()
    virtual_s = cpu_s = 0.0
    failed: Scenario | None = None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ProcessPoolExecutor(processes) as pool, Progress(*columns, console=console) as progress:
        bar = progress.add_task("seeds", total=len(scenarios))
        running: dict[Future[Brief], Scenario] = {pool.submit(brief, one): one for one in scenarios}
        for done in as_completed(running):
            scenario, found = running[done], done.result()
            fired.update(found.fired)
            virtual_s, cpu_s = virtual_s + found.virtual_s, cpu_s + found.cpu_s
            speed = virtual_s / cpu_s
            progress.update(
                bar, advance=1, description=f"{virtual_s / 3600:.1f} virtual hours, {speed:.0f} x real time"
            )
            if found.error is not None:
                failed = scenario
                console.print(f"seed {scenario.seed}: {found.error}", markup=False, highlight=False)
                pool.shutdown(cancel_futures=True)
                break
    rare = missed(fired)
    if failed is None:
        console.print(f"{len(scenarios)} runs hold; faults: {dict(fired.most_common())}")
        if rare:
            console.print(f"never or hardly seen: {', '.join(rare)}")
    return failed, rare


class Brief:
    """What a run's process tells the one that started it."""

    def __init__(self, result: Result) -> None:
        self.error = None if result.error is None else f"{type(result.error).__name__}: {result.error}"
        self.fired = result.fired
        self.virtual_s = result.virtual_s
        self.cpu_s = result.cpu_s


def brief(scenario: Scenario) -> Brief:
    return Brief(simulate(scenario, keep=False))


if __name__ == "__main__":
    main()
