"""Ends of connections that the store has no room for: a whole network may go in one second."""

from clocks import SetClock
from structlog.testing import capture_logs

from relay.errors import Unavailable
from relay.model import DeviceKey, Facts
from relay.presence.service import PresenceService, Rhythm

PHONES = [DeviceKey("shop", f"user{n}", "phone") for n in range(100)]


class Full:
    """A store that refuses, until it has room."""

    def __init__(self) -> None:
        self.room = False
        self.gone: list[DeviceKey] = []

    async def went(self, device: DeviceKey, session: int, *, linger_ms: int, tell: bool) -> bool:
        if not self.room:
            raise Unavailable("The queue is full.", code="overloaded")
        self.gone.append(device)
        return True

    async def said(self, device: DeviceKey, session: int, facts: Facts) -> bool:
        raise AssertionError("nobody sends a heartbeat")


async def test_one_line_tells_of_all_that_went_and_the_sweep_says_of_each_that_it_is_offline() -> None:
    store, clock = Full(), SetClock()
    presence = PresenceService(store, clock, Rhythm())
    for phone in PHONES:
        presence.connected(phone, 1, presence.beat(), Facts(False, None))
    with capture_logs() as told:
        for phone in PHONES:
            await presence.closed(phone, 1, goodbye=False)
        await presence.sweep()
        await presence.sweep()
    assert [(line["event"], line["code"], line["count"]) for line in told] == [
        ("presence.store_unavailable", "overloaded", len(PHONES))
    ]
    store.room = True
    clock.forward(s=3600)
    await presence.sweep()
    assert sorted(store.gone) == sorted(PHONES)
