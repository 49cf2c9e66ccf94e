"""Ends that fall between two transactions are told all the same; found by the simulation, kept here on both stores."""

import json
from dataclasses import replace
from typing import Any

import pytest
from house import House, sending

from relay.inbox.ack import AckRequest
from relay.inbox.handshake import Hello
from relay.inbox.registry import Registration
from relay.inbox.send import Send
from relay.inbox.service import InboxService
from relay.model import DeviceKey, DeviceState, Policy, Scope
from relay.store.engine import Engine

DAY_S = 86_400
PHONE = DeviceKey("shop", "ann", "phone")
TABLET = DeviceKey("shop", "ann", "tablet")


@pytest.fixture
async def inbox(engine: Engine, clock: Any) -> InboxService:
    return (await House(engine, clock).begin()).inbox


def send(number: int, *, ttl_s: int = 3600, min_schema: int | None = None) -> Send:
    return sending(number, ttl_s=ttl_s, min_schema=min_schema)


async def ends(inbox: InboxService) -> list[tuple[str, str]]:
    """(device, type) of every delivery that ended."""
    rows = await inbox.engine.read(lambda conn, _: conn.exec_driver_sql("SELECT type, data FROM event").all())
    wanted = {"delivery.acked", "delivery.expired"}
    return sorted((json.loads(data)["device"], type_) for type_, data in rows if type_ in wanted)


@pytest.mark.parametrize("device_had_it", [True, False])
async def test_an_ack_that_passes_a_message_between_its_expiry_and_the_sweep_hides_no_end(
    inbox: InboxService, clock: Any, device_had_it: bool
) -> None:
    for device in (PHONE, TABLET):
        await inbox.register(Registration(device=device))
    await inbox.accept(send(1, ttl_s=20))
    welcome = await inbox.hello(Hello(device=PHONE, node_id="n1", store_id="s"))
    if device_had_it:
        reading = await inbox.reader.read(PHONE, inbox.reader.unseal(welcome.cursor, PHONE), limit=10)
        clock.forward(s=21)
    else:
        clock.forward(s=21)
        reading = await inbox.reader.read(PHONE, inbox.reader.unseal(welcome.cursor, PHONE), limit=10)
    assert reading.batch is not None
    await inbox.ack(AckRequest(device=PHONE, cursor=inbox.reader.unseal(reading.batch.cursor, PHONE)))

    await inbox.expire()

    assert await ends(inbox) == [("phone", "delivery.expired"), ("tablet", "delivery.expired")]


async def test_a_handshake_between_the_expiry_of_a_held_message_and_the_sweep_hides_no_end(
    inbox: InboxService, clock: Any
) -> None:
    """F70: the upgrade comes after its time and before the sweep."""
    await inbox.register(Registration(device=PHONE))
    await inbox.accept(send(3, ttl_s=20, min_schema=7))
    welcome = await inbox.hello(Hello(device=PHONE, node_id="n1", store_id="s", schema=6))
    reading = await inbox.reader.read(PHONE, inbox.reader.unseal(welcome.cursor, PHONE), limit=10)
    assert reading.batch is not None
    await inbox.ack(AckRequest(device=PHONE, cursor=inbox.reader.unseal(reading.batch.cursor, PHONE)))
    clock.forward(s=21)
    await inbox.hello(Hello(device=PHONE, node_id="n1", store_id="s", cursor=reading.batch.cursor))

    await inbox.expire()

    assert await ends(inbox) == [("phone", "delivery.expired")]


async def test_a_first_handshake_above_the_floor_counts_what_was_below_as_passed_and_told(
    inbox: InboxService,
) -> None:
    await inbox.register(Registration(device=PHONE))
    accepted = await inbox.accept(send(2))
    await inbox.cancel("shop", accepted.message_id)
    assert await inbox.prune([PHONE.user]) == 1

    await inbox.hello(Hello(device=PHONE, node_id="n1", store_id="s"))

    device, _ = await inbox.reader.device(PHONE)
    assert (device.acked_seq, device.acked_high, device.pushed_seq) == (1, 1, 1)


async def test_what_the_floor_does_not_wait_for_has_failed_for_the_dormant_device(engine: Engine, clock: Any) -> None:
    """F59, protocol 11.3: what every active device has acked goes, though its time is not over."""
    policy = replace(Policy(), dormant_ms=30 * DAY_S * 1000)
    house = await House(engine, clock, policy=policy).begin()
    for name in ("ann/phone", "ann/tablet"):
        await house.register(name)
        await house.hello(name)
    await house.bye("ann/phone")
    clock.forward(s=29 * DAY_S)
    sent = await house.send("ann", ttl_s=20 * DAY_S)
    await house.catch_up("ann/tablet")
    clock.forward(s=8 * DAY_S)
    await house.inbox.silence(DeviceState.ACTIVE, before_ms=clock.now_ms() - policy.dormant_ms, limit=10)

    assert await house.inbox.prune([house.key("ann/phone").user]) == 1

    told = dict(await house.events())
    (failed,) = told["delivery.failed"]["deliveries"]
    assert (told["delivery.failed"]["device"], failed["message_id"]) == ("phone", sent.message_id)
    assert failed["detail"] == "device_dormant"
    assert told["message.completed"]["messages"][0]["counts"] == {"acked": 1, "failed": 1}
    assert await house.inbox.prune([house.key("ann/phone").user]) == 0


@pytest.mark.parametrize("at_once", [True, False])
async def test_what_has_failed_for_a_device_that_goes_does_not_end_for_it_once_more(
    engine: Engine, clock: Any, at_once: bool
) -> None:
    """I13: of two handshakes in one batch the first ends another device, and the second the message for all others."""
    house = await House(engine, clock).begin()
    for name in ("ann/old", "ann/new", "ann/other"):
        await house.register(name)
        await house.hello(name)
    await house.send(scope=Scope(first_ack_wins=True))
    await house.page("ann/other")
    hellos = [house.said("ann/new", replaces="old"), house.said("ann/other")]
    for batch in [hellos] if at_once else [[one] for one in hellos]:
        await house.engine.write(lambda conn, now_ms, batch=batch: house.inbox._hello(conn, now_ms, batch))
    told = {type_: await house.deliveries(f"delivery.{type_}") for type_ in ("acked", "failed", "superseded")}
    assert {type_: [device for device, _ in some] for type_, some in told.items()} == {
        "acked": ["other"],
        "failed": ["old"],
        "superseded": ["new"],
    }
    assert (await house.job("ann/old")).reason == "gone"
