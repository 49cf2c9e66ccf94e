"""Store functions on PostgreSQL: a few workers, each with a connection of its own, run them through asyncpg.

Batched work that waits is taken together, so one round trip serves many requests. Serialisation failures and deadlocks
repeat the whole transaction.
"""

import asyncio
import random
from collections import deque
from typing import Any, TypeVar, cast

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from relay.clock import Clock
from relay.errors import Unavailable
from relay.store.engine import (
    GROUP_MAX,
    QUEUE_MAX,
    Batch,
    Job,
    NoWatch,
    Watch,
    Work,
    run_group,
    settle_futures,
)

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")

TRIES_MAX = 5
REPEATABLE = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected
SESSION = {
    "application_name": "push-relay",
    "synchronous_commit": "on",
    "statement_timeout": "5000",
    "lock_timeout": "2000",
    "idle_in_transaction_session_timeout": "15000",
}


class PostgresEngine:
    """PostgreSQL through asyncpg; `workers` transactions at a time, reads beside them."""

    def __init__(
        self, url: str, clock: Clock, rng: random.Random, *, workers: int = 8, watch: Watch | None = None
    ) -> None:
        self._engine: AsyncEngine = create_async_engine(
            url.replace("postgresql://", "postgresql+asyncpg://", 1),
            pool_size=workers * 2,
            max_overflow=0,
            pool_timeout=2,
            pool_pre_ping=False,
            connect_args={"server_settings": SESSION, "timeout": 5},
        )
        self._clock = clock
        self._rng = rng
        self._watch = watch or NoWatch()
        self._waiting: deque[Job] = deque()
        self._wake = asyncio.Semaphore(0)
        self._workers = [asyncio.create_task(self._work(), name=f"store-writer-{n}") for n in range(workers)]
        self._closed = False
        self._offset_ms = 0  # the store's clock decides: ours plus this
        self.failed = False

    def depth(self) -> int:
        return len(self._waiting)

    async def write(self, work: Work[T]) -> T:
        return cast(
            T, await self._put(Job(work, None, batched=False, future=asyncio.get_running_loop().create_future()))
        )

    async def write_batched(self, work: Batch[I, R], item: I) -> R:
        return cast(
            R, await self._put(Job(work, item, batched=True, future=asyncio.get_running_loop().create_future()))
        )

    async def _put(self, job: Job) -> Any:
        if self._closed:
            raise Unavailable("The relay is shutting down.", code="draining", retry_after_s=5)
        if len(self._waiting) >= QUEUE_MAX:
            self._watch.refused()
            raise Unavailable("The writer's queue is full.", code="overloaded", retry_after_s=1)
        self._waiting.append(job)
        self._wake.release()
        return await job.future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.acquire()
            if not self._waiting:
                if self._closed:
                    return
                continue  # taken along by another worker's batch
            group = self._take()
            began = loop.time()
            outcomes = await self._outcomes(group)
            self._watch.committed(len(group), loop.time() - began)
            settle_futures(list(zip((job.future for job in group), outcomes, strict=True)))

    def _take(self) -> list[Job]:
        first = self._waiting.popleft()
        if not first.batched:
            return [first]
        group, rest = [first], deque[Job]()
        while self._waiting and len(group) < GROUP_MAX:
            job = self._waiting.popleft()
            (group if job.batched and job.work == first.work else rest).append(job)
        self._waiting.extendleft(reversed(rest))
        return group

    async def _outcomes(self, group: list[Job]) -> list[Any]:
        for attempt in range(1, TRIES_MAX + 1):
            try:
                return await self._transaction(group)
            except DBAPIError as error:
                if _sqlstate(error) in REPEATABLE and attempt < TRIES_MAX:
                    await self._clock.sleep(self._rng.uniform(0.01, 0.2))
                    continue
                return [_problem(error)] * len(group)
            except (OSError, TimeoutError) as error:
                return [_problem(error)] * len(group)
            except Exception as error:  # noqa: BLE001 - the work's own refusal, or a bug: the request's answer either way
                if len(group) == 1:
                    return [error]
                return [outcome for job in group for outcome in await self._outcomes([job])]
        raise AssertionError("unreachable")

    async def _transaction(self, group: list[Job]) -> list[Any]:
        committing = False
        try:
            async with self._engine.connect() as conn:
                outcomes = await conn.run_sync(lambda sync: run_group(sync, self._now_ms(), group))
                committing = True
                await conn.commit()
                return outcomes
        except (DBAPIError, OSError) as error:
            if committing and _sqlstate(error) not in REPEATABLE:
                raise CommitUnknown from error
            raise

    async def read(self, work: Work[T]) -> T:
        try:
            async with self._engine.connect() as conn:
                conn = await conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                return await conn.run_sync(lambda sync: work(sync, self._now_ms()))
        except (DBAPIError, OSError, TimeoutError) as error:
            raise _problem(error) from error

    def _now_ms(self) -> int:
        return self._clock.now_ms() + self._offset_ms

    async def follow_clock(self) -> None:
        """Measures how far the store's clock is from ours; deadlines in rows go by the store's."""
        async with self._engine.connect() as conn:
            theirs = await conn.scalar(text("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"))
            self._offset_ms = int(theirs or 0) - self._clock.now_ms()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for _ in self._workers:
            self._wake.release()
        for _ in range(len(self._waiting)):
            self._wake.release()
        await asyncio.gather(*self._workers)
        await self._engine.dispose()


class CommitUnknown(Unavailable):
    """The connection broke while COMMIT ran: stored or not, nobody can tell."""

    def __init__(self) -> None:
        super().__init__(
            "The store's answer to COMMIT was lost; repeat with the same key.", code="commit_unknown", retry_after_s=1
        )


def _sqlstate(error: BaseException) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlstate", "") or "")


def _problem(error: BaseException) -> Unavailable:
    state = _sqlstate(error)
    if state in {"55P03", "57014"} or state in REPEATABLE:
        problem = Unavailable("The store is busy; repeat with the same key.", code="overloaded", retry_after_s=1)
    elif state == "53100":
        problem = Unavailable("The store's disk is full.", code="storage_full", retry_after_s=60)
    elif state and not state.startswith(("08", "57", "53")):
        raise error  # our own mistake in SQL: a bug, not weather
    else:
        problem = Unavailable("The store cannot be reached.", code="storage_unavailable", retry_after_s=2)
    problem.__cause__ = error
    return problem
