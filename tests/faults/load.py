"""Senders, devices and a referee for tests that kill: what was meant, what was answered, what is stored."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
from relay_process import RelayProcess

USERS = ("ann", "bob", "cid", "dan", "eve")
SENDERS = 16
GONE = (aiohttp.ClientError, OSError)  # what a client sees of a relay that was killed
PAUSE_S = 0.02  # after a 503
ENVIRON = {"RELAY_LIMITS__SEND_RATE_PER_S": "100000", "RELAY_LIMITS__SEND_BURST": "100000"}


class Ledger:
    """What was meant, before it is sent, and what was answered: each line is on the disk before anything else is done."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a")
        self.answers = 0
        self.success = asyncio.Event()  # a test may clear it, to wait for the next
        self.all_acked = asyncio.Event()  # every user, once
        self._ackers: set[str] = set()
        self.warm = asyncio.Event()  # there are some answers: the load is on

    def _write(self, *line: Any) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def mean(self, key: str, body: dict[str, Any]) -> None:
        self._write("mean", key, body)

    def accepted(self, key: str, answer: dict[str, Any]) -> None:
        self._write("accepted", key, answer)
        self.success.set()
        self.answers += 1
        if self.answers >= 3 * SENDERS:
            self.warm.set()

    def unknown(self, key: str, why: object) -> None:
        self._write("unknown", key, str(why))

    def acked(self, user: str, seq: int) -> None:
        self._write("acked", user, seq)
        self._ackers.add(user)
        if len(self._ackers) == len(USERS):
            self.all_acked.set()

    def read(self, what: str) -> dict[str, Any]:
        """The last line of each key, from the file."""
        lines = (json.loads(line) for line in self._path.read_text().splitlines())
        return {key: value for kind, key, value in lines if kind == what}

    def close(self) -> None:
        self._file.close()


class Client:
    """Senders and devices of the relay under test."""

    def __init__(self, http: aiohttp.ClientSession, relay: RelayProcess, ledger: Ledger) -> None:
        self._http, self.relay, self.ledger = http, relay, ledger
        self.weather: frozenset[str] = frozenset()  # codes of 503 that are part of the test
        self._tokens: dict[tuple[str, str], str] = {}
        self._cursors: dict[str, str] = {}

    async def call(self, method: str, path: str, body: Any = None, *, bearer: str = "", **headers: str) -> Any:
        headers["Authorization"] = f"Bearer {bearer or self.relay.key}"
        async with self._http.request(method, self.relay.url + path, json=body, headers=headers) as answer:
            return answer.status, json.loads(await answer.read() or b"null")

    async def device(self, user: str, device: str) -> None:
        assert (await self.call("PUT", f"/v1/users/{user}/devices/{device}", {}))[0] == 201
        status, answer = await self.call("POST", f"/v1/users/{user}/devices/{device}/token")
        assert status == 201
        self._tokens[user, device] = answer["token"]

    async def send(self, key: str, body: dict[str, Any]) -> Any:
        return await self.call("POST", "/v1/messages", body, **{"Idempotency-Key": key})

    async def keep_sending(self, name: str) -> None:
        """Until the relay is gone, or says that it goes; `weather` is endured."""
        for number in range(1_000_000):
            key = f"{name}-{number}"
            body = {"to": {"users": [USERS[number % len(USERS)]]}, "body": {"key": key, "text": "é" * (number % 50)}}
            self.ledger.mean(key, body)
            try:
                status, answer = await self.send(key, body)
            except GONE as error:
                self.ledger.unknown(key, repr(error))
                return
            if status == 503 and answer["code"] == "draining":
                self.ledger.unknown(key, status)
                return
            if status == 503 and answer["code"] in self.weather:
                self.ledger.unknown(key, answer["code"])
                await asyncio.sleep(PAUSE_S)  # noqa: TID251
                continue
            assert status == 202, answer
            self.ledger.accepted(key, answer)

    async def hello(self, user: str) -> None:
        """Comes back with the newest page's cursor, whether its ack was answered or not: what was shown was durable."""
        bearer, cursor = self._tokens[user, "acker"], self._cursors.get(user)
        body = {"store": {"id": "s"}} | ({} if cursor is None else {"cursors": {"inbox": cursor}})
        status, welcome = await self.call("PUT", "/v1/device", body, bearer=bearer)
        assert status == 200, welcome
        assert (welcome["verdict"] == "resync") == (cursor is None), welcome
        self._cursors[user] = welcome["cursors"]["inbox"]

    async def every_ack_is_kept(self) -> dict[str, int]:
        """L6. The backend is asked, and before any hello: a hello's cursor acks, and would hide that an ack was lost."""
        acked = self.ledger.read("acked")
        for user, seq in acked.items():
            status, device = await self.call("GET", f"/v1/users/{user}/devices/acker")
            assert status == 200
            assert device["acked"] >= seq, f"lost: an ack of {user}'s up to {seq}; it is at {device['acked']}"
        return acked

    async def keep_acking(self, user: str) -> None:
        """Acks page after page until the relay is gone. An ack that got a 200 is in the ledger."""
        bearer = self._tokens[user, "acker"]
        try:
            while True:
                path = f"/v1/device/sync?wait=5&limit=20&cursor={self._cursors[user]}"
                status, page = await self.call("GET", path, bearer=bearer)
                if status == 503 and page["code"] in self.weather:
                    await asyncio.sleep(PAUSE_S)  # noqa: TID251
                    continue
                assert status == 200, page
                self._cursors[user] = cursor = page["batches"][0]["cursor"]
                status, answer = await self.call("POST", "/v1/device/ack", {"cursor": cursor}, bearer=bearer)
                if status == 503 and answer["code"] in self.weather:
                    await asyncio.sleep(PAUSE_S)  # noqa: TID251
                    continue
                assert status == 200, answer
                assert answer["acked"] >= page["batches"][0]["to"]
                self.ledger.acked(user, answer["acked"])
        except GONE:
            return

    async def inbox(self, user: str) -> list[dict[str, Any]]:
        """Everything in a user's inbox, as a device gets it that never acks."""
        entries: list[dict[str, Any]] = []
        path = "/v1/device/sync"
        while True:
            status, page = await self.call("GET", path, bearer=self._tokens[user, "referee"])
            assert status == 200, page
            (batch,) = page["batches"]
            assert not batch["gaps"]
            entries += batch["entries"]
            path = f"/v1/device/sync?cursor={batch['cursor']}"
            if page["caught_up"]:
                assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))
                return entries

    async def stored(self) -> dict[str, dict[str, Any]]:
        """Every user's entries by the key in their body; none is there twice, each is its sender's (L1, L4)."""
        meant = self.ledger.read("mean")
        found: dict[str, dict[str, Any]] = {}
        for user in USERS:
            for entry in await self.inbox(user):
                key = entry["body"]["key"]
                assert key not in found
                assert entry["body"] == meant[key]["body"]
                assert meant[key]["to"]["users"] == [user]
                found[key] = entry
        assert len({entry["id"] for entry in found.values()}) == len(found)
        return found


@asynccontextmanager
async def client_of(relay: RelayProcess, home: Path) -> AsyncIterator[Client]:
    """A client with two devices for each user; its ledger is in `home`."""
    with closing(Ledger(home / "ledger")) as ledger:
        async with aiohttp.ClientSession() as http:
            client = Client(http, relay, ledger)
            for user in USERS:
                await client.device(user, "acker")
                await client.device(user, "referee")
            yield client


async def every_accepted_key_is_stored(client: Client) -> dict[str, dict[str, Any]]:
    stored = await client.stored()
    for key, answer in client.ledger.read("accepted").items():
        assert key in stored, f"lost: {key} {answer}"
        assert stored[key]["id"] == answer["id"]
    return stored


async def repeats_find_what_is_there(client: Client, stored: dict[str, dict[str, Any]]) -> Counter[str]:
    """The sender repeats every key: the same answer if it's stored, accepted now if it isn't (L2, L3)."""
    accepted, kinds = client.ledger.read("accepted"), Counter[str]()
    waiting = list(client.ledger.read("mean").items())

    async def repeat() -> None:
        while waiting:
            key, body = waiting.pop()
            status, answer = await client.send(key, body)
            if key in stored:
                assert (status, answer["id"]) == (200, stored[key]["id"]), answer
            else:
                assert status == 202, answer
            if key in accepted:
                assert answer == accepted[key]
            kinds["accepted" if key in accepted else "unknown, stored" if key in stored else "unknown, absent"] += 1

    await asyncio.gather(*(repeat() for _ in range(SENDERS)))
    return kinds
