"""No two transactions wait for each other on PostgreSQL (protocol §6.4): the server breaks such a circle after a second by
ending one of them, which is then repeated. Here none is, so that a circle is seen."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from beside import Held, held
from house import FREE, House, address
from sqlalchemy import event, text

from providers.contract import Outcome, Scope, Verdict
from relay.errors import Missing
from relay.inbox.erasing import erase as erase_rows
from relay.inbox.groups import change
from relay.inbox.send import AT_ONCE_MAX
from relay.model import Policy, TimelineKey, UserKey
from relay.push.accounts import Account, Accounts
from relay.push.desk import PushDesk
from relay.push.limits import Bucket
from relay.push.rules import Result, Then
from relay.push.settling import Settlement, settle
from relay.store import groups as group_rows
from relay.store import inbox as inbox_rows
from relay.store import messages as message_rows
from relay.store import postgres as postgres_engine
from relay.store import queue as job_rows
from relay.store import timelines
from relay.store.events import NewEvent, emit
from relay.store.parked import mend_accounts, park_account, release_some
from relay.store.postgres import PostgresEngine

ZOE = UserKey("shop", "zoe")
Act = Callable[[House], Awaitable[Any]]


@pytest.fixture
async def house(postgres_url: str, clock: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """On PostgreSQL, where whoever is ended for a circle hears of it."""
    monkeypatch.setattr(postgres_engine, "REPEATABLE", frozenset())
    engine = PostgresEngine(postgres_url, clock, random.Random(1), workers=8)
    house = await House(engine, clock).begin()
    for user in ("bob", "zoe"):
        await house.register(f"{user}/phone")
    yield house
    await engine.close()


async def rename(house: House) -> None:
    await house.inbox.rename(ZOE, "zoa")


async def erase(house: House) -> None:
    await house.inbox.erase(ZOE)


async def lock_inbox(mine: Held, user: str) -> None:
    await mine.conn.run_sync(lambda conn: inbox_rows.lock_inboxes(conn, [UserKey("shop", user)]))


async def blocked(house: House, count: int) -> None:
    """Until so many connections wait for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(10):
        while (await house.rows(waiting))[0]["count"] < count:
            pass


async def blocked_or_done(house: House, task: "asyncio.Task[None]") -> None:
    waits = asyncio.create_task(blocked(house, 1))
    await asyncio.wait((waits, task), return_when=asyncio.FIRST_COMPLETED)
    waits.cancel()


@pytest.mark.parametrize("change", [rename, erase])
@pytest.mark.parametrize("more", [{}, {"mentions": ("zoe",)}])
async def test_a_user_changes_while_a_message_that_names_it_is_fanned_out(
    house: House, clock: Any, change: Act, more: dict[str, Any]
) -> None:
    """The fan-out has its message and waits for the first receiver; the second one is renamed, or erased, meanwhile."""
    await house.inbox.groups.change("shop", "g", add=["bob", "zoe"], remove=[])
    sent = await house.inbox.accept(house.message(users=(), group="g", deliver_ms=clock.now_ms() + 1000, **more))
    clock.forward(s=1)
    async with held(house) as mine:
        await lock_inbox(mine, "bob")
        fan_out = asyncio.create_task(house.inbox.fan_out())
        await blocked(house, 1)
        changed = asyncio.create_task(change(house))
        await blocked(house, 2)
        await mine.commit()
        await asyncio.gather(fan_out, changed)
    await house.hello("bob/phone")
    assert await house.catch_up("bob/phone") == [sent.message_id]
    (row,) = await house.rows("SELECT recipients FROM message")
    assert '"zoe"' not in row["recipients"]


async def test_a_user_is_erased_while_a_message_is_fanned_out_that_came_after_the_search(
    house: House, clock: Any
) -> None:
    """Whoever comes between is waited for in another try, which has it in mind from the start."""
    named = await house.inbox._naming(ZOE)
    await house.send("bob", "zoe", deliver_ms=clock.now_ms() + 1000)
    clock.forward(s=1)
    async with held(house) as mine:
        await lock_inbox(mine, "bob")
        fan_out = asyncio.create_task(house.inbox.fan_out())
        await blocked(house, 1)
        erasing = asyncio.create_task(
            house.engine.write(
                lambda conn, now_ms: erase_rows(
                    conn, now_ms, ZOE, lambda _: house.policy, named=named, new_epoch=house.inbox.new_epoch
                )
            )
        )
        await blocked(house, 2)
        await mine.commit()
        await asyncio.gather(fan_out, erasing)
    (row,) = await house.rows("SELECT recipients FROM message")
    assert '"zoe"' not in row["recipients"]


async def test_a_member_is_renamed_while_its_shared_timeline_and_its_group_are_sent_to_together(house: House) -> None:
    """By one transaction, which locks the shared timeline first, whatever their names."""
    await house.inbox.groups.change("shop", "a", add=["zoe"], remove=[])
    await house.inbox.groups.change("shop", "b", add=["zoe"], remove=[], ultra=True)
    async with held(house) as mine:
        await mine.conn.run_sync(lambda conn: timelines.lock(conn, [TimelineKey("shop", "b")]))
        renamed = asyncio.create_task(rename(house))
        await blocked(house, 1)
        await mine.conn.run_sync(lambda conn: group_rows.keep_members(conn, "shop", ["a"]))
        await mine.commit()
        await renamed


async def test_a_device_is_registered_with_another_ones_token_while_both_users_are_sent_to(house: House) -> None:
    """Both make the new user's inbox: the one who waits for that has no lock yet that the other one wants."""
    house.policy = Policy(create_users=True)
    await house.register("abe/phone", "abe's")
    await house.inbox.replace_addresses(house.key("bob/phone"), [address("bob's")])
    async with held(house) as mine:
        await lock_inbox(mine, "abe")
        registered = asyncio.create_task(house.register("ann/phone", "abe's", "bob's"))
        await blocked(house, 1)
        sent = asyncio.create_task(house.send("bob", "ann"))
        await blocked(house, 2)
        await mine.commit()
        await asyncio.gather(registered, sent)
    assert [one.seq for one in (await sent).recipients] == [1, 1]


async def test_an_account_is_mended_while_a_message_comes_for_two_whose_pushes_rest_for_it(house: House) -> None:
    await house.engine.write(lambda conn, _: conn.execute(text("UPDATE push_job SET reason = 'account_parked'")))
    account = Account(app_id="shop", name="v", provider=object(), bucket=Bucket(9, 9))  # type: ignore[arg-type]
    desk = PushDesk(
        engine=house.engine, clock=house.clock, accounts=Accounts([account]), policy_of=lambda _: house.policy
    )
    bob, zoe = house.key("bob/phone"), house.key("zoe/phone")
    async with held(house) as mine:
        await mine.conn.run_sync(lambda conn: inbox_rows.lock_inboxes(conn, [bob.user, zoe.user]))
        await mine.conn.run_sync(lambda conn: job_rows.lower_due(conn, {zoe: 1}))
        mended = asyncio.create_task(desk.unpark("shop", "v"))
        await blocked(house, 1)
        await mine.conn.run_sync(lambda conn: job_rows.lower_due(conn, {bob: 1}))
        await mine.commit()
        await mended
    assert [row["due_ms"] for row in await house.rows("SELECT due_ms FROM push_job")] == [1, 1]


async def test_who_waits_for_an_account_is_locked_on_the_server_alone(house: House) -> None:
    """A hundred thousand of them, brought here to be locked, had this node stand still for a second."""
    await house.engine.write(lambda conn, _: conn.execute(text("UPDATE push_job SET reason = 'account_parked'")))
    await house.engine.write(lambda conn, _: mend_accounts(conn, "shop", ["v"]))
    brought: list[int] = []

    def note(_: Any, cursor: Any, statement: str, *__: Any) -> None:
        if statement.startswith("SELECT"):
            brought.append(cursor.rowcount)

    def release(conn: Any, now_ms: int) -> list[Any]:
        event.listen(conn, "after_cursor_execute", note)
        assert release_some(conn, now_ms, app_id="shop", mended={"v": 1}) is None
        return conn.execute(text("SELECT count(*) FROM inbox WHERE xmax::text::bigint > 0")).scalars().all()

    assert await house.engine.write(release) == [2]
    assert max(brought) == 1
    assert not await house.rows("SELECT 1 FROM push_job WHERE due_ms IS NULL")


async def test_two_nodes_hear_of_the_same_two_accounts_that_they_are_refused(house: House) -> None:
    """In the order in which their vendors happened to answer."""
    await house.inbox.replace_addresses(house.key("bob/phone"), [address("bob's", account="w")])
    await house.inbox.replace_addresses(house.key("zoe/phone"), [address("zoe's", account="v")])
    house.views = {"v": FREE, "w": FREE}
    await house.send("bob", "zoe")
    house.clock.forward(s=1)
    of_w, of_v = await house.plan()
    assert (of_w.send.address.account, of_v.send.address.account) == ("w", "v")
    refused = Result(Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT))
    heard = [Settlement(attempt=one, result=refused, retry_ms=0) for one in (of_w, of_v)]
    async with held(house) as mine:
        await mine.conn.run_sync(lambda conn: park_account(conn, 0, app_id="shop", account="v", code=None))
        theirs = asyncio.create_task(
            house.engine.write(lambda conn, now_ms: settle(conn, now_ms, heard, lambda _: house.policy))
        )
        await blocked(house, 1)
        await mine.conn.run_sync(lambda conn: park_account(conn, 0, app_id="shop", account="w", code=None))
        await mine.commit()
        assert await theirs == [Then.PARK, Then.PARK]


async def test_two_transactions_tell_of_the_same_two_things(house: House) -> None:
    """An account's trouble, say, which each of two nodes meets for its own users' pushes."""
    one, two = (NewEvent(app_id="shop", event_id=name, type="account.impaired", data={}) for name in ("evt_1", "evt_2"))
    async with held(house) as mine:
        await mine.conn.run_sync(emit, 0, [one])
        theirs = asyncio.create_task(house.engine.write(lambda conn, now_ms: emit(conn, now_ms, [two, one])))
        await blocked(house, 1)
        await mine.conn.run_sync(emit, 0, [two])
        await mine.commit()
        await theirs
    assert len(await house.events()) == 2


async def test_a_user_is_renamed_while_what_its_messages_said_is_forgotten(house: House, clock: Any) -> None:
    house.policy = Policy(history_ms=0)
    messages = [
        (await house.send("zoe", ttl_s=ttl_s)).message_id for ttl_s in (20, 10)
    ]  # the second is forgotten first
    clock.forward(s=30)
    async with held(house) as mine:
        await mine.conn.run_sync(lambda conn: message_rows.lock_messages(conn, "shop", messages[:1]))
        forgetting = asyncio.create_task(house.engine.write(message_rows.forget_content))
        await blocked(house, 1)
        await mine.conn.run_sync(lambda conn: message_rows.lock_messages(conn, "shop", messages[1:]))
        await mine.commit()
        await forgetting
    assert not await house.rows("SELECT 1 FROM message WHERE body IS NOT NULL")


# --- a user whose name changes while somebody is about to do something by it ------------------------------------------


async def beside_a_rename(house: House, act: Awaitable[Any], *, waits: bool = True) -> Any:
    """Does something while zoe's rename has its lock, for which it waits."""
    (message,) = await house.sends(1, "zoe")
    async with held(house) as mine:
        await mine.conn.run_sync(lambda conn: message_rows.lock_messages(conn, "shop", [message]))
        renamed = asyncio.create_task(rename(house))
        await blocked(house, 1)
        done = asyncio.ensure_future(act)
        if waits:
            await blocked(house, 2)
        else:
            await done
        await mine.commit()
        await renamed
        return await done


async def inbox_of(house: House, user: str) -> list[str]:
    rows = await house.rows(f"SELECT message_id FROM inbox_entry WHERE user_id = '{user}' ORDER BY seq")
    return [row["message_id"] for row in rows]


@pytest.mark.parametrize("create_users", [False, True])
async def test_a_member_that_is_renamed_has_what_its_group_is_sent_meanwhile(house: House, create_users: bool) -> None:
    house.policy = Policy(create_users=create_users)
    await house.inbox.groups.change("shop", "g", add=["bob", "zoe"], remove=[])
    sent = await beside_a_rename(house, house.inbox.accept(house.message(users=(), group="g")))
    assert (await inbox_of(house, "zoa"))[1:] == [sent.message_id]
    assert [(one.user_id, one.refusal) for one in sent.recipients] == [("bob", None), ("zoa", None)]
    assert not await house.rows("SELECT 1 FROM inbox WHERE user_id = 'zoe'")


async def test_a_member_whose_rename_is_waited_for_before_its_inbox_is_looked_for_has_what_its_group_is_sent(
    house: House, clock: Any
) -> None:
    """By its old name it is a stranger then, and strangers are made."""
    house.policy = Policy(create_users=True)
    await house.inbox.groups.change("shop", "g", add=["bob", "zoe"], remove=[])
    sends = [house.message(users=(), group="g", **more) for more in ({}, {"deliver_ms": clock.now_ms() + 1000})]
    at_once, later = await beside_a_rename(house, house.inbox.accept_many(sends))
    assert [(one.user_id, one.refusal) for one in at_once.recipients] == [("bob", None), ("zoa", None)]
    assert [one.user_id for one in later.recipients] == ["bob", "zoa"]
    assert (await inbox_of(house, "zoa"))[1:] == [at_once.message_id]
    assert not await house.rows("SELECT 1 FROM inbox WHERE user_id = 'zoe'")


async def test_a_member_that_is_renamed_has_what_its_group_is_sent_for_later_meanwhile(
    house: House, clock: Any
) -> None:
    """Nobody waits for its inbox yet: the message names it when the rename has looked for those that do."""
    await house.inbox.groups.change("shop", "g", add=["bob", "zoe"], remove=[])
    async with held(house) as mine:
        (sent,) = await mine.accept(house.message(users=(), group="g", deliver_ms=clock.now_ms() + 1000))
        renamed = asyncio.create_task(rename(house))
        await blocked_or_done(house, renamed)
        await mine.commit()
        await renamed
    clock.forward(s=1)
    await house.fan_out()
    assert await inbox_of(house, "zoa") == [sent.message_id]


@pytest.mark.parametrize("create_users", [False, True])
async def test_a_member_that_is_erased_is_not_named_by_what_its_group_is_sent_for_later_meanwhile(
    house: House, clock: Any, create_users: bool
) -> None:
    house.policy = Policy(create_users=create_users)
    await house.inbox.groups.change("shop", "g", add=["bob", "zoe"], remove=[])
    async with held(house) as mine:
        await mine.accept(house.message(users=(), group="g", deliver_ms=clock.now_ms() + 1000))
        erased = asyncio.create_task(erase(house))
        await blocked_or_done(house, erased)
        await mine.commit()
        await erased
    (row,) = await house.rows("SELECT recipients FROM message")
    assert '"zoe"' not in row["recipients"]
    clock.forward(s=1)
    await house.fan_out()
    assert await house.rows("SELECT user_id FROM inbox") == [{"user_id": "bob"}]


async def test_a_member_that_is_renamed_has_what_all_members_are_sent_meanwhile(house: House) -> None:
    await house.inbox.groups.change("shop", "u", add=["bob", "zoe"], remove=[], ultra=True)
    sent = await house.inbox.accept(house.message(users=(), group="u", conversation_id="u", everyone=True))
    await beside_a_rename(house, house.inbox.fan_out(), waits=False)
    await house.fan_out()
    assert sent.message_id in await inbox_of(house, "zoa")


async def test_a_member_that_is_renamed_has_the_mention_of_many_that_is_sent_meanwhile(house: House) -> None:
    """They get it by a job, which names them, and for which nobody's lock is taken."""
    many = [f"u{n}" for n in range(AT_ONCE_MAX)]
    await house.inbox.groups.change("shop", "u", add=["zoe", *many], remove=[], ultra=True)
    message = house.message(users=(), group="u", conversation_id="u", mentions=("zoe", *many))
    async with held(house) as mine:
        (first,) = await mine.accept(message)
        renamed = asyncio.create_task(rename(house))
        await blocked_or_done(house, renamed)
        await mine.commit()
        await renamed
    await house.fan_out()
    assert await inbox_of(house, "zoa") == [first.message_id]


async def test_a_member_that_is_renamed_is_told_of_what_its_timeline_is_sent_meanwhile(house: House) -> None:
    await house.inbox.replace_addresses(house.key("zoe/phone"), [address("token")])
    await house.inbox.groups.change("shop", "u", add=["bob", "zoe"], remove=[], ultra=True, notify="all")
    await house.inbox.accept(house.message(users=(), group="u", conversation_id="u"))
    await beside_a_rename(house, house.inbox.fan_out(), waits=False)
    await house.fan_out()
    assert await house.rows("SELECT 1 FROM membership WHERE user_id = 'zoa' AND wake_seq = 1")


@pytest.mark.parametrize("more", [{"everyone": True}, {}])
@pytest.mark.parametrize("at", ["inbox", "address"])
async def test_who_joins_while_it_is_renamed_has_what_comes_at_once_to_its_new_group(
    house: House, at: str, more: dict[str, Any]
) -> None:
    """Whose lock the rename does not have: it had looked for the groups before, and even for their jobs."""
    await house.inbox.replace_addresses(house.key("zoe/phone"), [address("token")])
    await house.inbox.groups.change("shop", "u", add=["bob"], remove=[], ultra=True, notify="all")
    async with held(house) as mine:
        await mine.conn.execute(text(f"SELECT 1 FROM {at} WHERE user_id = 'zoe' FOR UPDATE"))
        renamed = asyncio.create_task(rename(house))
        await blocked(house, 1)
        await house.inbox.groups.change("shop", "u", add=["zoe"], remove=[], notify="all")
        sent = await house.inbox.accept(house.message(users=(), group="u", conversation_id="u", **more))
        woken = asyncio.create_task(house.inbox.fan_out())
        await blocked(house, 2)
        await mine.commit()
        await renamed
        await woken
    await house.fan_out()
    assert await house.rows("SELECT 1 FROM membership WHERE user_id = 'zoa' AND wake_seq = 1")
    assert await inbox_of(house, "zoa") == ([sent.message_id] if more else [])


@pytest.mark.parametrize("more", [{"everyone": True}, {}])
async def test_a_member_that_is_renamed_has_what_came_when_the_jobs_of_its_groups_were_held_already(
    house: House, more: dict[str, Any]
) -> None:
    await house.inbox.replace_addresses(house.key("zoe/phone"), [address("token")])
    await house.inbox.groups.change("shop", "u", add=["bob", "zoe"], remove=[], ultra=True, notify="all")
    sent = []

    async def post_and_work() -> None:
        sent.append(await house.inbox.accept(house.message(users=(), group="u", conversation_id="u", **more)))
        await house.fan_out()

    await beside_a_rename(house, post_and_work())
    assert await house.rows("SELECT 1 FROM membership WHERE user_id = 'zoa' AND wake_seq = 1")
    assert (await inbox_of(house, "zoa"))[1:] == [one.message_id for one in sent if more]
    assert [type_ for type_, _ in await house.events() if type_ == "delivery.failed"] == []


async def test_a_device_is_registered_of_who_is_erased_meanwhile(house: House) -> None:
    """As of one that was erased before: it is somebody new."""
    named = await house.inbox._naming(ZOE)
    async with held(house) as mine:
        await lock_inbox(mine, "zoe")
        registered = asyncio.create_task(house.register("zoe/tablet"))
        await blocked(house, 1)
        await mine.conn.run_sync(
            lambda conn: erase_rows(conn, 0, ZOE, lambda _: house.policy, named=named, new_epoch=house.inbox.new_epoch)
        )
        await mine.commit()
        await registered
    rows = await house.rows("SELECT device_id FROM device WHERE user_id = 'zoe'")
    assert [row["device_id"] for row in rows] == ["tablet"]


async def test_a_message_is_taken_back_from_who_is_renamed_meanwhile(house: House) -> None:
    sent = await house.send("zoe")
    assert await beside_a_rename(house, house.inbox.cancel("shop", sent.message_id)) == "cancelled"
    rows = await house.rows(f"SELECT state FROM inbox_entry WHERE message_id = '{sent.message_id}'")
    assert [row["state"] for row in rows] == ["cancelled"]


async def test_what_all_members_have_is_taken_back_while_one_is_renamed(house: House) -> None:
    """Both take the timeline's lock, and then that of the job that hands it out."""
    await house.inbox.groups.change("shop", "u", add=["bob", "zoe"], remove=[], ultra=True)
    sent = await house.inbox.accept(house.message(users=(), group="u", conversation_id="u", everyone=True))
    async with held(house) as mine:
        await mine.conn.run_sync(lambda conn: timelines.lock(conn, [TimelineKey("shop", "u")]))
        renamed = asyncio.create_task(rename(house))
        await blocked(house, 1)
        taken_back = asyncio.create_task(house.inbox.cancel("shop", sent.message_id))
        await blocked(house, 2)
        await mine.commit()
        await renamed
        assert await taken_back == "recalled"


async def test_what_was_to_come_to_who_is_erased_is_unknown(house: House, clock: Any) -> None:
    sent = await house.send("zoe", deliver_ms=clock.now_ms() + 1000)
    await erase(house)
    with pytest.raises(Missing):
        await house.inbox.cancel("shop", sent.message_id)


async def test_who_joins_while_it_is_erased_is_named_by_nothing_that_came_at_once_to_its_new_group(
    house: House, clock: Any
) -> None:
    """The erasure had looked for its groups before, and even for the messages that name it."""
    await house.inbox.replace_addresses(house.key("zoe/phone"), [address("token")])
    await house.inbox.groups.change("shop", "g", add=["bob"], remove=[])
    async with held(house) as mine:
        await mine.conn.execute(text("SELECT 1 FROM address WHERE user_id = 'zoe' FOR UPDATE"))
        erased = asyncio.create_task(erase(house))
        await blocked(house, 1)
        await house.inbox.groups.change("shop", "g", add=["zoe"], remove=[])
        await house.inbox.accept(house.message(users=(), group="g", deliver_ms=clock.now_ms() + 1000))
        await mine.commit()
        await erased
    (row,) = await house.rows("SELECT recipients FROM message")
    assert '"zoe"' not in row["recipients"]
    assert await house.rows("SELECT 1 FROM membership WHERE user_id = 'zoe'") == []


async def test_who_waits_for_a_change_of_members_holds_up_no_inbox(house: House) -> None:
    """Rows of members are changed by whoever wakes them, too: what keeps the two apart comes before the inboxes."""
    await house.inbox.groups.change("shop", "u", add=["bob", "zoe"], remove=[], ultra=True, notify="all")
    await house.inbox.accept(house.message(users=(), group="u", conversation_id="u"))
    async with held(house) as mine:
        await mine.conn.run_sync(
            lambda conn: change(conn, "shop", "u", add=[], remove=["zoe"], new_epoch=house.inbox.new_epoch)
        )
        woken = asyncio.create_task(house.inbox.fan_out())
        await blocked(house, 1)
        assert (await house.send("bob", "zoe")).recipients[1].seq == 1
        await mine.commit()
        await woken
