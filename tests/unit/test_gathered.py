"""Questions that come together share a reading; none is answered from one that began before it was asked."""

import asyncio
import itertools
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from relay.errors import Problem, Unavailable
from relay.store.gathered import TOGETHER_MAX, Gathered


class Store:
    """Holds each reading until it is let go; what it gives is as of then."""

    def __init__(self) -> None:
        self.rows: dict[str, int | Problem] = {}
        self.readings: list[list[str]] = []
        self.free = asyncio.Event()
        self.free.set()
        self.away = False

    async def read(self, work: Any) -> Any:
        found = work(None, 0)
        await self.free.wait()
        if self.away:
            raise Unavailable("away", code="storage_unavailable")
        return found

    def look(self, _: Any, now_ms: int, keys: Collection[str]) -> Mapping[str, int | Problem]:
        self.readings.append(sorted(keys))
        return {key: self.rows[key] for key in keys if key in self.rows}


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.fixture
async def gathered(store: Store) -> Gathered[str, int]:
    return Gathered(store, store.look)


async def turn(*asked: "asyncio.Future[Any]") -> None:
    await asyncio.wait(asked, timeout=0)


async def test_those_who_ask_together_share_a_reading(store: Store, gathered: Gathered[str, int]) -> None:
    store.rows = {"a": 1, "b": 2}
    assert await asyncio.gather(*map(gathered.get, "abca")) == [1, 2, None, 1]
    assert store.readings == [["a", "b", "c"]]


async def asking_by_turns(gathered: Gathered[str, int], keys: str) -> None:
    """One more at each turn of the loop."""
    asked = []
    for key in keys:
        asked.append(gathered.get(key))
        await asyncio.sleep(0)  # noqa: TID251 - one turn of the loop
    await asyncio.gather(*asked)


async def test_a_reading_with_patience_waits_while_more_come(store: Store) -> None:
    await asking_by_turns(Gathered(store, store.look, patience_s=60), "abcd")
    assert store.readings == [["a", "b", "c", "d"]]


async def test_patience_has_an_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: next(seconds))
    await asking_by_turns(Gathered(store, store.look, patience_s=3), "abcdefgh")
    assert 1 < len(store.readings[0]) < 8


async def test_without_patience_a_reading_begins_at_once(store: Store, gathered: Gathered[str, int]) -> None:
    await asking_by_turns(gathered, "abcd")
    assert len(store.readings) > 1


async def test_who_asks_during_a_reading_is_answered_from_the_next(store: Store, gathered: Gathered[str, int]) -> None:
    store.free.clear()
    first = gathered.get("a")
    await turn(first)
    store.rows["a"] = 1  # committed while the reading is under way
    second = gathered.get("a")
    store.free.set()
    assert [await first, await second] == [None, 1]
    assert store.readings == [["a"], ["a"]]


async def test_a_crowd_is_answered_in_readings_of_bounded_size(store: Store, gathered: Gathered[str, int]) -> None:
    store.rows = {f"{n:04}": n for n in range(TOGETHER_MAX + 5)}
    assert await asyncio.gather(*map(gathered.get, store.rows)) == list(store.rows.values())
    assert [len(reading) for reading in store.readings] == [TOGETHER_MAX, 5]


async def test_the_trouble_of_one_is_not_that_of_the_others(store: Store, gathered: Gathered[str, int]) -> None:
    store.rows = {"a": Unavailable("broken"), "b": 2}
    broken, whole = await asyncio.gather(*map(gathered.get, "ab"), return_exceptions=True)
    assert (type(broken), whole) == (Unavailable, 2)
    assert len(store.readings) == 1


async def test_a_store_that_is_away_is_told_to_everyone_and_asked_again_by_the_next(
    store: Store, gathered: Gathered[str, int]
) -> None:
    store.away = True
    found = await asyncio.gather(*map(gathered.get, "ab"), return_exceptions=True)
    assert [type(one) for one in found] == [Unavailable] * 2
    store.away, store.rows = False, {"a": 1}
    assert await gathered.get("a") == 1


async def test_who_leaves_does_not_take_the_others_answer_away(store: Store, gathered: Gathered[str, int]) -> None:
    store.rows = {"a": 1}
    store.free.clear()
    leaving, staying = gathered.get("a"), gathered.get("a")
    await turn(leaving, staying)
    leaving.cancel()
    store.free.set()
    assert await staying == 1
    assert leaving.cancelled()
