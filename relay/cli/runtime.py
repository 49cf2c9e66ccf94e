"""What several commands need: settings, and a loop."""

import asyncio
import gc
import os
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
