"""A client is upgraded, killed, damaged, doubled and set back, against a real relay: nothing is missing, nothing twice.

Relay and client are processes of their own; a killed one is killed with SIGKILL.
"""

import asyncio
import itertools
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from client_process import AppProcess, kept
from relay_process import RelayProcess

from relay.client import Backend

SETTINGS = {"RELAY_HEARTBEAT__INTERVAL_S": "10", "RELAY_SERVER__QUIET_S": "0"}
pytestmark = pytest.mark.asyncio(loop_scope="module")
_users = itertools.count(1)


@dataclass
class User:
    """A user with one device, as the backend sees her."""

    backend: Backend
    name: str
    token: str

    async def send(self, *bodies: Any, **fields: Any) -> list[str]:
        """Sends to her, in order; gives the ids."""
        return [(await self.backend.send(self.name, body, **fields))["id"] for body in bodies]

    async def acked(self, seq: int) -> None:
        """Waits until the relay has heard of everything up to `seq`."""
        async with asyncio.timeout(10):
            while (await self.backend.device(self.name, "phone"))["acked"] < seq:
                await asyncio.sleep(0.05)  # noqa: TID251 - a real process is waited for


@pytest_asyncio.fixture(loop_scope="module")
async def ann(relay: RelayProcess) -> AsyncIterator[User]:
    async with Backend(relay.url, relay.key) as backend:
        name = f"ann-{next(_users)}"
        await backend.put_device(name, "phone")
        yield User(backend, name, await backend.mint_token(name, "phone"))


@pytest.fixture
def phone(relay: RelayProcess, ann: User, tmp_path: Path) -> dict[str, Any]:
    """What the app is started with, in version 1."""
    return {"url": relay.url, "token": ann.token, "cache": str(tmp_path / "phone.db"), "version": "1.0", "schema": 1}


async def test_an_upgrade_with_a_changed_cache_after_a_kill_misses_nothing_and_gets_nothing_twice(
    ann: User, phone: dict[str, Any]
) -> None:
    """F61: some of it was stored and not acked, the rest was on its way."""
    before = await ann.send(*range(30))
    async with AppProcess(phone) as v1:
        await v1.until("CaughtUp")
        await v1.kill()
    away = await ann.send(*range(30, 50))
    async with AppProcess(phone | {"version": "2.0", "schema": 2}) as v2:
        connected = await v2.until("Connected")
        await v2.until("CaughtUp")
        verified = await v2.until("Verified")
        live = await ann.send("live")
        await _arrival(v2, live[0])
    assert connected["verdict"] == "delta"
    assert (verified["state"], verified["fetched"]) == ("ok", 0)
    assert v2.arrived == away + live
    assert kept(Path(phone["cache"])) == before + away + live


async def _arrival(app: AppProcess, id_: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            for one in app.of("MessageArrived"):
                if one["message"]["id"] == id_:
                    return one
            await asyncio.sleep(0.02)  # noqa: TID251 - another process is waited for


async def test_a_client_that_is_killed_again_and_again_while_it_catches_up_keeps_each_message_once(
    ann: User, phone: dict[str, Any]
) -> None:
    """F47: the SDK's cursor and its messages are one transaction."""
    sent = await ann.backend.send_batch([{"to": {"users": [ann.name]}, "body": n} for n in range(1000)])
    ids = [one["id"] for one in sent]
    seen: list[str] = []
    for kill_after in (1, 400):
        async with AppProcess(phone) as app:
            async with asyncio.timeout(20):
                while len(app.arrived) < kill_after:
                    await asyncio.sleep(0.01)  # noqa: TID251
            await app.kill()
        seen += app.arrived
    async with AppProcess(phone) as app:
        await app.until("CaughtUp")
    seen += app.arrived
    assert kept(Path(phone["cache"])) == ids
    assert len(seen) == len(set(seen)), "told as new twice"


async def test_a_damaged_cache_fetches_only_what_differs(ann: User, phone: dict[str, Any]) -> None:
    """F52: missing messages, missing numbers, and a body that rotted; how that scales, tests/unit/test_client_cache.py says."""
    ids = await ann.send(*range(100))
    async with AppProcess(phone) as app:
        await app.until("CaughtUp")
        await ann.acked(100)
    with sqlite3.connect(phone["cache"]) as db:
        db.execute("DELETE FROM message WHERE seq BETWEEN 40 AND 44")
        db.execute("DELETE FROM ledger WHERE seq BETWEEN 40 AND 42")
        db.execute("UPDATE message SET raw = replace(raw, '\"body\":70', '\"body\":71') WHERE seq = 71")
    async with AppProcess(phone | {"repair": True}) as app:
        verified = await app.until("Verified")
    assert (verified["state"], verified["fetched"]) == ("repaired", 6)
    changed = [one["message"]["id"] for one in app.of("MessageChanged")]
    assert (app.arrived, changed) == (ids[39:44], [ids[70]])
    assert kept(Path(phone["cache"])) == ids


@pytest.mark.parametrize("lost", ["seq % 7 = 0", "true"])
async def test_an_upgrade_whose_migration_lost_rows_is_mended_and_proved_to_the_relay(
    ann: User, phone: dict[str, Any], lost: str
) -> None:
    """F66: the cursor's table stayed, some or all of the messages are gone."""
    ids = await ann.send(*range(60))
    async with AppProcess(phone) as app:
        await app.until("CaughtUp")
        await ann.acked(60)
    with sqlite3.connect(phone["cache"]) as db:
        db.execute(f"DELETE FROM message WHERE {lost}")
        db.execute(f"DELETE FROM ledger WHERE {lost}")
    async with AppProcess(phone | {"version": "2.0"}) as app:
        assert (await app.until("Verified"))["state"] == "repaired"
    assert kept(Path(phone["cache"])) == ids
    events = [event async for event, _ in ann.backend.events(types=["device.upgrade_verified"])]
    assert [one["data"]["state"] for one in events if one["data"]["user"] == ann.name] == ["repaired"]


async def test_what_only_the_cache_has_is_kept_and_told_to_the_backend(ann: User, phone: dict[str, Any]) -> None:
    ids = await ann.send(*range(3))
    await ann.backend.cancel(ids[1])
    async with AppProcess(phone) as app:
        await app.until("CaughtUp")
        await ann.acked(3)
    with sqlite3.connect(phone["cache"]) as db:  # as a restored relay might have forgotten it
        db.execute(
            "INSERT INTO ledger (timeline, seq, id, h, kept) SELECT timeline, 2, 'g', h, kept FROM ledger WHERE seq = 1"
        )
    async with AppProcess(phone | {"version": "2.0"}) as app:
        verified = await app.until("Verified")
    assert (verified["state"], verified["extra"]) == ("ok", 1)
    with sqlite3.connect(phone["cache"]) as db:
        assert db.execute("SELECT count(*) FROM ledger").fetchone() == (3,)
    events = [event async for event, _ in ann.backend.events(types=["device.extra"])]
    assert [one["data"]["messages"] for one in events if one["data"]["user"] == ann.name] == [1]


async def test_what_an_old_version_could_not_show_comes_in_full_after_the_upgrade(
    ann: User, phone: dict[str, Any]
) -> None:
    (poll,) = await ann.send({"poll": ["a", "b"]}, min_schema=2, fallback={"text": "Please upgrade"})
    (held,) = await ann.send("for version 2 alone", min_schema=2)
    (odd,) = await ann.send("odd", type="hologram")
    (bad,) = await ann.send("trips version 1")
    async with AppProcess(phone | {"types": ["text"], "bad": "trips version 1"}) as v1:
        await v1.until("CaughtUp")
        await ann.acked(4)
    assert [(one["message"]["id"], one["message"]["form"]) for one in v1.of("MessageArrived")] == [
        (poll, "fallback"),
        (odd, "raw"),
        (bad, "raw"),
    ]
    async with AppProcess(phone | {"version": "2.0", "schema": 2, "types": ["text", "hologram"]}) as v2:
        verified = await v2.until("Verified")
    assert verified["state"] == "ok"
    assert {one["message"]["id"]: one["message"]["form"] for one in v2.of("MessageChanged")} == {
        poll: "full",
        odd: "full",
        bad: "full",
    }
    assert v2.arrived == [held]


async def test_what_the_old_version_refused_but_could_not_say_before_it_was_killed_is_said_by_the_new_one(
    ann: User, phone: dict[str, Any]
) -> None:
    async with AppProcess(phone | {"bad": "trips version 1"}) as v1:
        await v1.until("CaughtUp")
        v1.child.send_signal(signal.SIGSTOP)  # the message waits for it in its socket
        (bad,) = await ann.send("trips version 1")
        v1.child.send_signal(signal.SIGCONT)
        await _arrival(v1, bad)  # stored and told; the ack waits a quarter of a second
        await v1.kill()
    async with AppProcess(phone | {"version": "2.0"}) as v2:
        await v2.until("Verified")
        async with asyncio.timeout(10):
            while not v2.of("MessageChanged"):
                await asyncio.sleep(0.02)  # noqa: TID251
    assert [one["message"]["form"] for one in v2.of("MessageChanged")] == ["full"]
    assert kept(Path(phone["cache"])) == [bad]


async def test_a_downgrade_keeps_the_newer_cache_aside_and_gets_everything_again(
    ann: User, phone: dict[str, Any]
) -> None:
    """F69: a new store for the old version; what needs the newer one is held."""
    ids = await ann.send(*range(10))
    async with AppProcess(phone | {"version": "3.0", "schema": 3}) as v3:
        await v3.until("CaughtUp")
        await ann.acked(10)
    more = await ann.send("needs 3", min_schema=3)
    async with AppProcess(phone) as v1:
        aside = await v1.until("CacheSetAside")
        connected = await v1.until("Connected")
        await v1.until("CaughtUp")
    assert aside["why"] == "newer"
    assert kept(Path(aside["path"])) == ids
    assert connected["verdict"] == "resync"
    assert kept(Path(phone["cache"])) == ids
    async with AppProcess(phone | {"version": "3.0", "schema": 3}) as again:
        await again.until("CaughtUp")
    assert kept(Path(phone["cache"])) == ids + more


async def test_a_store_that_was_set_back_to_a_backup_gets_what_it_lost(ann: User, phone: dict[str, Any]) -> None:
    """F49: whatever it had acked since then comes again."""
    cache, backup = Path(phone["cache"]), Path(phone["cache"] + ".backup")
    early = await ann.send(*range(5))
    async with AppProcess(phone) as app:
        await app.until("CaughtUp")
    shutil.copy(cache, backup)
    late = await ann.send(*range(5, 12))
    async with AppProcess(phone) as app:
        await app.until("CaughtUp")
        await ann.acked(12)
    shutil.copy(backup, cache)
    async with AppProcess(phone) as app:
        connected = await app.until("Connected")
        await app.until("CaughtUp")
    assert connected["verdict"] in {"delta", "resync"}
    assert app.arrived == late
    assert kept(cache) == early + late


async def test_a_wiped_store_gets_everything_that_is_kept(ann: User, phone: dict[str, Any]) -> None:
    """F48: the cursor went with it; of one that was kept elsewhere, tests/store/test_client_upgrades.py tells."""
    ids = await ann.send(*range(8))
    async with AppProcess(phone) as app:
        await app.until("CaughtUp")
        await ann.acked(8)
    Path(phone["cache"]).unlink()
    async with AppProcess(phone) as app:
        assert (await app.until("Connected"))["verdict"] == "resync"
        await app.until("CaughtUp")
    assert kept(Path(phone["cache"])) == ids


async def test_two_installs_with_one_identity_take_turns_and_each_ends_with_everything(
    ann: User, phone: dict[str, Any], tmp_path: Path
) -> None:
    """F51: both are alive, and one connection at a time is the device's."""
    ids = await ann.send(*range(5))
    async with AppProcess(phone) as app:
        await app.until("CaughtUp")
    clone = phone | {"cache": str(tmp_path / "clone.db"), "foreground": False}
    shutil.copy(phone["cache"], clone["cache"])
    async with AppProcess(clone) as second:
        await second.until("CaughtUp")
        async with AppProcess(phone) as first:
            await first.until("CaughtUp")
            await second.until("Replaced")
            ids += await ann.send("to whoever is there")
            await _arrival(first, ids[-1])
    async with AppProcess(clone) as second:
        await second.until("CaughtUp")
    assert kept(Path(phone["cache"])) == ids
    assert kept(Path(clone["cache"])) == ids


async def test_an_upgrade_whose_first_handshake_went_without_its_answer_is_still_compared_and_proved(
    ann: User, phone: dict[str, Any]
) -> None:
    """F62, F63: the new version was killed, or cut off, before it had read that it has to compare."""
    ids = await ann.send(*range(20))
    async with AppProcess(phone) as app:
        await app.until("CaughtUp")
        await ann.acked(20)
    with sqlite3.connect(phone["cache"]) as db:
        db.execute("DELETE FROM message WHERE seq = 7")
        db.execute("DELETE FROM ledger WHERE seq = 7")
        store_id, cursor = db.execute("SELECT id, cursor FROM store").fetchone()
    unheard = {"app_version": "2.0", "schema": 1, "store": {"id": store_id}, "cursors": {"inbox": cursor}}
    headers = {"Authorization": f"Bearer {ann.token}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        answer = await http.put(f"{phone['url']}/v1/device", json=unheard)
        assert (await answer.json())["upgrade"]["to"] == "2.0"
    async with AppProcess(phone | {"version": "2.0"}) as app:
        assert (await app.until("Verified"))["state"] == "repaired"
    assert sorted(kept(Path(phone["cache"]))) == ids
    events = [event async for event, _ in ann.backend.events(types=["device.upgrade_verified"])]
    assert [one["data"]["state"] for one in events if one["data"]["user"] == ann.name] == ["repaired"]


async def test_two_installs_with_one_identity_are_told_to_part_and_one_goes_on_under_another_id(
    ann: User, phone: dict[str, Any], tmp_path: Path
) -> None:
    """F51: resyncs in turn, then `reidentify`."""
    ids = await ann.send(*range(3))
    async with AppProcess(phone) as app:
        await app.until("CaughtUp")
        await ann.acked(3)
    clone = phone | {"cache": str(tmp_path / "clone.db")}
    shutil.copy(phone["cache"], clone["cache"])
    told: list[bool] = []
    for install in (phone, clone, phone, clone):
        ids += await ann.send("to whoever is there")
        async with AppProcess(install) as app:
            await app.until("Acked", seq=len(ids))
            told.append(bool(app.of("Reidentify")))
    assert told == [False, False, False, True]
    await ann.backend.put_device(ann.name, "phone-2")
    parted = clone | {"token": await ann.backend.mint_token(ann.name, "phone-2")}
    ids += await ann.send("to both")
    for install in (parted, phone):
        async with AppProcess(install) as app:
            await app.until("CaughtUp")
        assert kept(Path(install["cache"])) == ids


async def test_what_the_backend_sent_in_the_phones_name_is_fetched_after_an_upgrade_and_was_not_lost(
    ann: User, phone: dict[str, Any]
) -> None:
    await ann.backend.put_device("bob", "phone")
    sender = {"user": ann.name, "device": "phone"}
    async with AppProcess(phone) as v1:
        await v1.until("CaughtUp")
        before = await ann.send("before")
        mine = [(await ann.backend.send("bob", n, sender=sender))["id"] for n in range(3)]
        after = await ann.send("after")
        await _arrival(v1, after[0])
        assert v1.arrived == before + after
        await ann.acked(5)
    async with AppProcess(phone | {"version": "2.0"}) as v2:
        verified = await v2.until("Verified")
    assert (verified["state"], verified["fetched"]) == ("ok", 0)
    assert v2.arrived == mine
    assert sorted(kept(Path(phone["cache"]))) == sorted(before + mine + after)
    events = [event async for event, _ in ann.backend.events(types=["device.upgrade_verified"])]
    assert [one["data"]["state"] for one in events if one["data"]["user"] == ann.name] == ["ok"]


async def test_f62_a_new_version_that_is_killed_in_its_first_start_gets_the_same_verdict_again(
    ann: User, phone: dict[str, Any]
) -> None:
    before = await ann.send(*range(20))
    async with AppProcess(phone) as v1:
        await v1.until("CaughtUp")
        await ann.acked(20)
    away = await ann.send(*range(20, 40))
    v2 = phone | {"version": "2.0", "schema": 2}
    async with AppProcess(v2) as first:
        assert (await first.until("Connected"))["verdict"] == "delta"
        await first.kill()
    async with AppProcess(v2) as again:
        connected = await again.until("Connected")
        assert (await again.until("Verified"))["state"] == "ok"
    assert connected["verdict"] == ("delta" if connected["missing"] else "resume"), "some may be on the disk by now"
    assert kept(Path(phone["cache"])) == before + away
