"""The store's bad days: no room, another program at the file, errors of the disk (safety DUR-8, FLT-10 to FLT-12)."""

import asyncio
import json
import os
import resource
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from relay_process import RelayProcess
from scene import frame

from relay.app import Relay
from relay.clock import SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.store.room import RESERVE_BYTES, Room, Space
from relay.store.sqlite_file import PRAGMAS
from relay.telemetry.metrics import Metrics

MIB = 1024 * 1024


@dataclass
class Face:
    """A backend and a device of a relay somewhere."""

    http: aiohttp.ClientSession
    url: str
    key: str
    relay: Any = None  # if it runs in this process
    token: str = ""
    cursors: list[str] = field(default_factory=list)

    async def call(self, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str) -> Any:
        headers["Authorization"] = f"Bearer {token or self.key}"
        async with self.http.request(method, self.url + path, json=body, headers=headers) as answer:
            text = await answer.read()
            return answer.status, json.loads(text) if text else None, answer.headers

    async def device(self) -> None:
        assert (await self.call("PUT", "/v1/users/ann/devices/phone", {}))[0] == 201
        self.token = (await self.call("POST", "/v1/users/ann/devices/phone/token"))[1]["token"]
        status, welcome, _ = await self.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=self.token)
        assert status == 200
        self.cursors.append(welcome["cursors"]["inbox"])

    async def send(self, body: Any = "hi") -> Any:
        return await self.call("POST", "/v1/messages", {"to": {"users": ["ann"]}, "body": body})

    async def sent(self, body: Any = "hi") -> str:
        status, answer, _ = await self.send(body)
        assert status == 202, answer
        return str(answer["id"])

    async def ack(self) -> int:
        """Reads what there is, and acks it."""
        path = f"/v1/device/sync?limit=1&cursor={self.cursors[-1]}"
        status, page, _ = await self.call("GET", path, token=self.token)
        assert status == 200, page
        self.cursors.append(page["batches"][0]["cursor"])
        status, answer, _ = await self.call("POST", "/v1/device/ack", {"cursor": self.cursors[-1]}, token=self.token)
        assert status == 200, answer
        return int(answer["acked"])

    async def connect(self) -> aiohttp.ClientWebSocketResponse:
        ws = await self.http.ws_connect(
            self.url + "/v1/device/ws", headers={"Authorization": f"Bearer {self.token}"}, protocols=["relay.v1.json"]
        )
        await ws.send_json({"type": "hello", "ref": "1", "store": {"id": "s"}, "cursors": {"inbox": self.cursors[-1]}})
        await frame(ws, "welcome")
        return ws


async def eventually(what: Callable[[], Awaitable[bool]], *, within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while not await what():
            await asyncio.sleep(0.02)  # noqa: TID251 - looks again


class Disk:
    """A disk with as much free space as the test says; of 100 GiB."""

    def __init__(self) -> None:
        self.free = 90 * 1024 * MIB

    def read(self, folder: Path) -> Space:
        return Space(self.free, 100 * 1024 * MIB)


@asynccontextmanager
async def serving(home: Path, disk: Disk) -> AsyncIterator[Face]:
    environ = {
        "RELAY_SERVER__PORT": "0",
        "RELAY_SERVER__QUIET_S": "0",
        "RELAY_STORE__URL": f"sqlite:///{home}/relay.db",
        "RELAY_KEYS__FILE": f"{home}/relay.keys",
    }
    relay = Relay(load(None, environ), SystemClock(), system_rng(), Metrics(), read_space=disk.read)
    first = await relay.open()
    assert first.api_key is not None
    async with relay.running(), aiohttp.ClientSession() as http:
        face = Face(http, f"http://127.0.0.1:{relay.port}", first.api_key, relay)
        await face.device()
        yield face
    await relay.close()


# --- little room ------------------------------------------------------------------------------------------------------


async def test_with_little_room_sends_are_refused_while_acks_and_cancels_are_taken(tmp_path: Path) -> None:
    disk = Disk()
    async with serving(tmp_path, disk) as face:
        await face.sent(1)
        second = await face.sent(2)
        disk.free = 4 * 1024 * MIB  # below 5 %

        async def refused() -> bool:
            return (await face.send())[0] == 503

        await eventually(refused)
        status, answer, headers = await face.send()
        assert (status, answer["code"]) == (503, "storage_full")
        assert 45 <= int(headers["Retry-After"]) <= 75  # 60 s, spread
        batch = {"messages": [{"to": {"users": ["ann"]}, "body": 1}]}
        assert (await face.call("POST", "/v1/messages/batch", batch))[1]["code"] == "storage_full"
        assert await face.ack() == 1
        assert (await face.call("DELETE", f"/v1/messages/{second}"))[1]["status"] == "cancelled"
        assert (await face.call("GET", f"/v1/messages/{second}"))[0] == 200
        assert (await face.call("GET", "/v1/events"))[0] == 200
        disk.free = 6 * 1024 * MIB

        async def taken() -> bool:
            return (await face.send())[0] == 202

        await eventually(taken)


@dataclass
class Pages:
    """A bound on the database file, set in SQLite itself: beyond it every write ends with a real SQLITE_FULL."""

    relay: Relay

    async def bound(self, more: int) -> None:
        """The file may grow by so many pages and no more."""
        await self.relay.engine.write(lambda conn, _: _bound(conn, more))


def _bound(conn: Any, more: int) -> None:
    count = conn.exec_driver_sql("PRAGMA page_count").scalar()
    conn.exec_driver_sql(f"PRAGMA max_page_count = {count + more}").scalar()


async def test_when_the_file_cannot_grow_acks_are_kept_by_the_reserve_and_it_recovers_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the next test, where no file system can be made: the bound is SQLite's own, and the reserve's room raises it."""
    disk, released = Disk(), []
    release = Room.release

    def giving_room(room: Room) -> bool:
        made = release(room)
        if made:
            released.append(True)
            _bound(pages.relay.engine._writer_conn, RESERVE_BYTES // 4096)  # type: ignore[attr-defined]
        return made

    monkeypatch.setattr(Room, "release", giving_room)
    async with serving(tmp_path, disk) as face:
        pages = Pages(face.relay)
        for number in range(100):
            await face.sent(number)
        await pages.bound(0)
        disk.free = 0

        async def refused() -> bool:
            return bool((await face.send())[1].get("code") == "storage_full")

        await eventually(refused)
        acked = [await face.ack() for _ in range(100)]
        assert acked == list(range(1, 101))
        assert released == [True], "they needed it, once"
        assert not (tmp_path / "relay.db.reserve").exists()
        assert (await face.call("GET", "/healthz"))[0] == 200
        assert (await face.call("GET", "/readyz"))[0] == 503
        disk.free = 90 * 1024 * MIB
        await pages.bound(1_000_000)

        async def taken() -> bool:
            return (await face.send("after"))[0] == 202

        await eventually(taken)
        assert (tmp_path / "relay.db.reserve").exists()
    raw = sqlite3.connect(tmp_path / "relay.db")
    assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert raw.execute("SELECT acked_seq FROM device").fetchone() == (100,)
    raw.close()


async def test_when_the_file_cannot_grow_and_the_reserve_is_gone_nothing_is_kept_by_halves(tmp_path: Path) -> None:
    """What gets a 503 is not there; what was acked before stays; and it goes on by itself."""
    async with serving(tmp_path, Disk()) as face:
        pages = Pages(face.relay)
        face.relay.room._reserve.unlink()  # type: ignore[union-attr]
        await pages.bound(0)
        taken = 0
        while (said := await face.send("x" * 20_000))[0] == 202:
            taken += 1
        assert (said[0], said[1]["code"]) == (503, "storage_full")
        page = (await face.call("GET", "/v1/device/sync", token=face.token))[1]["batches"][0]
        assert page["head"] == taken
        await pages.bound(1_000_000)

        async def goes_on() -> bool:
            return (await face.send("after"))[0] == 202

        await eventually(goes_on)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 160 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "relay-test", folder], capture_output=True, check=False
    )
    if made.returncode:
        why = f"no file system can be mounted here: {made.stderr.decode().strip()}"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_on_a_disk_that_is_really_full_acks_are_kept_and_it_recovers_by_itself(
    tmp_path: Path, small_disk: Path
) -> None:
    relay = RelayProcess(
        tmp_path,
        {
            "RELAY_STORE__URL": f"sqlite:///{small_disk}/relay.db",
            "RELAY_KEYS__FILE": f"{tmp_path}/relay.keys",
            "RELAY_STORE__FREE_MIN_MIB": "8",
        },
    )
    await relay.start()
    try:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay.url, relay.key)
            await face.device()
            for number in range(100):
                await face.sent(number)
            assert (small_disk / "relay.db.reserve").stat().st_size == 64 * MIB
            filler = small_disk / "filler"
            with filler.open("wb") as file:
                try:
                    while True:
                        file.write(bytes(MIB))
                        file.flush()
                except OSError:
                    pass
            assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize < MIB

            async def refused() -> bool:
                return bool((await face.send())[1].get("code") == "storage_full")

            await eventually(refused)
            acked = [await face.ack() for _ in range(100)]
            assert acked == list(range(1, 101))
            assert not (small_disk / "relay.db.reserve").exists()  # they needed it
            assert (await face.call("GET", "/healthz"))[0] == 200
            assert (await face.call("GET", "/readyz"))[0] == 503
            filler.unlink()

            async def taken() -> bool:
                return (await face.send("after"))[0] == 202

            await eventually(taken)
            assert (small_disk / "relay.db.reserve").exists()
            assert await relay.end(signal.SIGTERM) == 0
            raw = sqlite3.connect(small_disk / "relay.db")
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            raw.close()
            await relay.start()
            assert (await face.call("GET", "/v1/users/ann/devices/phone"))[1]["acked"] == 100
            assert await relay.end(signal.SIGTERM) == 0
    finally:
        await relay.aclose()


# --- somebody else at the file ----------------------------------------------------------------------------------------


async def test_while_another_program_holds_the_file_sends_are_put_off_and_sockets_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRAGMAS, "busy_timeout", 300)  # instead of 5 s
    async with serving(tmp_path, Disk()) as face:
        ws = await face.connect()
        other = sqlite3.connect(tmp_path / "relay.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        status, answer, headers = await face.send()
        assert (status, answer["code"]) == (503, "storage_unavailable")
        assert "Retry-After" in headers
        assert (await face.call("GET", "/healthz"))[0] == 200

        async def not_ready() -> bool:
            return (await face.call("GET", "/readyz"))[0] == 503

        await eventually(not_ready)
        await frame(ws, "degraded")
        other.execute("ROLLBACK")
        other.close()
        began = time.perf_counter()

        async def taken() -> bool:
            return (await face.send("after"))[0] == 202

        await eventually(taken, within_s=2)
        batch = await frame(ws, "batch")
        while not batch["entries"]:
            batch = await frame(ws, "batch")
        assert batch["entries"][0]["body"] == "after"  # on the socket that was open all the time
        assert time.perf_counter() - began < 4

        async def ready() -> bool:
            return (await face.call("GET", "/readyz"))[0] == 200

        await eventually(ready)
        await ws.close()


# --- errors of the disk -----------------------------------------------------------------------------------------------


async def test_after_an_error_of_the_disk_it_stops_at_once_with_74_and_a_restart_finds_all(tmp_path: Path) -> None:
    relay = RelayProcess(tmp_path)
    await relay.start()
    try:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay.url, relay.key)
            await face.device()
            ids = [await face.sent(number) for number in range(20)]
            assert relay.child is not None
            size = (tmp_path / "relay.db-wal").stat().st_size
            resource.prlimit(relay.child.pid, resource.RLIMIT_FSIZE, (size, size))  # further writes fail with EFBIG
            began = time.perf_counter()
            try:
                status, answer, _ = await face.send("x" * 60_000)
                assert (status, answer["code"]) == (503, "commit_unknown")
            except aiohttp.ClientError:
                pass  # it was gone before it could say so: unknown, as the contract allows
            assert await relay.ended() == 74
            assert time.perf_counter() - began < 4  # 2 s, and the slowness of a machine that is busy elsewhere
            assert "store.failed" in relay.log()
            await relay.start()
            for id_ in ids:
                assert (await face.call("GET", f"/v1/messages/{id_}"))[0] == 200
            await face.sent("after")
            assert await relay.end(signal.SIGTERM) == 0
    finally:
        await relay.aclose()
