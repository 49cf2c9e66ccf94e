"""`relay conformance`: plays the recorded conversations against a server, or as the server for a client."""

import shlex
import shutil
import sys
from collections.abc import AsyncIterator

import click

from relay.cli.exits import EX_DATAERR, EX_UNAVAILABLE
from relay.cli.runtime import RelayUrl, run
from relay.client.conformance.server_check import Verdict, check_server
from relay.client.conformance.vectors import CLIENT, SERVER, load
from relay.client.http import Problem, Unreachable


@click.command()
@click.argument("url", required=False, type=RelayUrl())
@click.option("--key", envvar="RELAY_API_KEY", show_envvar=True, help="An API key of the server.")
@click.option("--client", "command", help="A command that starts a client; it is played the server.")
@click.option("--only", multiple=True, metavar="NAME", help="Play this conversation alone; may be repeated.")
@click.option("--list", "listing", is_flag=True, help="List the conversations.")
def conformance(url: str | None, key: str | None, command: str | None, only: tuple[str, ...], *, listing: bool) -> None:
    """Play recorded conversations with a server, or a client. The server at URL is played clients; a client, the server.

    Each has a user of its own, whose name begins with "conformance-". The client's command is started anew for each, with
    RELAY_URL, RELAY_TOKEN and RELAY_CACHE (a path in an empty folder) in its environment, and what its app wants, see
    config/docs/protocol.md. Ends with 1 if a conversation went differently, with 69 if the server does not answer, with 65
    if it refuses the key.
    """
    if listing:
        for vector in load():
            click.echo(f"{vector.name:28} {'+'.join(vector.plays):14} {vector.says}")
        return
    unknown = set(only) - {vector.name for vector in load()}
    if unknown:
        raise click.UsageError(f"There is no conversation {', '.join(sorted(unknown))}; --list names them.")
    if (url is None) == (command is None):
        raise click.UsageError("Give either a server's URL, or --client COMMAND.")
    side = SERVER if command is None else CLIENT
    if elsewhere := set(only) - {vector.name for vector in load(side)}:
        raise click.UsageError(f"Not played with a {side}: {', '.join(sorted(elsewhere))}; --list says with which.")
    if url is not None:
        if key is None:
            raise click.UsageError("A server is asked with an API key: --key, or RELAY_API_KEY.")
        verdicts = check_server(url, key, only=only)
    else:
        from relay.client.conformance.client_check import check_client  # noqa: PLC0415 - brings aiohttp's server

        verdicts = check_client(_program(command or ""), only=only)
    sys.exit(run(_told(verdicts, url)))


def _program(command: str) -> list[str]:
    """The words of a client's command. Raises UsageError for one that can't be started."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise click.UsageError(f"--client: {error}.") from None
    if not words or shutil.which(words[0]) is None:
        raise click.UsageError(f"--client: there is no program {' '.join(words[:1])!r} that could be started.")
    return words


async def _told(verdicts: AsyncIterator[Verdict], url: str | None) -> int:
    """As `_report`; a server that can't be asked anything is said so once."""
    try:
        return await _report(verdicts)
    except Unreachable:
        click.echo(f"The server at {url} does not answer.", err=True)
        return EX_UNAVAILABLE
    except Problem as problem:
        click.echo(f"The server at {url} refuses the first call: {problem}", err=True)
        return EX_DATAERR


async def _report(verdicts: AsyncIterator[Verdict]) -> int:
    """Prints a line for each conversation; gives the exit code."""
    played = failed = skipped = 0
    async for one in verdicts:
        if one.skipped:
            skipped += 1
            click.echo(f"skip   {one.vector.name}: {one.detail}")
            continue
        played += 1
        failed += not one.ok
        click.echo(f"{'ok    ' if one.ok else 'DIFFERS'} {one.vector.name}: {one.vector.says}")
        if not one.ok:
            step = one.vector.steps[one.step - 1] if one.step else {}
            click.echo(f"        step {one.step} ({', '.join(step)}): {one.detail}")
    left_out = f"; {skipped} left out" if skipped else ""
    click.echo(f"{played - failed} of {played} conversations went as recorded{left_out}.")
    return 1 if failed or not played else 0
