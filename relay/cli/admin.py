"""`relay keys` and `relay providers`."""

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from providers import loading
from relay.api.auth import Authenticator
from relay.api.principal import SCOPES
from relay.app import DEFAULT_APP, open_engine
from relay.cli.runtime import config_option, run, settings_from
from relay.clock import SystemClock, rfc3339
from relay.config import Settings
from relay.ids import system_rng
from relay.keys import KeyRing
from relay.store import apps
from relay.store.engine import Engine
from relay.telemetry import Metrics


@click.group()
def keys() -> None:
    """API keys of the backend. Stop an embedded (SQLite) relay first: one process owns the file."""


def _engine(settings: Settings) -> Engine:
    return open_engine(settings, SystemClock(), system_rng(), Metrics())


@keys.command("create")
@config_option
@click.option("--name", default="by hand", show_default=True, help="What it is for.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="May be repeated. Default: all.")
def create(config: Path | None, name: str, scopes: tuple[str, ...]) -> None:
    """Make a key and print it once."""
    settings = settings_from(config)

    async def work() -> int:
        engine = _engine(settings)
        try:
            auth = Authenticator(
                engine,
                KeyRing.load(settings.keys.file),
                SystemClock(),
                system_rng(),
                rate_per_s=1,
                burst=1,
                anonymous_per_s=1,
                anonymous_burst=1,
            )
            click.echo(await auth.mint_api_key(DEFAULT_APP, name=name, scopes=scopes or SCOPES))
        finally:
            await engine.close()
        return 0

    sys.exit(run(work()))


@keys.command("list")
@config_option
def list_(config: Path | None) -> None:
    """List the keys, without their secrets."""
    settings = settings_from(config)

    async def work() -> int:
        engine = _engine(settings)
        try:
            found = await engine.read(lambda conn, _: apps.api_keys(conn, DEFAULT_APP))
        finally:
            await engine.close()
        table = Table("id", "name", "made", "revoked", "scopes")
        for one in found:
            revoked = "" if one.revoked_ms is None else rfc3339(one.revoked_ms)
            table.add_row(one.key_id, one.name, rfc3339(one.created_ms), revoked, one.scopes)
        Console().print(table)
        return 0

    sys.exit(run(work()))


@keys.command("revoke")
@config_option
@click.argument("key_id")
def revoke(config: Path | None, key_id: str) -> None:
    """Revoke the key with this id."""
    settings = settings_from(config)

    async def work() -> int:
        engine = _engine(settings)
        try:
            done = await engine.write(
                lambda conn, now_ms: apps.revoke_api_key(conn, now_ms, app_id=DEFAULT_APP, key_id=key_id)
            )
        finally:
            await engine.close()
        click.echo("Revoked." if done else "There is no such key, or it is revoked already.", err=not done)
        return 0 if done else 1

    sys.exit(run(work()))


@click.command()
def providers() -> None:
    """List the installed providers, ours and plug-ins, with where they come from and what they can do."""
    table = Table("name", "from", "payload", "silent", "collapse", "longest ttl", "")
    for one in loading.discover():
        if one.provider is None:
            table.add_row(one.name, one.origin, "", "", "", "", f"can't be loaded: {one.reason}")
            continue
        can = one.provider.capabilities
        days = can.ttl_s_max / 86_400
        table.add_row(
            one.name,
            one.origin,
            f"{can.payload_bytes_max} B",
            "yes" if can.silent else "no",
            "yes" if can.collapse else "no",
            f"{days:g} d",
            "",
        )
    Console().print(table)
