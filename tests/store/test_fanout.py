"""Messages that wait for their time, or go to many, on both stores (protocol 12.2, 12.6): each receiver has one entry or one
recorded refusal (I39), whatever happens on the way."""

import asyncio
from typing import Any

import pytest
from house import House

from relay.errors import Conflict
from relay.inbox import fanout, send
from relay.inbox.fanout_worker import FanoutWorker
from relay.model import Policy, UserKey
from relay.store.engine import Engine

PHONE = "ann/phone"
HOUR_MS = 3_600_000


@pytest.fixture
async def house(engine: Engine, clock: Any, monkeypatch: pytest.MonkeyPatch) -> House:
    for module in (send, fanout):
        monkeypatch.setattr(module, "AT_ONCE_MAX", 2)
    house = await House(engine, clock, policy=Policy(inbox_max=2)).begin()
    for user in ("ann", "bob", "cid", "dee", "eve"):
        await house.register(f"{user}/phone")
    return house


async def entries(house: House, message: str) -> list[tuple[str, str]]:
    where = f"WHERE message_id = '{message}' ORDER BY user_id"
    rows = await house.rows(f"SELECT user_id, kind FROM inbox_entry {where}")
    return [(row["user_id"], row["kind"]) for row in rows]


async def statuses(house: House, message: str) -> dict[str, str]:
    return {one["user"]: one["status"] for one in (await house.inbox.reader.trace("shop", message)).recipients}


# --- many -------------------------------------------------------------------------------------------------------------

MANY = ("eve", "ann", "dee", "bob", "cid")


async def test_many_get_it_in_parts_and_each_has_it_once(house: House) -> None:
    """F81: in chunks, each a transaction."""
    sent = await house.send(*MANY)
    assert sent.job is not None
    assert await entries(house, sent.message_id) == []
    assert set((await statuses(house, sent.message_id)).values()) == {"waiting"}
    assert await house.fan_out() == 3
    assert await entries(house, sent.message_id) == [(user, "message") for user in sorted(MANY)]
    assert set((await statuses(house, sent.message_id)).values()) == {"accepted"}
    assert await house.rows("SELECT * FROM fanout_job") == []


async def test_flt_23_a_message_that_cannot_be_fanned_out_holds_up_no_other_and_comes_when_it_is_mended(
    house: House, clock: Any
) -> None:
    """B116: somebody edited its row by hand. Before, the worker ended with it, and the whole relay with the worker."""
    spoilt, good = await house.send(*MANY), await house.send(*MANY)
    where = f"WHERE message_id = '{spoilt.message_id}'"
    ((kept,),) = [tuple(row.values()) for row in await house.rows(f"SELECT recipients FROM message {where}")]
    await house.engine.write(lambda conn, _: conn.exec_driver_sql(f"UPDATE message SET recipients = '{{' {where}"))
    stop = asyncio.Event()
    worker = asyncio.create_task(FanoutWorker(house.inbox.fan_out, clock).run(stop))
    async with asyncio.timeout(10):
        while len(await entries(house, good.message_id)) < len(MANY):
            await asyncio.sleep(0.01)  # noqa: TID251 - looks again
    stop.set()
    await worker
    assert await entries(house, spoilt.message_id) == []
    await house.engine.write(lambda conn, _: conn.exec_driver_sql(f"UPDATE message SET recipients = '{kept}' {where}"))
    assert await house.fan_out() == 0, "it is put off"
    clock.forward(s=3_601)
    await house.fan_out()
    assert await entries(house, spoilt.message_id) == [(user, "message") for user in sorted(MANY)]


async def begun_by_another_process(house: House) -> None:
    """Which then ends in the middle of its step."""
    house.inbox._begun.clear()
    await house.inbox.begin_fan_out()


async def test_flt_23_a_job_that_ends_five_processes_is_put_off_and_the_others_go_on(house: House, clock: Any) -> None:
    poison = await house.send(*MANY)
    clock.forward(ms=1)
    good = await house.send(*MANY)
    for _ in range(fanout.LOST_MAX):
        await begun_by_another_process(house)
        assert await house.rows("SELECT 1 FROM inbox_entry") == []
    await begun_by_another_process(house)
    await house.fan_out()
    assert len(await entries(house, good.message_id)) == len(MANY)
    assert await entries(house, poison.message_id) == []
    clock.forward(ms=fanout.PUT_OFF_MS)
    await begun_by_another_process(house)  # one more may try, each hour
    await begun_by_another_process(house)
    assert await house.fan_out() == 0
    clock.forward(ms=fanout.PUT_OFF_MS)
    await house.fan_out()
    assert len(await entries(house, poison.message_id)) == len(MANY), "whoever outlives it does it"


async def test_a_process_notes_a_job_once_however_many_steps_it_takes(house: House) -> None:
    await house.send(*MANY)
    for _ in range(2):
        await house.inbox.begin_fan_out()
        await house.inbox.fan_out()
    assert await house.rows("SELECT tries FROM fanout_job") == [{"tries": 1}]


async def test_flt_23_a_job_that_every_process_gets_on_with_is_not_put_off_however_many_they_are(house: House) -> None:
    """Many nodes that have just started, or one that is restarted again and again: none of them ended by it."""
    many = [f"user-{n:02}" for n in range(2 * (fanout.LOST_MAX + 3))]
    house.policy = Policy(create_users=True)
    sent = await house.send(*many)
    for _ in many[::2]:
        await begun_by_another_process(house)
        await house.inbox.fan_out()
    assert await entries(house, sent.message_id) == [(user, "message") for user in many]


async def test_full_inboxes_and_strangers_are_recorded_and_keep_nobody_else_from_it(house: House) -> None:
    for _ in range(2):
        await house.send("bob")
    sent = await house.send(*MANY, "nobody")
    await house.fan_out()
    by_user = {
        one["user"]: one.get("code") for one in (await house.inbox.reader.trace("shop", sent.message_id)).recipients
    }
    assert by_user == dict.fromkeys(MANY) | {"bob": "recipient_queue_full", "nobody": "recipient_unknown"}
    assert [user for user, _ in await entries(house, sent.message_id)] == ["ann", "cid", "dee", "eve"]


async def test_whoever_cannot_have_it_when_its_time_comes_is_reported_as_failed(house: House, clock: Any) -> None:
    """Its sender has a 202 long since, and may never look at the trace again."""
    late = await later(house, "ann", "bob", "cid", "nobody")
    alone = await later(house, "cid")
    for _ in range(2):
        await house.send("bob")
    await house.inbox.erase(UserKey("shop", "cid"))
    clock.forward(ms=HOUR_MS)
    await house.fan_out()
    events = await house.events()
    failed = [
        (data["user"], data["device"], one["message_id"], one["detail"])
        for type_, data in events
        if type_ == "delivery.failed"
        for one in data["deliveries"]
    ]
    assert sorted(failed) == [
        ("bob", None, late, "recipient_queue_full"),
        *sorted(("cid", None, message, "erased") for message in (late, alone)),
        ("nobody", None, late, "recipient_unknown"),
    ]
    completed = [
        (data["user"], one["message_id"], one["counts"])
        for type_, data in events
        if type_ == "message.completed"
        for one in data["messages"]
    ]
    assert sorted(completed, key=str) == sorted(((user, id_, {"failed": 1}) for user, _, id_, _ in failed), key=str)


async def test_a_step_that_is_cut_off_leaves_nothing_and_is_done_again(house: House) -> None:
    """F81: a node that dies in a chunk leaves the job to the next one."""
    sent = await house.send(*MANY)
    await house.inbox.fan_out()

    def crash(conn: Any, now_ms: int) -> None:
        fanout.fan_out(conn, now_ms, lambda _: house.policy, house.inbox.new_epoch)
        raise RuntimeError("killed before the commit")

    with pytest.raises(RuntimeError):
        await house.engine.write(crash)
    assert len(await entries(house, sent.message_id)) == 2
    await house.fan_out()
    assert len(await entries(house, sent.message_id)) == 5


async def test_several_workers_at_once_do_it_once(house: House) -> None:
    sent = await house.send(*MANY)
    await asyncio.gather(*(house.fan_out() for _ in range(4)))
    await house.fan_out()
    assert len(await entries(house, sent.message_id)) == 5


async def test_the_same_key_is_the_same_message_however_far_it_is(house: House) -> None:
    first = await house.inbox.accept(house.message(*MANY, key="k", body_hash=b"x"))
    await house.inbox.fan_out()
    again = await house.inbox.accept(house.message(*MANY, key="k", body_hash=b"x"))
    assert (again.replay, again.message_id, again.job) == (True, first.message_id, first.job)
    await house.fan_out()
    assert len(await entries(house, first.message_id)) == 5


async def test_the_senders_other_devices_have_one_copy(house: House) -> None:
    sent = await house.send("bob", "cid", "dee", sender_user="ann", sender_device="phone")
    await house.fan_out()
    assert await entries(house, sent.message_id) == [("ann", "own"), *((u, "message") for u in ("bob", "cid", "dee"))]
    among = await house.send(*MANY, sender_user="ann")
    await house.fan_out()
    assert [kind for _, kind in await entries(house, among.message_id)] == ["message"] * 5


async def test_what_is_taken_back_on_the_way_reaches_nobody_else(house: House) -> None:
    sent = await house.send(*MANY)
    await house.inbox.fan_out()
    assert await house.inbox.cancel("shop", sent.message_id) == "cancelled"
    assert await house.fan_out() == 0
    states = await statuses(house, sent.message_id)
    assert [states[user] for user in sorted(MANY)] == ["accepted", "accepted", "rejected", "rejected", "rejected"]
    told = [
        (data["user"], data["device"], [one["detail"] for one in data["deliveries"]])
        for type_, data in await house.events()
        if type_ == "delivery.cancelled"
    ]
    assert sorted(told) == [
        ("ann", "phone", ["no_address"]),
        ("bob", "phone", ["no_address"]),
        *((user, None, ["waiting"]) for user in ("cid", "dee", "eve")),
    ]
    completed = [data["user"] for type_, data in await house.events() if type_ == "message.completed"]
    assert sorted(completed) == sorted(MANY)
    assert {row["state"] for row in await house.rows("SELECT state FROM inbox_entry")} == {"cancelled"}
    with pytest.raises(Conflict):
        await house.inbox.cancel("shop", sent.message_id)


# --- later ------------------------------------------------------------------------------------------------------------


async def later(house: House, *users: str, ms: int = HOUR_MS, **more: Any) -> str:
    return (await house.send(*users, deliver_ms=house.clock.now_ms() + ms, **more)).message_id


async def test_a_message_waits_for_its_time_without_a_number(house: House, clock: Any) -> None:
    """F95: no cursor has passed it when it comes."""
    waiting = await later(house)
    other = (await house.send()).message_id
    await house.hello(PHONE)
    assert await house.catch_up(PHONE) == [other]
    clock.forward(ms=HOUR_MS - 1)
    assert await house.fan_out() == 0
    assert await house.catch_up(PHONE) == []
    clock.forward(ms=1)
    assert await house.fan_out() == 1
    assert await house.catch_up(PHONE) == [waiting], "behind every cursor"
    assert await house.fan_out() == 0
    assert await house.catch_up(PHONE) == []


async def test_its_life_begins_when_it_is_delivered(house: House, clock: Any) -> None:
    waiting = await later(house, ttl_s=60)
    clock.forward(ms=HOUR_MS)
    await house.fan_out()
    await house.hello(PHONE)
    assert (await house.page(PHONE)).ids == [waiting]
    clock.forward(s=61)
    assert await house.inbox.expire() == 1


async def test_what_is_due_while_the_relay_is_away_long_enough_to_be_over_is_reported(house: House, clock: Any) -> None:
    """F95: the relay was down when it was due."""
    waiting = await later(house, ttl_s=60)
    clock.forward(ms=2 * HOUR_MS)
    await house.fan_out()
    await house.inbox.expire()
    assert await house.deliveries("delivery.expired") == [("phone", waiting)]


async def test_it_keeps_all_that_was_said_of_it(house: House, clock: Any) -> None:
    more = {"fallback": '"less"', "fallback_h": "less", "min_schema": 5, "client_ref": "c-1", "collapse_key": "k"}
    await later(house, **more)
    clock.forward(ms=HOUR_MS)
    await house.fan_out()
    await house.hello(PHONE, schema=1)
    (entry,) = (await house.page(PHONE)).json["entries"]
    assert (entry["form"], entry["h"], entry["client_ref"]) == ("fallback", "less", "c-1")
    newer = await later(house, collapse_key="k")
    clock.forward(ms=HOUR_MS)
    await house.fan_out()
    assert (await house.page(PHONE)).ids == [newer]
    assert [row["state"] for row in await house.rows("SELECT state FROM inbox_entry ORDER BY seq")] == [
        "superseded",
        "live",
    ]


async def test_it_is_taken_back_before_its_time(house: House, clock: Any) -> None:
    waiting = await later(house)
    assert await house.inbox.cancel("shop", waiting) == "cancelled"
    clock.forward(ms=HOUR_MS)
    assert await house.fan_out() == 0
    assert await statuses(house, waiting) == {"ann": "rejected"}


async def test_it_is_pushed_when_it_is_there(house: House, clock: Any) -> None:
    await house.register("ann/phone", "token")
    await later(house)
    assert await house.told() == []
    clock.forward(ms=HOUR_MS)
    await house.fan_out()
    clock.forward(s=1)
    assert len(await house.told()) == 1
