"""`relay keys`: API keys and their rotation, devices' tokens, and what the key ring seals."""

import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from relay.api.issuing import OVERLAP_MS_MAX, Issuer
from relay.api.principal import SCOPES
from relay.cli.runtime import config_option, run, settings_from
from relay.cli.tables import show
from relay.cli.vapid import vapid
from relay.clock import Clock, SystemClock, rfc3339
from relay.errors import ConfigError, Problem
from relay.ids import Rng, system_rng
from relay.keys import KeyRing
from relay.push.from_settings import DEFAULT_APP
from relay.store import apps, vault
from relay.store.engine import Engine
from relay.store.migrate import migrate
from relay.store.reseal import SEALED, Sealed, count, reseal_some
from relay.store.sqlite import SqliteEngine
from relay.wiring.store import clock_of, opened

STEP = 500  # rows in one transaction: short enough to run beside a relay
SETTLED_S = 5  # from then on, every node seals with a data key that has become ripe
EX_NOT_DONE = 1

_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([0-9]{1,6})([smhd])")


class Duration(click.ParamType[int]):
    """A time as `90d`, `24h`, `30m` or `10s`, in milliseconds."""

    name = "time"

    def __init__(self, *, most_ms: int | None = None) -> None:
        self.most_ms = most_ms

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _DURATION.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is not a time: write it as 90d, 24h, 30m or 10s.", param, ctx)
        ms = int(found[1]) * _UNITS_MS[found[2]]
        if self.most_ms is not None and ms > self.most_ms:
            self.fail(f"{value} is too long: at most {self.most_ms // _UNITS_MS['d']}d.", param, ctx)
        return ms


class Network(click.ParamType[str]):
    """An address or a network in CIDR form."""

    name = "network"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(ip_network(value))
        except ValueError:
            self.fail(f"{value!r} is no address and no network: write 203.0.113.7 or 203.0.113.0/24.", param, ctx)


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """The opened store and the key ring, for one command."""

    engine: Engine
    ring: KeyRing
    clock: Clock
    rng: Rng

    @property
    def issuer(self) -> Issuer:
        return Issuer(self.engine, self.ring, self.rng)


def _with_store(config: Path | None, work: Callable[[Store], Awaitable[int]]) -> None:
    """Runs `work` on the store and ends the program with what it gives; a refusal is printed, and ends it with 1."""
    settings = settings_from(config)
    database, ring_file = settings.sqlite_path(), settings.keys.file
    if database is not None and not (database.exists() or ring_file.exists() or "RELAY_KEYS" in os.environ):
        raise ConfigError(
            [f"{database}: there is no store here yet; `relay serve` makes it, and prints its first API key."]
        )

    async def main() -> int:
        clock, rng = clock_of(settings, SystemClock()), system_rng()
        ring = KeyRing.find(settings.keys.file, os.environ, rng)
        try:
            async with opened(settings, clock, rng) as engine:
                await engine.write(migrate)
                return await work(Store(engine=engine, ring=ring, clock=clock, rng=rng))
        except Problem as problem:
            click.echo(problem.detail, err=True)
            return EX_NOT_DONE

    sys.exit(run(main()))


@click.group()
def keys() -> None:
    """API keys, device tokens, the key ring, Web Push keys.

    Stop an embedded (SQLite) relay first: one process owns the file. On PostgreSQL all of this goes beside running
    relays; they follow within five seconds.
    """


keys.add_command(vapid)


# --- API keys ---------------------------------------------------------------------------------------------------------


@keys.command("create")
@config_option
@click.option(
    "--name", default="by hand", show_default=True, help="Its purpose. Two keys of one name may work at once."
)
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="May be repeated. Default: all.")
@click.option("--expires-in", "lives_ms", type=Duration(), help="As 90d or 24h. Default: never.")
@click.option("--from", "networks", multiple=True, type=Network(), help="Where it works from; may be repeated.")
def create(
    config: Path | None, name: str, scopes: tuple[str, ...], lives_ms: int | None, networks: tuple[str, ...]
) -> None:
    """Make a key and print it once."""

    async def work(store: Store) -> int:
        text = await store.issuer.api_key(
            DEFAULT_APP, name=name, scopes=scopes or SCOPES, lives_ms=lives_ms, networks=networks
        )
        click.echo(text)
        return 0

    _with_store(config, work)


@keys.command("list")
@config_option
def list_(config: Path | None) -> None:
    """List the keys, without their secrets."""

    async def work(store: Store) -> int:
        found = await store.engine.read(lambda conn, _: apps.api_keys(conn, DEFAULT_APP))
        table = Table("id", "name", "state", "made", "ends", "last used", "from", "scopes")
        for one in found:
            table.add_row(
                one.key_id,
                one.name,
                _state(one, store.clock.now_ms()),
                rfc3339(one.created_ms),
                _at(one.expires_ms),
                _at(one.used_ms),
                _listed(one.networks),
                "all" if set(json.loads(one.scopes)) == set(SCOPES) else _listed(one.scopes),
            )
        show(table)
        return 0

    _with_store(config, work)


def _listed(words: str | None) -> str:
    """A list that is kept as JSON."""
    return ", ".join(json.loads(words or "[]"))


def _state(key: Any, now_ms: int) -> str:
    if key.revoked_ms is not None:
        return "revoked"
    if key.expires_ms is not None and key.expires_ms <= now_ms:
        return "ended"
    return "works" if key.leaked_ms is None else "leaked: rotate it"


def _at(ms: int | None) -> str:
    return "" if ms is None else rfc3339(ms)


@keys.command("rotate")
@config_option
@click.argument("key_id")
@click.option(
    "--overlap",
    "overlap_ms",
    type=Duration(most_ms=OVERLAP_MS_MAX),
    default="24h",
    show_default=True,
    help="How long the old key goes on working; at most 7d.",
)
def rotate(config: Path | None, key_id: str, overlap_ms: int) -> None:
    """Make the successor of the key with this id. It is printed once; both work until the overlap ends."""

    async def work(store: Store) -> int:
        text, ends_ms = await store.issuer.rotated_api_key(DEFAULT_APP, key_id, overlap_ms=overlap_ms)
        click.echo(text)
        click.echo(f"The old key {key_id} works until {rfc3339(ends_ms)}.", err=True)
        return 0

    _with_store(config, work)


@keys.command("revoke")
@config_option
@click.argument("key_id")
def revoke(config: Path | None, key_id: str) -> None:
    """Revoke the key with this id."""

    async def work(store: Store) -> int:
        done = await store.engine.write(
            lambda conn, now_ms: apps.revoke_api_key(conn, now_ms, app_id=DEFAULT_APP, key_id=key_id)
        )
        click.echo(
            "Revoked." if done else "There is no such key, or it is revoked already: see `relay keys list`.",
            err=not done,
        )
        return 0 if done else EX_NOT_DONE

    _with_store(config, work)


# --- tokens of devices ------------------------------------------------------------------------------------------------


@keys.command("revoke-tokens")
@config_option
@click.option("--user", "user_id", help="Only of this user's devices.")
@click.option("--device", "device_id", help="Only of this device of the user.")
def revoke_tokens(config: Path | None, user_id: str | None, device_id: str | None) -> None:
    """Revoke the tokens of all devices, a user's, or one. The backend mints them anew."""
    if device_id is not None and user_id is None:
        raise click.UsageError("--device needs --user: device ids are the user's own.")

    async def work(store: Store) -> int:
        number = await store.issuer.revoke_tokens(DEFAULT_APP, user_id=user_id, device_id=device_id)
        click.echo(f"Revoked: {number}.")
        return 0

    _with_store(config, work)


# --- the key ring -----------------------------------------------------------------------------------------------------


@keys.command("rewrap")
@config_option
@click.option(
    "--new-data-keys", is_flag=True, help="Give every app a new data key first: when an old one may be known."
)
def rewrap(config: Path | None, new_data_keys: bool) -> None:
    """Seal everything again, under the ring's new first key.

    Data keys are wrapped under the ring's first key; secrets that an older data key sealed are sealed under the newest.
    It may be broken off at any time: run again (without --new-data-keys), it goes on with what is left.
    """

    async def work(store: Store) -> int:
        with _progress() as progress:
            await _rewrap_keys(store, progress)
            if new_data_keys:
                made = await store.engine.write(lambda conn, now: vault.add_keys(conn, now, store.ring, store.rng))
                progress.console.print(f"New data keys: {made}")
            broken = await _reseal(store, progress, wait=new_data_keys)
        if broken:
            click.echo(f"{broken} secrets cannot be opened, and were left as they are.", err=True)
        return EX_NOT_DONE if broken else 0

    _with_store(config, work)


@contextmanager
def _progress() -> Iterator[Progress]:
    with Progress(console=Console(stderr=True)) as progress:
        yield progress


async def _rewrap_keys(store: Store, progress: Progress) -> None:
    task = progress.add_task("data keys", total=await store.engine.read(lambda conn, _: vault.keys_count(conn)))
    at: tuple[str, int] | None = ("", 0)
    done = 0
    while at is not None:
        after = at
        at, seen, wrapped = await store.engine.write(
            lambda conn, _, after=after: vault.rewrap_some(conn, store.ring, after, limit=STEP)  # type: ignore[misc]
        )
        progress.advance(task, seen)
        done += wrapped
    progress.console.print(f"Data keys wrapped under ring key {store.ring.key_ids[0]}: {done}")


async def _reseal(store: Store, progress: Progress, *, wait: bool) -> int:
    """Gives how many secrets could not be opened."""
    alone = isinstance(store.engine, SqliteEngine)  # one process owns the file: nobody has to learn of a key first
    if wait and not alone:
        await store.clock.sleep(vault.RIPE_MS / 1000 + SETTLED_S)
    opened = vault.Vault(store.ring, store.rng, ripe_ms=0 if alone else vault.RIPE_MS)
    opened.learn(await store.engine.read(opened.news), store.clock.now_ms())
    broken = done = 0
    for one in SEALED:
        sealed, unopened = await _reseal_column(store, progress, opened, one)
        done += sealed
        broken += unopened
    progress.console.print(f"Secrets sealed again: {done}")
    return broken


async def _reseal_column(store: Store, progress: Progress, opened: vault.Vault, one: Sealed) -> tuple[int, int]:
    total = await store.engine.read(lambda conn, _: count(conn, one))
    task = progress.add_task(f"{one.table.name}.{one.column.name}", total=total, visible=total > 0)
    done = broken = 0
    at = None
    while True:
        step = await store.engine.write(
            lambda conn, _, after=at: reseal_some(conn, opened, one, after, limit=STEP)  # type: ignore[misc]
        )
        progress.advance(task, step.seen)
        done += step.sealed
        broken += step.broken
        if step.at is None:
            return done, broken
        at = step.at
