"""Store functions on PostgreSQL: a few workers, each with a connection of its own, run them through asyncpg.

Batched work that waits is taken together, so a few round trips serve many requests. Serialization failures and
deadlocks repeat the whole transaction, and so do work that was overtaken and a connection that broke before its COMMIT.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from relay.clock import Clock
from relay.errors import Problem, Unavailable
from relay.store import row_security
from relay.store.engine import (
    READS,
    READS_MAX,
    BatchWork,
    Job,
    NoWatch,
    Overtaken,
    Queues,
    Watch,
    Work,
    check_reads,
    run_group,
    settle_futures,
)
from relay.store.lanes import Lanes
from relay.store.postgres_connections import COMMIT, PostgresConnections, at_most, driver_of
from relay.store.postgres_errors import (
    RACED,
    REPEATABLE,
    CommitUnknown,
    StoreTrouble,
    answer_for,
    busy,
    sqlstate,
)
from relay.store.scope import Scope, current, union

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")

TRIES_MAX = 5
PAUSE_S = (0.01, 0.2)  # between tries
WORK_S = 30.0  # a transaction that hasn't come to its COMMIT by then has lost its server
COMMIT_S = 15.0  # as long may COMMIT wait for its replica; then it is unknown
_FOR_READING = "ISOLATION LEVEL REPEATABLE READ READ ONLY"


class PostgresEngine:
    """PostgreSQL through asyncpg; `workers` writing transactions at a time, as many reading ones beside them."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        rng: random.Random,
        *,
        workers: int = 8,
        watch: Watch | None = None,
        unsafe_storage: bool = False,
    ) -> None:
        self.connections = PostgresConnections(url, clock, size=workers * 2 + 1)  # the clock's reader has one too
        self._clock = clock
        self._rng = rng
        self._watch = watch or NoWatch()
        self._unsafe_storage = unsafe_storage
        self._waiting = Lanes()
        self._wake = asyncio.Semaphore(0)
        self._readers = asyncio.Semaphore(workers)
        self._reads = 0  # that wait for one
        self._reading: set[asyncio.Task[Any]] = set()
        self._workers = [asyncio.create_task(self._work(), name=f"store-writer-{n}") for n in range(workers)]
        self._closed = False
        self.commits = 0
        self.failed = False  # a server that failed recovers by itself; we only wait for it

    @property
    def durability(self) -> str:
        return self.connections.durability

    @property
    def dangers(self) -> tuple[str, ...]:
        return self.connections.dangers

    @property
    def trusted(self) -> bool:
        return self._unsafe_storage or not self.dangers

    # --- writing ---

    def depth(self) -> int:
        return len(self._waiting)

    def queues(self) -> Queues:
        return self._waiting.queues() | {READS: (self._reads, READS_MAX)}

    def fill(self) -> float:
        return self._waiting.fill()

    async def write(self, work: Work[T], *, is_send: bool = False, size: int = 0) -> T:
        future = asyncio.get_running_loop().create_future()
        return cast(T, await self._put(Job(work, None, batched=False, future=future, is_send=is_send, size=size)))

    async def write_batched(self, work: BatchWork[I, R], item: I, *, is_send: bool = False, size: int = 0) -> R:
        future = asyncio.get_running_loop().create_future()
        return cast(R, await self._put(Job(work, item, batched=True, future=future, is_send=is_send, size=size)))

    async def _put(self, job: Job) -> Any:
        if self._closed:
            raise Unavailable("The relay is shutting down.", code="draining", retry_after_s=5)
        job.scope = current()
        try:
            self._waiting.put(job)
        except Unavailable:
            self._watch.refused()
            raise
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
            group = self._waiting.take_alike()
            began = loop.time()
            outcomes = await self._outcomes(group)
            self._watch.committed(len(group), loop.time() - began)
            settle_futures(list(zip((job.future for job in group), outcomes, strict=True)))

    async def _outcomes(self, group: list[Job]) -> list[Any]:
        """What each job came to; never raises, so that a worker lives as long as the engine."""
        try:
            return await self._repeated(lambda: self._transaction(group))
        except Problem as problem:
            if isinstance(problem, StoreTrouble) or len(group) == 1:
                return [problem] * len(group)
        except Exception as error:  # noqa: BLE001 - the work's own refusal, or a bug: the request's answer either way
            if len(group) == 1:
                return [error]
        return [outcome for job in group for outcome in await self._outcomes([job])]

    async def _repeated(self, transaction: Callable[[], Awaitable[T]]) -> T:
        """Runs a whole transaction again where that is safe and may help. Raises StoreTrouble, and what the work raises."""
        fresh = True
        for attempt in range(1, TRIES_MAX + 1):
            try:
                return await transaction()
            except Overtaken as error:
                if attempt == TRIES_MAX:
                    raise busy() from error
            except self.connections.errors as error:
                if attempt < TRIES_MAX and sqlstate(error) in {RACED, *REPEATABLE}:
                    await self._clock.sleep(self._rng.uniform(*PAUSE_S))
                elif fresh and self.connections.broke(error):
                    fresh = False  # it broke while it lay in the pool, say: another one may do
                else:
                    raise answer_for(error) from error
        raise AssertionError("unreachable")

    async def _transaction(self, group: list[Job]) -> list[Any]:
        async with self.connections.connect() as conn:
            connection = await driver_of(conn)
            with at_most(WORK_S, connection):
                await connection.execute(row_security.begin(union(job.scope for job in group)))
                try:
                    outcomes = await conn.run_sync(lambda sync: run_group(sync, self._clock.now_ms(), group))
                except BaseException:
                    await _rollback(connection)
                    raise
            await self._commit(connection)
            self.commits += 1
            return outcomes

    async def _commit(self, connection: Any) -> None:
        """Raises CommitUnknown unless the server said that it is done, without a reservation."""
        self.connections.warned(connection)
        try:
            with at_most(COMMIT_S, connection):
                said = await connection.execute(COMMIT)
        except Exception as error:
            state = sqlstate(error)
            if not state or connection.is_closed() or state.startswith(("08", "57P", "58", "XX")):
                raise CommitUnknown from error
            raise  # refused, so not stored
        if said != "COMMIT" or self.connections.warned(connection):
            raise CommitUnknown

    # --- reading ---

    def reads(self) -> int:
        return self._reads

    async def read(self, work: Work[T]) -> T:
        """In a task of the engine's own: a request that is cancelled must not interrupt the driver (safety DUR-6)."""
        check_reads(self._reads, self._watch)
        self._reads += 1
        try:
            await self._readers.acquire()
        finally:
            self._reads -= 1
        scope = current()
        reading = asyncio.create_task(self._repeated(lambda: self._snapshot(work, scope)), name="store-reader")
        self._reading.add(reading)
        reading.add_done_callback(self._has_read)
        return await asyncio.shield(reading)

    def _has_read(self, reading: "asyncio.Task[Any]") -> None:
        self._reading.discard(reading)
        self._readers.release()

    async def _snapshot(self, work: Work[T], scope: Scope) -> T:
        async with self.connections.connect() as conn:
            connection = await driver_of(conn)
            with at_most(WORK_S, connection):
                await connection.execute(row_security.begin(scope, how=_FOR_READING))
                try:
                    return await conn.run_sync(lambda sync: work(sync, self._clock.now_ms()))
                finally:
                    await _rollback(connection)

    async def close(self) -> None:
        """Runs what waits, and closes the connections."""
        if self._closed:
            return
        self._closed = True
        await self.connections.stop_following()
        for _ in range(len(self._workers) + len(self._waiting)):
            self._wake.release()
        await asyncio.gather(*self._workers)
        await asyncio.gather(*self._reading, return_exceptions=True)
        await self.connections.close()


async def _rollback(connection: Any) -> None:
    """Ends the transaction; a connection that can't even do this is found unclean when it is given back."""
    with contextlib.suppress(Exception):
        if connection.is_in_transaction():
            await connection.execute("ROLLBACK")
