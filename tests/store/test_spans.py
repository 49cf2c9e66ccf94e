"""What is read of many inboxes at once is what each would have given by itself."""

from typing import Any

import pytest
from house import House

from relay.model import UserKey
from relay.store import spans
from relay.store.engine import Conn, Engine
from relay.store.entries import entries_between
from relay.store.entry_ends import prune_entries
from relay.store.spans import Span, entries_in

HEADS = {"ann": 7, "bob": 1, "cid": 0, "dan": 4}


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock).begin()
    for user, count in HEADS.items():
        await house.register(f"{user}/phone")
        await house.sends(count, user)
    await house.engine.write(lambda conn, _: prune_entries(conn, UserKey("shop", "dan"), floor=2))
    return house


@pytest.mark.parametrize("together", [1, 2, 3, 8, 500])
async def test_each_gives_what_it_gives_by_itself_in_their_order(
    house: House, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(spans, "TOGETHER", together)
    wanted = [
        Span("shop", "dan", 0, 4),
        Span("shop", "cid", 0, 0),
        Span("shop", "ann", 2, 7),
        Span("shop", "bob", 1, 1),
        Span("shop", "nobody", 0, 3),
        Span("other", "ann", 0, 7),
    ]

    def compare(conn: Conn, _: int) -> list[int]:
        found = list(entries_in(conn, wanted))
        assert found == [
            entries_between(conn, UserKey(one.app_id, one.user_id), after=one.after, upto=one.upto, limit=100)
            for one in wanted
        ]
        return [len(one) for one in found]

    assert await house.engine.read(compare) == [2, 0, 5, 0, 0, 0]


async def test_of_no_spans_nothing_is_asked(house: House) -> None:
    assert await house.engine.read(lambda conn, _: list(entries_in(conn, []))) == []
