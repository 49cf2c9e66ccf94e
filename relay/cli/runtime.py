"""What several commands need: settings, a running relay's address and a key for it, and a loop."""

import asyncio
import gc
import os
import re
import resource
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

from relay.config import Look, Settings, load

config_option = click.option(
    "--config",
    "-c",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration file. Default: ./relay.toml, then the user's and the system's; none is needed.",
)


class RelayUrl(click.ParamType[str]):
    """The address of a relay; given without a slash at its end."""

    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if re.match(r"https?://[^/]", value) is None:
            self.fail("must be the URL of a relay, like http://127.0.0.1:8080.", param, ctx)
        return value.rstrip("/")


url_option = click.option(
    "--url",
    type=RelayUrl(),
    envvar="RELAY_URL",
    show_envvar=True,
    default="http://127.0.0.1:8080",
    show_default=True,
    help="The relay's address.",
)
key_option = click.option("--key", envvar="RELAY_API_KEY", show_envvar=True, required=True, help="An API key.")
KEY_REFUSED = (
    "The relay refuses the API key that --key or RELAY_API_KEY gave: it does not know it, or it works no more."
)


def settings_from(path: Path | None, *, also: Look = lambda _: ()) -> Settings:
    """Raises ConfigError with every mistake, and with those that `also` finds."""
    return load(path, os.environ, also=also)


def run(main: Coroutine[Any, Any, int]) -> int:
    """Runs `main` on uvloop if it is installed (extra `fast`), else on asyncio's own loop. A crash leaves no core file: it would
    hold every secret (safety SEC-12)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def spare_the_collector() -> None:
    """What was loaded stays for good; and most of what a request makes goes without the collector's help."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
