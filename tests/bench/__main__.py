"""`python -m tests.bench`: measures, and prints a table."""

import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console

from tests.bench import apple, core, pushes, sync, ultra, web
from tests.bench.report import Figure, table

Measure = Callable[[Path, float], Coroutine[Any, Any, list[Figure]]]


def scaled(count: int, scale: float, *, least: int) -> int:
    return max(least, int(count * scale))


async def _heartbeats(_: Path, scale: float) -> list[Figure]:
    return core.heartbeats(devices=scaled(50_000, scale, least=100), beats=scaled(2_000_000, scale, least=1000))


MEASURES: dict[str, Measure] = {
    "start": lambda home, _: web.start(home),
    "single": lambda home, scale: web.single(home, count=scaled(12_800, scale, least=256)),
    "batch": lambda home, scale: web.batch(home, count=scaled(60_000, scale, least=1000)),
    "ingest": lambda home, scale: core.ingest(home, count=scaled(51_200, scale, least=1024)),
    "drain": lambda home, scale: core.drain(home, count=scaled(10_000, scale, least=400)),
    "reconnect": lambda home, scale: core.reconnect(home, devices=scaled(1000, scale, least=20), each=50),
    "heartbeats": _heartbeats,
    "ultra": lambda home, scale: ultra.posts(
        home, members=scaled(100_000, scale, least=200), count=scaled(2000, scale, least=40)
    ),
    "push": lambda home, scale: pushes.push(home, "fcm", devices=scaled(8000, scale, least=40)),
    "push-apns": lambda home, scale: pushes.push(home, "apns", devices=scaled(8000, scale, least=40)),
    "push-bare": lambda home, scale: pushes.push(home, pushes.BARE, devices=scaled(8000, scale, least=40)),
    "push-huawei": lambda home, scale: pushes.push(home, "huawei", devices=scaled(8000, scale, least=40)),
    "push-huawei-groups": lambda home, scale: pushes.push(
        home, "huawei", devices=scaled(8000, scale, least=200), in_groups=True
    ),
    "push-beside": lambda home, scale: pushes.beside_a_dead_vendor(
        home, devices=scaled(100, scale, least=20), rounds=scaled(20, scale, least=2)
    ),
    "apns": lambda home, scale: apple.pushes(home, count=scaled(10_000, scale, least=200)),
    "live": lambda home, scale: sync.live(
        home, devices=scaled(1000, scale, least=10), rate=scaled(1000, scale, least=20), seconds=min(30, 3 + 27 * scale)
    ),
    "herd": lambda home, scale: sync.herd(home, devices=scaled(10_000, scale, least=20), each=50),
    "polls": lambda home, scale: sync.polls(
        home, devices=scaled(500, scale, least=10), count=scaled(70_000, scale, least=500)
    ),
    "sockets": lambda home, scale: web.sockets(home, count=scaled(10_000, scale, least=50)),
}


@click.command()
@click.option("--only", "-o", multiple=True, type=click.Choice(list(MEASURES)), help="Measure only this; repeatable.")
@click.option(
    "--scale", default=1.0, show_default=True, type=click.FloatRange(0.001, 100), help="Times the usual size."
)
def main(only: tuple[str, ...], scale: float) -> None:
    """Measures the relay beside the raw limits of this machine, and prints a table. Takes about a minute.

    Compare ratios, not numbers of different runs: machines are noisy. A missed aim is printed, not an error.

    A Python that was built without profile-guided optimisation, as pyenv does unless told to, makes about a tenth less.
    """
    console = Console()
    figures: list[Figure] = []
    for name in only or MEASURES:
        with console.status(f"measuring: {name}"), tempfile.TemporaryDirectory(prefix="relay-bench-") as home:
            figures += uvloop.run(MEASURES[name](Path(home), scale))
    console.print(table(figures))


if __name__ == "__main__":
    main()
