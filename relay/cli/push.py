"""`relay push`: vendor accounts and dead pushes of a running relay, by its API."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import click
from rich.table import Table

from relay.cli.exits import EX_UNAVAILABLE
from relay.cli.runtime import KEY_REFUSED, key_option, run, url_option
from relay.cli.tables import show

CALL_S = 30.0
EX_REFUSED = 1
WHY = ["refused", "quarantined", "no_address", "account_parked"]

F = TypeVar("F", bound=Callable[..., None])

Ask = Callable[..., Awaitable[dict[str, Any]]]  # (method, path, body) -> the answer


class Refused(Exception):  # noqa: N818 - it is the relay's answer
    """What the relay said instead; its text is for the operator."""


@click.group()
def push() -> None:
    """Vendor accounts and dead pushes of a running relay.

    Needs an API key with admin:read, and admin:write to change something.
    """


def _reached(command: F) -> F:
    return url_option(key_option(command))


@push.command("accounts")
@_reached
def accounts(url: str, key: str) -> None:
    """How each account is."""

    async def work(ask: Ask) -> None:
        table = Table("account", "provider", "state", "in flight", "rate/s", "sent today", "credential ends")
        for one in (await ask("GET", "/v1/push/accounts"))["accounts"]:
            state = one["state"] + (f" ({one['code']})" if one["code"] else "")
            state += f" until {one['until']}" if one["until"] else ""
            sent = "" if one["daily_quota"] is None else f"{one['sent_today']} of {one['daily_quota']}"
            rate, ends = f"{one['rate_per_s']:g}", one["credential_expires"] or ""
            table.add_row(one["name"], one["provider"], state, str(one["in_flight"]), rate, sent, ends)
        show(table)

    _with_relay(url, key, work)


@push.command("unpark")
@_reached
@click.argument("account")
def unpark(url: str, key: str, account: str) -> None:
    """Say that ACCOUNT is mended; what rested for it is due again."""

    async def work(ask: Ask) -> None:
        answer = await ask("POST", f"/v1/push/accounts/{account}/unpark")
        click.echo(f"Unparked; {answer['released']} pushes are due again.")

    _with_relay(url, key, work)


@push.command("dead")
@_reached
@click.option("--why", type=click.Choice(WHY), help="Only these.")
def dead(url: str, key: str, why: str | None) -> None:
    """List devices that are not told of what they lack. The messages themselves wait for the device's next sync."""

    async def work(ask: Ask) -> None:
        table = Table("user", "device", "why", "since", "account", "vendor's word", "entries")
        cursor: str | None = ""
        while cursor is not None:
            query = {name: value for name, value in (("why", why), ("cursor", cursor)) if value}
            page = await ask("GET", "/v1/push/dead", query=query)
            for one in page["pushes"]:
                entries = "" if one["from"] is None else f"{one['from']} to {one['to']}"
                said = one["code"] or one["verdict"] or ""
                table.add_row(
                    one["user"], one["device"], one["why"], one["since"] or "", one["account"] or "", said, entries
                )
            cursor = page["next"]
        show(table)

    _with_relay(url, key, work)


@push.command("requeue")
@_reached
@click.option("--user", help="With --device: this one only.")
@click.option("--device", help="With --user: this one only.")
@click.option("--why", type=click.Choice(WHY), help="Only these. Default: all.")
def requeue(url: str, key: str, user: str | None, device: str | None, why: str | None) -> None:
    """Try dead pushes again. What still has no address, or a parked account, comes to rest again."""
    if (user is None) != (device is None):
        raise click.UsageError("Give both --user and --device, or neither.")
    body = {name: value for name, value in (("user", user), ("device", device), ("why", why)) if value is not None}

    async def work(ask: Ask) -> None:
        answer = await ask("POST", "/v1/push/dead/requeue", body)
        click.echo(f"{answer['requeued']} pushes are due now.")

    _with_relay(url, key, work)


@asynccontextmanager
async def asking(url: str, key: str) -> AsyncIterator[Ask]:
    """A way to ask a running relay. It raises Refused for what the relay refuses, and what aiohttp raises."""
    timeout = aiohttp.ClientTimeout(total=CALL_S)
    async with aiohttp.ClientSession(timeout=timeout, headers={"Authorization": f"Bearer {key}"}) as http:

        async def ask(
            method: str, path: str, body: object = None, *, query: dict[str, str] | None = None
        ) -> dict[str, Any]:
            async with http.request(method, url + path, json=body, params=query) as answer:
                if answer.status == 401:
                    raise Refused(KEY_REFUSED)
                said: dict[str, Any] = await answer.json(content_type=None)
                if answer.status >= 400:
                    mended = "; ".join(f"{one['pointer']}: {one['detail']}" for one in said.get("errors") or [])
                    raise Refused(f"{said.get('detail') or said.get('title')} {mended}".strip())
                return said

        yield ask


def _with_relay(url: str, key: str, work: Callable[[Ask], Awaitable[None]]) -> None:
    """Runs `work`, and ends the program: with 0, with 1 for a refusal, which is printed, with 69 if nobody answers."""

    async def main() -> int:
        try:
            async with asking(url, key) as ask:
                await work(ask)
        except Refused as refused:
            click.echo(str(refused), err=True)
            return EX_REFUSED
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            click.echo(f"The relay at {url} does not answer: {type(error).__name__}", err=True)
            return EX_UNAVAILABLE
        return 0

    sys.exit(run(main()))
