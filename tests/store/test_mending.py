"""F32: an account is mended while very many rest for it. They are due again a few at a time, whatever comes between."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from beside import held, until_blocked
from house import FREE, House, address
from msgspec.structs import replace

from providers.contract import Scope, Verdict
from relay.inbox.push_due import Rest
from relay.model import UserKey
from relay.push.accounts import Account, Accounts
from relay.push.limits import Bucket
from relay.push.mending import mend, mend_all, resume
from relay.store import inbox as inbox_rows
from relay.store.engine import Engine
from relay.store.parked import mend_accounts, park_account, parked_accounts, release_some, unreleased

USERS = ("ann", "bob", "cleo", "dan")
PARKED = {"v": replace(FREE, parked=True)}


@pytest.fixture
async def house(engine: Engine, clock: Any) -> AsyncIterator[House]:
    """In which the vendor has refused the account, and everybody's push rests."""
    house = await House(engine, clock).begin()
    for user in USERS:
        await house.register(f"{user}/phone", f"token-{user}")
    await house.send(*USERS)
    clock.forward(s=1)
    first, *others = await house.plan()
    await house.settle(first, Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code="key_deleted")
    for one in others:
        await house.settle(one, None)
    house.views = PARKED
    assert await house.plan() == []
    assert await resting(house) == list(USERS)
    house.views = {"v": FREE}
    return house


async def resting(house: House) -> list[str]:
    rows = await house.rows("SELECT user_id, reason FROM push_job WHERE due_ms IS NULL ORDER BY user_id")
    assert {row["reason"] for row in rows} <= {Rest.ACCOUNT_PARKED}
    return [row["user_id"] for row in rows]


async def parks_again(house: House) -> None:
    await house.engine.write(lambda conn, now_ms: park_account(conn, now_ms, app_id="shop", account="v", code="again"))


async def is_said_to_be_mended(house: House) -> dict[str, int]:
    """As far as a process comes that ends then; gives who is `unreleased`."""
    await house.engine.write(lambda conn, _: mend_accounts(conn, "shop", ["v"]))
    return (await house.engine.read(lambda conn, _: unreleased(conn))).get("shop", {})


async def releases(house: House, mended: dict[str, int], after: str = "", *, most: int = 1) -> str | None:
    return await house.engine.write(
        lambda conn, now_ms: release_some(conn, now_ms, app_id="shop", mended=mended, after=after, most=most)
    )


class Beside:
    """An engine whose writes are beset by something."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class Dies(Beside):
    """Of a process that ends before its transaction of this number."""

    def __init__(self, engine: Engine, last: int) -> None:
        super().__init__(engine)
        self._left = last

    async def write(self, work: Any) -> Any:
        if not self._left:
            raise asyncio.CancelledError
        self._left -= 1
        return await self._engine.write(work)


class Helped(Beside):
    """Of a node beside which another does its chore after each transaction."""

    async def write(self, work: Any) -> Any:
        answer = await self._engine.write(work)
        await resume(self._engine, portion=1)
        return answer


async def test_a_call_that_was_planned_before_it_was_mended_does_not_park_it_again(house: House) -> None:
    """The vendor refused what it was asked with the credential of before."""
    await mend(house.engine, "shop", ["v"])
    early, *_ = await house.plan()
    await mend(house.engine, "shop", ["v"])
    await house.settle(early, Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code="key_deleted")
    assert await house.engine.read(lambda conn, _: parked_accounts(conn)) == {}
    assert await resting(house) == []
    (again,) = await house.plan()
    assert again.device == early.device
    await house.settle(again, Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code="key_deleted")
    assert await house.engine.read(lambda conn, _: parked_accounts(conn)) == {("shop", "v"): "key_deleted"}


@pytest.mark.parametrize("portion", [1, 2, 3, 4, 1000])
async def test_everybody_is_due_again_whatever_the_portion(house: House, portion: int) -> None:
    await house.register("bob/tablet", "token-2")  # a user of two devices, who are released together
    assert await mend(house.engine, "shop", ["v"], portion=portion) == len(USERS)
    assert await resting(house) == []
    assert await house.engine.read(lambda conn, _: unreleased(conn)) == {}


@pytest.mark.parametrize("last", range(1, 6))
async def test_what_a_process_that_died_left_is_released_by_whoever_looks_next(house: House, last: int) -> None:
    with pytest.raises(asyncio.CancelledError):
        await mend(Dies(house.engine, last), "shop", ["v"], portion=1)  # type: ignore[arg-type]
    assert await resting(house) == list(USERS[last - 1 :]), "it had come so far"
    await resume(house.engine, portion=1)
    assert await resting(house) == []
    assert await house.engine.read(lambda conn, _: unreleased(conn)) == {}


async def test_a_process_that_died_before_it_said_anything_leaves_the_account_parked(house: House) -> None:
    with pytest.raises(asyncio.CancelledError):
        await mend(Dies(house.engine, 0), "shop", ["v"])  # type: ignore[arg-type]
    await resume(house.engine)
    assert await resting(house) == list(USERS)


async def test_who_rests_for_an_account_that_is_parked_again_meanwhile_rests_until_it_is_mended_once_more(
    house: House,
) -> None:
    mended = await is_said_to_be_mended(house)
    after = await releases(house, mended)
    assert after == "ann"
    await parks_again(house)
    assert await releases(house, mended, after) is None
    await resume(house.engine)
    assert await resting(house) == ["bob", "cleo", "dan"]
    house.views = PARKED
    assert await house.plan() == []
    assert await resting(house) == list(USERS), "ann's too, by now"
    assert await mend(house.engine, "shop", ["v"], portion=1) == len(USERS)


async def test_the_end_of_one_walk_is_not_that_of_another_which_began_later(house: House) -> None:
    """Between them it was parked, and what came to rest then lies behind the first."""
    first = await is_said_to_be_mended(house)
    after = await releases(house, first)
    await parks_again(house)
    house.views = PARKED
    assert await house.plan() == []
    await is_said_to_be_mended(house)  # and its process dies
    assert await releases(house, first, after or "", most=9) is None
    assert await resting(house) == ["ann"]
    await resume(house.engine)
    assert await resting(house) == []


async def test_an_operator_hears_of_all_who_waited_however_many_nodes_release_them(house: House) -> None:
    """Each node's chore helps, as soon as it is said that the account is mended."""
    assert await mend(Helped(house.engine), "shop", ["v"], portion=1) == len(USERS)  # type: ignore[arg-type]


async def test_two_nodes_release_together(house: House) -> None:
    counts = await asyncio.gather(*(mend(house.engine, "shop", ["v"], portion=1) for _ in range(2)))
    assert max(counts) == len(USERS)
    assert await resting(house) == []
    assert await house.engine.read(lambda conn, _: unreleased(conn)) == {}


async def test_what_comes_for_somebody_who_still_rests_makes_the_push_due_and_it_stays_so(house: House) -> None:
    mended = await is_said_to_be_mended(house)
    await house.send("dan")
    due_ms = (await house.job("dan/phone")).due_ms
    house.clock.forward(s=9)
    after = await releases(house, mended, most=3)
    await releases(house, mended, after or "")
    assert (await house.job("dan/phone")).due_ms == due_ms


async def test_a_user_who_is_given_a_name_that_the_walk_has_passed_is_due_too(house: House) -> None:
    mended = await is_said_to_be_mended(house)
    after = await releases(house, mended, most=2)
    await house.inbox.rename(UserKey("shop", "dan"), "abe")
    await releases(house, mended, after or "", most=9)
    assert await resting(house) == []
    assert {one.device.user_id for one in await house.plan()} == {"abe", *USERS[:3]}


async def test_who_waits_for_quota_is_due_with_those_who_rest(house: House) -> None:
    far_ms = house.clock.now_ms() + 86_400_000
    await house.engine.write(
        lambda conn, _: conn.exec_driver_sql(
            f"UPDATE push_job SET due_ms = {far_ms}, reason = 'quota' WHERE user_id = 'bob'"
        )
    )
    assert await mend(house.engine, "shop", ["v"]) == len(USERS) - 1
    assert (await house.job("bob/phone")).due_ms == house.clock.now_ms()


async def test_what_was_itself_told_to_wait_is_tried_again_as_the_retry_that_it_is(house: House) -> None:
    """The vendor's "too many" was a word about the account, or about a key of its that is right now."""
    await mend(house.engine, "shop", ["v"])
    first, *_ = await house.plan()
    await house.settle(first, Verdict.RETRY)
    assert (await house.job("ann/phone")).due_ms == house.clock.now_ms() + 5_000
    await mend(house.engine, "shop", ["v"])
    (again,) = await house.plan()
    assert (again.device, again.tries, again.retry) == (first.device, 1, True), "the retry budget counts it"


async def test_what_came_meanwhile_does_not_keep_a_push_waiting_that_was_told_to(house: House) -> None:
    """It makes the job due, without a word of why it waits."""
    await mend(house.engine, "shop", ["v"])
    first, *_ = await house.plan()
    await house.settle(first, Verdict.RETRY)
    await house.send("ann")
    await mend(house.engine, "shop", ["v"])
    house.clock.forward(s=1)
    assert [one.device for one in await house.plan()] == [first.device]


async def test_a_reminder_that_was_told_to_wait_is_tried_again_too(house: House) -> None:
    await mend(house.engine, "shop", ["v"])
    for one in await house.plan():
        await house.settle(one, Verdict.ACCEPTED)
    house.clock.forward(s=3600)
    first, *_ = await house.plan()
    await house.settle(first, Verdict.RETRY)
    await mend(house.engine, "shop", ["v"])
    (again,) = await house.plan()
    assert (again.device, again.knock) == (first.device, True)


async def test_what_another_account_told_to_wait_keeps_its_time(house: House) -> None:
    house.views |= {"w": FREE}
    await mend(house.engine, "shop", ["v"])
    await house.inbox.replace_addresses(house.key("ann/phone"), [address("token", account="w")])
    house.clock.forward(s=1)
    (first,) = [one for one in await house.plan() if one.device.user_id == "ann"]
    await house.settle(first, Verdict.RETRY)
    await mend(house.engine, "shop", ["v"])
    assert await house.plan() == []
    await mend(house.engine, "shop", ["w"])
    assert [one.device for one in await house.plan()] == [first.device]


async def test_what_is_not_told_at_all_is_not_due_because_an_account_is_mended(house: House) -> None:
    """A push that is put off may have become moot."""
    await mend(house.engine, "shop", ["v"])
    first, *_ = await house.plan()
    await house.settle(first, Verdict.RETRY)
    await house.hello("ann/phone")
    await house.catch_up("ann/phone")
    await mend(house.engine, "shop", ["v"])
    assert (await house.job("ann/phone")).due_ms is None


def accounts(app_id: str = "shop") -> Accounts:
    return Accounts([Account(app_id=app_id, name="v", provider=object(), bucket=Bucket(9, 9))])  # type: ignore[arg-type]


async def test_who_rests_since_the_account_was_not_configured_is_due_once_a_relay_starts_with_it(house: House) -> None:
    """It was taken out of the file, say, or another node had not been started anew: nobody has called it parked."""
    await mend(house.engine, "shop", ["v"])
    house.views = {}
    assert await house.plan() == []
    assert await resting(house) == list(USERS)
    await mend_all(house.engine, accounts("bank"))
    await resume(house.engine)
    assert await resting(house) == list(USERS), "it is without it still"
    await mend_all(house.engine, accounts())
    await resume(house.engine)
    assert await resting(house) == []


async def test_where_nobody_rests_a_start_has_nothing_to_release(house: House) -> None:
    await mend(house.engine, "shop", ["v"])
    await mend_all(house.engine, accounts())
    assert await house.engine.read(lambda conn, _: unreleased(conn)) == {}


async def test_of_another_app_everybody_rests_on(house: House) -> None:
    assert await mend(house.engine, "bank", ["v"]) == 0
    assert await resting(house) == list(USERS)


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
async def test_whoever_is_released_is_sent_to_while_the_next_ones_are_waited_for(house: House) -> None:
    async with held(house) as mine:
        await mine.conn.run_sync(lambda conn: inbox_rows.lock_inboxes(conn, [house.key("dan/phone").user]))
        mended = asyncio.create_task(mend(house.engine, "shop", ["v"], portion=1))
        await until_blocked(house)
        assert await resting(house) == ["dan"]
        await house.send("ann", "bob", "cleo")
        await mine.commit()
        assert await mended == len(USERS)
