"""What a device may still show and need not (protocol 7.4), as the rows tell it."""

import asyncio
import dataclasses
from typing import Any

import pytest
from house import House

from providers.app_message import once_key
from providers.contract import Capabilities, Outcome, Push, Verdict
from providers.fcm import FcmProvider
from providers.http_call import HttpCallProvider
from relay.inbox.registry import Registration
from relay.model import EntryState, NotifyPolicy
from relay.push.accounts import Account, Accounts
from relay.push.limits import Bucket
from relay.push.moot import WITHDRAWN, Moot, find_moot
from relay.push.withdraw import Withdrawer
from relay.store import inbox as inbox_rows
from relay.store import receipts
from relay.store.engine import Engine

RECALLS = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400, recall=True)
PUSH = '{"title":"hi","badge":5}'


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    """A phone that was told of three messages."""
    house = await House(engine, clock).begin()
    await house.register("ann/phone", "t1")
    clock.forward(s=1)
    for n in range(3):
        await house.send(push=PUSH, conversation_id=f"c{n}", conversation_type="direct")
        clock.forward(s=60)
        await house.told()
    return house


async def moot(house: House, able: Capabilities | None = RECALLS) -> list[Moot]:
    user = house.key("ann/phone").user
    return await house.engine.read(
        lambda conn, now_ms: find_moot(conn, now_ms, [user], lambda _: house.policy, lambda _app, _account: able)
    )


async def names(house: House) -> list[str]:
    return [note.push_id[-1] for one in await moot(house) for note in one.notes]


async def read(house: House, conversation: str, seq: int) -> None:
    user = house.key("ann/phone").user
    await house.engine.write(
        lambda conn, now_ms: inbox_rows.set_read_marker(conn, user, now_ms, conversation_id=conversation, seq=seq)
    )


async def test_nothing_while_all_of_it_is_unread(house: House) -> None:
    assert await moot(house) == []


async def test_what_is_read_with_what_the_badge_should_be(house: House) -> None:
    await read(house, "c1", 2)
    (one,) = await moot(house)
    assert [note.push_id[-1] for note in one.notes] == ["2"]
    assert list(one.messages.values()) == [2], "the attempt that told of it"
    assert one.badge == 2


async def test_only_where_the_vendor_can_and_the_account_is_there(house: House) -> None:
    await read(house, "c1", 2)
    assert await moot(house, None) == []
    assert await moot(house, Capabilities(payload_bytes_max=4096, ttl_s_max=86_400)) == []


async def test_what_was_taken_away_once_is_not_again(house: House) -> None:
    await read(house, "c1", 2)
    (one,) = await moot(house)
    (note,) = one.notes
    said = {
        "push_id": note.push_id, "fact": WITHDRAWN, "code": "", "reason": None, "at_ms": None, "taken_ms": 1,
    }  # fmt: skip
    await house.engine.write(lambda conn, _: receipts.add(conn, one.device, note.claim_token, said))
    assert await moot(house) == []


class Tidy:
    """The withdrawer before a vendor that takes everything."""

    def __init__(self, house: House, capabilities: Capabilities) -> None:
        self.house, self.capabilities = house, capabilities
        self.sent: list[Push] = []
        account = Account(app_id="shop", name="v", provider=self, bucket=Bucket(9, 9))  # type: ignore[arg-type]
        policy_of = lambda _: house.policy  # noqa: E731
        self.withdrawer = Withdrawer(
            house.engine, house.clock, Accounts([account]), policy_of, open_token=lambda *_: "t"
        )
        self.withdrawer.settles_s = 0

    async def send(self, push: Push) -> Outcome:
        self.sent.append(push)
        return Outcome(verdict=Verdict.ACCEPTED)

    async def up(self) -> None:
        """One round for the user."""
        self.withdrawer.look([self.house.key("ann/phone").user])
        stop = asyncio.Event()
        running = asyncio.create_task(self.withdrawer.run(stop))
        while self.withdrawer.load[0]:
            await asyncio.sleep(0)  # noqa: TID251 - its round has begun when nobody waits for it
        stop.set()
        await running


@pytest.mark.parametrize(("platform", "told"), [("android", 2), ("ios", 1)])
async def test_an_iphone_behind_fcm_is_not_woken_too_often_for_it(house: House, platform: str, told: int) -> None:
    """Vendor sheet apns §8: Apple drops silent pushes that come more often, and a message may need the next one."""
    await house.inbox.register(Registration(device=house.key("ann/phone"), platform=platform))
    tidy = Tidy(house, FcmProvider.capabilities)
    for n in (1, 2):
        await read(house, f"c{n - 1}", n)
        await tidy.up()
    assert len(tidy.sent) == told


async def test_what_is_shown_again_and_taken_away_again_is_no_repeat(house: House, clock: Any) -> None:
    """A gateway drops what it has taken: a reminder that told of it once more would stay on the screen."""
    house.policy = dataclasses.replace(house.policy, notify=NotifyPolicy.EACH_DEVICE)
    tidy = Tidy(house, HttpCallProvider.capabilities)
    for n in range(3):
        await read(house, f"c{n}", n + 1)
    await tidy.up()
    clock.forward(s=3600)
    assert [one.knock for one in await house.told()] == [True]
    await tidy.up()
    first, second = tidy.sent
    assert first.relay["withdraw"] == second.relay["withdraw"]
    assert once_key(first, now_s=None) != once_key(second, now_s=None)


async def test_what_ended_in_any_way_but_not_what_the_device_has(house: House, clock: Any) -> None:
    assert await house.inbox.cancel("shop", house.message().message_id[:-1] + "1") == "cancelled"
    assert await names(house) == ["1"]
    clock.forward(s=604_800)
    await house.inbox.expire()
    assert sorted(await names(house)) == ["1", "2", "3"]
    await house.hello("ann/phone")
    await house.catch_up("ann/phone")
    await house.bye("ann/phone")
    assert await moot(house) == []


async def test_not_by_an_address_that_has_changed_since(house: House) -> None:
    await read(house, "c1", 2)
    await house.register("ann/phone", "t2")
    assert await moot(house) == []


async def test_a_device_that_was_not_told_shows_nothing(engine: Engine, clock: Any) -> None:
    house = await House(engine, clock).begin()
    await house.register("ann/phone", "t1")
    clock.forward(s=1)
    await house.send(push=PUSH, conversation_id="c1", conversation_type="direct")
    clock.forward(s=60)
    await house.told(verdict=Verdict.RETRY)
    await read(house, "c1", 1)
    assert await moot(house) == []


async def test_what_a_newer_one_has_replaced_stays(engine: Engine, clock: Any) -> None:
    house = await House(engine, clock).begin()
    await house.register("ann/phone", "t1")
    clock.forward(s=1)
    for _ in range(2):
        await house.send(push=PUSH, collapse_key="score")
        clock.forward(s=60)
        await house.told()
    states = [row["state"] for row in await house.rows("SELECT state FROM inbox_entry ORDER BY seq")]
    assert states == [EntryState.SUPERSEDED, EntryState.LIVE]
    assert await names(house) == []
