"""The only place that knows how store functions are run.

A store function is plain and synchronous: `work(conn, now_ms)`. It runs inside one transaction; what it raises undoes
what it did. Three engines run the same functions:

- `SqliteEngine`: one writer thread with the one writing connection, group commit of all that waits; read-only
  connections in a few threads.
- `PostgresEngine` (in `postgres.py`): asyncpg through `run_sync`, a few workers.
- `InlineEngine`: no thread, for the simulation.

A request never awaits the driver: it puts work into a queue and awaits a future, so a cancelled request can neither
tear a transaction nor poison a connection.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

import sqlalchemy
import structlog
from sqlalchemy import Connection

from relay.clock import Clock
from relay.errors import ConfigError, Problem, StoreDamaged, Unavailable
from relay.store import replace, sqlite_file
from relay.store.direct import DirectConnection

log = structlog.get_logger("relay.store")

Conn = Connection  # what services hand through to store functions without knowing what it is
T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")

GROUP_MAX = 256  # pieces of work in one commit
QUEUE_MAX = 4096  # waiting pieces of work; more are refused
STOP_S = 5.0

Work = Callable[[Connection, int], T]
Batch = Callable[[Connection, int, list[I]], Sequence[R | Exception]]


class Watch(Protocol):
    """Told of each commit: how many pieces of work it held and how long it took."""

    def committed(self, size: int, seconds: float) -> None: ...

    def refused(self) -> None: ...


class NoWatch:
    def committed(self, size: int, seconds: float) -> None: ...

    def refused(self) -> None: ...


class Engine(Protocol):
    """Runs store functions."""

    async def write(self, work: Work[T]) -> T:
        """Runs `work` in a transaction and returns its value after the COMMIT."""
        ...

    async def write_batched(self, work: Batch[I, R], item: I) -> R:
        """As `write`, for work that takes many items at once: whatever waits for the same `work` shares one call.

        `work` gives a value or an exception per item. If it raises, its items are run again one by one.
        """
        ...

    async def read(self, work: Work[T]) -> T:
        """Runs `work` on one snapshot, without locks."""
        ...

    async def close(self) -> None: ...

    @property
    def failed(self) -> bool:
        """True after a storage error that only a restart can mend (safety DUR-8)."""
        ...

    @property
    def durability(self) -> str:
        """Where a committed transaction is: `single-node`, `sync-replica` or `async-replica`."""
        ...

    @property
    def dangers(self) -> tuple[str, ...]:
        """Why what was committed may be lost all the same, in words for an operator; empty if it can't."""
        ...

    @property
    def trusted(self) -> bool:
        """Whether messages may be taken: there are no dangers, or the operator accepts them."""
        ...


@dataclass(slots=True)
class Job:
    """One piece of work in a queue. `items` is None for plain work."""

    work: Any
    item: Any
    batched: bool
    future: "asyncio.Future[Any]"


def settle_futures(outcomes: Sequence[tuple["asyncio.Future[Any]", Any]]) -> None:
    for future, outcome in outcomes:
        if future.done():  # its request was cancelled; the commit stands all the same
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def groups(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs in order; batched ones of the same work together, at the place of the first."""
    together: dict[Any, list[Job]] = {}
    ordered: list[list[Job]] = []
    for job in jobs:
        if not job.batched:
            ordered.append([job])
        elif job.work in together:
            together[job.work].append(job)
        else:
            together[job.work] = group = [job]
            ordered.append(group)
    yield from ordered


def run_group(conn: Connection, now_ms: int, group: list[Job]) -> list[Any]:
    """Outcomes of one group, in order. Raises only for plain work or a batch as a whole."""
    first = group[0]
    if not first.batched:
        return [first.work(conn, now_ms)]
    return list(first.work(conn, now_ms, [job.item for job in group]))


# --- SQLite -----------------------------------------------------------------------------------------------------------

FULL: Final = frozenset({sqlite3.SQLITE_FULL})
AWAY: Final = frozenset(  # another program holds it, or there is no file descriptor left for it
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL}
)
FATAL: Final = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def _code(error: BaseException) -> int | None:
    code = getattr(getattr(error, "orig", error), "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def storage_problem(error: BaseException) -> tuple[Problem, bool]:
    """The answer for a driver's error, and whether the store must not be used any more (safety DUR-8)."""
    code = _code(error)
    if code in FULL:
        return Unavailable("The relay's disk is full.", code="storage_full", retry_after_s=60), False
    if code in AWAY:
        return Unavailable("Another program holds the database.", code="storage_unavailable", retry_after_s=5), False
    return failed(), True


def failed() -> Unavailable:
    return Unavailable("The store reported an error; the relay stops.", code="storage_failed", retry_after_s=5)


def is_storage_error(error: BaseException) -> bool:
    return _code(error) in FULL | AWAY | FATAL


class SqliteEngine:
    """SQLite in WAL mode with FULL syncs: one writer thread, group commit; readers beside it."""

    durability = "single-node"
    dangers: tuple[str, ...] = ()  # none: what could be one is refused at the start
    trusted = True

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        readers: int = 2,
        watch: Watch | None = None,
        unsafe_storage: bool = False,
        release: Callable[[], bool] = lambda: False,
    ) -> None:
        """`release` is called when the disk is full; True if it made some room. Raises ConfigError, StoreDamaged."""
        sqlite_file.check_version()
        if not unsafe_storage:
            sqlite_file.check_place(path)
        self.path = path
        self._clock = clock
        self._watch = watch or NoWatch()
        self._release = release
        self._lock = sqlite_file.OwnerLock(path.with_name(path.name + ".lock"))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._failed = False
        self._closed = False
        self._away = False
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            if replace.finish(path):
                log.warning("store.restore_finished")
            self._writer_conn, large = self._opened()
            undo.callback(sqlite_file.close, self._writer_conn)
            self._check = sqlite_file.BackgroundCheck(path, quick=large, damaged=self._fail)
            undo.pop_all()
        self._writer = threading.Thread(target=self._write_loop, name="store-writer", daemon=True)
        self._local = threading.local()
        self._reader_conns: list[DirectConnection] = []
        self._readers = ThreadPoolExecutor(max_workers=readers, thread_name_prefix="store-reader")
        self._writer.start()

    def _opened(self) -> tuple[DirectConnection, bool]:
        """The writing connection; and whether the file was too large to be looked through at once."""
        raw = sqlite_file.connect(str(self.path), read_only=False)
        try:
            large = self.path.stat().st_size >= sqlite_file.CHECKED_AT_START_BYTES
            if not large:
                sqlite_file.quick_check(raw)
        except sqlite3.DatabaseError as error:
            raw.close()
            raise StoreDamaged(f"{self.path}: {error}") from error
        except BaseException:
            raw.close()
            raise
        return sqlite_file.connection(raw), large

    @property
    def failed(self) -> bool:
        return self._failed

    def _fail(self) -> None:
        self._failed = True

    def depth(self) -> int:
        return self._queue.qsize()

    async def write(self, work: Work[T]) -> T:
        return cast(
            T, await self._put(Job(work, None, batched=False, future=asyncio.get_running_loop().create_future()))
        )

    async def write_batched(self, work: Batch[I, R], item: I) -> R:
        return cast(
            R, await self._put(Job(work, item, batched=True, future=asyncio.get_running_loop().create_future()))
        )

    async def _put(self, job: Job) -> Any:
        self._check_open()
        if self._queue.qsize() >= QUEUE_MAX:
            self._watch.refused()
            raise Unavailable("The writer's queue is full.", code="overloaded", retry_after_s=1)
        self._loop = job.future.get_loop()
        self._queue.put(job)
        return await job.future

    def _write_loop(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            jobs = [first]
            stop = False
            while len(jobs) < GROUP_MAX:
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    stop = True
                    break
                jobs.append(job)
            self._commit(jobs)
            if stop:
                return

    def _commit(self, jobs: list[Job]) -> None:
        began = time.perf_counter()
        outcomes: list[tuple[asyncio.Future[Any], Any]]
        try:
            outcomes = self._outcomes(jobs)
            self._away = False
        except Exception as error:  # noqa: BLE001 - every waiting request gets its answer
            problem = self._problem(error)
            outcomes = [(job.future, problem) for job in jobs]
        self._watch.committed(len(jobs), time.perf_counter() - began)
        loop = jobs[0].future.get_loop()
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
            loop.call_soon_threadsafe(settle_futures, outcomes)

    def _outcomes(self, jobs: list[Job]) -> list[tuple["asyncio.Future[Any]", Any]]:
        if self._failed:  # a sync that failed is never tried again on the same handle: it would seem to work
            raise failed()
        try:
            return commit_group(self._writer_conn, self._clock.now_ms(), jobs)
        except sqlalchemy.exc.DBAPIError as error:
            if _code(error) not in FULL or not self._release():
                raise
            return commit_group(self._writer_conn, self._clock.now_ms(), jobs)

    def _problem(self, error: Exception) -> Problem:
        """The answer for an error of the driver, told to the operator once."""
        if isinstance(error, Problem):
            return error
        at_commit, error = (True, error.error) if isinstance(error, CommitError) else (False, error)
        problem, fatal = storage_problem(error)
        if at_commit:
            problem = Unavailable(
                "The store failed while this was committed: repeat it with the same key.",
                code="commit_unknown",
                retry_after_s=5,
            )
        problem.__cause__ = error
        if fatal and not self._failed:
            self._failed = True
            log.error("store.failed", reason=str(getattr(error, "orig", error)))
        if problem.code == "storage_unavailable" and not self._away:
            self._away = True
            log.error("store.locked", reason=str(getattr(error, "orig", error)))
        return problem

    def _check_open(self) -> None:
        if self._failed:
            raise failed()
        if self._closed:
            raise Unavailable("The relay is shutting down.", code="draining", retry_after_s=5)

    async def read(self, work: Work[T]) -> T:
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def _read(self, work: Work[T]) -> T:
        try:
            conn = getattr(self._local, "conn", None)
            if conn is None:
                conn = sqlite_file.connection(sqlite_file.connect(str(self.path), read_only=True))
                self._local.conn = conn
                self._reader_conns.append(conn)
            conn.run("BEGIN")
            try:
                return work(conn, self._clock.now_ms())
            finally:
                conn.run("ROLLBACK")
        except (sqlalchemy.exc.DBAPIError, ConfigError, StoreDamaged) as error:
            cause = error.__cause__ if isinstance(error, (ConfigError, StoreDamaged)) else error
            if cause is None or not is_storage_error(cause):
                raise  # our own mistake in SQL: a bug, not weather
            raise self._problem(cause) from error  # type: ignore[arg-type]

    async def close(self) -> None:
        """Commits what waits, folds the log back into the database file, and gives the file free."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._shut)

    def _shut(self) -> None:
        self._check.close()
        self._writer.join(timeout=STOP_S)
        self._readers.shutdown(wait=True)
        for conn in self._reader_conns:
            sqlite_file.close(conn)
        if self._failed:
            self._abandon()
        else:
            with contextlib.suppress(Exception):
                self._writer_conn.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            sqlite_file.close(self._writer_conn)
        self._lock.release()

    def _abandon(self) -> None:
        """Closes the failed handle without a write or a sync: the next start recovers from the log.

        The last connection to close folds the log back, unless it may only read.
        """
        try:
            last = sqlite_file.connect(str(self.path), read_only=True)
        except (ConfigError, StoreDamaged):
            return  # left open: the process ends with 74
        sqlite_file.close(self._writer_conn)
        last.close()


class CommitError(Exception):
    """COMMIT itself met an error of the disk: the log may hold all of it, and a restart then finds it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def commit_group(conn: DirectConnection, now_ms: int, jobs: list[Job]) -> list[tuple["asyncio.Future[Any]", Any]]:
    """Runs all jobs in one SQLite transaction; a piece of work that raises is undone alone.

    Raises for storage errors: CommitError if nobody can tell what became of the transaction.
    """
    outcomes: list[tuple[asyncio.Future[Any], Any]] = []
    conn.run("BEGIN IMMEDIATE")
    try:
        for group in groups(jobs):
            outcomes += zip((job.future for job in group), _guarded(conn, now_ms, group), strict=True)
        _commit(conn)
    except BaseException:
        with contextlib.suppress(Exception):
            conn.run("ROLLBACK")
        raise
    return outcomes


def _commit(conn: DirectConnection) -> None:
    try:
        conn.run("COMMIT")
    except sqlalchemy.exc.DBAPIError as error:
        if _code(error) in FATAL:
            raise CommitError(error) from error
        raise


def _guarded(conn: DirectConnection, now_ms: int, group: list[Job]) -> list[Any]:
    conn.run("SAVEPOINT work")
    try:
        outcomes = run_group(conn, now_ms, group)
    except Exception as error:
        if is_storage_error(error):
            raise
        conn.run("ROLLBACK TO work")
        conn.run("RELEASE work")
        if len(group) == 1:
            return [error]
        return [outcome for job in group for outcome in _guarded(conn, now_ms, [job])]
    conn.run("RELEASE work")
    return outcomes


@dataclass
class InlineEngine:
    """SQLite in memory, run where it is called: the simulation's engine, without threads.

    `before_commit` may raise or await: that is where the simulation injects delays and faults.
    """

    clock: Clock
    conn: DirectConnection = field(
        default_factory=lambda: sqlite_file.connection(sqlite_file.connect(":memory:", read_only=False))
    )
    after_write: Callable[[Connection], None] | None = None
    failed: bool = False
    durability: str = "single-node"
    dangers: tuple[str, ...] = ()
    trusted: bool = True

    async def write(self, work: Work[T]) -> T:
        return cast(T, self._run(Job(work, None, batched=False, future=asyncio.get_running_loop().create_future())))

    async def write_batched(self, work: Batch[I, R], item: I) -> R:
        return cast(R, self._run(Job(work, item, batched=True, future=asyncio.get_running_loop().create_future())))

    def _run(self, job: Job) -> Any:
        ((future, outcome),) = commit_group(self.conn, self.clock.now_ms(), [job])
        future.cancel()
        if self.after_write is not None:
            self.after_write(self.conn)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def read(self, work: Work[T]) -> T:
        self.conn.run("BEGIN")
        try:
            return work(self.conn, self.clock.now_ms())
        finally:
            self.conn.run("ROLLBACK")

    async def close(self) -> None:
        sqlite_file.close(self.conn)
