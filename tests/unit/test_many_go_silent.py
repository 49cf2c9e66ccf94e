"""Thousands of devices may fall silent, or hang up, in the same second."""

import asyncio

import pytest
from stopped_clock import SetClock

from relay.errors import Unavailable
from relay.model import DeviceKey, Facts
from relay.presence.rules import Beat
from relay.presence.service import PresenceService, Rhythm

BEAT = Beat(interval_s=30, lease_s=75)
FACTS = Facts(False, None)
ROOM = 4096  # what the store's queue takes


class Narrow:
    """A store that takes so many transitions at a time and refuses more."""

    def __init__(self) -> None:
        self.waiting = 0
        self.room = ROOM
        self.gone: list[DeviceKey] = []

    async def went(self, device: DeviceKey, session: int, *, linger_ms: int, tell: bool) -> bool:
        if self.waiting >= self.room:
            raise Unavailable("The writer's queue is full.", code="overloaded")
        self.waiting += 1
        await asyncio.sleep(0)  # noqa: TID251 - a commit
        self.waiting -= 1
        if tell:
            self.gone.append(device)
        return True

    async def said(self, device: DeviceKey, session: int, facts: Facts) -> bool:
        return True


def house(devices: int) -> tuple[PresenceService, Narrow, SetClock, list[DeviceKey]]:
    clock, store = SetClock(), Narrow()
    presence = PresenceService(store, clock, Rhythm())
    keys = [DeviceKey("default", f"u{n}", "phone") for n in range(devices)]
    for key in keys:
        presence.connected(key, 1, BEAT, FACTS)
    return presence, store, clock, keys


async def test_ten_thousand_leases_that_run_out_together_all_end() -> None:
    presence, store, clock, keys = house(10_000)
    clock.ms = 80_000
    await presence.sweep()
    assert sorted(store.gone) == sorted(keys)


@pytest.mark.parametrize("goodbye", [True, False])
async def test_a_hang_up_that_the_store_refused_is_told_by_the_sweep(goodbye: bool) -> None:
    presence, store, clock, keys = house(3)
    store.room = 1
    await asyncio.gather(*(presence.closed(key, 1, goodbye=goodbye) for key in keys))
    store.room = ROOM
    for clock.ms in (1_000, 6_000, 12_000):
        await presence.sweep()
    assert sorted(store.gone) == sorted(keys)


async def test_those_whom_a_busy_store_refused_get_a_lease_and_end_with_it() -> None:
    presence, store, clock, keys = house(5)
    store.room = 2
    clock.ms = 80_000
    await presence.sweep()
    assert len(store.gone) == 2
    store.room = ROOM
    clock.ms += 80_000
    await presence.sweep()
    assert sorted(store.gone) == sorted(keys)


async def test_who_comes_back_meanwhile_is_not_swept() -> None:
    presence, store, clock, keys = house(2)
    store.room = 0
    await presence.closed(keys[0], 1, goodbye=True)
    presence.connected(keys[0], 2, BEAT, FACTS)
    store.room = ROOM
    clock.ms = 10_000
    await presence.sweep()
    assert store.gone == []
