"""F54: the disk of the device is full. Nothing is acked, the app is told, and when there is room again everything comes."""

import sqlite3
from pathlib import Path

import pytest
from ears import a_client, body_is, token_of
from relay_process import RelayProcess

from relay.client import Backend, Client, Way, news

SETTINGS = {"RELAY_SERVER__QUIET_S": "0", "RELAY_APP__DEVICE_SENDS": "true"}
LARGE = "x" * 8000
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Disk:
    """Room for the cache's file, as SQLite's own bound: a migration of the app is given the connection."""

    def __call__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def full(self) -> None:
        self._db.execute("PRAGMA max_page_count = 1")  # raised by SQLite to what there is

    def has_room(self) -> None:
        self._db.execute("PRAGMA max_page_count = 1000000")


@pytest.mark.parametrize("way", [Way.WEBSOCKET, Way.POLL])
async def test_f54_a_full_disk_costs_a_delay_and_nothing_else(
    relay: RelayProcess, backend: Backend, tmp_path: Path, way: Way
) -> None:
    disk, user = Disk(), f"ann-{way}"
    token = await token_of(backend, user)
    ids = [(await backend.send(user, "before"))["id"]]
    async with a_client(relay.url, token, tmp_path / "a.db", migrations=[disk], ways=[way]) as (client, ear):
        await ear.until(news.Acked, lambda one: one.seq == 1)
        disk.full()
        ids += [(await backend.send(user, f"{n}{LARGE}"))["id"] for n in range(20)]
        failed = await ear.until(news.StorageFailed)
        assert "full" in failed.detail
        assert (await backend.device(user, "phone"))["acked"] == 1
        assert [one.id for one in await client.history()] == ids[:1], "what was there stays readable"
        disk.has_room()
        client.poke()
        await ear.until(news.Acked, lambda one: one.seq == len(ids))
        assert [one.id for one in await client.history()] == ids
        assert [one.message.id for one in ear.of(news.MessageArrived)] == ids, "nothing twice"
        assert (await client.verify()).state == "ok"


async def much(client: Client) -> None:
    """More than a full disk takes."""
    for _ in range(100):
        await client.send(LARGE, to="friend")


async def test_f54_what_finds_no_room_in_the_outbox_is_refused_to_the_app_and_what_is_in_it_goes(
    relay: RelayProcess, backend: Backend, tmp_path: Path
) -> None:
    disk = Disk()
    token, friend = await token_of(backend, "bea"), await token_of(backend, "friend")
    async with (
        a_client(relay.url, token, tmp_path / "bea.db", migrations=[disk]) as (client, ear),
        a_client(relay.url, friend, tmp_path / "friend.db") as (_, friends_ear),
    ):
        await ear.until(news.CaughtUp)
        disk.full()
        with pytest.raises(sqlite3.OperationalError, match="full"):
            await much(client)
        disk.has_room()
        last = await client.send("last", to="friend")
        await friends_ear.until(news.MessageArrived, body_is("last"))
        await ear.until(news.Sent, lambda one: one.key == last)
        assert await client.unsent() == []
