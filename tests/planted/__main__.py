"""`python -m tests.planted`: plants each bug in a copy of the project, and sees whether a test notices."""

import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from queue import Queue

import click
from rich.console import Console
from rich.progress import Progress

from tests.planted.bug import Bug, Unplantable
from tests.planted.catalogue import BUGS
from tests.planted.warm import run_pytest

PROJECT = Path(__file__).resolve().parents[2]
COPIED = ("relay", "providers", "tests", "config", "pyproject.toml", "README.md", "LICENSE")
WITHIN_S = 600
TESTS_FAILED = 1  # of pytest; anything else but 0, or an error before any test failed, is a bug that was planted badly


class Found(StrEnum):
    KILLED = "killed"
    SURVIVED = "survived"
    UNCLEAR = "unclear"


def copied(into: Path) -> Path:
    """The project as it stands, with what is compiled of it: nothing is compiled anew for each bug."""
    project = into / "project"
    project.mkdir()
    for name in COPIED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, project / name, ignore=shutil.ignore_patterns(".hypothesis"))
        else:
            shutil.copy2(source, project / name)
    return project


class Copies:
    """As many copies as bugs are planted at a time, each used again and again."""

    def __init__(self, folder: Path, count: int) -> None:
        self._free: Queue[Path] = Queue()
        for n in range(count):
            place = folder / str(n)
            place.mkdir()
            self._free.put(copied(place))

    def tried(self, bug: Bug | None, tests: tuple[str, ...]) -> tuple[Found, str, float]:
        """What the tests say of the project with this bug (without one: with none), and for how many seconds they ran."""
        project, began = self._free.get(), time.perf_counter()
        try:
            with bug.planted(project) if bug is not None else nullcontext():
                found, said = _tried(project, tests)
        except Unplantable as why:
            found, said = Found.UNCLEAR, str(why)
        finally:
            self._free.put(project)
        return found, said, time.perf_counter() - began


def _tried(project: Path, tests: tuple[str, ...]) -> tuple[Found, str]:
    said = ""
    for test in tests:  # one after the other: the first that fails is enough
        code, text = run_pytest(project, test, within_s=WITHIN_S)
        lines = text.strip().splitlines()
        said = f"{test}: {lines[-1] if lines else code}"
        failed = [line for line in lines if line.startswith("FAILED")]
        if code == TESTS_FAILED and failed:
            return Found.KILLED, failed[0][:160]
        if code != 0:
            return Found.UNCLEAR, said
    return Found.SURVIVED, said


@click.command()
@click.option("--only", "-o", multiple=True, help="Only bugs whose name begins so; repeatable.")
@click.option("--jobs", "-j", default=1, show_default=True, type=click.IntRange(1, 32), help="At a time.")
@click.option("--healthy/--no-healthy", default=True, help="See first that the tests pass without a bug.")
def main(only: tuple[str, ...], jobs: int, healthy: bool) -> None:
    """Plants bugs one by one and runs the tests that must notice. Ends with 1 if one survives."""
    console = Console()
    bugs = [bug for bug in BUGS if not only or bug.name.startswith(only)]
    with tempfile.TemporaryDirectory(prefix="relay-planted-") as folder:
        survived = _all(console, bugs, Copies(Path(folder), jobs), jobs=jobs, healthy=healthy)
    sys.exit(1 if survived else 0)


def _all(console: Console, bugs: list[Bug], copies: Copies, *, jobs: int, healthy: bool) -> bool:
    if healthy:
        tests = tuple(sorted({test for bug in bugs for test in bug.tests}))
        with console.status("the tests without a bug"):
            found, said, _ = copies.tried(None, tests)
        if found is not Found.SURVIVED:
            raise click.ClickException(f"The tests fail without any bug: {said}")
    results: dict[Found, list[str]] = {found: [] for found in Found}
    with Progress(console=console) as progress, ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task("planting", total=len(bugs))
        for bug, (found, said, took_s) in zip(
            bugs, pool.map(lambda bug: copies.tried(bug, bug.tests), bugs), strict=True
        ):
            colour = {Found.KILLED: "green", Found.SURVIVED: "red", Found.UNCLEAR: "yellow"}[found]
            console.print(
                f"[{colour}]{found:9}[/] {took_s:5.1f} s  {bug.name}  [dim]{said}[/]", highlight=False, soft_wrap=True
            )
            results[found].append(bug.name)
            progress.advance(task)
    console.print(", ".join(f"{len(names)} {found}" for found, names in results.items()))
    return bool(results[Found.SURVIVED] or results[Found.UNCLEAR])


if __name__ == "__main__":
    main()
