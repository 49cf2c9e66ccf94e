"""`relay logs`: downloads the hourly message logs of an app, goes on where it was cut off, and checks what it got."""

import gzip
import hashlib
import json
import re
import sys
import zlib
from pathlib import Path

import aiohttp
import click

from relay.cli.exits import EX_DATAERR, EX_IOERR, EX_UNAVAILABLE
from relay.cli.runtime import KEY_REFUSED, key_option, run, url_option

PIECE = 256 * 1024
TRIES_MAX = 5


class Wrong(Exception):  # noqa: N818 - it is shown to the operator
    """What was downloaded is not what it should be, or was refused; the text is for the operator."""


class Hour(click.ParamType[str]):
    """An hour as the relay names it: its log is a file of this name."""

    name = "hour"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}", value) is None:
            self.fail(f"{value!r} is none: write an hour as 2026-05-03T09, in UTC.", param, ctx)
        return value


@click.group()
def logs() -> None:
    """What an app accepted, and what happened, hour by hour. Needs an API key with messages:read."""


def check(path: Path) -> dict[str, object]:
    """The trailer of a log, if all before it is whole. Raises Wrong."""
    digest = hashlib.sha256()
    held = b""
    try:
        with gzip.open(path, "rb") as file:
            for line in file:
                digest.update(held)
                held = line
        trailer: dict[str, object] = json.loads(held)["trailer"]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError):
        raise Wrong("is not whole") from None
    if trailer.get("sha256") != digest.hexdigest():
        raise Wrong("does not fit its checksum")
    return trailer


@logs.command("pull")
@click.argument("hours", nargs=-1, type=Hour())
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("."),
    show_default=True,
    help="Where the files go.",
)
@url_option
@key_option
def pull(hours: tuple[str, ...], folder: Path, url: str, key: str) -> None:
    """Download hourly logs. Of HOURS (as 2026-05-03T09, in UTC), or of every closed hour in which there was something.

    What is there already is left alone; a download that was cut off goes on; each file is checked by its last line.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(f"{folder} cannot be made ({error.strerror}).", param_hint="'--to'") from None
    sys.exit(run(_pull(hours, folder, url, key)))


async def _pull(hours: tuple[str, ...], folder: Path, url: str, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
    worst = 0
    try:
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, auto_decompress=False) as http:
            if not hours:
                hours = await _listed(http, url)
                if not hours:
                    click.echo(
                        "There is nothing in any hour that is closed; a log can be had a quarter of an hour after its hour's end."
                    )
            for hour in hours:
                path = folder / f"{hour}.ndjson.gz"
                try:
                    trailer = check(path) if path.exists() else await _one(http, f"{url}/v1/logs/{hour}", path)
                    click.echo(f"{path}: {trailer['messages']} messages, {trailer['events']} events")
                except Wrong as wrong:
                    again = " (take the file away to have it downloaded anew)" if path.exists() else ""
                    click.echo(f"{path}: {wrong}{again}", err=True)
                    worst = EX_DATAERR
    except Wrong as wrong:
        click.echo(f"{url}/v1/logs: {wrong}", err=True)
        return EX_DATAERR
    except (aiohttp.ClientError, TimeoutError) as error:
        click.echo(f"The relay at {url} does not answer ({type(error).__name__}); what there is, is kept.", err=True)
        return EX_UNAVAILABLE
    except OSError as error:
        click.echo(f"{error.filename or folder}: {error.strerror}", err=True)
        return EX_IOERR
    return worst


async def _listed(http: aiohttp.ClientSession, url: str) -> tuple[str, ...]:
    """The hours whose log has something in it."""
    async with http.get(f"{url}/v1/logs") as answer:
        if answer.status != 200:
            raise Wrong(await _refusal(answer))
        try:
            return tuple(one["hour"] for one in (await answer.json())["logs"] if not one.get("empty"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Wrong("is no list of logs") from None


async def _one(http: aiohttp.ClientSession, url: str, path: Path) -> dict[str, object]:
    """Downloads into a file beside, goes on with what is there of it, and takes it only if it is whole."""
    part = path.with_suffix(".part")
    for attempt in range(1, TRIES_MAX + 1):
        begun = part.stat().st_size if part.exists() else 0
        try:
            async with http.get(url, headers={"Range": f"bytes={begun}-"} if begun else {}) as answer:
                if answer.status not in {200, 206, 416}:
                    raise Wrong(await _refusal(answer))
                if answer.status != 416:  # else it is all here
                    with part.open("ab" if answer.status == 206 else "wb") as file:
                        async for piece in answer.content.iter_chunked(PIECE):
                            file.write(piece)
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError):
            if attempt == TRIES_MAX:
                raise
            continue
        break
    try:
        trailer = check(part)
    except Wrong:
        part.unlink()
        raise
    part.replace(path)
    return trailer


async def _refusal(answer: aiohttp.ClientResponse) -> str:
    if answer.status == 401:
        return KEY_REFUSED
    try:
        return str((await answer.json(content_type=None))["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the relay answered {answer.status}"
