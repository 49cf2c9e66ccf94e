"""`relay providers`."""

import sys
from pathlib import Path

import aiohttp
import click
from rich.table import Table

from providers import loading
from providers.contract import Capabilities
from relay.cli.push import EX_REFUSED, Refused, asking
from relay.cli.runtime import config_option, run, settings_from, url_option
from relay.cli.tables import show
from relay.push.from_settings import configured

ABLE = (
    "silent",
    "collapse",
    "idempotent",
    "badge",
    "image",
    "sound",
    "channel",
    "thread",
    "mutable",
    "localised",
    "sealed",
)
HOUR_S, DAY_S = 3_600, 86_400


@click.command()
@config_option
@url_option
@click.option(
    "--key",
    envvar="RELAY_API_KEY",
    show_envvar=True,
    help="An API key with admin:read: the running relay is asked how its accounts are.",
)
def providers(config: Path | None, url: str, key: str | None) -> None:
    """List the installed providers, and the accounts. With where each comes from (us, or a plug-in), and what it can do."""
    table = Table("provider", "from", "kinds", "payload", "longest ttl", "a call", "is able to", "taken back by")
    broken = []
    for one in loading.discover():
        if one.provider is None:
            broken.append(one)
        else:
            table.add_row(one.name, one.origin, *_abilities(one.provider.capabilities))
    show(table)
    for one in broken:
        click.echo(f"{one.name} ({one.origin}) can't be loaded: {one.reason}")
    if key:
        sys.exit(run(_with_states(config, url, key)))
    _accounts(config, {})


def _abilities(can: Capabilities) -> list[str]:
    return [
        ", ".join(sorted(can.kinds)),
        f"{can.payload_bytes_max} B",
        f"{can.ttl_s_max / DAY_S:g} d" if can.ttl_s_max >= DAY_S else f"{can.ttl_s_max / HOUR_S:g} h",
        f"{can.batch_max} tokens" if can.batch_max > 1 else "1 token",
        ", ".join(name for name in ABLE if getattr(can, name)),
        "vendor" if can.recall else "app" if can.withdraw else "no",
    ]


async def _with_states(config: Path | None, url: str, key: str) -> int:
    try:
        async with asking(url, key) as ask:
            listed = (await ask("GET", "/v1/push/accounts"))["accounts"]
    except Refused as refused:
        click.echo(str(refused), err=True)
        return EX_REFUSED
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        click.echo(f"The relay at {url} does not answer ({type(error).__name__}): how the accounts are is not known.")
        listed = []
    states = {one["name"]: one["state"] + (f" ({one['code']})" if one["code"] else "") for one in listed}
    _accounts(config, states)
    return 0


def _accounts(config: Path | None, states: dict[str, str]) -> None:
    """The configured accounts, whose settings were checked. Raises ConfigError with every mistake."""
    accounts = configured(settings_from(config))
    if not accounts:
        return
    table = Table("account", "provider", "state")
    for one in accounts:
        table.add_row(one.name, one.provider.name, states.get(one.name, "configured"))
    show(table)
