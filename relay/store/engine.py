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
import os
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import sqlalchemy
from sqlalchemy import Connection
from sqlalchemy.pool import StaticPool

from relay.clock import Clock
from relay.errors import ConfigError, Problem, Unavailable

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

PRAGMAS: dict[str, str | int] = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL: NORMAL loses acknowledged messages at power loss
    "busy_timeout": 5000,
    "foreign_keys": 1,
    "mmap_size": 0,
    "journal_size_limit": 64 * 1024 * 1024,
    "cell_size_check": 1,
    "cache_size": -32 * 1024,  # KiB
}
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.s3fs", "fuse"})
SQLITE_MIN = (3, 37, 0)  # STRICT tables, RETURNING


def wal_reset_affected(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite has the WAL-reset bug (harmless with one writer; shown as a metric)."""
    return not (version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51, 0) or (3, 44, 6) <= version < (3, 45, 0))


def _open(path: str, *, read_only: bool) -> sqlite3.Connection:
    """The connection factory: no other code opens the database."""
    if path == ":memory:":
        raw = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
    else:
        mode = "ro" if read_only else "rwc"
        raw = sqlite3.connect(
            f"file:{path}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, cached_statements=512
        )
    wanted = dict(PRAGMAS)
    if path == ":memory:":
        del wanted["journal_mode"], wanted["mmap_size"]
    if sys.platform == "darwin":
        wanted |= {"fullfsync": 1, "checkpoint_fullfsync": 1}
    wanted |= {"query_only": 1, "wal_autocheckpoint": 0} if read_only else {"wal_autocheckpoint": 1000}
    for name, value in wanted.items():
        raw.execute(f"PRAGMA {name} = {value}").fetchall()
        found = raw.execute(f"PRAGMA {name}").fetchone()
        if found is None or str(found[0]).lower() != str(value):
            raw.close()
            raise ConfigError([f"store: PRAGMA {name} must be {value}, but the database says {found and found[0]!r}."])
    return raw


def _connection(raw: sqlite3.Connection) -> Connection:
    engine = sqlalchemy.create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


class OwnerLock:
    """An exclusive lock file beside the database: one relay per file."""

    def __init__(self, path: Path) -> None:
        import fcntl  # noqa: PLC0415 - POSIX only, like the relay

        self._file = path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConfigError(
                [
                    f"store: another relay is using the database of {path.name!r}; stop it, or give this one another store.url."
                ]
            ) from None

    def release(self) -> None:
        self._file.close()


def file_system_of(path: Path) -> str:
    """The type of the file system that holds `path`, by /proc/mounts; '' where that can't be told."""
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    here = str(path.resolve())
    best, kind = "", ""
    for line in mounts:
        point, found = line.split()[1:3]
        if (here == point or here.startswith(point.rstrip("/") + "/")) and len(point) > len(best):
            best, kind = point, found
    return kind


def storage_problem(error: BaseException) -> tuple[Problem, bool]:
    """The answer for a driver's error, and whether the store must not be used any more (safety DUR-8)."""
    cause = getattr(error, "orig", error)
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return Unavailable("The disk is full.", code="storage_full", retry_after_s=60), False
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return Unavailable("Another program holds the database.", code="storage_unavailable", retry_after_s=5), False
    return Unavailable("The store reported an error; the relay stops.", code="storage_failed", retry_after_s=5), True


FATAL = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN}
)


def is_storage_error(error: BaseException) -> bool:
    cause = getattr(error, "orig", error)
    code = getattr(cause, "sqlite_errorcode", None)
    if code is None:
        return False
    return code & 0xFF in FATAL or code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


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
    ) -> None:
        if sqlite3.sqlite_version_info < SQLITE_MIN:
            raise ConfigError([f"store: SQLite {sqlite3.sqlite_version} is too old; 3.37 or newer is needed."])
        kind = file_system_of(path.parent)
        if kind in NETWORK_FILE_SYSTEMS and not unsafe_storage:
            raise ConfigError(
                [
                    f"store.url: {path} lies on a network file system ({kind}), whose locks and syncs can't be trusted; "
                    "use a local disk, PostgreSQL, or unsafe_storage = true."
                ]
            )
        self.path = path
        self._clock = clock
        self._watch = watch or NoWatch()
        self._lock = OwnerLock(path.with_name(path.name + ".lock"))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._failed = False
        self._closed = False
        try:
            self._writer_conn = _connection(_open(str(path), read_only=False))
        except BaseException:
            self._lock.release()
            raise
        self._writer = threading.Thread(target=self._write_loop, name="store-writer", daemon=True)
        self._local = threading.local()
        self._reader_conns: list[Connection] = []
        self._readers = ThreadPoolExecutor(max_workers=readers, thread_name_prefix="store-reader")
        self._writer.start()

    @property
    def failed(self) -> bool:
        return self._failed

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
        if self._failed:
            raise Unavailable("The store reported an error; the relay stops.", code="storage_failed", retry_after_s=5)
        if self._closed:
            raise Unavailable("The relay is shutting down.", code="draining", retry_after_s=5)
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
        try:
            outcomes = commit_group(self._writer_conn, self._clock.now_ms(), jobs)
        except Exception as error:  # noqa: BLE001 - every waiting request gets its answer
            problem, fatal = storage_problem(error)
            self._failed = self._failed or fatal
            problem.__cause__ = error
            outcomes = [(job.future, problem) for job in jobs]
        self._watch.committed(len(jobs), time.perf_counter() - began)
        loop = jobs[0].future.get_loop()
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
            loop.call_soon_threadsafe(settle_futures, outcomes)

    async def read(self, work: Work[T]) -> T:
        if self._closed:
            raise Unavailable("The relay is shutting down.", code="draining", retry_after_s=5)
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def _read(self, work: Work[T]) -> T:
        conn = getattr(self._local, "conn", None)
        if conn is None:
            conn = self._local.conn = _connection(_open(str(self.path), read_only=True))
            self._reader_conns.append(conn)
        conn.exec_driver_sql("BEGIN")
        try:
            return work(conn, self._clock.now_ms())
        except sqlalchemy.exc.DBAPIError as error:
            problem, fatal = storage_problem(error)
            self._failed = self._failed or fatal
            raise problem from error
        finally:
            conn.exec_driver_sql("ROLLBACK")

    async def close(self) -> None:
        """Commits what waits, folds the log back into the database file, and gives the file free."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._shut)

    def _shut(self) -> None:
        self._writer.join(timeout=STOP_S)
        self._readers.shutdown(wait=True)
        for conn in self._reader_conns:
            _close(conn)
        if not self._failed:
            with contextlib.suppress(Exception):
                self._writer_conn.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        _close(self._writer_conn)
        self._lock.release()


def _close(conn: Connection) -> None:
    engine = conn.engine
    conn.close()
    engine.dispose()


def commit_group(conn: Connection, now_ms: int, jobs: list[Job]) -> list[tuple["asyncio.Future[Any]", Any]]:
    """Runs all jobs in one SQLite transaction; a piece of work that raises is undone alone. Raises for storage errors."""
    outcomes: list[tuple[asyncio.Future[Any], Any]] = []
    conn.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        for group in groups(jobs):
            outcomes += zip((job.future for job in group), _guarded(conn, now_ms, group), strict=True)
        conn.exec_driver_sql("COMMIT")
    except BaseException:
        with contextlib.suppress(Exception):
            conn.exec_driver_sql("ROLLBACK")
        raise
    return outcomes


def _guarded(conn: Connection, now_ms: int, group: list[Job]) -> list[Any]:
    conn.exec_driver_sql("SAVEPOINT work")
    try:
        outcomes = run_group(conn, now_ms, group)
    except Exception as error:
        if is_storage_error(error):
            raise
        conn.exec_driver_sql("ROLLBACK TO work")
        conn.exec_driver_sql("RELEASE work")
        if len(group) == 1:
            return [error]
        return [outcome for job in group for outcome in _guarded(conn, now_ms, [job])]
    conn.exec_driver_sql("RELEASE work")
    return outcomes


@dataclass
class InlineEngine:
    """SQLite in memory, run where it is called: the simulation's engine, without threads.

    `before_commit` may raise or await: that is where the simulation injects delays and faults.
    """

    clock: Clock
    conn: Connection = field(default_factory=lambda: _connection(_open(":memory:", read_only=False)))
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
        self.conn.exec_driver_sql("BEGIN")
        try:
            return work(self.conn, self.clock.now_ms())
        finally:
            self.conn.exec_driver_sql("ROLLBACK")

    async def close(self) -> None:
        _close(self.conn)


def database_size(path: Path) -> int:
    """Bytes of the database file; 0 if there is none."""
    return os.stat(path).st_size if path.exists() else 0
