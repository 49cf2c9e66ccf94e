"""The command line: `relay serve`, `relay demo`, `relay sandbox`, and what an operator needs beside them."""

import os
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Final, cast

import click

import relay.telemetry.lean  # noqa: F401 - before anything else loads structlog
from relay.cli.exits import EX_CONFIG, EX_IOERR, EX_UNAVAILABLE
from relay.errors import ConfigError, StoreDamaged, Unavailable

COMMANDS: Final = {  # name -> module in this folder; loaded when it is asked for: a start is not to wait for the others
    "serve": "serve",
    "check": "serve",
    "migrate": "serve",
    "backup": "backup",
    "restore": "backup",
    "keys": "credentials",
    "providers": "admin",
    "push": "push",
    "logs": "logs",
    "sandbox": "sandbox",
    "demo": "demo",
    "conformance": "conformance",
}


class Relay(click.Group):
    """Prints every configuration mistake the same way, and ends with 78; with 69 if the store is away, 74 if it is damaged.

    What a command makes is for its user alone: messages are not sealed.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        return cast(click.Command, getattr(import_module(f"relay.cli.{module}"), cmd_name))

    def invoke(self, ctx: click.Context) -> object:
        before = os.umask(0o077)
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            click.echo("The configuration is not right:", err=True)
            for mistake in error.mistakes:
                click.echo(f"  - {mistake}", err=True)
            sys.exit(EX_CONFIG)
        except Unavailable as problem:
            click.echo(f"{problem.detail} ({problem.__cause__ or problem.code})", err=True)
            sys.exit(EX_UNAVAILABLE)
        except StoreDamaged as error:
            click.echo(f"The store is damaged; restore a backup, or have it looked at: {error}", err=True)
            sys.exit(EX_IOERR)
        finally:
            os.umask(before)


@click.group(cls=Relay, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("push-relay"), prog_name="relay")
def main() -> None:
    """The offline push notification relay: no message to a user's device is ever lost.

    Start with `relay demo`, which shows the main job in a minute. Then `relay serve`.
    """
