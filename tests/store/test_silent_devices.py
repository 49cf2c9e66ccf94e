"""Devices that nobody heard of for long, nodes that are no more, events past their time (protocol 5, settings of 16)."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from apscheduler.events import EVENT_JOB_MAX_INSTANCES
from clocks import SetClock
from house import House
from sqlalchemy import func, select
from structlog.testing import capture_logs

from relay.errors import Missing
from relay.model import Policy
from relay.store import meta
from relay.store.devices import device_row
from relay.store.engine import Engine
from relay.store.schema.itself import node
from relay.store.schema.webhooks import event

DAY_S = 86_400
DAY_MS = DAY_S * 1000


@pytest.fixture
async def house(engine: Engine, clock: SetClock) -> House:
    policy = replace(Policy(), dormant_ms=30 * DAY_MS, gone_ms=180 * DAY_MS)
    return await House(engine, clock, policy=policy).begin()


async def state(house: House, name: str) -> str:
    device = await house.engine.read(lambda conn, _: device_row(conn, house.key(name)))
    assert device is not None
    return str(device.state)


async def test_a_silent_device_is_dormant_after_30_days_and_gone_after_180(house: House, clock: SetClock) -> None:
    await house.register("ann/phone", "t1")
    for days, expected in ((29, "active"), (1, "dormant"), (149, "dormant"), (1, "gone")):
        clock.forward(s=days * DAY_S)
        await house.chores().silence()
        assert await state(house, "ann/phone") == expected


async def test_what_a_gone_device_had_not_acked_has_failed_and_its_sender_is_told(
    house: House, clock: SetClock
) -> None:
    await house.register("ann/phone", "t1")
    clock.forward(s=179 * DAY_S)
    await house.chores().silence()
    await house.send()
    clock.forward(s=DAY_S)
    await house.chores().silence()
    told = await house.engine.read(lambda conn, _: conn.execute(select(event.c.type)).scalars().all())
    assert "delivery.failed" in told
    with pytest.raises(Missing):
        await house.inbox.replace_addresses(house.key("ann/phone"), [])


async def test_a_device_that_is_online_is_never_silent(house: House, clock: SetClock) -> None:
    await house.register("ann/phone", "t1")
    await house.hello("ann/phone")
    clock.forward(s=400 * DAY_S)
    await house.chores().silence()
    assert await state(house, "ann/phone") == "active"


async def test_more_silent_devices_than_fit_into_one_look_are_all_found(
    house: House, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.jobs.SILENT_DEVICES", 2)
    names = [f"u{n}/phone" for n in range(5)]
    for name in names:
        await house.register(name)
    clock.forward(s=31 * DAY_S)
    await house.chores().silence()
    assert {await state(house, name) for name in names} == {"dormant"}


async def test_the_row_of_a_node_is_dropped_a_day_after_its_last_beat(house: House, clock: SetClock) -> None:
    await house.engine.write(lambda conn, now_ms: meta.tick(conn, now_ms, "old"))
    clock.forward(s=DAY_S + 1)
    await house.engine.write(lambda conn, now_ms: meta.tick(conn, now_ms, "new"))
    await house.engine.write(meta.forget_nodes)
    nodes = await house.engine.read(lambda conn, _: conn.execute(select(node.c.node_id)).scalars().all())
    assert nodes == ["new"]
    assert await house.engine.read(lambda conn, _: conn.execute(select(func.count()).select_from(node)).scalar()) == 1


async def test_a_chore_whose_time_came_while_the_process_was_busy_is_done_late_instead_of_left_out(
    house: House,
) -> None:
    scheduler = house.chores().scheduler()
    scheduler.start(paused=True)
    try:
        late = {job.id: job.misfire_grace_time for job in scheduler.get_jobs()}
    finally:
        scheduler.shutdown(wait=False)
    assert late["silence"] is None
    assert set(late.values()) == {None}


async def test_a_chore_that_is_due_again_before_it_is_done_is_named(house: House) -> None:
    running, overran, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def busy() -> None:
        running.set()
        await done.wait()

    scheduler = house.chores().scheduler()
    scheduler.add_listener(lambda _: overran.set(), EVENT_JOB_MAX_INSTANCES)
    scheduler.start(paused=True)
    try:
        job = scheduler.get_job("expire")
        due = job.next_run_time - timedelta(seconds=5)  # when it was planned: now
        job.modify(args=[busy], next_run_time=due)
        scheduler.resume()
        await running.wait()
        with capture_logs() as told:
            job.modify(next_run_time=due)
            await overran.wait()
    finally:
        done.set()
        scheduler.shutdown(wait=False)
    assert told == [{"event": "chore.overran", "log_level": "info", "chore": "expire"}]
