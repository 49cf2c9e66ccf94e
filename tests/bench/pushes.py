"""Pushes from the inbox to a vendor's emulator, every attempt kept in rows: how many, what each costs, who holds up whom."""

import asyncio
import base64
import contextlib
import json
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from relay.clock import SystemClock
from tests.bench.load import request
from tests.bench.processes import Served, answers, serving
from tests.bench.report import Figure

CLOCK = SystemClock()
FAST = "concurrency = 500\nrate_per_s = 100000\nburst = 100000\n"
NAMES = {"apns": "APNs", "fcm": "FCM", "huawei": "Huawei"}
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


def _message(phone: Phone, n: int) -> dict[str, object]:
    return {
        "to": {"users": [phone.user]},
        "body": {"text": "x" * 180},
        "push": {"title": "Ann", "body": f"hello {n}"},
    }


@contextlib.asynccontextmanager
async def _relay(home: Path, vendor: str, *, debounce_s: float, more: str = "") -> AsyncIterator[tuple[Served, Served]]:
    """A relay with an account at a vendor's emulator. Gives both."""
    async with serving(home, "relay", "sandbox", "--port", "0", "--vendor", vendor) as sandbox:
        account = sandbox.said.partition("For relay.toml:")[2].partition("\n# ")[0].strip()
        (home / "relay.toml").write_text(account.replace("\n", f"\n{FAST}", 1) + f"\n{more}")
        async with serving(home, "relay", "serve", environ={"RELAY_PUSH__DEBOUNCE_S": str(debounce_s)}) as relay:
            yield relay, sandbox


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


async def _send(relay: Served, phones: Sequence[Phone], n: int) -> None:
    messages = [_message(one, n) for one in phones]
    bodies = [json.dumps({"messages": messages[at : at + 100]}).encode() for at in range(0, len(messages), 100)]
    await answers(relay.port, [request("POST", "/v1/messages/batch", token=relay.key, body=one) for one in bodies])


async def push(home: Path, vendor: str, *, devices: int) -> list[Figure]:
    """A message for each of many offline devices, all due at once."""
    async with _relay(home, vendor, debounce_s=DEBOUNCE_S) as (relay, sandbox):
        phones = _phones(devices, vendor)
        await _register(relay, phones)
        await _send(relay, phones, 0)
        rate, cost, theirs = await _watched(relay, sandbox, devices)
    return [
        Figure(name=f"{NAMES[vendor]} pushes through the sandbox", value=rate, unit="pushes/s", aim=2000),
        Figure(
            name=f"CPU of the relay for each {NAMES[vendor]} push",
            value=cost * 1e6,
            unit="µs",
            raw=theirs * 1e6,
            raw_name="the sandbox",
            aim=500,
            less_is_better=True,
        ),
    ]


async def _watched(relay: Served, sandbox: Served, count: int) -> tuple[float, float, float]:
    """From the first push that the vendor took to the last: pushes a second, and CPU seconds of both for each."""
    first: tuple[float, int, float, float] | None = None
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {relay.key}"}) as http:
        while True:
            async with http.get(f"{relay.url}/metrics") as answer:
                text = await answer.text()
            now = time.perf_counter()
            found = re.search(r'relay_push_attempts_total\{[^}]*verdict="accepted"\} (\S+)', text)
            done = 0 if found is None else int(float(found[1]))
            if first is None and done:
                first = now, done, relay.cpu_s(), sandbox.cpu_s()
            if first is not None and done >= count:
                here, there = relay.cpu_s() - first[2], sandbox.cpu_s() - first[3]
                done -= first[1]
                return done / (now - first[0]), here / done, there / done
            await CLOCK.sleep(0.5)  # each look costs the relay some milliseconds


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


def _durations_ms(home: Path, account: str) -> list[int]:
    """By the rows that are kept of each attempt, shortest first."""
    (path,) = home.rglob("relay.db")
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    rows = db.execute(
        "SELECT a.ended_ms - e.accepted_ms FROM push_attempt a JOIN inbox_entry e USING (app_id, user_id) "
        "WHERE a.account = ? AND a.verdict = 'accepted' AND e.seq = a.upto_seq",
        (account,),
    ).fetchall()
    db.close()
    return sorted(one for (one,) in rows)
