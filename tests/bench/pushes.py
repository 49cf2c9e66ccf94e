"""Pushes from the inbox to a vendor's emulator, every attempt kept in rows: how many, what each costs, who holds up whom.

Emulator and relay share this machine, and the emulator checks what a vendor does. What the relay could do by itself shows
where a stand-in for Apple takes the pushes that only reads and answers.
"""

import asyncio
import base64
import contextlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from providers.sandbox.authority import Authority
from relay.clock import SystemClock
from tests.bench.load import request
from tests.bench.processes import Served, answers, serving
from tests.bench.report import Figure

CLOCK = SystemClock()
FAST = "concurrency = 500\nrate_per_s = 100000\nburst = 100000\n"
BARE = "bare"
NAMES = {
    "apns": "APNs pushes through the sandbox",
    "fcm": "FCM pushes through the sandbox",
    "huawei": "Huawei pushes through the sandbox",
    BARE: "APNs pushes to a server that reads and answers",
}
GROUP = 100  # devices that a message to a group goes to
DEBOUNCE_S = 5  # all that is sent in this time falls due together
WAIT_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Phone:
    user: str
    account: str
    token: str


def _phones(count: int, vendor: str, account: str | None = None) -> list[Phone]:
    return [
        Phone(
            user=f"{account or vendor}{n:05}",
            account=account or f"{vendor}-sandbox",
            token=f"{n:064x}",
        )
        for n in range(count)
    ]


def _message(phones: Sequence[Phone], n: int) -> dict[str, object]:
    return {
        "to": {"users": [phone.user for phone in phones]},
        "body": {"text": "x" * 180},
        "push": {"title": "Ann", "body": f"hello {n}"},
    }


@contextlib.asynccontextmanager
async def _relay(
    home: Path, vendor: str, *, debounce_s: float, terms: str = FAST, more: str = ""
) -> AsyncIterator[tuple[Served, Served]]:
    """A relay with an account at a vendor's emulator, or at the stand-in for Apple that checks nothing. Gives both.
    `terms` of the account, `more` beside it."""
    there = _bare_apple(home) if vendor == BARE else _sandbox(home, vendor)
    async with there as (served, account):
        (home / "relay.toml").write_text(account.replace("\n", f"\n{terms}", 1) + f"\n{more}")
        async with serving(home, "relay", "serve", environ={"RELAY_PUSH__DEBOUNCE_S": str(debounce_s)}) as relay:
            yield relay, served


@contextlib.asynccontextmanager
async def _sandbox(home: Path, vendor: str) -> AsyncIterator[tuple[Served, str]]:
    async with serving(home, "relay", "sandbox", "--port", "0", "--vendor", vendor) as served:
        yield served, served.said.partition("For relay.toml:")[2].partition("\n# ")[0].strip()


@contextlib.asynccontextmanager
async def _bare_apple(home: Path) -> AsyncIterator[tuple[Served, str]]:
    authority, key = Authority.open(None), ec.generate_private_key(ec.SECP256R1())
    (home / "both.pem").write_bytes(authority.server_pem())
    (home / "ca.pem").write_text(authority.pem)
    (home / "key.p8").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    async with serving(home, "tests.bench.bare_apns") as served:
        settings = {
            "provider": "apns",
            "topic": "com.example.relay",
            "team_id": "RELAYTEAM1",
            "key_id": "SANDBOXKEY",
            "base_url": f"https://localhost:{served.port}",
            "key_file": str(home / "key.p8"),
            "ca_file": str(home / "ca.pem"),
        }
        yield served, "\n".join([f"[accounts.{BARE}-sandbox]", *(f'{k} = "{v}"' for k, v in settings.items())])


async def _register(relay: Served, phones: Sequence[Phone]) -> None:
    bodies = [
        {"platform": "android", "addresses": [{"account": one.account, "kind": "token", "token": one.token}]}
        for one in phones
    ]
    await answers(
        relay.port,
        [
            request("PUT", f"/v1/users/{one.user}/devices/phone", token=relay.key, body=json.dumps(body).encode())
            for one, body in zip(phones, bodies, strict=True)
        ],
    )


async def _send(relay: Served, phones: Sequence[Phone], n: int, *, each: int = 1) -> None:
    """A message to so many phones, and one to the next, until all have one."""
    messages = [_message(phones[at : at + each], n) for at in range(0, len(phones), each)]
    bodies = [json.dumps({"messages": messages[at : at + 100]}).encode() for at in range(0, len(messages), 100)]
    await answers(relay.port, [request("POST", "/v1/messages/batch", token=relay.key, body=one) for one in bodies])


async def push(home: Path, vendor: str, *, devices: int, in_groups: bool = False) -> list[Figure]:
    """A message for each of many offline devices, all due at once; or one for each hundred of them, which share calls."""
    terms = f"{FAST}batch = true\n" if in_groups else FAST
    async with _relay(home, vendor, debounce_s=DEBOUNCE_S, terms=terms) as (relay, sandbox):
        phones = _phones(devices, vendor)
        await _register(relay, phones)
        await _send(relay, phones, 0, each=GROUP if in_groups else 1)
        cost, theirs = await _watched(relay, sandbox, devices)
        took_s = await _span_s(home, devices)
    name = f"{NAMES[vendor]}, messages to {GROUP} in shared calls" if in_groups else NAMES[vendor]
    return [
        Figure(name=name, value=devices / took_s, unit="pushes/s", aim=2000),
        Figure(
            name="CPU of the relay for each of them",
            value=cost * 1e6,
            unit="µs",
            raw=theirs * 1e6,
            raw_name="the other side",
            aim=500,
            less_is_better=True,
        ),
    ]


async def _watched(relay: Served, sandbox: Served, count: int) -> tuple[float, float]:
    """Until the vendor has taken all: CPU seconds of both for each, from the last look at which it had taken none."""
    began = relay.cpu_s(), sandbox.cpu_s()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {relay.key}"}) as http:
        while True:
            async with http.get(f"{relay.url}/metrics") as answer:
                text = await answer.text()
            now = relay.cpu_s(), sandbox.cpu_s()
            found = re.search(r'relay_push_attempts_total\{[^}]*verdict="accepted"\} (\S+)', text)
            done = 0 if found is None else int(float(found[1]))
            if done >= count:
                here, there = (after - before for before, after in zip(began, now, strict=True))
                return here / done, there / done
            if not done:
                began = now
            await CLOCK.sleep(0.5 if done else 0.1)  # each look costs the relay some milliseconds


async def beside_a_dead_vendor(home: Path, *, devices: int, rounds: int) -> list[Figure]:
    """How long a push takes while a second account's vendor takes every connection and answers nothing."""
    found = []
    for answers_too in (True, False):
        place = home / ("well" if answers_too else "dead")
        place.mkdir()
        found.append(await _slowest_of(place, devices=devices, rounds=rounds, answers_too=answers_too))
    well, beside = found
    return [
        Figure(
            name="a push's 99th percentile beside a dead vendor",
            value=beside,
            unit="ms",
            raw=well,
            raw_name="beside one that is well",
            aim=1.2,
            ratio=True,
            less_is_better=True,
        )
    ]


async def _slowest_of(home: Path, *, devices: int, rounds: int, answers_too: bool) -> float:
    """Milliseconds from accepting a message to the end of its push, for the slowest hundredth."""
    kept: list[asyncio.StreamWriter] = []

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while answers_too:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    secret = "whsec_" + base64.b64encode(bytes(32)).decode()
    second = (
        f'[accounts.second]\nprovider = "http"\nurl = "http://{place}/"\nsecret = "{secret}"\nallow_http = true\n'
        f'[webhooks]\nallow_http = true\nexempt = ["{place}"]\n'
    )
    async with _relay(home, "fcm", debounce_s=0.5, more=second) as (relay, _):
        phones = _phones(devices, "fcm")
        others = _phones(devices, "http", account="second")
        await _register(relay, [*phones, *others])
        for n in range(rounds):
            await asyncio.gather(_send(relay, [*phones, *others], n), CLOCK.sleep(1))
        await CLOCK.sleep(2)
        took = _durations_ms(home, "fcm-sandbox")
    for writer in kept:
        writer.close()
    server.close()
    assert len(took) >= devices, "some pushes had no end"
    return took[len(took) * 99 // 100]


async def _span_s(home: Path, count: int) -> float:
    """From the transaction that planned the first push to the one that settled the last, once all are: exact, as looks from
    outside are not."""
    while True:
        ((ended, span_ms),) = _rows(
            home, "SELECT count(*), max(ended_ms) - min(started_ms) FROM push_attempt WHERE verdict = 'accepted'"
        )
        if ended >= count:
            return span_ms / 1000
        await CLOCK.sleep(0.1)


def _durations_ms(home: Path, account: str) -> list[int]:
    """By the rows that are kept of each attempt, shortest first."""
    found = _rows(
        home,
        "SELECT a.ended_ms - e.accepted_ms FROM push_attempt a JOIN inbox_entry e USING (app_id, user_id) "
        "WHERE a.account = ? AND a.verdict = 'accepted' AND e.seq = a.upto_seq",
        account,
    )
    return sorted(one for (one,) in found)


def _rows(home: Path, query: str, *values: str) -> list[tuple[int, ...]]:
    (path,) = home.rglob("relay.db")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(query, values).fetchall()
