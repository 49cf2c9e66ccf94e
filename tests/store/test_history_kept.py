"""For how long what a message said is kept, on both stores (protocol 11.2, 13): as long as the app says, and never less than
the message lives."""

from typing import Any

import msgspec
import pytest
from clocks import SetClock
from house import House

from relay.config import load
from relay.ids import message_id
from relay.inbox.history import Asked
from relay.model import Policy
from relay.store.apps import create_app
from relay.store.engine import Engine

DAY_S = 86_400
DAY_MS = DAY_S * 1000
SAID = {"body": '"hi"', "fallback": '"old"', "push": '{"title":"hi"}', "push_held": '{"title":"update"}'}


class Shop:
    """An app with this history, and one user with a phone."""

    def __init__(self, house: House) -> None:
        self.house = house

    async def sent(self, *, ttl_s: int) -> str:
        id_ = message_id(self.house.clock.now_ms(), self.house.sent)
        return (await self.house.send(message_id=id_, ttl_s=ttl_s, **SAID)).message_id

    async def on_day(self, day: float, began_ms: int) -> None:
        """Has the chores of that day done."""
        self.house.clock.forward(ms=began_ms + int(day * DAY_MS) - self.house.clock.now_ms())

        chores = self.house.chores()
        await chores.expire()
        await chores.forget()

    async def looked_back(self) -> list[tuple[str, Any]]:
        """(id, body) of what the app's backend can still read."""
        pages = await self.house.inbox.reader.history(self.house.app, Asked(limit=50))
        return [(one["id"], one["body"] and msgspec.json.decode(one["body"])) for one in pages.items]

    async def content(self, message: str) -> dict[str, str | None]:
        """All that its row still says."""
        where = f"WHERE message_id = '{message}'"
        (row,) = await self.house.rows(f"SELECT {', '.join(SAID)} FROM message {where}")
        return dict(row)


async def shop(engine: Engine, clock: SetClock, days: int) -> Shop:
    house = await House(engine, clock, policy=Policy(history_ms=days * DAY_MS)).begin()
    await house.engine.write(lambda conn, _: create_app(conn, 0, app_id=house.app, id_secret=b"s"))
    await house.register("ann/phone")
    return Shop(house)


async def test_without_a_history_a_message_is_blanked_when_it_expires_and_not_before(
    engine: Engine, clock: SetClock
) -> None:
    at, began_ms = await shop(engine, clock, 0), clock.now_ms()
    short, long = await at.sent(ttl_s=DAY_S), await at.sent(ttl_s=7 * DAY_S)
    await at.on_day(0.9, began_ms)
    assert await at.looked_back() == [(long, "hi"), (short, "hi")]
    await at.on_day(1, began_ms)
    assert await at.looked_back() == [(long, "hi"), (short, None)]
    assert set((await at.content(short)).values()) == {None}
    assert await at.content(long) == SAID
    assert (await at.house.inbox.reader.trace(at.house.app, short)).recipients  # what became of it is still known
    await at.on_day(7, began_ms)
    assert await at.looked_back() == [(long, None), (short, None)]


async def test_a_history_of_some_days_is_kept_past_the_end_and_what_lives_longer_stays(
    engine: Engine, clock: SetClock
) -> None:
    at, began_ms = await shop(engine, clock, 3), clock.now_ms()
    short, long = await at.sent(ttl_s=DAY_S), await at.sent(ttl_s=7 * DAY_S)
    await at.on_day(2.9, began_ms)
    assert await at.looked_back() == [(long, "hi"), (short, "hi")]
    await at.on_day(3, began_ms)
    assert await at.looked_back() == [(long, "hi"), (short, None)]
    await at.on_day(7, began_ms)
    assert await at.looked_back() == [(long, None), (short, None)]


@pytest.mark.parametrize("days", [36, 60])
async def test_a_history_that_is_longer_than_any_message_lives_keeps_them_whole(
    engine: Engine, clock: SetClock, days: int
) -> None:
    at, began_ms = await shop(engine, clock, days), clock.now_ms()
    message = await at.sent(ttl_s=DAY_S)
    await at.on_day(days - 0.1, began_ms)
    assert await at.looked_back() == [(message, "hi")]
    assert await at.content(message) == SAID
    await at.on_day(days + 0.1, began_ms)
    assert await at.looked_back() == []


def test_the_operator_sets_it_in_days() -> None:
    assert load(None, {}).policy().history_ms == 36 * DAY_MS
    assert load(None, {"RELAY_RETENTION__HISTORY_D": "0"}).policy().history_ms == 0
