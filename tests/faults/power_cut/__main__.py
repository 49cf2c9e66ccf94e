"""`python -m tests.faults.power_cut --images 2000`: cuts the power of recorded runs as often as is wanted.

Every run is recorded anew, with a seed of its own. Ends with 1 if an image did not start, or lost, doubled or changed
anything; its files stay in --out for a look. A recording differs from time to time (real threads, real sockets), so a failure
is replayed from those files.
"""

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .run import run

IMAGES_MAX = 500  # of one recording
console = Console(stderr=True)


@click.command(context_settings={"show_default": True})
@click.option("--images", default=200, help="How many power cuts.")
@click.option("--sends", default=300, help="How many messages are sent while a disk is recorded.")
@click.option("--seed", default=1, help="Draws the first recording's load and cuts; the next one's is one more.")
@click.option("--processes", "--jobs", default=1, help="Recordings looked at at the same time.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Where bad images stay.  [default: a new folder]"
)
def main(images: int, sends: int, seed: int, processes: int, out: Path | None) -> None:
    """Records relays' disks under load, cuts the power, and starts a relay on what is left."""
    home = (out or Path(tempfile.mkdtemp(prefix="power-cut-"))).resolve()
    home.mkdir(exist_ok=True)
    counts = [min(IMAGES_MAX, images - at) for at in range(0, images, IMAGES_MAX)]
    columns = (TextColumn("power cuts"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    events = promises = bad = 0
    # Spawned: a process that had recorded already would hand the next one its recorder.
    with (
        ProcessPoolExecutor(processes, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool,
        Progress(*columns, console=console) as progress,
    ):
        bar = progress.add_task("", total=images)
        runs = {
            pool.submit(run, home / f"seed-{seed + n}", count, sends, seed + n): count for n, count in enumerate(counts)
        }
        for done in as_completed(runs):
            said = done.result()
            events, promises, bad = events + said.events, promises + said.promises, bad + len(said.bad)
            progress.advance(bar, runs[done])
            for one in said.bad:
                console.print(one, markup=False)
    console.print(f"{len(counts)} recordings: {events} events, {promises} promises")
    console.print(f"{images} power cuts, {bad} bad" + (f"; see {home}" if bad else ""))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
