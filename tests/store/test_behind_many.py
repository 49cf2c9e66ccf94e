"""DUR-15: however many jobs are others' for now, what nobody has is found behind them."""

from typing import Any

import pytest
from house import House
from sqlalchemy import insert

from relay.store.engine import Conn, Engine
from relay.store.schema.push import push_job

MANY = 10_001


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    """Ten thousand jobs, which another worker has claimed and is busy with, fell due before ann's."""
    house = await House(engine, clock).begin()
    await house.register("ann/phone", "t1")
    await house.send("ann")
    clock.forward(s=1)
    await house.engine.write(lambda conn, now_ms: _claimed_elsewhere(conn, now_ms, house))
    return house


def _claimed_elsewhere(conn: Conn, now_ms: int, house: House) -> None:
    row = {
        "app_id": house.app,
        "device_id": "phone",
        "due_ms": now_ms - 3_600_000,
        "reason": None,
        "knock": 0,
        "told_ms": None,
        "tries": 0,
        "retry_ms": None,
        "bare_seq": 0,
        "claim": "n2",
        "claim_token": 1,
        "claim_until_ms": now_ms + 30_000,
        "lost": 0,
        "shown_seq": 0,
    }
    conn.execute(insert(push_job), [{**row, "user_id": f"busy-{n}"} for n in range(MANY)])


async def test_a_job_that_nobody_has_is_taken_in_the_next_round(house: House) -> None:
    assert [one.device for one in await house.plan()] == [house.key("ann/phone")]


async def test_a_job_whose_worker_died_is_taken_when_its_claim_has_lapsed(house: House, clock: Any) -> None:
    await house.plan(owner="n3")
    clock.forward(s=29)
    await house.engine.write(lambda conn, now_ms: _renewed(conn, now_ms))
    assert await house.plan() == []
    clock.forward(s=2)
    await house.plan()  # sees that it was lost
    assert [one.device for one in await house.plan()] == [house.key("ann/phone")]


def _renewed(conn: Conn, now_ms: int) -> None:
    conn.execute(push_job.update().where(push_job.c.claim == "n2").values(claim_until_ms=now_ms + 30_000))
