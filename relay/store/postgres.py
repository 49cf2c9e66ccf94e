"""Store functions on PostgreSQL: a few workers, each with a connection of its own, run them through asyncpg.

Batched work that waits is taken together, so a few round trips serve many requests. Serialization failures and
deadlocks repeat the whole transaction, and so do work that was overtaken and a connection that broke before its COMMIT.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import structlog
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from relay.clock import Clock, StoreClock
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
from relay.store.postgres_errors import (
    RACED,
    REPEATABLE,
    CommitUnknown,
    StoreTrouble,
    answer_at_start,
    answer_for,
    busy,
    sqlstate,
)
from relay.store.postgres_session import Server, driver, look, open_session
from relay.store.scope import ALL, Scope, current, union

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")

log = structlog.get_logger("relay.store")

TRIES_MAX = 5
PAUSE_S = (0.01, 0.2)  # between tries
IDLE_MS = 30_000  # a connection unused for longer is asked before it is trusted
PING_S = 2.0
WORK_S = 30.0  # a transaction that hasn't come to its COMMIT by then has lost its server
COMMIT_S = 15.0  # as long may COMMIT wait for its replica; then it is unknown
LOOK_S = 10.0  # how often the server is looked at
CLOCK_S = 1.0  # how often its clock is read
STATEMENTS_KEPT = 512  # prepared, for each connection

# The statement timeout would end COMMIT's wait for the synchronous replica: it is lifted in the same round trip.
_COMMIT = "SET LOCAL statement_timeout = 0; COMMIT"
_FOR_READING = "ISOLATION LEVEL REPEATABLE READ READ ONLY"
_CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"

OnServer = Callable[[Any, int, Server], None]  # a store function that is told of another server


class PostgresEngine:
    """PostgreSQL through asyncpg; `workers` writing transactions at a time, as many reading ones beside them.

    Usable at once; `begin` has it follow the server's clock and safety as well.
    """

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
        self._asyncpg = driver()
        # What may come from below: of SQLAlchemy, of asyncpg itself, of the network.
        self._errors = (
            DBAPIError,
            PoolTimeout,
            self._asyncpg.PostgresError,
            self._asyncpg.InterfaceError,
            self._asyncpg.InternalClientError,
            OSError,
            TimeoutError,
        )
        self._url = url
        from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - brings the ORM: 0.3 s of a start

        self._engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            isolation_level="AUTOCOMMIT",  # BEGIN and COMMIT are said here
            pool_size=workers * 2 + 1,  # the clock's reader has one too
            max_overflow=0,
            pool_timeout=2,
            pool_use_lifo=True,  # the one used last: its statements are prepared, its pages warm
            connect_args={"async_creator_fn": self._open, "prepared_statement_cache_size": STATEMENTS_KEPT},
        )
        event.listen(self._engine.sync_engine, "checkout", self._ping_if_idle)
        event.listen(self._engine.sync_engine, "checkin", self._mark_used)
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
        self._follower: asyncio.Task[None] | None = None
        self._closed = False
        self._told: set[int] = set()  # pids of connections whose server sent a warning
        self._server: Server | None = None
        self._on_server: OnServer | None = None
        self._met: object = None  # what `_on_server` was told of last
        self._meeting = asyncio.Lock()
        self.commits = 0
        self.failed = False  # a server that failed recovers by itself; we only wait for it

    # --- the server ---

    @property
    def durability(self) -> str:
        """Where a committed transaction is, as when last looked."""
        return "single-node" if self._server is None else self._server.durability

    @property
    def dangers(self) -> tuple[str, ...]:
        """Why the server can't be trusted with messages; empty if it can, or if the operator said that it may not be."""
        return () if self._server is None else self._server.dangers()

    @property
    def trusted(self) -> bool:
        """Whether messages may be taken: no dangers, or the operator accepts them."""
        return self._unsafe_storage or not self.dangers

    @property
    def bypasses_row_security(self) -> bool:
        """Whether the server shows our role every app's rows, whatever a transaction says."""
        return self._server is not None and self._server.bypasses_row_security

    async def begin(self) -> None:
        """Looks at the server, and goes on looking at it and at its clock.

        Raises ConfigError for a server that won't have us, Unavailable for one that can't be reached.
        """
        try:
            async with self._connection() as conn:
                await self._read_clock(conn)
        except (*self._errors, ValueError) as error:
            raise answer_at_start(error) from error
        for danger in self.dangers:
            log.warning("store.unsafe", reason=danger)
        self._follower = asyncio.create_task(self._follow(), name="store-clock")

    async def watch_server(self, on_server: OnServer) -> None:
        """Runs `on_server` now, and later in a transaction of its own before anything else is done on another server."""
        self._on_server = on_server
        async with self._connection():
            pass

    async def _follow(self) -> None:
        """The store's clock decides (safety DUR-15): it is read once a second, and extrapolated between."""
        since_look_s = 0.0
        while True:
            await self._clock.sleep(CLOCK_S)
            since_look_s += CLOCK_S
            try:
                async with self._connection() as conn:
                    await self._read_clock(conn)
                    if since_look_s >= LOOK_S:
                        since_look_s = 0
                        self._saw(await look(await _driver_of(conn)))
            except (*self._errors, Problem):
                continue  # away: its time goes on at the pace of ours
            except Exception:  # a bug in telling of a new server must not stop the clock
                log.exception("store.follow_failed")

    async def _read_clock(self, conn: "AsyncConnection") -> None:
        if isinstance(self._clock, StoreClock):
            connection = await _driver_of(conn)
            asked_ms = self._clock.monotonic_ms()
            self._clock.follow(await connection.fetchval(_CLOCK), asked_ms=asked_ms)

    def _saw(self, server: Server) -> None:
        before, self._server = self._server, server
        if before is not None and before.dangers() != server.dangers():
            log.warning(
                "store.unsafe" if server.dangers() else "store.safe", reason="; ".join(server.dangers()) or None
            )
        if before is not None and before.durability != server.durability:
            log.warning("store.durability_changed", before=before.durability, now=server.durability)

    async def _open(self, **_: Any) -> Any:
        connection, server = await open_session(self._url)
        connection.add_log_listener(self._warned)
        self._saw(server)
        return connection

    def _warned(self, connection: Any, message: Any) -> None:
        if message.severity_en == "WARNING":
            self._told.add(id(connection))
            log.warning("store.warning", code=message.sqlstate)

    @contextlib.asynccontextmanager
    async def _connection(self) -> "AsyncIterator[AsyncConnection]":
        """A connection to a server that `on_server` knows of. One that is not clean afterwards is thrown away."""
        async with self._engine.connect() as conn:
            connection = await _driver_of(conn)
            try:
                await self._meet(conn)
                yield conn
            except self._asyncpg.InternalClientError:
                connection.terminate()  # out of step: a server that goes away spoke while nobody listened
                raise
            finally:
                if connection.is_closed() or connection.is_in_transaction():
                    connection.terminate()
                    await conn.invalidate()

    async def _meet(self, conn: "AsyncConnection") -> None:
        on_server, server = self._on_server, self._server
        if on_server is None or server is None or _history(server) == self._met:
            return
        async with self._meeting:
            if _history(server) == self._met:
                return
            connection = await _driver_of(conn)
            await connection.execute(row_security.begin(ALL))
            await conn.run_sync(lambda sync: on_server(sync, self._clock.now_ms(), server))
            await connection.execute(_COMMIT)
            self._met = _history(server)

    def _ping_if_idle(self, dbapi: Any, record: Any, _: Any) -> None:
        if dbapi.driver_connection.is_closed():
            raise DisconnectionError  # the pool opens another one
        used_ms = record.info.get("used_ms")
        if used_ms is None or self._clock.monotonic_ms() - used_ms <= IDLE_MS:
            return
        timer = asyncio.get_running_loop().call_later(PING_S, dbapi.driver_connection.terminate)
        try:
            dbapi.ping()
        except Exception as error:
            raise InvalidatePoolError from error  # the others will be no better
        finally:
            timer.cancel()

    def _mark_used(self, _: Any, record: Any) -> None:
        record.info["used_ms"] = self._clock.monotonic_ms()

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
            except self._errors as error:
                if attempt < TRIES_MAX and sqlstate(error) in {RACED, *REPEATABLE}:
                    await self._clock.sleep(self._rng.uniform(*PAUSE_S))
                elif fresh and self._is_broken(error):
                    fresh = False  # it broke while it lay in the pool, say: another one may do
                else:
                    raise answer_for(error) from error
        raise AssertionError("unreachable")

    def _is_broken(self, error: BaseException) -> bool:
        cause = getattr(error, "orig", error)
        of_the_way = (self._asyncpg.InterfaceError, self._asyncpg.InternalClientError)
        return isinstance(cause, of_the_way) or sqlstate(error).startswith(("08", "57P0"))

    async def _transaction(self, group: list[Job]) -> list[Any]:
        async with self._connection() as conn:
            connection = await _driver_of(conn)
            with self._at_most(WORK_S, connection):
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
        self._told.discard(id(connection))
        try:
            with self._at_most(COMMIT_S, connection):
                said = await connection.execute(_COMMIT)
        except self._asyncpg.PostgresError as error:
            if connection.is_closed() or sqlstate(error).startswith(("08", "57P", "58", "XX")):
                raise CommitUnknown from error
            raise  # refused, so not stored
        except Exception as error:
            raise CommitUnknown from error
        if said != "COMMIT" or id(connection) in self._told:
            self._told.discard(id(connection))
            raise CommitUnknown

    @contextlib.contextmanager
    def _at_most(self, seconds: float, connection: Any) -> Any:
        """Cuts the connection when the time is over: asking the server to cancel would end a COMMIT's wait."""
        timer = asyncio.get_running_loop().call_later(seconds, connection.terminate)
        try:
            yield
        finally:
            timer.cancel()

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
        async with self._connection() as conn:
            connection = await _driver_of(conn)
            with self._at_most(WORK_S, connection):
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
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        for _ in range(len(self._workers) + len(self._waiting)):
            self._wake.release()
        await asyncio.gather(*self._workers)
        await asyncio.gather(*self._reading, return_exceptions=True)
        await self._engine.dispose()


def _history(server: Server) -> tuple[str, str]:
    return server.mark, server.durability


async def _driver_of(conn: "AsyncConnection") -> Any:
    """asyncpg's connection."""
    return (await conn.get_raw_connection()).driver_connection


async def _rollback(connection: Any) -> None:
    """Ends the transaction; a connection that can't even do this is found unclean when it is given back."""
    with contextlib.suppress(Exception):
        if connection.is_in_transaction():
            await connection.execute("ROLLBACK")
