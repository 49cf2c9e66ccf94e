"""`python -m tests.faults.power_cut --images 2000`: cuts the power of one recorded run as often as is wanted.

Ends with 1 if an image did not start, or lost, doubled or changed anything; its files stay in --out for a look. The
recording differs from run to run (real threads, real sockets), so a failure is replayed from those files.
"""

import asyncio
import logging
import sys
import tempfile
from pathlib import Path

import click
import structlog
from rich.console import Console
from rich.progress import track

from .load import record
from .run import opened_images

console = Console(stderr=True)


@click.command(context_settings={"show_default": True})
@click.option("--images", default=200, help="How many power cuts.")
@click.option("--sends", default=300, help="How many messages are sent while the disk is recorded.")
@click.option("--seed", default=1, help="Draws the load and the cuts.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Where bad images stay.  [default: a new folder]"
)
def main(images: int, sends: int, seed: int, out: Path | None) -> None:
    """Records a relay's disk under load, cuts the power, and starts a relay on what is left."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    home = out or Path(tempfile.mkdtemp(prefix="power-cut-"))
    home.mkdir(exist_ok=True)
    sys.exit(1 if asyncio.run(_run(home.resolve(), images, sends, seed)) else 0)


async def _run(home: Path, images: int, sends: int, seed: int) -> int:
    """Gives how many images are bad."""
    recording = await record(home / "recorded", sends=sends, seed=seed)
    console.print(f"{len(recording.events)} events, {len(recording.ledger.promises)} promises")
    bad = 0
    found = opened_images(recording, home, count=images, seed=seed)
    for _ in track(range(images), "power cuts", console=console):
        one = await anext(found)
        if one.complaints:
            bad += 1
            console.print(str(one), markup=False)
    console.print(f"{images} power cuts, {bad} bad" + (f"; see {home}" if bad else ""))
    return bad


main()
