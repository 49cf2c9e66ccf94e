"""The short way to "not modified", on both stores: what it may be told from, and what ends it (protocol 8.3)."""

import asyncio
from typing import Any

import pytest
from house import House

from relay.inbox.unchanged import Question, Unchanged
from relay.store.engine import Engine

PHONE = "ann/phone"


class Counted:
    """An engine whose readings are counted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.readings = 0

    async def read(self, work: Any) -> Any:
        self.readings += 1
        return await self._engine.read(work)


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock).begin()
    for user in ("ann", "bob"):
        for device in ("phone", "tablet"):
            await house.register(f"{user}/{device}")
            await house.hello(f"{user}/{device}")
    return house


def target(cursor: str) -> str:
    return f"/v1/device/sync?cursor={cursor}"


async def told(house: House, name: str, unchanged: Unchanged | None = None) -> Question:
    """The device reads to the head and asks once more, the long way."""
    await house.catch_up(name)
    key, text = house.key(name), house.store(name).cursor
    assert text is not None
    cursor = house.inbox.reader.unseal(text, key)
    etag = (await house.inbox.reader.read(key, cursor, limit=10)).snap.etag
    reading = await house.inbox.reader.read(key, cursor, limit=10, etag=etag)
    assert reading.batch is None
    (unchanged or house.inbox.unchanged).answered(key, question := (target(text), etag), reading.snap.version)
    return question


async def test_the_same_question_has_the_same_answer_until_something_comes(house: House) -> None:
    question = await told(house, PHONE)
    for _ in range(2):
        assert await house.inbox.unchanged.holds(house.key(PHONE), question) is not None
    await house.send("ann")
    assert await house.inbox.unchanged.holds(house.key(PHONE), question) is None


async def test_what_comes_for_others_does_not_end_it(house: House) -> None:
    question = await told(house, PHONE)
    await house.send("bob")
    await house.hello("ann/tablet")
    assert await house.inbox.unchanged.holds(house.key(PHONE), question) is not None


async def test_it_says_which_session_the_device_is_in(house: House) -> None:
    question = await told(house, PHONE)
    version = await house.inbox.unchanged.holds(house.key(PHONE), question)
    assert version is not None
    assert version.session == (await house.device(PHONE)).session


async def test_a_handshake_ends_it(house: House) -> None:
    question = await told(house, PHONE)
    await house.hello(PHONE)
    assert await house.inbox.unchanged.holds(house.key(PHONE), question) is None


async def test_a_sign_out_ends_it(house: House) -> None:
    question = await told(house, PHONE)
    await house.inbox.sign_out(house.key(PHONE))
    assert await house.inbox.unchanged.holds(house.key(PHONE), question) is None


async def test_another_question_is_not_answered_by_it(house: House) -> None:
    question = await told(house, PHONE)
    unchanged = house.inbox.unchanged
    assert await unchanged.holds(house.key(PHONE), (question[0], '"0"')) is None
    assert await unchanged.holds(house.key(PHONE), (target("A" * 88), question[1])) is None
    assert await unchanged.holds(house.key("ann/tablet"), question) is None


async def test_devices_that_ask_together_share_one_reading(house: House, engine: Engine) -> None:
    counted = Counted(engine)
    unchanged = Unchanged(counted)
    names = [f"{user}/{device}" for user in ("ann", "bob") for device in ("phone", "tablet")]
    questions = {house.key(name): await told(house, name, unchanged) for name in names}
    await house.hello("bob/tablet")
    found = await asyncio.gather(*(unchanged.holds(key, question) for key, question in questions.items()))
    assert [version is not None for version in found] == [True, True, True, False]
    assert counted.readings == 1
