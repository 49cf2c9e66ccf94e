"""Numbers of an inbox (protocol §3): dense, in the order of their commits, and read without a hole. F1 to F4, I1, I2, I42.

On PostgreSQL by transactions that are held open on connections of their own; on SQLite by a writer that stands still in
the middle of its transaction.
"""

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from typing import Any

import law
import pytest
from beside import held, until_blocked
from house import House

from relay.errors import Unavailable
from relay.inbox.accept import accept
from relay.inbox.send import Accepted
from relay.model import Policy
from relay.store.engine import Engine
from relay.store.postgres import PostgresEngine
from relay.store.schema import metadata
from relay.store.sqlite import SqliteEngine


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock).begin()
    await house.register("ann/phone")
    await house.hello("ann/phone")
    return house


@pytest.fixture
async def postgres(postgres_url: str, clock: Any) -> AsyncIterator[House]:
    """A house on PostgreSQL, where transactions can really stand side by side."""
    engine = PostgresEngine(postgres_url, clock, random.Random(1), workers=8)
    house = await House(engine, clock).begin()
    for user in ("ann", "bob", "cid", "dan"):
        await house.register(f"{user}/phone")
    await house.hello("ann/phone")
    yield house
    await engine.close()


async def seen(house: House) -> list[int]:
    """What ann's phone would read now."""
    return (await house.page("ann/phone", store=False)).seqs


# --- F1, F2: the first number commits last ----------------------------------------------------------------------------


async def test_f1_a_reader_never_sees_a_number_before_the_one_below_it(postgres: House) -> None:
    """F1, I2: A took 6 and stalls; B, who wants the same inbox, waits; the reader sees nothing above 5, then 6 and 7."""
    await postgres.sends(5)
    async with held(postgres) as a:
        (first,) = await a.accept(postgres.message())
        assert first.recipients[0].seq == 6
        b = asyncio.create_task(postgres.send())
        await until_blocked(postgres)
        assert await seen(postgres) == [1, 2, 3, 4, 5]
        assert not b.done()
        await a.commit()
    assert (await b).recipients[0].seq == 7
    page = await postgres.page("ann/phone")
    assert page.seqs == [1, 2, 3, 4, 5, 6, 7]
    assert page.ids[5:] == [first.message_id, (await b).message_id]


async def test_f1_another_users_inbox_does_not_wait(postgres: House) -> None:
    """F1: the lock is the inbox's, not the store's."""
    async with held(postgres) as a:
        await a.accept(postgres.message("ann"))
        assert (await postgres.send("bob")).recipients[0].seq == 1
        await a.rollback()


async def test_f2_a_number_that_was_rolled_back_is_given_again(postgres: House) -> None:
    """F2: A took 6 and rolls back; B gets 6, and there is no hole."""
    await postgres.sends(5)
    async with held(postgres) as a:
        (lost,) = await a.accept(postgres.message())
        b = asyncio.create_task(postgres.send())
        await until_blocked(postgres)
        await a.rollback()
    assert (await b).recipients[0].seq == 6
    page = await postgres.page("ann/phone")
    assert page.seqs == [1, 2, 3, 4, 5, 6]
    assert lost.message_id not in page.ids


async def test_f2_a_writer_that_dies_with_the_number_leaves_no_hole(postgres: House) -> None:
    """F2: the connection is cut while its transaction holds the number; nobody waits for it for ever."""
    async with held(postgres) as a:
        await a.accept(postgres.message())
        b = asyncio.create_task(postgres.send())
        await until_blocked(postgres)
        await postgres.rows(f"SELECT pg_terminate_backend({await a.pid()})")
        assert (await b).recipients[0].seq == 1
        await a.conn.invalidate()
    assert await seen(postgres) == [1]


async def test_a_writer_that_waits_too_long_is_told_to_come_again_and_leaves_nothing(postgres: House) -> None:
    """§3.2: a lock that is not given free within 2 s ends in "busy", for the waiting one alone."""
    async with held(postgres) as a:
        await a.accept(postgres.message())
        with pytest.raises(Unavailable) as refused:
            await postgres.send()
        assert refused.value.code == "overloaded"
        await a.commit()
    assert (await postgres.send()).recipients[0].seq == 2


async def test_f1_on_one_writer_a_reader_sees_a_transaction_whole_or_not_at_all(tmp_path: Any, clock: Any) -> None:
    """F1 on SQLite: the writer stands still between the number and the commit; a reader beside it sees neither."""
    engine = SqliteEngine(tmp_path / "relay.db", clock)
    try:
        await engine.write(lambda conn, _: metadata.create_all(conn))
        house = await House(engine, clock).begin()
        await house.register("ann/phone")
        await house.hello("ann/phone")
        await house.sends(5)
        taken, go_on = threading.Event(), threading.Event()
        sends = [house.message()]

        def stalls(conn: Any, now_ms: int) -> list[Any]:
            answers = accept(conn, now_ms, sends, lambda _: house.policy, house.inbox.new_epoch)
            taken.set()
            assert go_on.wait(10)
            return answers

        a = asyncio.create_task(engine.write(stalls))
        await asyncio.to_thread(taken.wait, 10)
        b = asyncio.create_task(house.send())
        assert await seen(house) == [1, 2, 3, 4, 5]
        assert not b.done()
        go_on.set()
        assert [one.recipients[0].seq for one in await a] == [6]
        assert (await b).recipients[0].seq == 7
        assert await seen(house) == [1, 2, 3, 4, 5, 6, 7]
    finally:
        await engine.close()


async def test_f2_work_that_fails_leaves_no_hole(house: House) -> None:
    """F2 on both stores: what raises after it took numbers has taken none."""
    await house.sends(2)
    sends = [house.message(), house.message()]

    def fails(conn: Any, now_ms: int) -> None:
        accept(conn, now_ms, sends, lambda _: house.policy, house.inbox.new_epoch)
        raise LookupError

    with pytest.raises(LookupError):
        await house.engine.write(fails)
    assert (await house.send()).recipients[0].seq == 3


# --- F3: many writers, many users -------------------------------------------------------------------------------------


async def test_f3_32_writers_of_three_users_each_never_deadlock(postgres: House) -> None:
    """F3, I1, I42: each transaction on a connection of its own, its users named in any order."""
    house, rng = postgres, random.Random(3)
    users = ("ann", "bob", "cid", "dan")
    room = asyncio.Semaphore(12)  # of the pool's connections

    async def writer(trio: list[str]) -> list[Accepted]:
        async with room, held(house) as mine:
            answers = await mine.accept(house.message(*trio))
            await mine.commit()
            return answers

    trios = [rng.sample(users, 3) for _ in range(32)]
    await asyncio.gather(*map(writer, trios))
    heads = {row["user_id"]: row["head_seq"] for row in await house.rows("SELECT user_id, head_seq FROM inbox")}
    assert heads == {user: sum(user in trio for trio in trios) for user in users}
    await house.checked(law.everything(house.app, house.policy))


async def test_f3_batches_that_share_users_are_dense_and_answered_one_by_one(house: House) -> None:
    """F3, I1 on both stores: what the engine puts together, and what it keeps apart, is numbered alike."""
    rng, users = random.Random(4), ("ann", "bob", "cid")
    for user in users[1:]:
        await house.register(f"{user}/phone")
    pairs = [tuple(rng.sample(users, 2)) for _ in range(40)]
    answers = await asyncio.gather(
        *(house.send(*pair) for pair in pairs),
        *(house.inbox.accept_many([house.message(*pair) for pair in pairs[:3]]) for _ in range(4)),
    )
    flat = [one for answer in answers for one in (answer if isinstance(answer, list) else [answer])]
    for user in users:
        numbers = sorted(r.seq for one in flat for r in one.recipients if r.user_id == user)
        assert numbers == list(range(1, len(numbers) + 1))
    await house.checked(law.everything(house.app, house.policy))


async def test_f3_a_refused_message_in_a_batch_takes_no_number(house: House) -> None:
    """I1: a full inbox and an unknown user in the middle of a batch leave the numbers around them dense."""
    house.policy = Policy(inbox_max=3, system_reserve=1)
    answers = await house.inbox.accept_many(
        [house.message(), house.message("nobody"), *(house.message() for _ in range(3)), house.message("ann", "nobody")]
    )
    assert [isinstance(one, Accepted) for one in answers] == [True, False, True, True, False, False]
    system = await house.send(conversation_type="system")
    assert [r.seq for r in system.recipients] == [4]
    await house.checked(law.everything(house.app, house.policy))


# --- F4: page boundaries ----------------------------------------------------------------------------------------------


async def test_f4_500_entries_of_one_millisecond_are_paged_without_a_skip_or_a_double(house: House) -> None:
    """F4, I5: whatever the page's size, the boundary is a number and never an instant."""
    sent: list[str] = []
    for _ in range(10):
        messages = [house.message() for _ in range(50)]
        assert all(isinstance(one, Accepted) for one in await house.inbox.accept_many(messages))
        sent += [one.message_id for one in messages]
    begin = house.store("ann/phone").cursor
    for limit in (1, 7, 50, 199, 200):
        house.store("ann/phone").cursor = begin
        ids: list[str] = []
        while True:
            page = await house.page("ann/phone", limit=limit)
            assert len(page.seqs) <= limit
            assert page.covered == list(range(page.json["from"] + 1, page.json["to"] + 1))
            ids += page.ids
            if page.caught_up:
                break
        assert ids == sent
    assert {row["accepted_ms"] for row in await house.rows("SELECT accepted_ms FROM inbox_entry")} == {
        house.clock.now_ms()
    }


async def test_pages_read_while_writers_write_are_complete(postgres: House) -> None:
    """I2, I5: a reader that pages on and on beside eight writers gets every number once, in order."""
    house, total = postgres, 120
    numbers: list[int] = []

    async def writer(count: int) -> None:
        for _ in range(count):
            await house.send()

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(writer(total // 8))
        async with asyncio.timeout(20):
            while len(numbers) < total:
                numbers += (await house.page("ann/phone", limit=7)).seqs
    assert numbers == list(range(1, total + 1))
