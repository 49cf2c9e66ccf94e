"""What waits to be read is bounded as well (safety OVL-1): one read more is refused, and the others come to their end."""

import asyncio
import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from relay.errors import Missing, Unavailable
from relay.store import engine as engines
from relay.store.engine import Engine, NoWatch
from relay.store.sqlite import SqliteEngine

BOUND = 3


class Counting(NoWatch):
    """Which queues refused."""

    def __init__(self) -> None:
        self.queues: list[str] = []

    def turned_away(self, queue: str) -> None:
        self.queues.append(queue)


async def test_a_read_too_many_is_refused_and_those_that_wait_are_done(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hasattr(engine, "reads")
    monkeypatch.setattr(engines, "READS_MAX", BOUND)
    watch = Counting()
    monkeypatch.setattr(engine, "_watch", watch)
    go = threading.Event()

    def hold_up(_conn: Any, _now_ms: int) -> int:
        if isinstance(engine, SqliteEngine):  # its readers are threads; PostgreSQL's begin while this task waits
            go.wait(10)
        return 7

    readers = 2 if isinstance(engine, SqliteEngine) else 4
    taken = []
    for _ in range(readers):
        taken.append(asyncio.create_task(engine.read(hold_up)))
        if isinstance(engine, SqliteEngine):
            await asyncio.sleep(0)  # noqa: TID251 - until it stands there
            while engine.reads():
                await asyncio.sleep(0)  # noqa: TID251 - until a thread has it
    if not isinstance(engine, SqliteEngine):
        await asyncio.sleep(0)  # noqa: TID251 - they have their places, and have not begun
    waiting = [asyncio.create_task(engine.read(hold_up)) for _ in range(BOUND)]
    await asyncio.sleep(0)  # noqa: TID251 - until they stand there
    assert engine.reads() == BOUND
    with pytest.raises(Unavailable) as refused:
        await engine.read(hold_up)
    assert (refused.value.code, refused.value.retry_after_s) == ("overloaded", 1)
    assert watch.queues == ["store_reads"]
    go.set()
    assert await asyncio.gather(*taken, *waiting) == [7] * (readers + BOUND)
    assert engine.reads() == 0
    assert await engine.read(hold_up) == 7


async def test_a_read_whose_caller_has_gone_leaves_its_place(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hasattr(engine, "reads")
    monkeypatch.setattr(engines, "READS_MAX", BOUND)
    for _ in range(3 * BOUND):
        reading = asyncio.create_task(engine.read(lambda _conn, _now_ms: 7))
        await asyncio.sleep(0)  # noqa: TID251 - until it stands there
        reading.cancel()
        await asyncio.wait([reading])
        async with asyncio.timeout(10):
            while engine.reads():
                await asyncio.sleep(0)  # noqa: TID251 - until a reader has passed it over
    assert await engine.read(lambda _conn, _now_ms: 7) == 7


class Body:
    """What a request has brought."""


async def test_a_read_that_fails_keeps_nothing_of_who_asked(tmp_path: Path, clock: Any) -> None:
    """An error that led back to itself would keep all that lies on its way, until the garbage collector looks there."""
    engine = SqliteEngine(tmp_path / "relay.db", clock, unsafe_storage=True)
    body = Body()
    asked = weakref.ref(body)

    async def ask(body: Body) -> None:
        def work(_conn: Any, _now_ms: int) -> Any:
            raise Missing(f"There is no such thing as {body}.")

        await engine.read(work)

    gc.disable()
    try:
        with pytest.raises(Missing):
            await ask(body)
        del body
        async with asyncio.timeout(10):
            while asked() is not None:
                await asyncio.sleep(0)  # noqa: TID251 - until the thread has let go of it
    finally:
        gc.enable()
        await engine.close()
