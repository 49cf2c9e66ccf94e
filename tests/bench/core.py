"""In process, without HTTP: what the store functions and the lease book can do, beside raw sqlite3."""

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sqlalchemy import Table

from relay.clock import SystemClock
from relay.ids import message_id, system_rng
from relay.inbox.ack import AckRequest
from relay.inbox.cursor import CursorKeys
from relay.inbox.handshake import Hello
from relay.inbox.registry import Registration
from relay.inbox.send import Send
from relay.inbox.service import InboxService
from relay.model import DeviceKey, Policy
from relay.presence.leases import LeaseBook
from relay.store import meta
from relay.store.apps import create_app
from relay.store.migrate import migrate
from relay.store.schema.inboxes import idempotency, inbox, inbox_entry, message
from relay.store.sqlite import SqliteEngine
from relay.store.sqlite_file import PRAGMAS
from tests.bench.report import Figure

APP = "default"
GROUP = 512
A_MILLISECOND = 10  # messages accepted in one: ids rise with the time
BODY = '{"text":"' + "x" * 180 + '"}'


class NoHints:
    def wake(self, users: Any) -> None: ...

    def posted(self, timelines: Any) -> None: ...

    def withdrawn(self, users: Any, message_ids: Any, *, but: Any) -> None: ...

    def close(self, device: DeviceKey, newer_than: int) -> None: ...


@contextlib.asynccontextmanager
async def inboxes(path: Path) -> AsyncIterator[InboxService]:
    """The inbox room on a SQLite file, as the relay runs it."""
    clock, rng = SystemClock(), system_rng()
    engine = SqliteEngine(path, clock)
    await engine.write(migrate)
    await engine.write(lambda conn, now_ms: meta.prepare(conn, now_ms, rng))
    await engine.write(lambda conn, now_ms: create_app(conn, now_ms, app_id=APP, id_secret=b"s" * 32))
    policy = Policy(create_users=True, inbox_max=1_000_000)
    yield InboxService(
        engine=engine,
        clock=clock,
        rng=rng,
        policy_of=lambda _: policy,
        keys=CursorKeys(1, {1: b"k" * 32}),
        hints=NoHints(),
        node_id="bench",
    )
    await engine.close()


def sends(count: int, users: int, rng: random.Random, *, now_ms: int) -> list[Send]:
    """Messages as the HTTP face would make them, with a key each."""
    return [
        Send(
            app_id=APP,
            message_id=message_id(now_ms + n // A_MILLISECOND, rng.getrandbits(74)),
            id_from_key=False,
            key=f"b\x1fk{rng.getrandbits(64):x}",
            body_hash=rng.randbytes(32),
            nonce=f"{rng.getrandbits(64):016x}",
            users=(f"u{rng.randrange(users):05}",),
            type="text",
            body=BODY,
            h="9f2c01d4aa31b77e",
            push='{"title":"Ann","body":"hello"}',
            ttl_s=604_800,
        )
        for n in range(count)
    ]


async def register(service: InboxService, users: int) -> list[DeviceKey]:
    devices = [DeviceKey(APP, f"u{n:05}", "phone") for n in range(users)]
    await asyncio.gather(*(service.register(Registration(device=one)) for one in devices))
    return devices


def raw_writes(source: Path, target: Path) -> float:
    """Writes the rows that an ingest left once more, by hand, in commits of 512 messages; gives messages/s."""
    read = sqlite3.connect(source)
    db = sqlite3.connect(target, isolation_level=None)
    for name, value in PRAGMAS.items():
        db.execute(f"PRAGMA {name} = {value}")
    for (made,) in read.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall():
        db.execute(made)
    db.executemany(_insert(inbox), read.execute(_select(inbox)).fetchall())
    order = "ORDER BY accepted_ms, message_id"
    messages = read.execute(f"{_select(message)} {order}").fetchall()
    entries = read.execute(f"{_select(inbox_entry)} {order}").fetchall()
    keys = read.execute(
        "SELECT i.* FROM idempotency i JOIN message m USING (app_id, message_id) ORDER BY m.accepted_ms, m.message_id"
    ).fetchall()
    user, seq = list(inbox_entry.c.keys()).index("user_id"), list(inbox_entry.c.keys()).index("seq")
    began = time.perf_counter()
    for at in range(0, len(messages), GROUP):
        db.execute("BEGIN IMMEDIATE")
        db.executemany(_insert(idempotency), keys[at : at + GROUP])
        db.executemany(_insert(message), messages[at : at + GROUP])
        db.executemany(_insert(inbox_entry), entries[at : at + GROUP])
        heads = {row[user]: row[seq] for row in entries[at : at + GROUP]}
        db.executemany(
            "UPDATE inbox SET head_seq = ? WHERE app_id = ? AND user_id = ?",
            [(head, APP, user_id) for user_id, head in heads.items()],
        )
        db.execute("COMMIT")
    took = time.perf_counter() - began
    read.close()
    db.close()
    return len(messages) / took


def _insert(table: Table) -> str:
    return f"INSERT INTO {table.name} VALUES ({', '.join('?' for _ in table.c)})"


def _select(table: Table) -> str:
    return f"SELECT {', '.join(table.c.keys())} FROM {table.name}"


async def ingest(home: Path, *, count: int) -> list[Figure]:
    """Accepting in groups of 512, beside raw sqlite3 writing the same rows."""
    async with inboxes(home / "ingest.db") as service:
        await register(service, 1000)
        work = sends(count, 1000, random.Random(1), now_ms=service.clock.now_ms())
        began = time.perf_counter()
        for at in range(0, count, GROUP):
            await service.accept_many(work[at : at + GROUP])
        rate = count / (time.perf_counter() - began)
    raw = raw_writes(home / "ingest.db", home / "raw.db")
    return [
        Figure(
            name=f"ingest in process, {GROUP} a commit",
            value=rate,
            unit="messages/s",
            raw=raw,
            raw_name="raw sqlite3",
            aim=0.7,
            ratio=True,
        )
    ]


async def drain(home: Path, *, count: int) -> list[Figure]:
    """One device that pages through a long inbox."""
    async with inboxes(home / "drain.db") as service:
        (device,) = await register(service, 1)
        work = sends(count, 1, random.Random(2), now_ms=service.clock.now_ms())
        for at in range(0, count, GROUP):
            await service.accept_many(work[at : at + GROUP])
        began = time.perf_counter()
        got = await _catch_up(service, device)
        took = time.perf_counter() - began
        assert got == count
    return [
        Figure(
            name=f"{count:,} messages drained by one device, in process",
            value=took,
            unit="s",
            aim=0.15 * count / 10_000,
            less_is_better=True,
        )
    ]


async def _catch_up(service: InboxService, device: DeviceKey) -> int:
    got, cursor = 0, None
    while True:
        reading = await service.reader.read(device, cursor, limit=200)
        assert reading.batch is not None
        got += reading.batch.entries
        cursor = service.reader.unseal(reading.batch.cursor, device)
        if not reading.batch.more:
            return got


async def reconnect(home: Path, *, devices: int, each: int) -> list[Figure]:
    """Everybody comes back at once: handshake, pages, ack."""
    async with inboxes(home / "reconnect.db") as service:
        keys = await register(service, devices)
        work = sends(devices * each, devices, random.Random(3), now_ms=service.clock.now_ms())
        for at in range(0, len(work), GROUP):
            await service.accept_many(work[at : at + GROUP])

        async def come_back(device: DeviceKey) -> int:
            await service.hello(
                Hello(
                    device=device,
                    node_id="bench",
                    cursor=None,
                    store_id="s",
                    app_version="2",
                    schema=1,
                    types=None,
                    platform="android",
                    locale=None,
                    tz=None,
                    background=False,
                    install_id=None,
                    replaces=None,
                    addresses=None,
                )
            )
            reading = await service.reader.read(device, None, limit=200)
            assert reading.batch is not None
            await service.ack(AckRequest(device=device, cursor=service.reader.unseal(reading.batch.cursor, device)))
            return reading.batch.entries

        began = time.perf_counter()
        got = sum(await asyncio.gather(*(come_back(one) for one in keys)))
        took = time.perf_counter() - began
        assert got == devices * each
    return [
        Figure(
            name=f"{devices:,} devices x {each} messages reconnect, in process",
            value=took,
            unit="s",
            aim=1.5 * devices * each / 50_000,
            less_is_better=True,
        )
    ]


def heartbeats(*, devices: int, beats: int) -> list[Figure]:
    """Renewing leases in memory."""
    book = LeaseBook()
    keys = [DeviceKey(APP, f"u{n:06}", "phone") for n in range(devices)]
    for key in keys:
        book.grant(key, session=1, now_ms=0, length_ms=75_000)
    began = time.perf_counter()
    done = 0
    while done < beats:
        for key in keys:
            book.renew(key, 1, done)
        done += devices
    rate = done / (time.perf_counter() - began)
    return [Figure(name="heartbeats in the lease book", value=rate, unit="/s", aim=1_000_000)]
