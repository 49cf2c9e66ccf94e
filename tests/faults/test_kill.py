"""`kill -9` of a real `relay serve` under load loses no message that got a 202.

Fewer kills run in CI; by hand: `RELAY_KILLS=50 pytest tests/faults -n 0`. A seed (`RELAY_SEED`) draws the moments.
"""

import asyncio
import json
import os
import random
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp

KILLS = int(os.environ.get("RELAY_KILLS", "4"))
SEED = int(os.environ.get("RELAY_SEED", "1"))
USERS = ("ann", "bob", "cid")
SENDERS = 8
ENVIRON = {
    "RELAY_LIMITS__SEND_RATE_PER_S": "10000",
    "RELAY_LIMITS__SEND_BURST": "10000",
    "RELAY_SERVER__ALLOWED_ORIGINS": "[]",
}


class Relay:
    """The process under test, on one port and one database, started again and again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.key = ""
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with (self.home / "log").open("ab") as log:
            self.child = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "relay", "serve", "--port", str(self.port)),
                cwd=self.home,
                env=os.environ | ENVIRON,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self.child.stdout is not None
        async with asyncio.timeout(30):
            while True:
                line = (await self.child.stdout.readline()).decode()
                assert line, (self.home / "log").read_text()[-2000:]
                if found := re.search(r"rk_\S+", line):
                    self.key = found[0]
                if line.startswith("Ready"):
                    return

    async def end(self, how: signal.Signals) -> int:
        assert self.child is not None
        self.child.send_signal(how)
        await self.child.communicate()
        assert self.child.returncode is not None
        return self.child.returncode


class Ledger:
    """What was meant, written down and synced before it is sent; and what was answered."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self.meant: dict[str, dict[str, Any]] = {}
        self.answered: dict[str, dict[str, Any]] = {}

    def intend(self, key: str, body: dict[str, Any]) -> None:
        self._file.write(json.dumps([key, body]) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.meant[key] = body

    def close(self) -> None:
        self._file.close()


async def send(http: aiohttp.ClientSession, relay: Relay, key: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {relay.key}", "Idempotency-Key": key}
    async with http.post(f"{relay.url}/v1/messages", json=body, headers=headers) as answer:
        assert answer.status in {200, 202}, await answer.text()
        return dict(await answer.json())


async def keep_sending(http: aiohttp.ClientSession, relay: Relay, ledger: Ledger, name: str) -> None:
    """Until the relay is gone."""
    for number in range(1_000_000):
        key = f"{name}-{number}"
        body = {"to": {"users": [USERS[number % len(USERS)]]}, "body": {"key": key}}
        ledger.intend(key, body)
        try:
            ledger.answered[key] = await send(http, relay, key, body)
        except (aiohttp.ClientError, OSError):
            return


async def inbox(http: aiohttp.ClientSession, relay: Relay, user: str) -> list[dict[str, Any]]:
    """Everything in a user's inbox, as a device gets it; each page covers its range."""
    headers = {"Authorization": f"Bearer {relay.key}"}
    async with http.post(f"{relay.url}/v1/users/{user}/devices/d/token", headers=headers) as answer:
        token = (await answer.json())["token"]
    entries: list[dict[str, Any]] = []
    params: dict[str, str] = {}
    while True:
        async with http.get(
            f"{relay.url}/v1/device/sync", params=params, headers={"Authorization": f"Bearer {token}"}
        ) as answer:
            assert answer.status == 200, await answer.text()
            page = await answer.json()
        (batch,) = page["batches"]
        assert not batch["gaps"]
        entries += batch["entries"]
        params = {"cursor": batch["cursor"]}
        if page["caught_up"]:
            return entries


async def test_no_message_that_got_a_202_is_lost_however_the_relay_is_killed(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    relay, ledger = Relay(tmp_path), Ledger(tmp_path / "ledger")
    await relay.start()
    async with aiohttp.ClientSession() as http:
        for user in USERS:
            headers = {"Authorization": f"Bearer {relay.key}"}
            async with http.put(f"{relay.url}/v1/users/{user}/devices/d", json={}, headers=headers) as answer:
                assert answer.status == 201
        for round_ in range(KILLS):
            senders = [asyncio.create_task(keep_sending(http, relay, ledger, f"{round_}-{n}")) for n in range(SENDERS)]
            await asyncio.sleep(rng.uniform(0.05, 1.0))  # noqa: TID251 - the moment of the kill is the test
            await relay.end(signal.SIGKILL)
            await asyncio.gather(*senders)
            await relay.start()
        assert len(ledger.answered) > KILLS
        for key, body in ledger.meant.items():  # the sender repeats what it has no answer for, and what it has
            again = await send(http, relay, key, body)
            first = ledger.answered.setdefault(key, again)
            assert again == first
        stored = {user: await inbox(http, relay, user) for user in USERS}
    assert await relay.end(signal.SIGTERM) == 0
    ledger.close()
    by_id = {entry["id"]: entry for entries in stored.values() for entry in entries}
    assert sum(map(len, stored.values())) == len(by_id) == len(ledger.meant)
    for entries in stored.values():
        assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))
    for key, body in ledger.meant.items():
        assert by_id[ledger.answered[key]["id"]]["body"] == body["body"]


async def test_a_second_relay_on_the_same_database_is_refused(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    await relay.start()
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay", "serve", "--port", "0", cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    _, said = await second.communicate()
    assert second.returncode == 78
    assert b"another relay is using the database" in said
    assert await relay.end(signal.SIGTERM) == 0
