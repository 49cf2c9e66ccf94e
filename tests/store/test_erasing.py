"""A user is erased, on both stores: no table knows it any more, what it had not received is reported, others keep theirs."""

from typing import Any

import pytest
from house import House

from providers.contract import Verdict
from relay.errors import Invalid, Unauthenticated
from relay.inbox.erasing import erase
from relay.inbox.preferences import Preferences
from relay.model import UserKey
from relay.push.rules import Then
from relay.store.engine import Engine
from relay.store.entry_ends import prune_entries
from relay.store.schema import metadata
from relay.store.users import OF_USERS

PHONE = "ann/phone"
ANN = UserKey("shop", "ann")


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    """Ann has a bit of everything; bob has received one of the same messages."""
    house = await House(engine, clock).begin()
    await house.register(PHONE, "token")
    await house.register("bob/phone")
    await house.hello(PHONE, schema=1, app_version="1")
    await house.send("ann", "bob", conversation_id="c")
    await house.send("ann", min_schema=5, h="full")
    await house.send("bob", sender_user="ann", sender_device="phone", client_ref="r")
    await house.catch_up(PHONE)
    await house.ack(PHONE, reads=(("c", 1),))
    await house.hello(PHONE, app_version="2")
    await house.send("ann")
    await house.send("ann")
    page = await house.page(PHONE)
    await house.ack(PHONE, ids=(page.ids[-1],))
    await house.bye(PHONE)
    clock.forward(s=1)
    await house.told()
    await house.inbox.set_preferences(ANN, Preferences())
    return house


async def naming_ann(house: House) -> set[str]:
    """Tables in which a row is hers."""
    return {
        table.name
        for table in metadata.tables.values()
        if "user_id" in table.c and await house.rows(f"SELECT 1 FROM {table.name} WHERE user_id = 'ann'")
    }


async def test_no_table_knows_the_user_any_more(house: House) -> None:
    before = await naming_ann(house)
    assert {"inbox", "inbox_entry", "device", "address", "push_job", "push_attempt", "read_marker", "upgrade"} <= before
    assert {"device_ack", "device_held"} <= before
    await house.inbox.erase(ANN)
    assert await naming_ann(house) == set()
    rows = await house.rows("SELECT recipients, sender_user, sender_device, client_ref FROM message")
    assert not [row for row in rows if "ann" in str(row)]
    assert all(table.name in metadata.tables for table in OF_USERS)


async def test_what_was_still_owed_is_reported_as_failed(house: House) -> None:
    owed = await house.rows("SELECT message_id FROM inbox_entry WHERE user_id = 'ann' AND state = 'live' AND seq > 3")
    await house.inbox.erase(ANN)
    failed = [
        one["detail"] for kind, data in await house.events() if kind == "delivery.failed" for one in data["deliveries"]
    ]
    assert owed
    assert failed
    assert set(failed) == {"erased"}
    assert [data["user"] for kind, data in await house.events() if kind == "user.erased"] == ["ann"]


async def test_others_keep_what_they_received(house: House) -> None:
    await house.inbox.erase(ANN)
    await house.hello("bob/phone")
    page = await house.page("bob/phone")
    assert len(page.ids) == 2
    assert [entry["sender"] for entry in page.json["entries"]] == [None, None]
    trace = await house.inbox.reader.trace("shop", page.ids[0])
    assert [one["status"] for one in trace.recipients] == ["accepted", "rejected"]


async def test_what_only_the_user_received_is_gone(house: House) -> None:
    await house.inbox.erase(ANN)
    assert len(await house.rows("SELECT message_id FROM message")) == 2


async def test_what_was_received_goes_with_the_last_who_had_it(house: House) -> None:
    await house.register("cid/phone")
    await house.send("ann", "bob", body='"received"')
    await house.send("ann", sender_user="cid", body='"sent"')
    for user in ("ann", "bob", "cid"):
        await house.inbox.erase(UserKey("shop", user))
    assert await house.rows("SELECT message_id FROM message") == []


async def test_who_sent_it_something_keeps_that_on_all_devices(house: House) -> None:
    """I38: the copy for the sender's other devices is one."""
    await house.register("bob/tablet")
    await house.hello("bob/tablet")
    await house.catch_up("bob/tablet")
    sent = await house.send("ann", sender_user="bob", sender_device="phone", key="k", body_hash=b"x")
    await house.inbox.erase(ANN)
    assert await house.catch_up("bob/tablet") == [sent.message_id]
    trace = await house.inbox.reader.trace("shop", sent.message_id)
    assert [one["user"] for one in trace.recipients] == [""]
    assert (await house.send("ann", sender_user="bob", sender_device="phone", key="k", body_hash=b"x")).replay


async def test_a_key_whose_message_is_gone_is_free_again(house: House) -> None:
    await house.inbox.accept(house.message("ann", key="k", body_hash=b"x"))
    await house.inbox.accept(house.message("ann", "bob", key="both", body_hash=b"x"))
    await house.inbox.erase(ANN)
    with pytest.raises(Invalid):
        await house.inbox.accept(house.message("ann", key="k", body_hash=b"x"))
    assert (await house.inbox.accept(house.message("ann", "bob", key="both", body_hash=b"x"))).replay
    await house.register(PHONE)
    assert not (await house.inbox.accept(house.message("ann", key="k", body_hash=b"x"))).replay


async def test_its_devices_are_signed_out_and_who_comes_back_begins_anew(house: House) -> None:
    old = house.store(PHONE).cursor
    await house.inbox.erase(ANN)
    with pytest.raises(Unauthenticated):
        await house.hello(PHONE)
    await house.register(PHONE)
    assert (await house.hello(PHONE, cursor=old)).verdict == "resync"
    assert await house.catch_up(PHONE) == []
    sent = await house.send("ann")
    assert await house.catch_up(PHONE) == [sent.message_id]


async def test_erasing_again_changes_nothing(house: House) -> None:
    await house.inbox.erase(ANN)
    before = await house.events()
    await house.inbox.erase(ANN)
    assert await house.events() == before


async def test_who_never_had_a_device_is_erased_from_groups_and_messages(house: House, clock: Any) -> None:
    """The backend may name a user long before it comes."""
    await house.inbox.groups.change("shop", "g", add=["bob", "eve"], remove=[])
    await house.send("bob", "eve")
    waits = await house.send("eve", deliver_ms=clock.now_ms() + 1000)
    for _ in range(2):
        await house.inbox.erase(UserKey("shop", "eve"))
    rows = await house.rows("SELECT user_id FROM membership UNION SELECT user_id FROM inbox")
    assert "eve" not in {row["user_id"] for row in rows}
    assert not [row for row in await house.rows("SELECT recipients FROM message") if "eve" in row["recipients"]]
    assert [data["user"] for kind, data in await house.events() if kind == "user.erased"] == ["eve"]
    failed = [data["deliveries"] for kind, data in await house.events() if kind == "delivery.failed"]
    assert [(one["message_id"], one["detail"]) for (one,) in failed] == [(waits.message_id, "erased")]


async def test_what_its_inbox_has_forgotten_goes_as_well(house: House, clock: Any) -> None:
    """Messages outlive the entries of an inbox: what expired there, say, is still in the history."""
    await house.send("ann", ttl_s=1)
    shared = await house.send("ann", "bob", ttl_s=1)
    clock.forward(s=2)
    await house.catch_up(PHONE)
    await house.inbox.expire()
    head = (await house.device(PHONE)).acked_seq
    await house.engine.write(lambda conn, _: prune_entries(conn, ANN, floor=head))
    await house.inbox.erase(ANN)
    rows = await house.rows("SELECT message_id, recipients, sender_user FROM message")
    assert not [row for row in rows if "ann" in str(row)]
    assert shared.message_id in {row["message_id"] for row in rows}, "bob's"


async def test_what_is_on_its_way_to_it_alone_goes_and_to_others_arrives(house: House, clock: Any) -> None:
    later = clock.now_ms() + 1000
    await house.send("ann", deliver_ms=later)
    both = await house.send("ann", "bob", deliver_ms=later)
    await house.inbox.erase(ANN)
    clock.forward(s=2)
    await house.fan_out()
    rows = await house.rows("SELECT recipients FROM message")
    assert not [row for row in rows if "ann" in row["recipients"]]
    await house.hello("bob/phone")
    assert both.message_id in await house.catch_up("bob/phone")


async def test_what_comes_while_it_is_looked_for_is_found(house: House) -> None:
    named = await house.inbox._naming(ANN)
    await house.send("bob", sender_user="ann")
    await house.send("bob", "ann")
    policy_of, new_epoch = (lambda _: house.policy), house.inbox.new_epoch
    await house.engine.write(lambda conn, now_ms: erase(conn, now_ms, ANN, policy_of, named=named, new_epoch=new_epoch))
    rows = await house.rows("SELECT recipients, sender_user FROM message")
    assert not [row for row in rows if "ann" in str(row)]


async def test_a_name_is_no_pattern(house: House) -> None:
    for name in ("a_b", "axb"):
        await house.register(f"{name}/phone")
        await house.send(name)
    await house.inbox.erase(UserKey("shop", "a_b"))
    rows = await house.rows("SELECT recipients FROM message")
    assert [row["recipients"] for row in rows if "a_b" in row["recipients"] or "axb" in row["recipients"]] == [
        '[["axb",1,null]]'
    ]


async def test_messages_on_their_way_do_not_mention_it(house: House, clock: Any) -> None:
    await house.register("cid/phone")
    await house.inbox.groups.change("shop", "g", add=["ann", "bob"], remove=[])
    mentions = ("ann", "bob")
    await house.inbox.accept(house.message(users=(), group="g", mentions=mentions, deliver_ms=clock.now_ms() + 1000))
    await house.inbox.erase(ANN)
    (job,) = await house.rows("SELECT options FROM fanout_job")
    assert "bob" in job["options"]
    assert "ann" not in job["options"]


@pytest.mark.parametrize("owner", ["n1", "n2"])
async def test_a_push_to_who_was_erased_says_nothing_of_who_has_the_name_since(
    engine: Engine, clock: Any, owner: str
) -> None:
    """Its job counts its claims from the start, so both pushes have the same number."""
    house = await House(engine, clock).begin()
    await house.register("ann/phone", "token")
    await house.sends(2)
    clock.forward(s=1)
    (before,) = await house.plan()
    await house.inbox.erase(ANN)
    await house.register("ann/phone", "token")
    await house.send()
    clock.forward(s=1)
    (now,) = await house.plan(owner=owner)
    assert (before.device, before.token) == (now.device, now.token)
    assert await house.settle(before, Verdict.ACCEPTED, vendor_id="before") is None
    assert (await house.job("ann/phone")).claim == owner
    assert await house.rows("SELECT verdict, vendor_id FROM push_attempt") == [{"verdict": None, "vendor_id": None}]
    assert await house.settle(now, Verdict.ACCEPTED, vendor_id="now") is Then.TOLD
    assert await house.rows("SELECT vendor_id FROM push_attempt") == [{"vendor_id": "now"}]
