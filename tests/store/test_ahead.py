"""What a batch of push jobs reads ahead is what each of them would have read by itself."""

from typing import Any

from house import House

from relay.model import UserKey
from relay.store.ahead import SPAN, windows
from relay.store.engine import Conn, Engine
from relay.store.entries import notifiable_between

ANN, BOB = UserKey("shop", "ann"), UserKey("shop", "bob")
MANY = 2 * SPAN + 5


async def _filled(engine: Engine, clock: Any) -> None:
    """Ann has many messages, of which every seventh tells nobody and every fifth has expired; Bob has one."""
    house = await House(engine, clock).begin()
    for user in (ANN, BOB):
        await house.register(f"{user.user_id}/phone")
    for n, user in enumerate([*["ann"] * MANY, "bob"]):
        await house.send(user, push=None if n % 7 == 3 else '{"title":"t"}', ttl_s=60 if n % 5 == 2 else 604_800)
    clock.forward(s=120)


async def test_it_sees_the_same_or_says_that_it_cannot_tell(engine: Engine, clock: Any) -> None:
    await _filled(engine, clock)
    starts = [(ANN, 0, MANY), (ANN, 9, MANY), (BOB, 0, 1)]

    def compare(conn: Conn, now_ms: int) -> tuple[int, int]:
        told = untold = 0
        found = windows(conn, now_ms, starts)
        for key, after, upto, limit in [
            *((ANN, after, upto, limit) for after in (0, 3, 9, 20) for upto in (12, 25, MANY) for limit in (2, 200)),
            (BOB, 0, 1, 2),
        ]:
            alone = notifiable_between(conn, key, now_ms, after=after, upto=upto, limit=limit)
            for window in found[key]:
                ahead = window.between(after, upto, limit)
                assert ahead in (None, alone)
                told, untold = told + (ahead is not None), untold + (ahead is None)
        return told, untold

    told, untold = await engine.read(compare)
    assert told > 20
    assert untold > 5


async def test_a_place_at_the_end_is_no_reason_to_ask(engine: Engine, clock: Any) -> None:
    await _filled(engine, clock)
    assert await engine.read(lambda conn, now_ms: windows(conn, now_ms, [(ANN, MANY, MANY), (BOB, 1, 1)])) == {}
