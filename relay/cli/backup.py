"""`relay backup` and `relay restore`."""

import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from relay.cli.exits import EX_CANTCREAT, EX_DATAERR, EX_IOERR, EX_NOINPUT, EX_TEMPFAIL
from relay.cli.runtime import config_option, run, settings_from
from relay.clock import SystemClock, rfc3339
from relay.config import Settings
from relay.ids import Rng, system_rng
from relay.keys import KeyRing
from relay.store import manifest
from relay.store.backup import Progress as Told
from relay.store.backup import back_up, note
from relay.store.engine import Engine
from relay.store.manifest import Manifest, Refused
from relay.store.meta import WitnessFile
from relay.store.restore import restore_file, restored_server
from relay.wiring.store import clock_of, opened

MIB = 1024 * 1024
EXITS = {"absent": EX_NOINPUT, "exists": EX_CANTCREAT, "busy": EX_TEMPFAIL, "bad": EX_DATAERR, "disk": EX_IOERR}

_folder = click.Path(path_type=Path)
T = TypeVar("T")


@click.command()
@config_option
@click.argument("target", type=_folder)
@click.option(
    "--rate",
    "rate_mib",
    type=click.FloatRange(min=0.1, max=100_000),
    default=32,
    show_default=True,
    help="MiB to copy in a second at most; sends go on beside it.",
)
@click.option(
    "--manifest-only",
    is_flag=True,
    help="Only write down what the store is now: on PostgreSQL, where the server's own tools make the backup.",
)
def backup(config: Path | None, target: Path, rate_mib: float, manifest_only: bool) -> None:
    """Back the store up, while the relay goes on.

    TARGET is a new folder; it gets the data file and manifest.json. The key file is not in it: keep a copy of it elsewhere,
    for without it the secrets in a backup can't be opened. Ends with 73 if TARGET exists, with 74 if a disk fails or is full.
    """
    settings = settings_from(config)
    database = settings.sqlite_path()
    if database is None and not manifest_only:
        raise click.UsageError(
            "The store is on PostgreSQL: its own tools make the backup (config/docs/backup.md), and "
            "`relay backup --manifest-only` the manifest that belongs to it."
        )
    if database is not None and manifest_only:
        raise click.UsageError("--manifest-only is for PostgreSQL: here, a manifest belongs to the file that it is of.")
    with _refusals():
        if database is None:
            made = _taken(settings)
            note(made, target)
        else:
            with _shown() as told:
                made = back_up(
                    database,
                    target,
                    SystemClock(),
                    rate_bytes_s=rate_mib * MIB,
                    keep_free_bytes=settings.store.free_min_mib * MIB,
                    pause=time.sleep,
                    progress=told,
                )
    rows = sum(made.tables.values())
    click.echo(f"{target}: the store as of {made.at}, schema {made.schema}, epoch {made.epoch}, {rows} rows.")
    click.echo(f"To restore it, the key file must have: {', '.join(map(str, made.key_ids))}.")


@click.command()
@config_option
@click.argument("source", type=_folder)
@click.option("--force", is_flag=True, help="Though there is a store already: it is moved aside, to NAME.replaced.")
def restore(config: Path | None, source: Path, force: bool) -> None:
    """Make the backup in the folder SOURCE the store. The relay must be stopped.

    The store gets a new epoch, so that devices fetch everything again; they keep their messages, each once. The event
    store.restored tells the backend since when to repeat what it sent. On PostgreSQL: after the server's own tools brought
    the database back, and before the first relay starts on it. Ends with 73 if there is a store already, with 75 if a relay is
    running on it, with 65 if the backup is not whole; nothing has changed then.
    """
    settings = settings_from(config)
    rng = system_rng()
    ring = KeyRing.find(settings.keys.file, os.environ, rng)
    database = settings.sqlite_path()
    with _refusals():
        if database is None:
            at_ms = _restored_server(settings, manifest.load(source), ring, rng)
            place = "The store"
        else:
            with _shown() as told:
                found = restore_file(source, database, ring, rng, SystemClock().now_ms(), force=force, progress=told)
            at_ms, place = found.at_ms, str(database)
    click.echo(
        f"{place} is that of {rfc3339(at_ms)} again, under a new epoch. What the backend sent since then, it may repeat."
    )


@contextmanager
def _refusals() -> Iterator[None]:
    """Prints why nothing was done, and ends with the exit code for it."""
    try:
        yield
    except Refused as refused:
        click.echo(str(refused), err=True)
        sys.exit(EXITS[refused.why])


@contextmanager
def _shown() -> Iterator[Told]:
    """How far it is, as a bar; on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def told(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        yield told


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def _on_store(settings: Settings, rng: Rng, work: Callable[[Engine], Awaitable[T]]) -> T:
    """Runs `work` on the configured store, and gives what it gives."""
    outcome: list[T] = []

    async def main() -> int:
        async with opened(settings, clock_of(settings, SystemClock()), rng) as engine:
            outcome.append(await work(engine))
        return 0

    run(main())
    return outcome[0]


def _taken(settings: Settings) -> Manifest:
    async def work(engine: Engine) -> Manifest:
        names = await engine.read(lambda conn, _: manifest.table_names(conn))
        found = await engine.read(lambda conn, now_ms: manifest.take(conn, now_ms, counts={}))
        for name in names:  # each in its own transaction: a large one takes its time
            found.tables.update(await engine.read(lambda conn, _, name=name: manifest.count(conn, [name])))  # type: ignore[misc]
        return found

    return _on_store(settings, system_rng(), work)


def _restored_server(settings: Settings, found: Manifest, ring: KeyRing, rng: Rng) -> int:
    """Gives the instant that the store came back to."""

    async def work(engine: Engine) -> int:
        at_ms, witness = await engine.write(
            lambda conn, now_ms: restored_server(conn, now_ms, rng, found=found, ring=ring)
        )
        WitnessFile.beside(settings.keys.file).write(witness)
        return at_ms

    return _on_store(settings, rng, work)
