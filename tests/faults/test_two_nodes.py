"""Two relays on one PostgreSQL: what one of them does not know of the other must not be told wrongly (protocol 6.6, 14)."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from load import ENVIRON
from postgres_databases import fresh
from scene import Scene, beside, eventually, frame, scene

INTERVAL_S, FACTOR = 10, 2  # the shortest lease there is
LEASE_S = INTERVAL_S * FACTOR
BURIED_S = 15 + 5 + 30 + 5  # a node counts as dead, that is seen, its devices may come back, and what the machine takes
BEAT = {"min_s": 10, "max_s": 10, "prefer_s": 10}


@pytest.fixture
async def at(postgres_server: str, tmp_path: Path) -> AsyncIterator[Scene]:
    async with fresh(postgres_server, "template1") as url:
        environ = ENVIRON | {
            "RELAY_STORE__URL": url,
            "RELAY_HEARTBEAT__INTERVAL_S": str(INTERVAL_S),
            "RELAY_HEARTBEAT__LEASE_FACTOR": str(FACTOR),
        }
        async with scene(tmp_path, environ) as at:
            yield at


async def online(at: Scene, user: str) -> bool:
    status, presence = await at.call("GET", f"/v1/users/{user}/presence")
    assert status == 200
    return bool(presence["online"])


async def test_a_node_that_starts_ends_nobodys_lease_at_another(at: Scene, tmp_path: Path) -> None:
    """It knows of them from their rows alone, and hears none of their heartbeats."""
    ws = await at.connect(await at.device("ann"), heartbeat=BEAT)
    async with beside(at, tmp_path / "other") as other:
        began = time.monotonic()  # noqa: TID251
        while time.monotonic() - began < LEASE_S + 4:  # noqa: TID251
            await ws.send_json({"type": "hb", "ref": "b"})
            await frame(ws, "hb")
            await asyncio.sleep(1)  # noqa: TID251 - a device has a pace
        assert await online(other, "ann")
        assert await at.events("ann", "device.offline") == []
    await ws.close()


async def test_f38_of_a_node_that_is_killed_who_comes_elsewhere_is_not_offline_and_the_others_are(
    at: Scene, tmp_path: Path
) -> None:
    async with beside(at, tmp_path / "other") as other:
        ann, sue = await at.device("ann"), await at.device("sue")
        for token in (ann, sue):
            await at.connect(token, heartbeat=BEAT)
        assert await at.relay.end(signal.SIGKILL) == -signal.SIGKILL
        again = await other.connect(ann, heartbeat=BEAT)

        async def sue_is_offline() -> bool:
            await again.send_json({"type": "hb", "ref": "b"})
            return bool(await other.events("sue", "device.offline"))

        await eventually(sue_is_offline, within_s=BURIED_S)
        assert await other.events("ann", "device.offline") == []
        assert (await online(other, "ann"), await online(other, "sue")) == (True, False)
        await other.send("ann", "to the node that lives")
        batch = await frame(again, "batch")
        while not batch["entries"]:
            batch = await frame(again, "batch")
        assert [entry["body"] for entry in batch["entries"]] == ["to the node that lives"]
        await again.close()
