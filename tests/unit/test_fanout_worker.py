"""The worker of fan-out jobs leaves nothing behind when it is ended at once."""

import asyncio

from relay.clock import SystemClock
from relay.inbox.fanout_worker import FanoutWorker


async def test_a_worker_that_is_cancelled_while_it_rests_ends_all_of_its_tasks() -> None:
    looked = asyncio.Event()

    async def nothing_due() -> bool:
        looked.set()
        return False

    before = asyncio.all_tasks()
    run = asyncio.create_task(FanoutWorker(nothing_due, SystemClock()).run(asyncio.Event()))
    await looked.wait()
    while not asyncio.all_tasks() - before - {run}:
        await asyncio.sleep(0)  # noqa: TID251 - until it rests
    run.cancel()
    await asyncio.wait([run])
    await asyncio.sleep(0)  # noqa: TID251
    assert asyncio.all_tasks() == before
