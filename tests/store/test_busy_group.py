"""A member is renamed or erased while its group is at its busiest: whoever posts and whoever hands out are there all the time."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from house import House

from relay.model import UserKey
from relay.store import postgres as postgres_engine
from relay.store.postgres import PostgresEngine
from relay.store.postgres_session import SETTINGS


@pytest.fixture
async def house(postgres_url: str, clock: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(postgres_engine, "REPEATABLE", frozenset())
    for patience in ("lock_timeout", "statement_timeout"):  # a deadlock is found all the same, a busy machine is none
        monkeypatch.setitem(SETTINGS, patience, "60000")
    engine = PostgresEngine(postgres_url, clock, random.Random(1), workers=8)
    house = await House(engine, clock).begin()
    yield house
    await engine.close()


@asynccontextmanager
async def busy(*work: Callable[[], Awaitable[Any]]) -> AsyncIterator[None]:
    """While each of these is done again and again."""
    over = asyncio.Event()

    async def again_and_again(one: Callable[[], Awaitable[Any]]) -> None:
        while not over.is_set():
            await one()

    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(again_and_again(one))
        try:
            yield
        finally:
            over.set()


MEMBERS = [f"user-{n}" for n in range(30)]
ZOE, ZOA = UserKey("shop", "zoe"), UserKey("shop", "zoa")


async def begin(house: House, *, ultra: bool) -> None:
    for user in ("zoe", *MEMBERS):
        await house.register(f"{user}/phone")
    await house.inbox.groups.change(
        "shop", "g", add=["zoe", *MEMBERS], remove=[], ultra=ultra, notify="all" if ultra else None
    )


async def renamed_there_and_back(house: House) -> None:
    for _ in range(10):
        await house.inbox.rename(ZOE, "zoa")
        await house.inbox.rename(ZOA, "zoe")


async def test_of_an_ultra_group_with_posts_that_are_taken_back(house: House) -> None:
    """Each post makes a job, at which somebody is at once: the rename found one five times, and was answered 503."""
    await begin(house, ultra=True)

    async def posts() -> None:
        everyone = house.sent % 3 == 0
        sent = await house.inbox.accept(
            house.message(users=(), group="g", conversation_id="g", everyone=everyone, mentions=("zoe", "zoa"))
        )
        if everyone:
            await house.inbox.cancel("shop", sent.message_id)

    async with busy(posts, posts, posts, house.inbox.fan_out, house.inbox.fan_out):
        await renamed_there_and_back(house)
        await house.inbox.erase(ZOE)
    assert await house.rows("SELECT 1 FROM inbox WHERE user_id IN ('zoe', 'zoa')") == []


async def test_of_a_plain_group_with_messages_that_wait(house: House) -> None:
    await begin(house, ultra=False)

    async def sends() -> None:
        await house.inbox.accept(house.message(users=(), group="g", deliver_ms=house.clock.now_ms()))

    async with busy(sends, sends, sends, house.inbox.fan_out, house.inbox.fan_out):
        await renamed_there_and_back(house)
        await house.inbox.erase(ZOE)
    assert await house.rows("SELECT 1 FROM inbox WHERE user_id IN ('zoe', 'zoa')") == []
