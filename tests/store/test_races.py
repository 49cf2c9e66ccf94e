"""Two things at the same instant (protocol §18: F13 to F15, F20, F30, F96, I22): whoever commits first, nothing is lost.

Both orders as transactions one after the other, on both stores; and on PostgreSQL at once, on connections of their own,
with the law of 6.5 checked on snapshots in between.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg
import law
import pytest
from beside import held, until_blocked
from house import House, address

from providers.contract import Verdict
from relay.errors import Conflict, Problem
from relay.inbox import fanout
from relay.inbox.erasing import erase
from relay.inbox.naming import NamedMessages
from relay.inbox.online import Bye, bye
from relay.inbox.registry import Registration, register
from relay.inbox.renaming import rename
from relay.model import Facts, Policy, UserKey
from relay.push.attempts import Attempt
from relay.store.engine import Engine
from relay.store.postgres import PostgresEngine
from relay.store.users import Naming

ANN = UserKey("shop", "ann")
Step = Callable[[House], Awaitable[Any]]


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    return await fresh(engine, clock)


async def fresh(engine: Engine, clock: Any) -> House:
    """ann's phone, online, with an address."""
    house = await House(engine, clock).begin()
    await house.register("ann/phone", "t1")
    await house.hello("ann/phone")
    clock.forward(s=1)
    return house


@pytest.fixture
async def postgres(postgres_url: str, clock: Any) -> AsyncIterator[House]:
    """The same house where transactions stand side by side."""
    engine = PostgresEngine(postgres_url, clock, random.Random(1), workers=8)
    yield await fresh(engine, clock)
    await engine.close()


async def lawful(house: House) -> None:
    await house.checked(law.everything(house.app, house.policy))


async def send(house: House) -> Any:
    return await house.send()


async def lease_over(house: House) -> Any:
    return await house.bye("ann/phone")


async def hello(house: House) -> Any:
    return await house.hello("ann/phone")


async def registers(house: House) -> Any:
    return await house.register("ann/tablet", "t2")


def both_orders(one: Step, other: Step) -> Any:
    names = [step.__name__ for step in (one, other)]
    return pytest.mark.parametrize(
        "steps", [(one, other), (other, one)], ids=[" then ".join(names), " then ".join(reversed(names))]
    )


# --- F13: ACCEPT and BYE ----------------------------------------------------------------------------------------------


@both_orders(send, lease_over)
async def test_f13_a_message_at_the_end_of_a_lease_is_told(house: House, steps: tuple[Step, Step], clock: Any) -> None:
    """F13: never stranded, and told after the debounce, not after the wait for an ack."""
    for step in steps:
        await step(house)
        await lawful(house)
    clock.forward(ms=500)
    assert len(await house.told()) == 1


async def test_f13_a_message_without_any_goodbye_is_told_after_the_ack_wait(house: House, clock: Any) -> None:
    """§6.5: nobody notices that the device has gone (half-open, node dead): the row is due all the same."""
    await house.send()
    clock.forward(ms=9_999)
    assert await house.plan() == []
    clock.forward(ms=1)
    assert len(await house.plan()) == 1


async def test_f13_at_once_many_times(postgres: House) -> None:
    """F13 on PostgreSQL, at the same instant: after both have committed, the job is due for an offline device."""
    for _ in range(40):
        await asyncio.gather(send(postgres), lease_over(postgres))
        await lawful(postgres)
        job = await postgres.job("ann/phone")
        assert job.due_ms is not None
        assert job.due_ms <= postgres.clock.now_ms() + 500
        await hello(postgres)
        await postgres.catch_up("ann/phone")


async def test_f13_the_one_that_waited_for_the_lock_sees_what_the_other_wrote(postgres: House) -> None:
    """§3.2: ACCEPT waits behind a BYE that has not committed, then reads "offline"; and the other way about."""
    async with held(postgres) as away:
        session = (await postgres.device("ann/phone")).session
        word = Bye(device=postgres.key("ann/phone"), session=session, node_id="n")
        await away.run(bye, [word])
        accepting = asyncio.create_task(postgres.send())
        await until_blocked(postgres)
        await away.commit()
    await accepting
    assert (await postgres.job("ann/phone")).due_ms == postgres.clock.now_ms() + postgres.policy.debounce_ms
    await postgres.hello("ann/phone")
    await postgres.catch_up("ann/phone")
    async with held(postgres) as writer:
        await writer.accept(postgres.message())
        leaving = asyncio.create_task(postgres.bye("ann/phone"))
        await until_blocked(postgres)
        await writer.commit()
    assert await leaving
    assert (await postgres.job("ann/phone")).due_ms == postgres.clock.now_ms() + postgres.policy.debounce_ms


# --- F14: ACCEPT and HELLO --------------------------------------------------------------------------------------------


@both_orders(send, hello)
async def test_f14_a_message_at_a_handshake_is_read_and_pushed_only_if_it_is_not_acked(
    house: House, steps: tuple[Step, Step], clock: Any
) -> None:
    """F14: it is in the first page (or the next one); acked, nobody is told; not acked, the ack wait ends."""
    await house.bye("ann/phone")
    for step in steps:
        await step(house)
        await lawful(house)
    page = await house.page("ann/phone", store=False)
    assert page.seqs == [1]
    clock.forward(ms=9_999)
    assert await house.plan() == []
    clock.forward(ms=1)
    assert len(await house.told()) == 1
    await house.catch_up("ann/phone")
    clock.forward(s=90_000)
    assert await house.plan() == []


async def test_f14_at_once_many_times(postgres: House) -> None:
    """F14 on PostgreSQL: every message is in what the device reads after its handshake."""
    await postgres.bye("ann/phone")
    for _ in range(40):
        accepted, _ = await asyncio.gather(send(postgres), hello(postgres))
        await lawful(postgres)
        assert await postgres.catch_up("ann/phone") == [accepted.message_id]
        await postgres.bye("ann/phone")


# --- F15: ACCEPT and REGISTER -----------------------------------------------------------------------------------------


@both_orders(send, registers)
async def test_f15_a_message_at_a_registration_is_in_the_new_devices_view(
    house: House, steps: tuple[Step, Step], clock: Any
) -> None:
    """F15: read by the new device in either order; told to it only if it was there when the message came."""
    for step in steps:
        await step(house)
        await lawful(house)
    await house.hello("ann/tablet")
    assert (await house.page("ann/tablet", store=False)).seqs == [1]
    clock.forward(s=61)
    told = {attempt.device.device_id for attempt in await house.told()}
    assert told == ({"phone", "tablet"} if steps[0] is registers else {"phone"})


async def test_f15_a_send_that_waits_while_a_device_registers_sees_the_device(postgres: House) -> None:
    """F15: ACCEPT stands in the queue for the lock; the device that registers meanwhile gets its job."""
    one = Registration(device=postgres.key("ann/tablet"), addresses=(address("t2"),))
    async with held(postgres) as registering:
        await registering.run(
            lambda conn, now_ms, policies: register(conn, now_ms, one, policies, postgres.inbox.new_epoch)
        )
        accepting = asyncio.create_task(postgres.send())
        await until_blocked(postgres)
        await registering.commit()
    await accepting
    assert (await postgres.job("ann/tablet")).due_ms is not None
    await lawful(postgres)


async def test_f15_at_once_many_times(postgres: House) -> None:
    """F15 on PostgreSQL: in the new device's view, and no job missing."""
    for _ in range(25):
        await asyncio.gather(send(postgres), registers(postgres), send(postgres))
        await lawful(postgres)
        postgres.stores.pop("ann/tablet", None)
        await postgres.hello("ann/tablet")
        head = (await postgres.page("ann/phone", store=False)).json["head"]
        assert (await postgres.page("ann/tablet")).seqs[-2:] == [head - 1, head]
        await postgres.inbox.sign_out(postgres.key("ann/tablet"))


# --- F20, F30: between the plan and the call --------------------------------------------------------------------------


async def planned(house: House, **about: Any) -> tuple[str, Attempt]:
    id_ = (await house.send(**about)).message_id
    house.clock.forward(s=11)
    (attempt,) = await house.plan()
    assert await house.needed(attempt)
    return id_, attempt


async def acks_by_cursor(house: House, _: str) -> None:
    await house.catch_up("ann/phone")


async def acks_by_id(house: House, id_: str) -> None:
    await house.ack("ann/phone", ids=(id_,))


async def is_cancelled(house: House, id_: str) -> None:
    await house.inbox.cancel(house.app, id_)


async def expires(house: House, _: str) -> None:
    house.clock.forward(s=60)


async def token_moves_to_bob(house: House, _: str) -> None:
    await house.register("bob/phone", "t1")


async def signs_out(house: House, _: str) -> None:
    await house.inbox.sign_out(house.key("ann/phone"))


async def rotates_its_token(house: House, _: str) -> None:
    await house.inbox.replace_addresses(house.key("ann/phone"), [address("t9")])


@pytest.mark.parametrize(
    "meanwhile",
    [acks_by_cursor, acks_by_id, is_cancelled, expires, token_moves_to_bob, signs_out, rotates_its_token],
)
async def test_f20_what_is_needed_no_more_before_the_call_is_not_sent(house: House, meanwhile: Any) -> None:
    """F20, F30, I22: acked, taken back, over, or not this device's token any more."""
    id_, attempt = await planned(house, ttl_s=60)
    await meanwhile(house, id_)
    assert not await house.needed(attempt)
    await house.settle(attempt, None)
    await lawful(house)


async def test_f20_a_look_that_finds_other_news_has_it_planned_again(house: House) -> None:
    """§7.3: the message that was to be shown is acked, a newer one is not: the next plan tells of that one."""
    id_, attempt = await planned(house)
    await house.send()
    await house.ack("ann/phone", ids=(id_,))
    assert not await house.needed(attempt)
    await house.settle(attempt, None)
    house.clock.forward(s=11)
    (again,) = await house.told()
    assert again.send.from_seq == 2


@pytest.mark.parametrize("acks_first", [True, False], ids=["ack then settle", "settle then ack"])
async def test_f20_an_ack_while_the_vendor_works_counts_in_either_order(house: House, *, acks_first: bool) -> None:
    """§7.4: the push arrives, the client has the message already; no knock follows."""
    _, attempt = await planned(house)
    for step in (True, False) if acks_first else (False, True):
        if step:
            await house.catch_up("ann/phone")
        else:
            await house.settle(attempt, Verdict.ACCEPTED)
        await lawful(house)
    assert (await house.job("ann/phone")).due_ms is None


async def test_f20_at_once_many_times(postgres: House) -> None:
    """F20 on PostgreSQL: ACK and SETTLE at the same instant leave a told, acked device in peace."""
    for _ in range(30):
        _, attempt = await planned(postgres)
        await asyncio.gather(postgres.catch_up("ann/phone"), postgres.settle(attempt, Verdict.ACCEPTED))
        await lawful(postgres)
        assert (await postgres.job("ann/phone")).due_ms is None


# --- F96: cancel and ack ----------------------------------------------------------------------------------------------


async def cancels(house: House) -> Any:
    return await house.inbox.cancel(house.app, f"01900000-0000-7000-8000-{house.sent:012d}")


async def acks(house: House) -> Any:
    return (await house.ack("ann/phone", ids=(f"01900000-0000-7000-8000-{house.sent:012d}",))).results


def ended(told: Counter[str]) -> Counter[str]:
    return Counter({kind: n for kind, n in told.items() if kind in {"delivery.acked", "delivery.cancelled"}})


async def told_of(house: House, id_: str) -> Counter[str]:
    return Counter(
        kind
        for kind, data in await house.events()
        for one in data.get("deliveries", [])
        if one["message_id"] == id_ and kind != "delivery.pushed"
    )


@both_orders(cancels, acks)
async def test_f96_cancel_and_ack_the_first_wins(house: House, steps: tuple[Step, Step]) -> None:
    """F96, I13: one final state, one event; the other finds it and changes nothing."""
    id_ = (await house.send()).message_id
    results = {step.__name__: await step(house) for step in steps}
    told = await told_of(house, id_)
    if steps[0] is acks:
        assert results == {"acks": {id_: "acked"}, "cancels": "recalled"}
        assert told == {"delivery.acked": 1}
    else:
        assert results == {"cancels": "cancelled", "acks": {id_: "expired"}}
        assert told == {"delivery.cancelled": 1, "delivery.late_ack": 1}
    with pytest.raises(Conflict):
        await cancels(house)
    assert ended(await told_of(house, id_)) == ended(told)
    await lawful(house)


async def test_f96_at_once_many_times(postgres: House) -> None:
    """F96 on PostgreSQL: exactly one of them wins."""
    wins: Counter[str] = Counter()
    for number in range(40):
        id_ = (await postgres.send()).message_id
        both = [cancels(postgres), acks(postgres)] if number % 2 else [acks(postgres), cancels(postgres)]
        await asyncio.gather(*both)
        told = ended(await told_of(postgres, id_))
        assert sum(told.values()) == 1
        wins.update(told)
    await lawful(postgres)
    assert sum(wins.values()) == 40


# --- one token, many owners -------------------------------------------------------------------------------------------


async def test_i22_one_token_registered_by_many_users_at_once_has_one_owner(postgres: House) -> None:
    """I22: users without any lock in common bring the same token at the same instant; the last writer has it."""
    for round_ in range(6):
        names = [f"user-{round_}-{n}/phone" for n in range(6)]
        async with asyncio.timeout(30):
            await asyncio.gather(*(postgres.register(name, f"token-{round_}") for name in names))
        await lawful(postgres)
        owners = [name for name in names if (await postgres.device(name)).has_address]
        assert len(owners) == 1


async def test_i22_two_registrations_side_by_side_of_which_neither_sees_the_other(postgres: House) -> None:
    """I22: A has written the token and not committed; B waits for it, and then takes it over."""
    one = Registration(device=postgres.key("bob/phone"), addresses=(address("t5"),))
    async with held(postgres) as bobs:
        await bobs.run(lambda conn, now_ms, policies: register(conn, now_ms, one, policies, postgres.inbox.new_epoch))
        cids = asyncio.create_task(postgres.register("cid/phone", "t5"))
        await until_blocked(postgres)
        await bobs.commit()
    async with asyncio.timeout(20):
        assert (await cids).has_address
    assert not (await postgres.device("bob/phone")).has_address
    await lawful(postgres)


# --- everything at once -----------------------------------------------------------------------------------------------


async def test_i18_the_law_holds_on_every_snapshot_of_a_busy_inbox(postgres: House) -> None:
    """I18, I19, I42: senders, a device that comes and goes, acks, rotated tokens and two planners, and a judge in between."""
    house, rng = postgres, random.Random(11)
    house.policy = Policy(inbox_max=2_000)
    done = asyncio.Event()

    async def repeat(step: Callable[[], Awaitable[Any]], times: int) -> None:
        for _ in range(times):
            with suppress(Problem):
                await step()

    async def comes_and_goes() -> None:
        await house.hello("ann/phone")
        await house.bye("ann/phone", linger_ms=rng.choice([0, 5_000]))

    async def speaks() -> None:
        session = (await house.device("ann/phone")).session
        await house.inbox.said(house.key("ann/phone"), session, Facts(background=rng.random() < 0.5))

    async def rotates() -> None:
        await house.inbox.replace_addresses(house.key("ann/phone"), [address(rng.choice(["t1", "t2"]))])

    async def tells() -> None:
        house.clock.forward(ms=400)
        await house.told(verdict=rng.choice([Verdict.ACCEPTED, Verdict.RETRY]))

    async def judge() -> None:
        while not done.is_set():
            await lawful(house)

    judging = asyncio.create_task(judge())
    async with asyncio.timeout(60):
        await asyncio.gather(
            repeat(house.send, 40),
            repeat(house.send, 40),
            repeat(comes_and_goes, 30),
            repeat(speaks, 30),
            repeat(rotates, 20),
            repeat(tells, 30),
            repeat(tells, 30),
            repeat(lambda: house.catch_up("ann/phone"), 6),
        )
    done.set()
    await judging
    await lawful(house)


# --- a delivery that waits, and its receiver's end ---------------------------------------------------------------------


async def a_message_for_later(house: House) -> str:
    waiting = await house.send("ann", deliver_ms=house.clock.now_ms() + 1000)
    house.clock.forward(s=1)
    return str(waiting.message_id)


def renames(conn: Any, now_ms: int, policy_of: Any) -> None:
    named = NamedMessages(ANN, Naming(now_ms))
    rename(conn, now_ms, ANN, "anna", policy_of, named=named, reseal=lambda *_: b"", new_epoch=lambda: "e")


def erases(conn: Any, now_ms: int, policy_of: Any) -> None:
    erase(conn, now_ms, ANN, policy_of, named=NamedMessages(ANN, Naming(now_ms)), new_epoch=lambda: "new")


async def beside(house: House, work: Any) -> None:
    """The message falls due while this has not committed: whoever delivers passes it by until then."""
    async with held(house) as other:
        await other.run(work)
        await house.inbox.fan_out()
        await other.commit()
    await house.fan_out()


async def test_what_falls_due_while_its_receiver_gets_another_name_is_delivered(postgres: House) -> None:
    message = await a_message_for_later(postgres)
    await beside(postgres, renames)
    rows = await postgres.rows(f"SELECT user_id FROM inbox_entry WHERE message_id = '{message}'")
    assert [row["user_id"] for row in rows] == ["anna"]
    (told,) = (await postgres.inbox.reader.trace("shop", message)).recipients
    assert (told["user"], told["status"]) == ("anna", "accepted")


async def test_a_connection_that_breaks_in_a_step_is_no_fault_of_its_message(
    postgres: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that goes away may say so in words of the driver's own: the message is not put off for them."""
    message, real, breaks = await a_message_for_later(postgres), fanout._deliver, [True]

    def breaking(conn: Any, *more: Any) -> Any:
        found = real(conn, *more)
        if breaks:
            breaks.clear()
            conn.connection.driver_connection.terminate()
            raise asyncpg.InternalClientError("got result for unknown protocol state 3")
        return found

    monkeypatch.setattr(fanout, "_deliver", breaking)
    await postgres.fan_out()
    assert not breaks
    assert await postgres.rows(f"SELECT user_id FROM inbox_entry WHERE message_id = '{message}'")


async def test_who_is_erased_while_a_message_to_it_falls_due_is_named_nowhere(postgres: House) -> None:
    await postgres.register("bob/phone")
    waiting = await postgres.send("ann", "bob", deliver_ms=postgres.clock.now_ms() + 1000)
    postgres.clock.forward(s=1)
    await beside(postgres, erases)
    (row,) = await postgres.rows(f"SELECT recipients FROM message WHERE message_id = '{waiting.message_id}'")
    assert "ann" not in row["recipients"]
    assert "bob" in row["recipients"]


async def test_two_who_are_erased_at_once_leave_no_message_that_names_either(postgres: House) -> None:
    await postgres.register("bob/phone")
    sent = await postgres.send("ann", "bob")
    async with held(postgres) as other:
        await other.run(erases)
        erasing = asyncio.create_task(postgres.inbox.erase(UserKey("shop", "bob")))
        await until_blocked(postgres)
        await other.commit()
        await erasing
    for row in await postgres.rows(f"SELECT recipients FROM message WHERE message_id = '{sent.message_id}'"):
        assert "ann" not in row["recipients"]
        assert "bob" not in row["recipients"]
