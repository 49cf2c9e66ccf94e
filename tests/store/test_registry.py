"""Devices, their addresses, their presence, and what is kept for them (protocol §5, §6.1, §11.3, §11.4).

Each test is a row of a table there; the rows are judged by `law.py` at its end. F27, F28, F31, F39, F43, F71, F72, F93;
I8, I11, I15 to I17, I22, I23, I26, I36.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import law
import pytest
from house import FREE, House, address
from sqlalchemy import text

from providers.contract import Verdict
from relay.errors import Conflict, Invalid, Missing, Throttled, Unauthenticated
from relay.inbox.addresses import AddressState
from relay.inbox.online import ForeignWord
from relay.inbox.registry import Registration, prove_address
from relay.model import DeviceState, Facts, Policy, Scope
from relay.push.limits import BRAKE_DEAD_MIN, Brake
from relay.store import addresses as address_rows
from relay.store.engine import Engine

POLICY = Policy(inbox_max=20, system_reserve=2, devices_max=3)
DAY_S = 86_400


@pytest.fixture
async def house(engine: Engine, clock: Any) -> AsyncIterator[House]:
    """ann's phone with a token, a second after it was registered. In the end the law must hold."""
    house = await House(engine, clock, policy=POLICY).begin()
    await house.register("ann/phone", "t1")
    clock.forward(s=1)
    yield house
    await house.checked(law.everything(house.app, house.policy))


async def usable(house: House, name: str) -> bool:
    return bool((await house.device(name)).has_address)


async def types(house: House, type_: str) -> list[dict[str, Any]]:
    return [data for kind, data in await house.events() if kind == type_]


# --- §5: devices ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "begins"), [("retained", 0), ("now", 3), ("days:1", 2)], ids=["retained", "now", "days"]
)
async def test_a_new_device_begins_where_the_app_says_and_is_told_of_nothing_before_it(
    house: House, clock: Any, start: str, begins: int
) -> None:
    """§5: what was sent before a device existed is synced, not notified; whatever its address is told later."""
    await house.sends(2)
    clock.forward(s=2 * DAY_S)
    await house.sends(1)
    clock.forward(s=1)
    house.policy = replace(POLICY, start=start)
    device = await house.register("ann/tablet", "t2")
    assert (device.start_seq, device.acked_seq, device.pushed_seq) == (begins, begins, 3)
    clock.forward(s=1)
    assert {one.device.device_id for one in await house.told()} == {"phone"}
    clock.forward(s=1)
    await house.inbox.replace_addresses(house.key("ann/tablet"), [address("t3")])
    assert (await house.device("ann/tablet")).pushed_seq == 3
    house.policy = POLICY


async def test_registering_again_changes_only_what_is_named(house: House) -> None:
    """Repeatable: `None` leaves as it is, and the numbers stay."""
    await house.register("ann/phone", platform="ios", app_version="5.4")
    await house.sends(1)
    await house.hello("ann/phone")
    await house.catch_up("ann/phone")
    before = await house.device("ann/phone")
    device = await house.register("ann/phone", locale="de-DE")
    assert (device.platform, device.app_version, device.locale) == ("ios", "5.4", "de-DE")
    assert (device.session, device.acked_seq, device.has_address) == (before.session, 1, 1)


async def test_a_user_has_a_bounded_number_of_devices(house: House) -> None:
    """§11.4: a refusal names the bound, and signing one out makes room."""
    await house.register("ann/tablet")
    await house.register("ann/watch")
    with pytest.raises(Invalid):
        await house.register("ann/car")
    await house.inbox.sign_out(house.key("ann/watch"))
    await house.register("ann/car")


async def test_who_follows_another_device_takes_its_room(house: House) -> None:
    await house.register("ann/tablet")
    await house.register("ann/watch")
    with pytest.raises(Invalid):
        await house.register("ann/new", replaces="lost long ago")
    assert (await house.register("ann/new", replaces="phone")).predecessor == "phone"


async def test_signing_out_ends_everything_and_a_new_life_begins_afresh(house: House) -> None:
    """`DELETE`: open deliveries fail once, the address is buried, words of the old life are refused; I26."""
    lost = (await house.send()).message_id
    first = await house.hello("ann/phone")
    phone = house.key("ann/phone")
    await house.inbox.sign_out(phone)
    with pytest.raises(Missing):
        await house.inbox.sign_out(phone)
    assert await house.deliveries("delivery.failed") == [("phone", lost)]
    assert (await house.job("ann/phone")).reason == "gone"
    with pytest.raises(Unauthenticated):
        await house.ack("ann/phone", ids=(lost,))
    with pytest.raises(Unauthenticated):
        await house.hello("ann/phone")
    assert not await house.inbox.went(phone, first.session, linger_ms=0, tell=True)
    await house.register("ann/phone")
    again = await house.hello("ann/phone")
    assert (again.verdict, again.session > first.session) == ("resync", True)
    assert not await house.inbox.said(phone, first.session, Facts())


async def test_a_cursor_of_an_earlier_life_never_puts_a_device_before_its_start(house: House) -> None:
    """I8: the same name, the same store without an id, an app that starts new devices at the head."""
    house.policy = replace(POLICY, start="now")
    await house.hello("ann/phone", store_id=None)
    old = house.store("ann/phone").cursor
    await house.inbox.sign_out(house.key("ann/phone"))
    await house.register("bob/phone")
    await house.register("ann/tablet")
    await house.sends(3)
    await house.register("ann/phone", "t1")
    await house.hello("ann/phone", cursor=old, store_id=None)
    device = await house.device("ann/phone")
    assert device.start_seq <= device.acked_seq
    house.policy = POLICY


@pytest.mark.parametrize("by", ["register", "hello"])
async def test_f71_a_reinstall_takes_over_from_its_predecessor(house: House, clock: Any, by: str) -> None:
    """F71: the old token is still valid with the vendor, but dead here; what the old one lacked is told to the new one."""
    await house.hello("ann/phone")
    acked = await house.sends(2)
    await house.catch_up("ann/phone")
    await house.bye("ann/phone")
    lost = (await house.send()).message_id
    clock.forward(s=1)
    assert len(await house.told()) == 1
    if by == "register":
        await house.register("ann/new", "t2", replaces="phone")
    else:
        await house.register("ann/new", "t2")
        await house.hello("ann/new", replaces="phone")
        await house.bye("ann/new")
    with pytest.raises(Missing):
        await house.device("ann/phone")
    assert await house.deliveries("delivery.failed") == [("phone", lost)]
    clock.forward(s=1)
    (attempt,) = await house.told()
    assert (attempt.device.device_id, attempt.send.from_seq, attempt.send.upto_seq) == ("new", 3, 3)
    await house.hello("ann/new")
    assert await house.catch_up("ann/new") == [*acked, lost]
    clock.forward(s=DAY_S)
    assert await house.plan() == []


@pytest.mark.parametrize("by", ["register", "hello"])
async def test_f71_what_a_predecessor_lacked_is_in_view_whatever_the_start_policy(house: House, by: str) -> None:
    """§5: it fails for the old one only if the new one has it in its view."""
    house.policy = replace(POLICY, start="now")
    await house.hello("ann/phone", schema=6)
    await house.sends(1)
    held = (await house.send(min_schema=7)).message_id
    await house.catch_up("ann/phone")
    lost = (await house.send()).message_id
    if by == "register":
        await house.register("ann/new", replaces="phone")
        await house.hello("ann/new", schema=7)
    else:
        await house.register("ann/new")
        await house.hello("ann/new", schema=7, replaces="phone")
    assert await house.catch_up("ann/new") == [held, lost]
    house.policy = POLICY


@pytest.mark.parametrize("what", ["shown as its fallback", "its own"])
async def test_f71_what_was_to_come_again_to_a_predecessor_is_in_view(house: House, what: str) -> None:
    """Released to it in full, and not acked: its successor begins where the message stands."""
    house.policy = replace(POLICY, start="now")
    await house.register("bob/phone")
    await house.hello("ann/phone", schema=6)
    own = what == "its own"
    of: dict[str, Any] = {"sender_user": "ann"} if own else {"fallback": '"f"', "fallback_h": "ff"}
    sent = await house.send("bob" if own else "ann", min_schema=7, h="full", **of)
    assert await house.catch_up("ann/phone") == ([] if own else [sent.message_id])
    await house.hello("ann/phone", schema=7)
    assert (await house.page("ann/phone", store=False)).ids == [sent.message_id]
    await house.register("ann/new", replaces="phone")
    await house.hello("ann/new", schema=7)
    page = await house.page("ann/new")
    assert [(entry["id"], entry["form"]) for entry in page.json["entries"]] == [(sent.message_id, "full")]
    house.policy = POLICY


async def test_a_device_that_reads_on_does_not_skip_what_a_predecessor_lacked(house: House) -> None:
    """§5: too late to come before its start, so the predecessor stays, and nothing has failed."""
    house.policy = replace(POLICY, start="now")
    await house.sends(1)
    await house.register("ann/new")
    await house.hello("ann/new")
    await house.sends(1)
    await house.catch_up("ann/new")
    await house.hello("ann/new", replaces="phone")
    assert (await house.device("ann/phone")).state is DeviceState.ACTIVE
    assert await house.deliveries("delivery.failed") == []
    house.policy = POLICY


# --- §5: addresses ----------------------------------------------------------------------------------------------------


async def test_a_rotated_token_is_told_again_what_was_not_acked(house: House, clock: Any) -> None:
    """§5: what went to the old token may never have arrived; what was acked did."""
    await house.sends(1)
    await house.hello("ann/phone")
    await house.catch_up("ann/phone")
    await house.bye("ann/phone")
    await house.sends(1)
    clock.forward(s=1)
    assert len(await house.told()) == 1
    await house.inbox.replace_addresses(house.key("ann/phone"), [address("t2")])
    (attempt,) = await house.told()
    assert (attempt.send.from_seq, attempt.send.address.token_hash) == (2, b"t2")
    await house.inbox.replace_addresses(house.key("ann/phone"), [address("t2")])
    assert await house.plan() == [], "the same token again is no news"


async def test_b076_a_token_moves_to_the_user_who_brings_it_and_back(house: House, clock: Any) -> None:
    """B076, F72, I22: A signed out offline, B signs in on the same phone: nothing of A's goes there any more."""
    await house.send()
    clock.forward(s=1)
    (in_flight,) = await house.plan()
    await house.register("bob/phone", "t1")
    assert (await usable(house, "ann/phone"), await usable(house, "bob/phone")) == (False, True)
    assert not await house.needed(in_flight)
    await house.settle(in_flight, None)
    await house.send()
    clock.forward(s=1)
    assert await house.plan() == []
    assert (await house.job("ann/phone")).reason == "no_address"
    await house.register("ann/phone", "t1")
    (attempt,) = await house.told()
    assert (attempt.device, attempt.send.upto_seq) == (house.key("ann/phone"), 2)


async def test_the_loser_of_a_token_is_told_at_its_next_handshake(house: House) -> None:
    """§5: two installs with one token: the last writer owns it; brought again, it moves again."""
    await house.register("bob/phone", "t1")
    welcome = await house.hello("ann/phone", addresses=(address("t1"),))
    assert welcome.addresses == (AddressState("v", "active"),)
    assert not await usable(house, "bob/phone")
    assert (await house.hello("bob/phone")).addresses == (AddressState("v", "taken"),), "it brought none, and hears"
    assert (await house.hello("ann/phone")).addresses == welcome.addresses


async def test_an_address_to_be_proven_is_told_of_nothing_and_taken_from_nobody_before(
    house: House, clock: Any, engine: Engine
) -> None:
    """With `challenge = true`: who aims the relay at a stranger's URL gets no more than the challenge there."""
    await house.send("ann", "bob")
    unproven = replace(address("t1"), challenged=True)
    await house.register("bob/phone")
    states = await house.inbox.replace_addresses(house.key("bob/phone"), [unproven])
    assert (states, await usable(house, "bob/phone"), await usable(house, "ann/phone")) == (
        (AddressState("v", "unproven"),),
        False,
        True,
    )
    await house.send("bob")
    clock.forward(s=1)
    assert {one.device for one in await house.told()} == {house.key("ann/phone")}

    for _ in range(2):  # said twice, it changes nothing more
        await engine.write(
            lambda conn, now_ms: prove_address(
                conn, now_ms, house.key("bob/phone"), lambda _: house.policy, account="v", token_hash=b"t1"
            )
        )
        assert (await usable(house, "bob/phone"), await usable(house, "ann/phone")) == (True, False)
    (attempt,) = await house.told()
    assert attempt.device == house.key("bob/phone")
    assert await house.inbox.replace_addresses(house.key("bob/phone"), [unproven]) == (AddressState("v", "active"),)


async def test_two_users_of_one_installation_share_its_token(house: House) -> None:
    """§5: both name the same `install_id`: each is told, and signing out takes it from one only."""
    await house.register("ann/phone", install_id="i1")
    await house.register("bob/phone", "t1", install_id="i1")
    assert await usable(house, "ann/phone")
    assert await usable(house, "bob/phone")
    await house.inbox.sign_out(house.key("ann/phone"))
    assert await usable(house, "bob/phone")


async def test_f27_news_of_a_token_that_was_registered_again_since_is_ignored(house: House, clock: Any) -> None:
    """F27, I23: the vendor's own time decides if it gives one, else the attempt's."""
    await house.send()
    clock.forward(s=1)
    (attempt,) = await house.plan()
    clock.forward(s=1)
    await house.hello("ann/phone", addresses=(address("t1"),))
    await house.settle(attempt, Verdict.TOKEN_DEAD)
    assert await usable(house, "ann/phone")
    clock.forward(s=61)
    (attempt,) = await house.plan()
    await house.settle(attempt, Verdict.TOKEN_DEAD, dead_since_ms=clock.now_ms() - 61_000)
    assert await usable(house, "ann/phone")
    clock.forward(s=61)
    (attempt,) = await house.plan()
    await house.settle(attempt, Verdict.TOKEN_DEAD, dead_since_ms=clock.now_ms())
    assert not await usable(house, "ann/phone")


async def test_f28_the_next_address_of_the_chain_is_tried_and_then_nobody_is_reachable(
    house: House, clock: Any
) -> None:
    """F28: each death is an event; after the last, `device.unreachable`; a new token wakes the job."""
    await house.inbox.replace_addresses(house.key("ann/phone"), [address("t1"), address("t2", account="w")])
    house.views["w"] = FREE
    await house.send()
    clock.forward(s=1)
    for token in (b"t1", b"t2"):
        (attempt,) = await house.plan()
        assert attempt.send.address.token_hash == token
        await house.settle(attempt, Verdict.TOKEN_DEAD)
    assert len(await types(house, "device.token_invalid")) == 2
    assert [data["reason"] for data in await types(house, "device.unreachable")] == ["no_address"]
    assert (await house.job("ann/phone")).reason == "no_address"
    await house.inbox.replace_addresses(house.key("ann/phone"), [address("t3")])
    assert len(await house.plan()) == 1


async def test_the_brake_keeps_tokens_when_too_many_die_at_once(house: House, clock: Any) -> None:
    """A vendor that calls everybody dead has a broken account: nothing is removed, and it is tried again later."""
    brake = Brake()
    for _ in range(BRAKE_DEAD_MIN):
        brake.told(clock.monotonic_ms(), dead=True)
    await house.send()
    clock.forward(s=1)
    (attempt,) = await house.plan()
    await house.settle(attempt, Verdict.TOKEN_DEAD, spare=brake.holds(clock.monotonic_ms()))
    assert await usable(house, "ann/phone")
    assert await types(house, "device.token_invalid") == []
    assert await house.plan() == []
    clock.forward(s=5)
    assert len(await house.plan()) == 1


# --- §6.1: presence ---------------------------------------------------------------------------------------------------


async def test_each_transition_tells_once(house: House, clock: Any) -> None:
    """§6.1: handshake, close, back within the linger (nobody noticed), close, lease over, back."""
    phone = house.key("ann/phone")
    session = (await house.hello("ann/phone")).session
    told: list[str] = []

    async def news() -> list[str]:
        kinds = [kind for kind, _ in await house.events() if kind in {"device.online", "device.offline"}]
        fresh = kinds.copy()
        for kind in told:
            fresh.remove(kind)
        told.extend(fresh)
        clock.forward(s=1)
        return fresh

    assert await news() == ["device.online"]
    assert await house.bye("ann/phone", linger_ms=5_000, tell=False)
    assert await news() == []
    assert await house.inbox.said(phone, session, Facts())
    assert await news() == []
    assert await house.bye("ann/phone", linger_ms=5_000, tell=False)
    assert await house.bye("ann/phone", tell=True)
    assert await news() == ["device.offline"]
    assert not await house.bye("ann/phone", tell=True)
    assert await news() == []
    assert await house.inbox.said(phone, session, Facts(background=True))
    assert await news() == ["device.online"]
    assert (await house.device("ann/phone")).session == session


async def test_f39_a_word_of_an_older_session_changes_no_row(house: House) -> None:
    """F39, I11: a node that slept writes "offline", a heartbeat and acks for a device that has moved on."""
    first = await house.hello("ann/phone")
    await house.hello("ann/phone")
    await house.sends(2)
    phone = house.key("ann/phone")
    before = await house.device("ann/phone")
    assert not await house.inbox.went(phone, first.session, linger_ms=0, tell=True)
    assert not await house.inbox.said(phone, first.session, Facts(background=True))
    with pytest.raises(Conflict):
        await house.ack("ann/phone", session=first.session, upto=2)
    assert await house.device("ann/phone") == before


async def test_f43_a_gateway_that_never_reports_acks_is_not_believed(house: House, clock: Any) -> None:
    """F43: pushed after the ack wait; with `trust_presence` only when the gateway says that the device went."""
    phone = house.key("ann/phone")
    await house.inbox.foreign(ForeignWord(device=phone, state="foreground"))
    await house.send()
    clock.forward(s=10)
    assert len(await house.told()) == 1
    house.policy = replace(POLICY, trust_presence=True)
    await house.send()
    clock.forward(s=3_000)
    assert await house.plan() == []
    await house.inbox.foreign(ForeignWord(device=phone, state="offline"))
    assert len(await house.told()) == 1
    house.policy = POLICY


async def test_silence_makes_a_device_dormant_and_a_word_wakes_it(house: House, clock: Any) -> None:
    """§6.1: 30 days without contact: told as offline, but no knocks; the next handshake makes it active."""
    await house.send(ttl_s=28 * DAY_S)
    clock.forward(s=1)
    assert len(await house.told()) == 1
    for seconds, state in ((29 * DAY_S, DeviceState.ACTIVE), (2 * DAY_S, DeviceState.DORMANT)):
        clock.forward(s=seconds)
        await house.inbox.expire()
        await house.inbox.silence(DeviceState.ACTIVE, before_ms=clock.now_ms() - POLICY.dormant_ms, limit=10)
        assert (await house.device("ann/phone")).state is state
    await house.send()
    clock.forward(s=1)
    assert len(await house.told()) == 1
    assert ((await house.job("ann/phone")).due_ms, (await house.job("ann/phone")).reason) == (None, "told")
    await house.hello("ann/phone")
    assert (await house.device("ann/phone")).state is DeviceState.ACTIVE


# --- §11.3: the floor -------------------------------------------------------------------------------------------------


async def pruned(house: House) -> int:
    await house.inbox.prune([house.key("ann/phone").user])
    return int((await house.rows("SELECT floor_seq FROM inbox WHERE user_id = 'ann'"))[0]["floor_seq"])


async def test_the_floor_waits_for_every_active_device_and_the_replay_window(house: House, clock: Any) -> None:
    """§11.3, I15, I16: acked by all, and seven days old; what one lacks keeps all that follows."""
    await house.register("ann/tablet")
    for name in ("ann/phone", "ann/tablet"):
        await house.hello(name)
    await house.sends(2, ttl_s=28 * DAY_S)
    await house.catch_up("ann/phone")
    clock.forward(s=7 * DAY_S)
    assert await pruned(house) == 0
    await house.catch_up("ann/tablet")
    await house.sends(1, ttl_s=28 * DAY_S)
    for name in ("ann/phone", "ann/tablet"):
        await house.catch_up(name)
    assert await pruned(house) == 2
    clock.forward(s=7 * DAY_S - 1)
    assert await pruned(house) == 2
    clock.forward(s=1)
    assert await pruned(house) == 3


async def test_the_floor_passes_what_has_ended_at_once(house: House, clock: Any) -> None:
    """§11.3: nobody can miss it; but not beyond an entry that lives."""
    await house.hello("ann/phone")
    await house.send(ttl_s=5)
    await house.send()
    await house.send(ttl_s=5)
    clock.forward(s=5)
    await house.inbox.expire()
    assert await pruned(house) == 1


async def test_without_an_active_device_only_what_has_ended_is_pruned(house: House, clock: Any) -> None:
    """§11.3: a first device must find what its sender was promised."""
    await house.hello("ann/phone")
    await house.sends(1, ttl_s=28 * DAY_S)
    await house.catch_up("ann/phone")
    await house.inbox.sign_out(house.key("ann/phone"))
    clock.forward(s=8 * DAY_S)
    assert await pruned(house) == 0


async def test_what_a_device_passed_without_its_full_form_keeps_the_floor(house: House, clock: Any) -> None:
    """§11.3: held entries come again after the upgrade."""
    await house.hello("ann/phone", schema=6)
    held = (await house.send(min_schema=7, ttl_s=28 * DAY_S)).message_id
    await house.catch_up("ann/phone")
    clock.forward(s=8 * DAY_S)
    assert await pruned(house) == 0
    await house.hello("ann/phone", schema=7)
    assert await house.catch_up("ann/phone") == [held]


async def test_i36_an_upgrade_pins_what_is_kept(house: House, clock: Any) -> None:
    """I36, I16: nothing acked is pruned for seven days after a version change."""
    await house.hello("ann/phone", app_version="5.3")
    await house.sends(1, ttl_s=28 * DAY_S)
    await house.catch_up("ann/phone")
    clock.forward(s=7 * DAY_S)
    await house.hello("ann/phone", app_version="5.4")
    assert await pruned(house) == 0
    clock.forward(s=7 * DAY_S)
    assert await pruned(house) == 1


async def test_a_dormant_device_does_not_hold_the_floor(house: House, clock: Any) -> None:
    """§11.3: the others' acks decide; its return is `too_old` (test_pages)."""
    await house.register("ann/tablet")
    await house.hello("ann/tablet")
    clock.forward(s=20 * DAY_S)
    await house.sends(1, ttl_s=28 * DAY_S)
    await house.catch_up("ann/tablet")
    clock.forward(s=11 * DAY_S)
    assert await pruned(house) == 0
    await house.inbox.silence(DeviceState.ACTIVE, before_ms=clock.now_ms() - POLICY.dormant_ms, limit=10)
    assert await pruned(house) == 1


async def test_what_is_for_a_dormant_device_alone_is_kept_until_it_ends(house: House, clock: Any) -> None:
    """§11.3: acked by at least one device; a tablet that it is not for has only passed it."""
    await house.register("ann/tablet")
    await house.hello("ann/tablet")
    clock.forward(s=31 * DAY_S)
    await house.inbox.silence(DeviceState.ACTIVE, before_ms=clock.now_ms() - POLICY.dormant_ms, limit=10)
    sent = await house.send(ttl_s=28 * DAY_S, scope=Scope(devices=("phone",)), devices_named=True)
    await house.catch_up("ann/tablet")
    clock.forward(s=8 * DAY_S)
    assert await pruned(house) == 0
    await house.hello("ann/phone")
    assert await house.catch_up("ann/phone") == [sent.message_id]
    assert await pruned(house) == 1


# --- §11.4: bounds ----------------------------------------------------------------------------------------------------


async def test_f93_a_full_inbox_refuses_and_drops_nothing(house: House, clock: Any) -> None:
    """F93, I17: 429 to the sender; the reserve is for `system`; ended ones do not count; an ack makes room."""
    await house.hello("ann/phone")
    await house.sends(19)
    await house.send(ttl_s=5)
    with pytest.raises(Throttled) as refused:
        await house.send()
    assert refused.value.code == "recipient_queue_full"
    await house.send(conversation_type="system")
    await house.send(conversation_type="system")
    with pytest.raises(Throttled):
        await house.send(conversation_type="system")
    assert len((await house.page("ann/phone", store=False)).seqs) == 22
    clock.forward(s=5)
    await house.inbox.expire()
    with pytest.raises(Throttled):
        await house.send()
    await house.send(conversation_type="system")
    await house.catch_up("ann/phone")
    assert (await house.send()).recipients[0].seq == 24


async def test_f93_for_a_group_the_full_one_is_left_out_and_named(house: House) -> None:
    """§12.2: the others are accepted."""
    await house.register("bob/phone")
    await house.sends(20)
    accepted = await house.send("ann", "bob")
    assert [(r.user_id, r.seq, r.refusal) for r in accepted.recipients] == [
        ("ann", None, "recipient_queue_full"),
        ("bob", 1, None),
    ]


async def test_a_registration_that_is_refused_leaves_the_token_where_it_was(house: House) -> None:
    """All or nothing: one transaction."""
    for name in ("bob/a", "bob/b", "bob/c"):
        await house.register(name)
    with pytest.raises(Invalid):
        await house.inbox.register(Registration(device=house.key("bob/d"), addresses=(address("t1"),)))
    assert await usable(house, "ann/phone")


# --- §5: tokens that move ---------------------------------------------------------------------------------------------


async def moves(house: House) -> list[tuple[str, int]]:
    return [(data["user"], data["moves"]) for data in await types(house, "device.token_moved")]


async def test_each_loss_of_a_token_is_told_of_and_which_one_of_the_day_it_is(house: House, clock: Any) -> None:
    """§5: who lost it, and how often it moved: more than three times a day, and two installs fight over it."""
    await house.register("bob/phone")
    for name in ("bob/phone", "ann/phone", "bob/phone", "bob/phone", "ann/phone"):
        await house.inbox.replace_addresses(house.key(name), [address("t1")])
        clock.forward(s=60)
    assert await moves(house) == [("ann", 1), ("bob", 2), ("ann", 3), ("bob", 4)]
    clock.forward(s=86_400)
    await house.inbox.replace_addresses(house.key("bob/phone"), [address("t1")])
    assert (await moves(house))[-1] == ("ann", 1)


async def test_what_a_token_did_is_forgotten_after_a_day(house: House, clock: Any) -> None:
    await house.register("bob/phone", "t1")
    rows = text("SELECT count(*) FROM address_move")
    for hours, left in ((23, 1), (1, 0)):
        clock.forward(s=hours * 3600)
        await house.engine.write(address_rows.forget_moves)
        assert await house.engine.read(lambda conn, _: conn.execute(rows).scalar_one()) == left


async def test_a_token_that_two_users_of_one_install_share_does_not_move(house: House) -> None:
    for name in ("bob/phone", "cat/phone"):
        await house.register(name, "t2", install_id="install-1")
    assert await moves(house) == []
