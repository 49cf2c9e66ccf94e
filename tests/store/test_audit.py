"""The books add up whatever happens (DUR-17), and each way in which they could not is noticed."""

from typing import Any

import pytest
from house import House
from sqlalchemy import text

from relay.model import UserKey
from relay.store.audit import LATE_MS, Imbalance, imbalances
from relay.store.engine import Engine

ANN = UserKey("shop", "ann")
BOB = UserKey("shop", "bob")
DAY_S = 86_400


async def found(engine: Engine) -> dict[Imbalance, set[UserKey]]:
    return await engine.read(lambda conn, now_ms: imbalances(conn, now_ms, [ANN, BOB]))


async def a_day(engine: Engine, clock: Any) -> House:
    """Messages that are acked, expire, are cancelled and superseded, to devices that come, go and are told."""
    house = await House(engine, clock).begin()
    await house.register("ann/phone", "t-1")
    await house.register("ann/tablet")
    await house.register("bob/phone", "t-2")
    await house.sends(5, "ann", "bob")
    await house.send("ann", ttl_s=60)
    await house.send("ann", collapse_key="score")
    await house.send("ann", collapse_key="score")
    gone = await house.send("bob")
    await house.inbox.cancel("shop", gone.message_id)
    await house.hello("ann/phone")
    await house.catch_up("ann/phone")
    await house.bye("ann/phone")
    clock.forward(s=120)
    await house.told()
    await house.inbox.expire()
    await house.inbox.sign_out(house.key("ann/tablet"))
    await house.send("ann")
    return house


async def test_after_a_day_of_everything_the_books_add_up(engine: Engine, clock: Any) -> None:
    await a_day(engine, clock)
    assert await found(engine) == {}


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("DELETE FROM inbox_entry WHERE user_id = 'ann' AND seq = 3", Imbalance.NUMBERING),
        ("UPDATE inbox SET head_seq = head_seq - 1 WHERE user_id = 'bob'", Imbalance.NUMBERING),
        ("UPDATE inbox_entry SET state = 'expired' WHERE user_id = 'bob' AND seq = 1", Imbalance.UNREPORTED),
        ("UPDATE device SET acked_seq = 99, acked_high = 99, pushed_seq = 99", Imbalance.CURSOR),
        ("UPDATE device SET pushed_seq = 0, acked_high = 1 WHERE state <> 'gone'", Imbalance.CURSOR),
        ("DELETE FROM push_job WHERE user_id = 'bob'", Imbalance.JOB),
        ("UPDATE push_job SET due_ms = NULL, reason = NULL", Imbalance.JOB),
    ],
)
async def test_what_does_not_add_up_is_noticed(engine: Engine, clock: Any, damage: str, what: Imbalance) -> None:
    await a_day(engine, clock)
    await engine.write(lambda conn, _: conn.execute(text(damage)) and None)
    wrong = await found(engine)
    assert what in wrong
    assert wrong[what] <= {ANN, BOB}


async def test_a_sweep_that_does_not_keep_up_is_noticed(engine: Engine, clock: Any) -> None:
    house = await a_day(engine, clock)
    clock.forward(s=8 * DAY_S)
    assert (await found(engine))[Imbalance.LATE] == {ANN, BOB}
    await house.inbox.expire()
    clock.forward(ms=LATE_MS)
    assert await found(engine) == {}
