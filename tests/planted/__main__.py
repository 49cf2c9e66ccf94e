"""`python -m tests.planted`: plants each bug in a copy of the project, and sees whether a test notices."""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from tests.planted.bug import Bug, Unplantable
from tests.planted.catalogue import BUGS

PROJECT = Path(__file__).resolve().parents[2]
COPIED = ("relay", "providers", "tests", "config", "pyproject.toml", "README.md", "LICENSE")
WITHIN_S = 600
TESTS_FAILED = 1  # of pytest; anything else but 0, or an error before any test failed, is a bug that was planted badly


class Found(StrEnum):
    KILLED = "killed"
    SURVIVED = "survived"
    UNCLEAR = "unclear"


def copied(into: Path) -> Path:
    """The project as it stands, without what it has built."""
    project = into / "project"
    for name in COPIED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, project / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        else:
            project.mkdir(exist_ok=True)
            shutil.copy2(source, project / name)
    return project


def tried(bug: Bug | None, tests: tuple[str, ...]) -> tuple[Found, str]:
    """What the tests say of the project with this bug (without one: with none)."""
    with tempfile.TemporaryDirectory(prefix="relay-planted-") as folder:
        project = copied(Path(folder))
        if bug is not None:
            try:
                bug.plant(project)
            except Unplantable as why:
                return Found.UNCLEAR, str(why)
        said = ""
        for test in tests:  # one after the other: the first that fails is enough
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-q",
                    "-x",
                    "-n",
                    "0",
                    "-p",
                    "no:cacheprovider",
                    "-k",
                    "not postgres",
                    test,
                ],
                cwd=project,
                env=os.environ | {"PYTHONPATH": str(project), "HYPOTHESIS_STORAGE_DIRECTORY": folder},
                capture_output=True,
                text=True,
                timeout=WITHIN_S,
                check=False,
            )
            last = done.stdout.strip().splitlines()[-1:] or [done.stderr[-200:]]
            said = f"{test}: {last[0]}"
            failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
            if done.returncode == TESTS_FAILED and failed:
                return Found.KILLED, failed[0][:160]
            if done.returncode != 0:
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
    if healthy:
        tests = tuple(sorted({test for bug in bugs for test in bug.tests}))
        with console.status("the tests without a bug"):
            found, said = tried(None, tests)
        if found is not Found.SURVIVED:
            raise click.ClickException(f"The tests fail without any bug: {said}")
    results: dict[Found, list[str]] = {found: [] for found in Found}
    with Progress(console=console) as progress, ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task("planting", total=len(bugs))
        for bug, (found, said) in zip(bugs, pool.map(lambda bug: tried(bug, bug.tests), bugs), strict=True):
            colour = {Found.KILLED: "green", Found.SURVIVED: "red", Found.UNCLEAR: "yellow"}[found]
            console.print(f"[{colour}]{found:9}[/] {bug.name}  [dim]{said}[/]", highlight=False, soft_wrap=True)
            results[found].append(bug.name)
            progress.advance(task)
    console.print(", ".join(f"{len(names)} {found}" for found, names in results.items()))
    sys.exit(1 if results[Found.SURVIVED] or results[Found.UNCLEAR] else 0)


if __name__ == "__main__":
    main()
