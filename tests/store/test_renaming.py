"""A user gets another name, on both stores: everything goes with it, and its devices begin anew without a loss."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from house import House, Store, address

from providers.contract import Capabilities, Outcome, Push, Verdict
from relay.errors import Conflict, Invalid, Missing, StoreOfAnother, Unauthenticated
from relay.ids import device_namespace
from relay.inbox import fanout, waking
from relay.inbox.push_due import Later
from relay.model import DeviceKey, Policy, UserKey
from relay.push.accounts import Account, Accounts
from relay.push.attempts import Attempt, by_new_name
from relay.push.limits import Bucket
from relay.store.engine import Engine
from relay.store.entry_ends import prune_entries
from relay.store.schema import metadata

ANN = UserKey("shop", "ann")
OLD, NEW = "ann/phone", "anna/phone"


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock).begin()
    await house.register(OLD, "token")
    await house.register("bob/phone")
    await house.hello(OLD)
    await house.sends(2)
    await house.catch_up(OLD)
    await house.send("ann", "bob", sender_user="bob")
    await house.send("bob", sender_user="ann", sender_device="phone")
    return house


async def renamed(house: House) -> Store:
    """The same store, whose device has another user now."""
    await house.inbox.rename(ANN, "anna")
    store = house.stores[NEW] = house.stores.pop(OLD)
    return store


async def test_no_table_knows_the_old_name_any_more(house: House) -> None:
    await house.inbox.rename(ANN, "anna")
    for table in metadata.tables.values():
        if "user_id" in table.c:
            assert not await house.rows(f"SELECT 1 FROM {table.name} WHERE user_id = 'ann'")
    rows = await house.rows("SELECT recipients, sender_user FROM message")
    assert not [row for row in rows if '"ann"' in row["recipients"] or row["sender_user"] == "ann"]
    assert [data["to"] for kind, data in await house.events() if kind == "user.renamed"] == ["anna"]


async def test_what_a_device_sends_by_a_name_that_it_no_longer_has_is_not_taken(house: House) -> None:
    """Its token was looked at before: by the new name it sends that again, under keys that nobody had."""
    said = {"sender_user": "ann", "sender_device": "phone", "by_device": True, "key": "of ann's phone"}
    before = len((await house.send("bob", **said)).recipients)
    await renamed(house)
    for later in ({}, {"deliver_ms": house.clock.now_ms() + 1000}):
        with pytest.raises(Unauthenticated):
            await house.send("bob", **said | {"key": "another"} | later)
    assert (await house.send("bob", **said)).replay, "what was taken stays so"
    assert await house.rows("SELECT 1 FROM message WHERE sender_user = 'ann'") == []
    again = await house.send("bob", **said | {"sender_user": "anna", "key": "of anna's phone"})
    assert len(again.recipients) == before == 1


async def test_what_it_sent_is_forgotten_with_who_alone_received_it_and_may_be_sent_again(house: House) -> None:
    """Also what its devices sent by the old name, whose keys had that in them."""
    house.policy = Policy(sender_copies=False)
    said: dict[str, Any] = {"sender_device": "phone", "by_device": True, "body_hash": b"x"}
    await house.send("bob", sender_user="ann", key=device_namespace("ann", "phone") + "k", **said)
    await house.inbox.rename(ANN, "anna")
    await house.inbox.erase(UserKey("shop", "bob"))
    await house.register("bob/phone")
    assert not (await house.send("bob", sender_user="anna", key=device_namespace("anna", "phone") + "k", **said)).replay


async def test_what_a_device_sends_that_has_been_signed_out_is_not_taken(house: House) -> None:
    await house.inbox.sign_out(house.key(OLD))
    for later in ({}, {"deliver_ms": house.clock.now_ms() + 1000}):
        with pytest.raises(Unauthenticated):
            await house.send("bob", sender_user="ann", sender_device="phone", by_device=True, **later)
    assert (await house.send("bob", sender_user="ann", sender_device="phone")).recipients, (
        "a backend names whom it likes"
    )


async def test_what_its_inbox_has_forgotten_names_it_by_the_new_name(house: House) -> None:
    head = (await house.device(OLD)).acked_seq
    await house.engine.write(lambda conn, _: prune_entries(conn, ANN, floor=head))
    await house.inbox.rename(ANN, "anna")
    rows = await house.rows("SELECT recipients, sender_user FROM message")
    assert not [row for row in rows if '"ann"' in row["recipients"] or row["sender_user"] == "ann"]


async def test_a_device_begins_anew_with_the_numbering_and_has_all_of_it(house: House) -> None:
    await renamed(house)
    welcome = await house.hello(NEW)
    assert (welcome.verdict, welcome.reason) == ("resync", "epoch")
    entries = await house.rows("SELECT message_id FROM inbox_entry WHERE user_id = 'anna' ORDER BY seq")
    assert await house.catch_up(NEW) == [row["message_id"] for row in entries]
    assert len(entries) == 4


async def test_another_devices_cursor_is_still_none(house: House) -> None:
    await house.register("ann/tablet")
    foreign = house.store(OLD).cursor
    await house.inbox.rename(ANN, "anna")
    assert (await house.hello("anna/tablet", cursor=foreign)).reason == "bad_cursor"


async def test_what_waits_is_pushed_to_the_same_addresses(house: House, clock: Any) -> None:
    sealed: list[tuple[DeviceKey, DeviceKey, str, bytes]] = []

    def reseal(old: DeviceKey, new: DeviceKey, account: str, token: bytes) -> bytes:
        sealed.append((old, new, account, token))
        return b"sealed for anna"

    house.inbox.reseal = reseal
    await house.inbox.rename(ANN, "anna")
    assert sealed == [(house.key(OLD), house.key(NEW), "v", b"token")]
    clock.forward(s=1)
    (attempt,) = await house.told()
    assert (attempt.device, attempt.send.address.token_sealed) == (house.key(NEW), b"sealed for anna")


async def test_it_is_reached_by_its_new_name_only(house: House) -> None:
    await renamed(house)
    sent = await house.send("anna")
    with pytest.raises(Invalid):
        await house.send("ann")
    await house.hello(NEW)
    assert sent.message_id in await house.catch_up(NEW)


async def test_what_is_on_its_way_finds_it(house: House, clock: Any) -> None:
    waiting = await house.send("ann", deliver_ms=clock.now_ms() + 1000)
    await renamed(house)
    clock.forward(s=1)
    await house.fan_out()
    await house.hello(NEW)
    assert waiting.message_id in await house.catch_up(NEW)


async def test_a_mention_that_is_on_its_way_is_one_of_it(house: House, clock: Any) -> None:
    await house.inbox.groups.change("shop", "g", add=["ann", "bob"], remove=[])
    later = clock.now_ms() + 1000
    await house.inbox.accept(house.message(users=(), group="g", mentions=("ann",), deliver_ms=later))
    await house.inbox.rename(ANN, "anna")
    clock.forward(s=2)
    await house.fan_out()
    (entry,) = await house.rows("SELECT data FROM inbox_entry WHERE user_id = 'anna' ORDER BY seq DESC LIMIT 1")
    assert "mention" in (entry["data"] or "")


async def test_a_name_that_is_taken_or_a_user_that_never_was_is_refused(house: House) -> None:
    with pytest.raises(Conflict):
        await house.inbox.rename(ANN, "bob")
    with pytest.raises(Conflict):
        await house.inbox.rename(ANN, "ann")
    with pytest.raises(Missing):
        await house.inbox.rename(UserKey("shop", "nobody"), "somebody")
    assert (await house.hello(OLD)).verdict != "resync"


async def test_an_address_s_keys_are_sealed_anew_like_its_token(house: House) -> None:
    house.inbox.reseal = lambda _old, new, account, sealed: f"{new.user_id} {account} ".encode() + sealed
    await house.inbox.replace_addresses(house.key(OLD), [replace(address("token"), keys_sealed=b"keys")])
    await house.inbox.rename(ANN, "anna")
    (row,) = await house.rows("SELECT token_sealed, keys_sealed FROM address WHERE user_id = 'anna'")
    assert (bytes(row["token_sealed"]), bytes(row["keys_sealed"])) == (b"anna v token", b"anna v keys")


@pytest.mark.parametrize("lingering", [False, True])
async def test_who_was_online_is_said_to_be_offline_by_the_old_name_and_online_by_the_new_one(
    house: House, lingering: bool
) -> None:
    """Its connection ends with its token, and what would say so then finds no device of the old name."""
    if lingering:
        await house.bye(OLD, linger_ms=5_000, tell=False)
    await renamed(house)
    await house.hello(NEW)
    told = [(data["user"], kind) for kind, data in await house.events() if kind in {"device.online", "device.offline"}]
    assert sorted(told) == [("ann", "device.offline"), ("ann", "device.online"), ("anna", "device.online")]


@pytest.mark.parametrize("name", ["abe", "zoe"])
@pytest.mark.parametrize("taken_back", [False, True])
async def test_all_members_get_it_once_whatever_their_names_are_by_then(
    house: House, monkeypatch: pytest.MonkeyPatch, name: str, taken_back: bool
) -> None:
    """Members have their turn in the order of their names: one to come gets a name that was done, and one that is done gets
    one to come."""
    monkeypatch.setattr(fanout, "AT_ONCE_MAX", 1)
    await house.register("cid/phone")
    members = ["ann", "bob", "cid"]
    await house.inbox.groups.change("shop", "u", add=members, remove=[], ultra=True)
    sent = await house.inbox.accept(house.message(users=(), group="u", conversation_id="u", everyone=True))
    steps = 2
    if taken_back:
        await house.fan_out()
        await house.inbox.cancel("shop", sent.message_id)
    for _ in range(steps):
        await house.inbox.fan_out()
    await house.inbox.rename(UserKey("shop", "cid" if name == "abe" else "ann"), name)
    await house.fan_out()
    rows = await house.rows(f"SELECT state FROM inbox_entry WHERE message_id = '{sent.message_id}'")
    assert [row["state"] for row in rows] == ["cancelled" if taken_back else "live"] * 3


async def test_a_member_is_told_of_its_timeline_whatever_its_name_is_by_then(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waking, "MEMBERS_AT_ONCE", 1)
    await house.inbox.groups.change("shop", "u", add=["ann", "bob", "cid"], remove=[], ultra=True, notify="all")
    await house.register("cid/phone", "cid's")
    await house.inbox.accept(house.message(users=(), group="u", conversation_id="u"))
    for _ in range(2):
        await house.inbox.fan_out()
    await house.inbox.rename(UserKey("shop", "cid"), "abe")
    await house.fan_out()
    assert {row["wake_seq"] for row in await house.rows("SELECT wake_seq FROM membership")} == {1}


class Vendor:
    """During whose first call the receiver is given another name."""

    name = "vendor"
    capabilities = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400)

    def __init__(self, house: House, stop: asyncio.Event, outcome: Outcome, *names: str) -> None:
        self.house, self.stop, self.outcome = house, stop, outcome
        self.names = names or ("anna",)
        self.calls = 0

    async def send(self, push: Push) -> Outcome:
        self.calls += 1
        self.stop.set()
        if self.calls == 1:
            for old, new in pairwise(("ann", *self.names)):
                await self.house.inbox.rename(UserKey("shop", old), new)
        return self.outcome


async def dispatch(house: House, vendor: Vendor) -> None:
    """Until the vendor has been called."""
    account = Account(app_id="shop", name="v", provider=vendor, bucket=Bucket(9, 9))  # type: ignore[arg-type]
    await house.worker(Accounts([account])).run(vendor.stop)


@pytest.mark.parametrize("names", [("anna",), ("an", "anna"), ("an", "annie", "anna"), ("anna", "ann")])
async def test_a_push_under_way_is_settled_under_the_new_name(house: House, clock: Any, names: tuple[str, ...]) -> None:
    """It was made a second time once its claim was over."""
    vendor = Vendor(house, asyncio.Event(), Outcome(verdict=Verdict.ACCEPTED, vendor_id="v-1"), *names)
    clock.forward(s=60)
    await dispatch(house, vendor)
    job = await house.job(f"{names[-1]}/phone")
    assert (job.claim, job.reason) == (None, Later.KNOCK)
    (row,) = await house.rows("SELECT user_id, verdict, vendor_id FROM push_attempt")
    assert row == {"user_id": names[-1], "verdict": "accepted", "vendor_id": "v-1"}
    clock.forward(ms=house.policy.claim_ms)
    assert await house.plan() == []


async def test_a_push_whose_receiver_is_renamed_once_more_while_it_is_settled_is_followed(
    house: House, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = Vendor(house, asyncio.Event(), Outcome(verdict=Verdict.ACCEPTED), "an")
    read = house.engine.read

    async def overtaken(work: Any) -> Any:
        found = await read(work)
        if isinstance(found, Attempt) and found.device.user_id == "an":
            await house.inbox.rename(UserKey("shop", "an"), "anna")
        return found

    monkeypatch.setattr(house.engine, "read", overtaken)
    clock.forward(s=60)
    await dispatch(house, vendor)
    assert (await house.job(NEW)).claim is None


class Late(Vendor):
    """During whose first call the claim passes to another worker."""

    async def send(self, push: Push) -> Outcome:
        self.calls += 1
        self.stop.set()
        if self.calls == 1:
            self.house.clock.forward(ms=self.house.policy.claim_ms)
            assert await self.house.plan()
        return self.outcome


async def test_a_late_word_of_a_user_who_has_changed_names_with_another_one_of_the_same_phone_comes_to_an_end(
    house: House, clock: Any
) -> None:
    """Each is called what the other was, and both hold the token."""
    for name in (OLD, "bob/phone"):
        await house.register(name, "token", install_id="i-1")
    await house.catch_up("bob/phone")
    for old, new in (("ann", "x"), ("bob", "ann"), ("x", "bob")):
        await house.inbox.rename(UserKey("shop", old), new)
    clock.forward(s=60)
    async with asyncio.timeout(20):
        await dispatch(house, Late(house, asyncio.Event(), Outcome(verdict=Verdict.ACCEPTED)))


@pytest.mark.parametrize("last", ["abe", "zoe"])
async def test_of_two_on_a_phone_who_had_one_name_a_push_under_way_is_settled_for_whose_it_is(
    house: House, clock: Any, last: str
) -> None:
    await house.register(OLD, "token", install_id="i-1")
    await house.inbox.rename(ANN, "mia")
    clock.forward(s=60)
    assert await house.plan(), "the first of the two is told of something, too"
    await house.register("bob/phone", "token", install_id="i-1")
    await house.catch_up("bob/phone")
    await house.inbox.rename(UserKey("shop", "bob"), "ann")
    await house.send("ann")
    clock.forward(s=60)
    (attempt,) = [one for one in await house.plan() if one.device.user == ANN]
    await house.inbox.rename(ANN, last)
    renamed = await house.engine.read(lambda conn, _: by_new_name(conn, attempt))
    assert renamed is not None
    assert renamed.device == house.key(f"{last}/phone")


async def test_a_cursor_of_two_names_ago_is_old_and_not_broken(house: House) -> None:
    for old, new in pairwise(("ann", "an", "anna")):
        await house.inbox.rename(UserKey("shop", old), new)
    house.stores[NEW] = house.stores.pop(OLD)
    assert (await house.hello(NEW)).reason == "epoch"


async def test_the_database_of_somebody_who_has_the_old_name_by_now_is_refused(house: House) -> None:
    """Of two accounts on one phone: both users' messages would have come into it."""
    await house.inbox.rename(ANN, "anna")
    said: dict[str, Any] = {"store_id": "another", "store_user": "ann"}
    assert (await house.hello(NEW, **said)).session, "a database of before is the user's own"
    await house.register(OLD)
    await house.hello(OLD, store_id="ann's")
    with pytest.raises(StoreOfAnother):
        await house.hello(NEW, **said | {"store_id": "ann's"})
    assert (await house.hello(NEW, **said)).session, "this device has used it"


@pytest.mark.parametrize("register", ["ann/phone", "cleo/phone"])
async def test_of_a_device_that_has_the_token_since_nothing_is_settled(house: House, clock: Any, register: str) -> None:
    """Of somebody new by the old name, or of somebody else: its push is another one."""
    clock.forward(s=60)
    (attempt,) = await house.plan()
    assert await house.engine.read(lambda conn, _: by_new_name(conn, attempt)) is None, "nobody was renamed"
    await house.inbox.rename(ANN, "anna")
    renamed = await house.engine.read(lambda conn, _: by_new_name(conn, attempt))
    assert renamed is not None
    assert renamed.device == house.key(NEW)
    await house.register(register, "token")
    assert await house.engine.read(lambda conn, _: by_new_name(conn, attempt)) is None
