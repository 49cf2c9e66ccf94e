"""What waits for the writer is bounded in bytes too: many large sends are refused before they fill the memory (DUR-7)."""

import asyncio
import threading
from typing import Any

import pytest
from house import House

from relay.errors import Unavailable
from relay.store.engine import Engine
from relay.store.lanes import LANE_BYTES
from relay.store.sqlite import SqliteEngine


def nothing(_conn: Any, _now_ms: int) -> None:
    pass


async def test_messages_that_would_fill_the_queue_are_refused_and_small_ones_still_fit(
    engine: Engine, clock: Any
) -> None:
    house = await House(engine, clock).begin()
    await house.register("ann/phone")
    loop, began, go = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def hold_up(_conn: Any, _now_ms: int) -> None:
        loop.call_soon_threadsafe(began.set)
        if isinstance(engine, SqliteEngine):  # its writer is a thread; PostgreSQL's workers begin while this task waits
            go.wait(10)

    busy = asyncio.create_task(engine.write(hold_up))
    await began.wait()
    large = "x" * 100_000
    waiting = asyncio.create_task(engine.write(nothing, is_send=True, size=LANE_BYTES - 150_000))
    one, many, small = (
        asyncio.create_task(what)
        for what in (
            house.send(body=large),
            house.inbox.accept_many([house.message(body="y" * 30_000) for _ in range(2)]),
            house.send(body="small"),
        )
    )
    with pytest.raises(Unavailable) as refused:
        await many
    assert refused.value.code == "overloaded"
    go.set()
    await asyncio.gather(busy, waiting, one, small)
    await house.inbox.accept_many([house.message(body="y" * 30_000) for _ in range(2)])
