"""A process that ends right after a commit (safety K14, DUR-6): what happened is told by the same commit, or nothing happened.

And a request that ends in the middle of its transaction: the transaction is not its own, and stands, as do all others.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from house import House
from sqlalchemy import text

from relay.errors import Unavailable
from relay.model import UserKey
from relay.store import apps as app_rows
from relay.store import audit
from relay.store.engine import Engine
from relay.store.postgres import PostgresEngine
from relay.store.sqlite import SqliteEngine

ANN = UserKey("shop", "ann")
SENDS = 400
LONG: dict[type, str] = {  # a statement that takes a while; SQLite's says when it has begun
    SqliteEngine: "WITH RECURSIVE n(i) AS (SELECT begun() UNION ALL SELECT i + 1 FROM n WHERE i < 2000000) "
    "SELECT max(i) FROM n",
    PostgresEngine: "SELECT pg_sleep(0.3)",
}


class OneCommit:
    """An engine of a process that ends after its next commit, once it is told so."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.ends = False
        self._ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def write(self, work: Any, **more: Any) -> Any:
        self._alive()
        return await self._engine.write(work, **more)

    async def write_batched(self, work: Any, item: Any, **more: Any) -> Any:
        self._alive()
        return await self._engine.write_batched(work, item, **more)

    def _alive(self) -> None:
        if self._ended:
            raise Unavailable("This process is no more.", code="storage_unavailable")
        self._ended = self.ends


async def ack(house: House) -> None:
    await house.ack("ann/phone")


async def expire(house: House) -> None:
    await house.inbox.expire()


async def cancel(house: House) -> None:
    await house.inbox.cancel("shop", house.store("ann/phone").ids[0])


async def sign_out(house: House) -> None:
    await house.inbox.sign_out(house.key("ann/phone"))


@pytest.mark.parametrize(
    ("happens", "word"),
    [(ack, "acked"), (expire, "expired"), (cancel, "cancelled"), (sign_out, "failed")],
    ids=lambda value: value.__name__ if callable(value) else value,
)
async def test_k14_an_end_and_its_report_are_one_commit(
    engine: Engine, clock: Any, happens: Callable[[House], Awaitable[None]], word: str
) -> None:
    mortal = OneCommit(engine)
    house = await House(mortal, clock).begin()  # type: ignore[arg-type]
    await house.register("ann/phone")
    await house.send("ann", ttl_s=60)
    await house.hello("ann/phone")
    (message,) = (await house.page("ann/phone")).ids
    if happens is expire:
        clock.forward(s=61)
    mortal.ends = True
    with suppress(Unavailable):
        await happens(house)
    assert await house.deliveries(f"delivery.{word}") == [("phone", message)]
    assert await engine.read(lambda conn, now_ms: audit.imbalances(conn, now_ms, [ANN])) == {}


async def test_dur_6_a_request_that_ends_in_the_middle_of_its_transaction_undoes_nothing_and_hurts_nobody(
    engine: Engine,
) -> None:
    loop, begun = asyncio.get_running_loop(), asyncio.Event()

    def begins() -> int:
        loop.call_soon_threadsafe(begun.set)
        return 1

    def long(conn: Any, now_ms: int) -> None:
        app_rows.create_app(conn, now_ms, app_id="long", id_secret=b"s")
        if isinstance(engine, SqliteEngine):
            conn.connection.dbapi_connection.create_function("begun", 0, begins)
        else:
            begins()
        conn.execute(text(LONG[type(engine)]))

    def short(conn: Any, now_ms: int) -> str:
        app_rows.create_app(conn, now_ms, app_id="short", id_secret=b"s")
        return "mine"

    request = asyncio.create_task(engine.write(long))
    await begun.wait()
    other = asyncio.create_task(engine.write(short))
    request.cancel()
    await asyncio.wait({request})
    assert request.cancelled()
    assert await other == "mine"
    async with asyncio.timeout(10):
        while (found := await engine.read(lambda conn, _: app_rows.apps(conn))).keys() != {"long", "short"}:
            assert not engine.failed, found


async def test_dur_6_of_sends_whose_clients_leave_at_any_moment_each_is_whole_and_no_answer_is_anothers(
    engine: Engine, clock: Any
) -> None:
    house = await House(engine, clock).begin()
    await house.register("ann/phone")
    rng = random.Random(6)
    sends = [house.message() for _ in range(SENDS)]
    tasks = [asyncio.create_task(house.inbox.accept(send)) for send in sends]
    for _ in range(SENDS):
        rng.choice(tasks).cancel()
        await asyncio.sleep(0)  # noqa: TID251 - lets the others go on
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    answered = 0
    for send, answer in zip(sends, answers, strict=True):
        if isinstance(answer, asyncio.CancelledError):
            continue
        assert not isinstance(answer, BaseException), answer
        assert answer.message_id == send.message_id
        answered += 1
    assert 0 < answered < SENDS
    stored = {row["message_id"] for row in await house.rows("SELECT message_id FROM inbox_entry")}
    assert {answer.message_id for answer in answers if not isinstance(answer, BaseException)} <= stored
    assert await engine.read(lambda conn, now_ms: audit.imbalances(conn, now_ms, [ANN])) == {}


async def test_what_is_committed_counts_and_what_could_not_be_does_not(engine: Engine) -> None:
    before = engine.commits
    await engine.write(lambda _conn, _now_ms: None)
    assert engine.commits == before + 1
    await engine.close()
    with suppress(Unavailable):
        await engine.write(lambda _conn, _now_ms: None)
    assert engine.commits == before + 1
