"""Connections to PostgreSQL: a pool of them, to a server that is looked at, whose clock is followed, and that is known
before anything is done there."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import structlog
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from relay.clock import Clock, StoreClock
from relay.errors import Problem
from relay.store import row_security
from relay.store.postgres_errors import answer_at_start, sqlstate
from relay.store.postgres_session import Server, driver, look, open_session
from relay.store.scope import ALL

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

log = structlog.get_logger("relay.store")

IDLE_MS = 30_000  # a connection unused for longer is asked before it is trusted
PING_S = 2.0
LOOK_S = 10.0  # how often the server is looked at
CLOCK_S = 1.0  # how often its clock is read
STATEMENTS_KEPT = 512  # prepared, for each connection

# The statement timeout would end COMMIT's wait for the synchronous replica: it is lifted in the same round trip.
COMMIT: Final = "SET LOCAL statement_timeout = 0; COMMIT"
_CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"

OnServer = Callable[[Any, int, Server], None]  # a store function that is told of another server


class PostgresConnections:
    """Usable at once; `begin` has it follow the server's clock and safety as well."""

    def __init__(self, url: str, clock: Clock, *, size: int) -> None:
        self._asyncpg = driver()
        # What may come from below: of SQLAlchemy, of asyncpg itself, of the network.
        self.errors = (
            DBAPIError,
            PoolTimeout,
            self._asyncpg.PostgresError,
            self._asyncpg.InterfaceError,
            self._asyncpg.InternalClientError,
            OSError,
            TimeoutError,
        )
        self.url = url
        from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - brings the ORM: 0.3 s of a start

        self._pool: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            isolation_level="AUTOCOMMIT",  # BEGIN and COMMIT are said by whoever uses it
            pool_size=size,
            max_overflow=0,
            pool_timeout=2,
            pool_use_lifo=True,  # the one used last: its statements are prepared, its pages warm
            connect_args={"async_creator_fn": self._open, "prepared_statement_cache_size": STATEMENTS_KEPT},
        )
        event.listen(self._pool.sync_engine, "checkout", self._ping_if_idle)
        event.listen(self._pool.sync_engine, "checkin", self._mark_used)
        self._clock = clock
        self._follower: asyncio.Task[None] | None = None
        self._told: set[int] = set()  # of connections whose server sent a warning
        self._server: Server | None = None
        self._on_server: OnServer | None = None
        self._met: object = None  # what `_on_server` was told of last
        self._meeting = asyncio.Lock()

    @property
    def durability(self) -> str:
        """Where a committed transaction is, as when last looked."""
        return "single-node" if self._server is None else self._server.durability

    @property
    def dangers(self) -> tuple[str, ...]:
        """Why the server can't be trusted with messages; empty if it can, or if the operator said that it may not be."""
        return () if self._server is None else self._server.dangers()

    @property
    def bypasses_row_security(self) -> bool:
        """Whether the server shows our role every app's rows, whatever a transaction says."""
        return self._server is not None and self._server.bypasses_row_security

    async def begin(self) -> None:
        """Looks at the server, and goes on looking at it and at its clock.

        Raises ConfigError for a server that won't have us, Unavailable for one that can't be reached.
        """
        try:
            async with self.connect() as conn:
                await self._read_clock(conn)
        except (*self.errors, ValueError) as error:
            raise answer_at_start(error) from error
        for danger in self.dangers:
            log.warning("store.unsafe", reason=danger)
        self._follower = asyncio.create_task(self._follow(), name="store-clock")

    async def watch_server(self, on_server: OnServer) -> None:
        """Runs `on_server` now, and later in a transaction of its own before anything else is done on another server."""
        self._on_server = on_server
        async with self.connect():
            pass

    @contextlib.asynccontextmanager
    async def connect(self) -> "AsyncIterator[AsyncConnection]":
        """A connection to a server that `on_server` knows of. One that is not clean afterwards is thrown away."""
        async with self._pool.connect() as conn:
            connection = await driver_of(conn)
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
            connection = await driver_of(conn)
            await connection.execute(row_security.begin(ALL))
            await conn.run_sync(lambda sync: on_server(sync, self._clock.now_ms(), server))
            await connection.execute(COMMIT)
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

    async def _follow(self) -> None:
        """The store's clock decides (safety DUR-15): it is read once a second, and extrapolated between."""
        since_look_s = 0.0
        while True:
            await self._clock.sleep(CLOCK_S)
            since_look_s += CLOCK_S
            try:
                async with self.connect() as conn:
                    await self._read_clock(conn)
                    if since_look_s >= LOOK_S:
                        since_look_s = 0
                        self._saw(await look(await driver_of(conn)))
            except (*self.errors, Problem):
                continue  # away: its time goes on at the pace of ours
            except Exception:  # a bug in telling of a new server must not stop the clock
                log.exception("store.follow_failed")

    async def _read_clock(self, conn: "AsyncConnection") -> None:
        if isinstance(self._clock, StoreClock):
            connection = await driver_of(conn)
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
        connection, server = await open_session(self.url)
        connection.add_log_listener(self._warned)
        self._saw(server)
        return connection

    def _warned(self, connection: Any, message: Any) -> None:
        if message.severity_en == "WARNING":
            self._told.add(id(connection))
            log.warning("store.warning", code=message.sqlstate)

    def warned(self, connection: Any) -> bool:
        """Whether the server has sent a warning over this connection since this was asked last."""
        told = id(connection) in self._told
        self._told.discard(id(connection))
        return told

    def broke(self, error: BaseException) -> bool:
        """Whether the connection is the reason, and another one may do."""
        cause = getattr(error, "orig", error)
        of_the_way = (self._asyncpg.InterfaceError, self._asyncpg.InternalClientError)
        return isinstance(cause, of_the_way) or sqlstate(error).startswith(("08", "57P0"))

    async def stop_following(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)

    async def close(self) -> None:
        """Closes them all; nobody uses one by now."""
        await self._pool.dispose()


def _history(server: Server) -> tuple[str, str]:
    return server.mark, server.durability


async def driver_of(conn: "AsyncConnection") -> Any:
    """asyncpg's connection."""
    return (await conn.get_raw_connection()).driver_connection


@contextlib.contextmanager
def at_most(seconds: float, connection: Any) -> Iterator[None]:
    """Cuts the connection when the time is over: asking the server to cancel would end a COMMIT's wait."""
    timer = asyncio.get_running_loop().call_later(seconds, connection.terminate)
    try:
        yield
    finally:
        timer.cancel()
