"""F42: the interval is raised under load by the answer to a heartbeat; the device follows, and its lease with it."""

from stopped_clock import SetClock

from relay.model import DeviceKey, Facts
from relay.presence.rules import LATE_S
from relay.presence.service import PresenceService, Rhythm

PHONE = DeviceKey("shop", "ann", "phone")
FACTS = Facts(False, None)
OFFER = (15.0, 300.0, 40.0)


class Steady:
    """A store that would hear of every transition."""

    def __init__(self) -> None:
        self.gone: list[DeviceKey] = []

    async def went(self, device: DeviceKey, session: int, *, linger_ms: int, tell: bool) -> bool:
        self.gone.append(device)
        return True

    async def said(self, device: DeviceKey, session: int, facts: Facts) -> bool:
        raise AssertionError("nothing has changed that a row would hold")


async def test_f42_the_device_follows_the_raised_interval_and_never_goes_offline() -> None:
    clock, store = SetClock(), Steady()
    presence = PresenceService(store, clock, Rhythm())
    presence.connected(PHONE, 1, presence.beat(OFFER), FACTS, offer=OFFER)
    interval_s = presence.beat(of=PHONE).interval_s
    assert interval_s == 40, "what the device prefers, in every answer"
    for looks in (3, 0, 0, 0):
        for _ in range(looks):
            presence.pace.looked(LATE_S)
        for _ in range(interval_s):
            clock.ms += 1000
            await presence.sweep()
        beat = presence.beat(of=PHONE)
        await presence.heartbeat(PHONE, 1, FACTS, beat)
        interval_s = beat.interval_s
    assert (interval_s, beat.lease_s) == (240, 600)
    assert store.gone == []
    lease = presence.book.get(PHONE)
    assert lease is not None
    assert lease.until_ms == clock.ms + 600_000
    clock.ms += 600_001
    await presence.sweep()
    assert store.gone == [PHONE], "a silent one does, a whole lease later"


async def test_when_the_load_is_gone_the_interval_comes_back_without_a_gap() -> None:
    clock, store = SetClock(), Steady()
    presence = PresenceService(store, clock, Rhythm())
    presence.pace.looked(LATE_S)
    presence.connected(PHONE, 1, presence.beat(OFFER), FACTS, offer=OFFER)
    assert presence.beat(of=PHONE).interval_s == 60
    for _ in range(20):
        presence.pace.looked(0)
    clock.ms += 60_000
    await presence.sweep()
    beat = presence.beat(of=PHONE)
    await presence.heartbeat(PHONE, 1, FACTS, beat)
    assert beat.interval_s == 40
    clock.ms += 41_000
    await presence.sweep()
    assert store.gone == []
