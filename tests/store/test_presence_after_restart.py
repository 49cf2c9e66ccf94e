"""F35: what a relay makes, when it starts, of devices that were online or had just gone when it stopped (protocol §6.6)."""

from clocks import SetClock
from house import House

from relay.model import DeviceKey, Facts
from relay.presence.service import PresenceService, Rhythm
from relay.store.devices import online_devices


class Rows:
    """What presence asks of the inbox room, done on the rows themselves."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def went(self, device: DeviceKey, session: int, *, linger_ms: int, tell: bool) -> bool:
        return await self._house.inbox.went(device, session, linger_ms=linger_ms, tell=tell)

    async def said(self, device: DeviceKey, session: int, facts: Facts) -> bool:
        raise AssertionError("nobody sends a heartbeat")


async def started(house: House, clock: SetClock, *, handshakes_per_s: float = 500) -> PresenceService:
    presence = PresenceService(Rows(house), clock, Rhythm(handshakes_per_s=handshakes_per_s))
    presence.resume(await house.engine.read(lambda conn, _: online_devices(conn)))
    return presence


async def offline(house: House) -> list[str]:
    return [data["device"] for type_, data in await house.events() if type_ == "device.offline"]


async def test_a_device_that_does_not_come_back_after_a_planned_restart_is_told_offline_once(
    house: House, clock: SetClock
) -> None:
    for name in ("ann/away", "ann/back", "ann/left"):
        await house.register(name)
        await house.hello(name)
    for name in ("ann/away", "ann/back"):
        await house.bye(name, linger_ms=30_000, tell=False)  # as a drain says it
    await house.bye("ann/left")
    assert await offline(house) == ["left"]

    presence = await started(house, clock)
    welcome = await house.hello("ann/back")
    presence.connected(house.key("ann/back"), welcome.session, presence.beat(), Facts(False, None))
    clock.forward(s=29)
    await presence.sweep()
    assert await offline(house) == ["left"], "it has half a minute to come back"
    clock.forward(s=3)
    await presence.sweep()
    assert sorted(await offline(house)) == ["away", "left"]
    await (await started(house, clock)).sweep()
    assert len(await offline(house)) == 2


async def test_of_a_herd_nobody_is_told_offline_before_the_door_could_let_in_the_last(
    house: House, clock: SetClock
) -> None:
    names = [f"ann/{n}" for n in range(4)]
    for name in names:
        await house.register(name)
        await house.hello(name)
    for name in names[:2]:
        await house.bye(name, linger_ms=30_000, tell=False)  # as a drain says it; the others were cut off by a crash
    presence = await started(
        house, clock, handshakes_per_s=0.1
    )  # 40 s for the four, and up to 30 for whom it turns away
    clock.forward(s=99)
    await presence.sweep()
    assert await offline(house) == []
    clock.forward(s=2)
    await presence.sweep()
    assert sorted(await offline(house)) == ["0", "1"]
    clock.forward(s=45)
    await presence.sweep()
    assert sorted(await offline(house)) == ["0", "1", "2", "3"]


async def test_a_dead_node_s_herd_has_as_much_longer(house: House, clock: SetClock) -> None:
    for n in range(4):
        await house.register(f"ann/{n}")
        await house.hello(f"ann/{n}")
    presence = PresenceService(Rows(house), clock, Rhythm(handshakes_per_s=0.1))
    presence.take_over(await house.engine.read(lambda conn, _: online_devices(conn)))
    clock.forward(s=99)
    await presence.sweep()
    assert await offline(house) == []
    clock.forward(s=2)
    await presence.sweep()
    assert len(await offline(house)) == 4


async def test_a_dead_node_s_device_is_taken_over_where_an_older_session_of_it_still_has_a_lease(
    house: House, clock: SetClock
) -> None:
    await house.register("ann/phone")
    presence = PresenceService(Rows(house), clock, Rhythm())
    here = await house.hello("ann/phone")
    presence.connected(house.key("ann/phone"), here.session, presence.beat(), Facts(False, None))
    await house.hello("ann/phone")  # at the other node, which dies
    presence.take_over(await house.engine.read(lambda conn, _: online_devices(conn)))
    for _ in range(4):
        clock.forward(s=40)
        await presence.sweep()
    assert await offline(house) == ["phone"]
