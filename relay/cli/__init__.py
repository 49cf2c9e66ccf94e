"""The command line: `relay serve`, `relay demo`, `relay sandbox`, and what an operator needs beside them."""

import sys
from importlib.metadata import version

import click

from relay.cli.exits import EX_CONFIG, EX_IOERR, EX_UNAVAILABLE
from relay.errors import ConfigError, StoreDamaged, Unavailable


class Relay(click.Group):
    """Prints every configuration mistake the same way, and ends with 78; with 69 if the store is away, 74 if it is damaged."""

    def invoke(self, ctx: click.Context) -> object:
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


@click.group(cls=Relay, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("push-relay"), prog_name="relay")
def main() -> None:
    """The offline push notification relay: no message to a user's device is ever lost.

    Start with `relay demo`, which shows the main job in a minute. Then `relay serve`.
    """


def _add_commands() -> None:
    from relay.cli import (  # noqa: PLC0415 - after `main` is there
        admin,
        backup,
        conformance,
        credentials,
        demo,
        logs,
        push,
        sandbox,
        serve,
    )

    main.add_command(serve.serve)
    main.add_command(serve.check)
    main.add_command(serve.migrate)
    main.add_command(backup.backup)
    main.add_command(backup.restore)
    main.add_command(credentials.keys)
    main.add_command(admin.providers)
    main.add_command(push.push)
    main.add_command(logs.logs)
    main.add_command(sandbox.sandbox)
    main.add_command(demo.demo)
    main.add_command(conformance.conformance)


_add_commands()
