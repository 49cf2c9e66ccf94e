"""`relay demo --vendors`: one message through every vendor's emulator, and then through its failures, one kind at a time."""

import asyncio
import re
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from relay.cli.demo_stage import emulators, free_port, perform, started_relay
from relay.cli.demo_steps import Backend, Failed, Timeline
from relay.cli.tables import show

if TYPE_CHECKING:
    from providers.sandbox import Sandbox

STEP_S = 60.0
SLOW_S = 12.0  # longer than an adapter waits
FALLBACK_S = 5
TRIED = {"unavailable": "5xx", "reset": "reset", "garbage": "garbage", "slow": "slow", "goaway": "goaway"}
COLUMNS = ("plain", *TRIED.values(), "dead token", "quota", "too many", "revoked")
NEXT = (
    "\n[bold green]Every message reached its phone.[/]  ✓ and the seconds it took; a name: the vendor that took it instead; "
    "none: this vendor cannot fail so.\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One cell of the table: when the phone had it, by whom if not by the vendor itself."""

    seconds: float
    by: str | None = None

    def __str__(self) -> str:
        return f"[green]✓[/] {self.seconds:.1f}" + (f" {self.by}" if self.by else "")


class Round:
    """A relay with an account for each emulator, and the table that is filled."""

    def __init__(self, timeline: Timeline, sandbox: "Sandbox", backend: Backend) -> None:
        self.timeline, self.sandbox, self.backend = timeline, sandbox, backend
        self.vendors = list(sandbox.emulators)
        self.table: dict[str, dict[str, Arrival]] = {name: {} for name in self.vendors}
        self.columns: list[str] = []

    async def tell(self) -> None:
        """Every kind of failure; those that pause or park an account come last."""
        plain = await self._send("plain", {name: [(name, f"plain-{name}")] for name in self.vendors})
        await self._receipts(plain)
        kinds = {column: self._once(word, self._that_know(word)) for word, column in TRIED.items()}
        kinds["dead token"] = {name: self._chain(name, "unregistered") for name in self._that_know("unregistered")}
        await asyncio.gather(*(self._send(column, chains) for column, chains in kinds.items()))
        held_up = self.vendors[::2]  # their neighbours stand in for them
        used_up = [name for name in held_up if name in self._that_know("quota")]
        throttled = [name for name in held_up if name in self._that_know("throttled") and name not in used_up]
        await self._send("quota", {name: self._chain(name, "quota") for name in used_up})
        await self._send("too many", {name: self._chain(name, "throttled") for name in throttled})
        await self._revoke(next(name for name in self.vendors if name not in held_up))

    def _that_know(self, word: str) -> list[str]:
        from providers.sandbox.faults import Place  # noqa: PLC0415 - emulators are loaded only by those who ask for them

        return [name for name, one in self.sandbox.emulators.items() if word in one.known_faults[Place.SEND]]

    def _once(self, word: str, names: list[str]) -> dict[str, list[tuple[str, str]]]:
        """Phones that get the failure at the first try. A wait that a vendor asks for is a second, not minutes."""
        from providers.sandbox.faults import Rule  # noqa: PLC0415

        for name in names:
            rule = Rule(fault=word, token=f"first-{word}-{name}", times_left=1, retry_after="1")
            self.sandbox.emulators[name].faults.add(rule)
        return {name: [(name, f"first-{word}-{name}")] for name in names}

    def _chain(self, name: str, word: str) -> list[tuple[str, str]]:
        """The failing address, and the next vendor's behind it."""
        following = (self.vendors[self.vendors.index(name) + 1 :] or self.vendors[1:])[0]  # never one that is held up
        return [(name, f"{word}-{name}"), (following, f"after-{word}-{name}")]

    async def _receipts(self, message: str) -> None:
        """Vendors that have receipts tell by themselves what the phones got."""
        from providers.sandbox.coded import CodedEmulator  # noqa: PLC0415

        awaited = {name for name, one in self.sandbox.emulators.items() if isinstance(one, CodedEmulator)}
        began, told = time.monotonic(), set[str]()  # noqa: TID251
        while not awaited <= told:
            if time.monotonic() - began > STEP_S:  # noqa: TID251
                raise Failed(f"no receipt by {', '.join(sorted(awaited - told))} within {STEP_S:.0f} s")
            await asyncio.sleep(0.1)  # noqa: TID251
            devices = (await self.backend.call("GET", f"/v1/messages/{message}"))["recipients"][0]["devices"]
            told = {one["device"] for one in devices if any(attempt["receipts"] for attempt in one["attempts"])}
        if awaited:
            self.timeline.check(True, f"receipts in its trace: {', '.join(sorted(awaited))} say that it was delivered")

    async def _send(self, column: str, chains: dict[str, list[tuple[str, str]]]) -> str:
        """One message to a user with a device for each vendor; its id. `chains` has the devices' addresses."""
        if not chains:
            return ""
        user = re.sub("[^a-z0-9]", "-", column)
        for name, chain in chains.items():
            addresses = [
                {"account": f"{vendor}-sandbox", "token": self.sandbox.emulators[vendor].address(phone)}
                for vendor, phone in chain
            ]
            await self.backend.call("PUT", f"/v1/users/{user}/devices/{name}", {"addresses": addresses})
        began = time.monotonic()  # noqa: TID251 - a person's clock
        message = await self.backend.send(f"to {user}", user=user)
        await asyncio.gather(*(self._arrives(column, name, chain[-1], began) for name, chain in chains.items()))
        self.columns.append(column)
        slowest = max(self.table[name][column].seconds for name in chains)
        text = f"{column}: {len(chains)} of {len(chains)} phones have it; the last one after {slowest:.1f} s"
        self.timeline.check(True, text)
        return message

    async def _arrives(self, column: str, name: str, last: tuple[str, str], began: float) -> None:
        vendor, phone = last
        if not await self.sandbox.phones.wait(phone, 1, timeout_s=STEP_S):
            raise Failed(f"{column}: {phone} got nothing by {vendor} within {STEP_S:.0f} s")
        took = time.monotonic() - began  # noqa: TID251
        self.table[name][column] = Arrival(seconds=took, by=vendor if vendor != name else None)

    async def _revoke(self, name: str) -> None:
        """The vendor takes our credential no more: the account parks; mended and unparked, it goes on."""
        emulator, account = self.sandbox.emulators[name], f"{name}-sandbox"
        emulator.revoke(key=True)
        phone = f"parked-{name}"
        address = [{"account": account, "token": emulator.address(phone)}]
        await self.backend.call("PUT", f"/v1/users/revoked/devices/{name}", {"addresses": address})
        began = time.monotonic()  # noqa: TID251
        await self.backend.send("to revoked", user="revoked")
        state = ""
        while state != "parked":
            if time.monotonic() - began > STEP_S:  # noqa: TID251
                raise Failed(f"{account} was not parked although its credential was revoked")
            await asyncio.sleep(0.1)  # noqa: TID251
            accounts = (await self.backend.call("GET", "/v1/push/accounts"))["accounts"]
            state = next(one["state"] for one in accounts if one["name"] == account)
        self.timeline.check(True, f"{name}: its credential was revoked, and the account is parked; nothing is lost")
        emulator.reset()
        while not await self.sandbox.phones.wait(phone, 1, timeout_s=1.0):
            if time.monotonic() - began > STEP_S:  # noqa: TID251
                raise Failed(f"{phone} got nothing after the account was unparked")
            await self.backend.call("POST", f"/v1/push/accounts/{account}/unpark")
        self.columns.append("revoked")
        self.table[name]["revoked"] = Arrival(seconds=time.monotonic() - began)  # noqa: TID251
        self.timeline.check(True, f"{name}: mended and unparked, its push arrived")

    def print(self) -> None:
        columns = [column for column in COLUMNS if column in self.columns]
        table = Table("vendor", *columns, title="One message to each phone, by vendor and failure")
        for name, cells in self.table.items():
            table.add_row(name, *(str(cells.get(column, "")) for column in columns))
        show(table, marked=True)


async def demonstrate_vendors(vendors: Sequence[str] = ()) -> int:
    """The whole round, for these vendors or for all; gives the exit status."""
    from providers.sandbox import registry  # noqa: PLC0415 - loads every emulator

    played, broken = (vendors, []) if vendors else registry.usable()
    for sentence in broken:
        click.echo(sentence, err=True)
    return await perform("relay-vendors", partial(_play, played))


async def _play(vendors: Sequence[str], timeline: Timeline, home: Path, stack: AsyncExitStack) -> None:
    sandbox = await emulators(vendors, home, stack, slow_s=SLOW_S)
    port = free_port()
    relay = f"http://127.0.0.1:{port}"
    accounts = "\n".join(sandbox.account_toml(f"{name}-sandbox", name, relay=relay) for name in sandbox.emulators)
    own = f"[push]\ndebounce_s = 0\nfallback_after_s = {FALLBACK_S}\n[app]\ncreate_users = true\n"
    backend = await started_relay(own + accounts, home, stack, call_s=STEP_S, port=port)
    timeline.say(f"relay and {len(sandbox.emulators)} emulators run; the phones are at {sandbox.url}/")
    round_ = Round(timeline, sandbox, backend)
    await round_.tell()
    round_.print()
    timeline.end(NEXT)
