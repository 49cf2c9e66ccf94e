"""What a relay does while its disk is recorded, and what it promised meanwhile."""

import asyncio
import base64
import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from relay.app import Relay
from relay.cli import main as command

from .disk import Disk, Event
from .node import ACCOUNT, Face, config, relay_in

USERS = ("ann", "bob", "cid")
PRUNED = "cid"  # has one device alone, so what it acked is pruned
SENDERS = 6
TEXT_MAX = 6_000
NEW_KEY = base64.b64encode(bytes(range(32))).decode()


@dataclass(frozen=True, slots=True)
class Sent:
    """A send that was answered with 202 when `at` events had happened."""

    at: int
    key: str
    id: str


@dataclass(frozen=True, slots=True)
class Acked:
    """An ack that was answered with 200."""

    at: int
    user: str
    seq: int


@dataclass(slots=True)
class Ledger:
    """What was meant, and what was answered."""

    key: str = ""  # the API key
    epoch: str = ""
    ready_at: int = 0  # devices, tokens and the API key are promised from here on
    meant: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)  # answered with a 503 that says: nothing is stored
    promises: list[Sent | Acked] = field(default_factory=list)
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)
    cursors: dict[str, str] = field(default_factory=dict)  # what the ackers have in their stores

    def sent(self, at: int) -> list[Sent]:
        return [one for one in self.promises if isinstance(one, Sent) and one.at <= at]

    def acked(self, at: int) -> list[Acked]:
        return [one for one in self.promises if isinstance(one, Acked) and one.at <= at]


@dataclass(frozen=True, slots=True)
class Recording:
    events: Sequence[Event]
    ledger: Ledger


async def record(home: Path, *, sends: int, seed: int) -> Recording:
    """A first start, load, a stop; a new ring key and secrets sealed again; a second start, load and a backup."""
    home.mkdir()
    disk, ledger, rng = Disk(home), Ledger(), random.Random(seed)
    with disk.recording():
        await _serve(home, disk, ledger, rng, sends=sends // 2, name="first")
        _new_ring_key(home / "relay.keys")
        await asyncio.to_thread(_rewrap, config(home))
        backup = asyncio.create_task(_back_up(home))
        await _serve(home, disk, ledger, rng, sends=sends - sends // 2, name="second")
        await backup
    return Recording(tuple(disk.events), ledger)


def _new_ring_key(path: Path) -> None:
    """As an operator should: nothing is trusted before it is synced."""
    old = json.loads(path.read_text())["keys"]
    new = path.with_name(path.name + ".new")
    new.touch(mode=0o600)
    with new.open("w") as file:
        file.write(json.dumps({"keys": [{"id": 2, "key": NEW_KEY}, *old]}))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _rewrap(config: Path) -> None:
    try:
        command(["keys", "rewrap", "--new-data-keys", "--config", str(config)], standalone_mode=False)
    except SystemExit as ended:
        assert ended.code == 0  # noqa: PT017 - the command ends the program in any case


async def _back_up(home: Path) -> None:
    """From another process, as it must be; while it reads, the log can't begin anew."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "backup", "--config", str(config(home)), "--rate", "2"),
        str(home.with_name(home.name + "-backup")),
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await child.wait() == 0


async def _serve(home: Path, disk: Disk, ledger: Ledger, rng: random.Random, *, sends: int, name: str) -> None:
    relay = relay_in(home)
    first = await relay.open()
    ledger.key = ledger.key or str(first.api_key)
    async with relay.running(), aiohttp.ClientSession() as http:
        load = Load(Face(http, f"http://127.0.0.1:{relay.port}", ledger.key), relay, disk, ledger, rng)
        if not ledger.epoch:
            await load.register()
            ledger.epoch = await relay.engine.read(lambda conn, _: epoch(conn))
            ledger.ready_at = len(disk.events)
        await load.run(sends, name)
    await relay.close()


def epoch(conn: Any) -> str:
    return str(conn.exec_driver_sql("SELECT epoch FROM store_meta").scalar_one())


class Load:
    """Senders, devices that ack, and chores, all at once."""

    def __init__(self, face: Face, relay: Relay, disk: Disk, ledger: Ledger, rng: random.Random) -> None:
        self._face, self._relay, self._disk, self._ledger, self._rng = face, relay, disk, ledger, rng
        self._done = asyncio.Event()

    async def register(self) -> None:
        for user in USERS:
            for device in ("acker", "referee") if user != PRUNED else ("acker",):
                path = f"/v1/users/{user}/devices/{device}"
                body = {"addresses": [{"account": ACCOUNT, "token": f"{user}-{device}"}]}
                assert (await self._face.call("PUT", path, body))[0] == 201
                status, answer = await self._face.call("POST", path + "/token")
                assert status == 201
                self._ledger.tokens[user, device] = answer["token"]

    async def run(self, sends: int, name: str) -> None:
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(self._ack(user)) for user in USERS] + [group.create_task(self._chores())]
            senders = [
                group.create_task(self._send(f"{name}-{n}", sends // SENDERS + (n < sends % SENDERS)))
                for n in range(SENDERS)
            ]
            await asyncio.wait(senders)
            self._done.set()
            await asyncio.wait(others)

    async def _send(self, name: str, count: int) -> None:
        for number in range(count):
            key = f"{name}-{number}"
            text = self._rng.randbytes(self._rng.randrange(TEXT_MAX // 2)).hex()
            body = {"to": {"users": [self._rng.choice(USERS)]}, "body": {"key": key, "text": text}}
            if self._rng.random() < 0.1:
                body["ttl_s"] = 1
            self._ledger.meant[key] = body
            status, answer = await self._face.send(key, body)
            assert status == 202, answer
            self._ledger.promises.append(Sent(len(self._disk.events), key, answer["id"]))

    async def _ack(self, user: str) -> None:
        bearer = self._ledger.tokens[user, "acker"]
        hello: dict[str, Any] = {"store": {"id": "s"}}
        if user in self._ledger.cursors:
            hello["cursors"] = {"inbox": self._ledger.cursors[user]}
        status, welcome = await self._face.call("PUT", "/v1/device", hello, bearer=bearer)
        assert status == 200, welcome
        cursor = welcome["cursors"]["inbox"]
        while not self._done.is_set():
            path = f"/v1/device/sync?limit=20&cursor={cursor}"
            status, page = await self._face.call("GET", path, bearer=bearer)
            assert status == 200, page
            self._ledger.cursors[user] = cursor = page["batches"][0]["cursor"]
            status, answer = await self._face.call("POST", "/v1/device/ack", {"cursor": cursor}, bearer=bearer)
            assert status == 200, answer
            self._ledger.promises.append(Acked(len(self._disk.events), user, answer["acked"]))
            await asyncio.sleep(0.03)  # noqa: TID251 - a phone that is not quite as fast as its senders

    async def _chores(self) -> None:
        """More often than a relay does them."""
        chores = self._relay.chores
        while not self._done.is_set():
            for chore in (chores.tick, chores.expire, chores.prune):
                await chore()
            await asyncio.sleep(0.1)  # noqa: TID251
