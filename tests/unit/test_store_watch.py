"""An outage of the store counts against nobody (protocol 6.6, F36)."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from stopped_clock import SetClock

from relay.errors import Unavailable
from relay.model import DeviceKey, Facts
from relay.presence.rules import Beat
from relay.presence.service import PresenceService, Rhythm
from relay.store.outage import StoreWatch

PHONE = DeviceKey("default", "ann", "phone")
BEAT = Beat(interval_s=30, lease_s=75)


class Store:
    """An engine that is there or not, and the transitions that were written to it."""

    failed = False
    trusted = True

    def __init__(self) -> None:
        self.code: str | None = None
        self.commits = 0
        self.slow, self.others = (
            False,
            0,
        )  # whether a write waits for ever, and how many of others are committed meanwhile
        self.went_offline: list[DeviceKey] = []

    def check(self) -> None:
        if self.code is not None:
            raise Unavailable("The store is away.", code=self.code)

    async def write(self, work: Callable[[Any, int], Any]) -> Any:
        self.check()
        if self.slow:
            self.commits += self.others
            await asyncio.Event().wait()
        self.commits += 1
        return work(None, 0)

    async def went(self, device: DeviceKey, session: int, *, linger_ms: int, tell: bool) -> bool:
        self.check()
        self.went_offline.append(device)
        return True

    async def said(self, device: DeviceKey, session: int, facts: Facts) -> bool:
        self.check()
        return True


class House:
    """Presence on a store that can be taken away, and second after second of it."""

    def __init__(self) -> None:
        self.clock, self.store = SetClock(), Store()
        self.presence = PresenceService(self.store, self.clock, Rhythm())
        self.told: list[Any] = []
        self.watch = StoreWatch(self.store, self.clock, away=self.away, back=self.back)  # type: ignore[arg-type]

    def away(self) -> None:
        self.told.append("away")
        self.presence.store_away()

    def back(self, outage_ms: int) -> None:
        self.told.append(outage_ms)
        self.presence.store_back(outage_ms)

    async def seconds(self, count: int) -> None:
        for _ in range(count):
            self.clock.ms += 1000
            await self.watch.probe()
            await self.presence.sweep()


@pytest.fixture
def house() -> House:
    return House()


async def test_nobody_is_offline_after_the_store_was_away_for_five_minutes(house: House) -> None:
    """F36: the leases of those whose heartbeats nobody could write are moved."""
    house.presence.connected(PHONE, 1, BEAT, Facts(False, None))
    await house.seconds(30)
    house.store.code = "storage_unavailable"
    await house.seconds(300)
    house.store.code = None
    await house.seconds(40)  # 70 of its 75 s without the outage
    assert house.store.went_offline == []
    await house.seconds(10)
    assert house.store.went_offline == [PHONE]


async def test_a_device_that_was_heard_meanwhile_keeps_its_lease(house: House) -> None:
    house.presence.connected(PHONE, 1, BEAT, Facts(False, None))
    house.store.code = "storage_unavailable"
    for _ in range(10):
        await house.seconds(30)
        await house.presence.heartbeat(PHONE, 1, Facts(False, None))  # changes no row, so needs no store
    house.store.code = None
    await house.seconds(70)
    assert house.store.went_offline == []


async def test_an_outage_is_told_once_and_its_length_counts_from_the_last_write_that_worked(house: House) -> None:
    await house.seconds(3)
    house.store.code = "storage_unavailable"
    await house.seconds(7)
    house.store.code = None
    await house.seconds(2)
    assert house.told == ["away", 8000]


async def test_a_full_queue_is_no_outage(house: House) -> None:
    house.store.code = "overloaded"
    await house.seconds(5)
    assert house.told == []


@pytest.mark.parametrize(("others", "told"), [(1, []), (0, ["away", 6000])], ids=["a long queue", "nothing goes on"])
async def test_a_store_that_is_slow_is_away_only_if_nothing_is_committed(
    house: House, monkeypatch: pytest.MonkeyPatch, others: int, told: list[Any]
) -> None:
    monkeypatch.setattr("relay.store.outage.ANSWER_S", 0.001)
    await house.seconds(1)
    house.store.slow, house.store.others = True, others
    await house.seconds(5)
    house.store.slow = False
    await house.seconds(1)
    assert house.told == told


@pytest.mark.parametrize(("asleep_s", "offline"), [(60, []), (4, [PHONE])], ids=["we slept", "we were here"])
async def test_what_we_slept_through_counts_against_nobody(
    house: House, monkeypatch: pytest.MonkeyPatch, asleep_s: int, offline: list[DeviceKey]
) -> None:
    """SIGSTOP, or a machine that was put to sleep: no heartbeat could be heard (FLT-27)."""
    monkeypatch.setattr("relay.presence.service.SWEEP_S", 0.001)
    swept = asyncio.Event()
    sweep = house.presence.sweep

    async def seen() -> None:
        await sweep()
        swept.set()

    monkeypatch.setattr(house.presence, "sweep", seen)
    stop = asyncio.Event()
    house.presence.connected(PHONE, 1, BEAT, Facts(False, None))
    house.clock.ms = 72_000  # of 75 s, and we were here all the time
    running = asyncio.create_task(house.presence.run(stop))
    await swept.wait()
    house.clock.ms += asleep_s * 1000
    swept.clear()
    await swept.wait()
    stop.set()
    await running
    assert house.store.went_offline == offline
