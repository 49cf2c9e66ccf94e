"""sqlite3 gives the interpreter's lock away at each statement and each row: for many pushes or acks no more often than for
some.

Whoever gives it away waits for it again, behind a busy event loop.
"""

import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from house import House, address

from providers.contract import Outcome, Verdict
from relay.inbox.ack import AckAnswer, AckRequest, ack
from relay.inbox.registry import Registration
from relay.model import DeviceKey, Policy
from relay.push.attempts import still_needed
from relay.push.planning import plan_due
from relay.push.rules import Result, Then
from relay.push.settling import Settlement, settle
from relay.store import sequencer
from relay.store.apps import create_app
from relay.store.engine import Conn
from relay.store.inline import InlineEngine
from relay.store.schema import metadata
from relay.webhooks import event_types

POLICY = Policy(create_users=True)


class Rows(sqlite3.Cursor):
    def fetchall(self) -> list[Any]:
        rows = super().fetchall()
        Steps.taken += len(rows)
        return rows


class Steps(sqlite3.Connection):
    """Counts what gives the lock away."""

    taken = 0

    def execute(self, *args: Any) -> Any:
        Steps.taken += 1
        return self.cursor(Rows).execute(*args)

    def executemany(self, text: str, values: Any) -> Any:
        Steps.taken += len(values)
        return super().executemany(text, values)


async def pushed(house: House, clock: Any, count: int) -> int:
    """A round of pushes to so many devices, from PLAN to the numbers of its events; gives the steps that it took."""
    users = [f"u{count}-{n}" for n in range(count)]
    for user in users:
        await house.inbox.register(
            Registration(device=DeviceKey("shop", user, "phone"), addresses=(address(f"{user}-t"),))
        )
        await house.send(user)
    clock.forward(s=10)
    engine, before = house.engine, Steps.taken
    planned = await engine.write(
        lambda conn, now_ms: plan_due(
            conn, now_ms, lambda _: POLICY, lambda _: house.views, owner="n1", limit=count, boot_ms=0
        )
    )
    needed = await engine.read(lambda conn, now_ms: still_needed(conn, now_ms, planned.attempts))
    assert needed == [True] * count
    ends = [
        Settlement(attempt=one, result=Result(Outcome(verdict=Verdict.ACCEPTED)), retry_ms=0)
        for one in planned.attempts
    ]
    assert set(await engine.write(lambda conn, now_ms: settle(conn, now_ms, ends, lambda _: POLICY))) == {Then.TOLD}
    assert await engine.write(numbered) >= count
    return Steps.taken - before


def numbered(conn: Conn, now_ms: int) -> int:
    return sequencer.number_events(conn, now_ms, limit=500, wants=event_types.wants)


async def acked(house: House, count: int) -> int:
    """Each of so many devices acks a message, all in one transaction; gives the steps that it took."""
    keys = [DeviceKey("shop", f"a{count}-{n}", "phone") for n in range(count)]
    for key in keys:
        await house.inbox.register(Registration(device=key))
        await house.send(key.user_id)
    requests = [AckRequest(device=key, upto=1) for key in keys]
    before = Steps.taken
    answers = await house.engine.write(lambda conn, now_ms: ack(conn, now_ms, requests, lambda _: POLICY))
    assert [one.acked_seq for one in answers if isinstance(one, AckAnswer)] == [1] * count
    return Steps.taken - before


@pytest.fixture
async def house(clock: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """A house whose store counts its steps."""
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Steps))
    engine = InlineEngine(clock)
    await engine.write(lambda conn, _: metadata.create_all(conn))
    house = House(engine, clock, policy=POLICY)
    await house.begin()
    await engine.write(lambda conn, now_ms: create_app(conn, now_ms, app_id=house.app, id_secret=b"s"))
    yield house
    await engine.close()


async def test_many_pushes_ask_for_the_interpreters_lock_as_often_as_some(house: House, clock: Any) -> None:
    for count in (1, 2):  # a statement takes the short way from its second use on
        await pushed(house, clock, count)
    some = await pushed(house, clock, 8)
    assert [await pushed(house, clock, many) for many in (43, 64)] == [some, some]


async def test_many_acks_ask_for_the_interpreters_lock_as_often_as_some(house: House) -> None:
    for count in (1, 2):
        await acked(house, count)
    some, many = await acked(house, 8), await acked(house, 32)  # and their 64 events are one statement
    assert many == some
