"""SQLite in WAL mode with FULL syncs: one writer thread, group commit; readers beside it."""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import sqlalchemy
import structlog

from relay.clock import Clock
from relay.errors import ConfigError, Problem, StoreDamaged, Unavailable
from relay.store import replace, sqlite_file
from relay.store.direct import DirectConnection
from relay.store.engine import (
    READS,
    READS_MAX,
    BatchWork,
    I,
    Job,
    NoWatch,
    Queues,
    R,
    T,
    Watch,
    Work,
    check_reads,
    settle_futures,
)
from relay.store.lanes import Lanes
from relay.store.sqlite_commit import (
    FULL,
    CommitError,
    commit_group,
    failed,
    is_storage_error,
    sqlite_code,
    storage_problem,
)

log = structlog.get_logger("relay.store")
STOP_S = 5.0


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
        lock = path.with_name(path.name + ".lock")
        try:
            self._lock = sqlite_file.OwnerLock(lock)
        except OSError as error:
            raise ConfigError(
                [
                    f"store: {lock} can't be written ({error.strerror}); the database's folder must be the relay's user's own, "
                    "or name another store.url."
                ]
            ) from None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes = Lanes()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._failed = False
        self._closed = False
        self._away = False
        self.commits = 0
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            if replace.finish(path):
                log.warning("store.restore_finished")
            self._writer_conn, large = self._opened()
            undo.callback(sqlite_file.close, self._writer_conn)
            self._check = sqlite_file.BackgroundCheck(path, quick=large, damaged=self._fail)
            undo.pop_all()
        self._writer = threading.Thread(target=self._write_loop, name="store-writer", daemon=True)
        # Not an executor: its second future and its locks are 11 µs of the loop for each reading, and 7 are left without.
        self._asked: queue.SimpleQueue[tuple[Work[Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._read_loop, name=f"store-reader-{n}", daemon=True) for n in range(readers)
        ]
        for thread in (self._writer, *self._readers):
            thread.start()

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
        return len(self._lanes)

    def queues(self) -> Queues:
        return self._lanes.queues() | {READS: (self.reads(), READS_MAX)}

    def fill(self) -> float:
        return self._lanes.fill()

    async def write(self, work: Work[T], *, is_send: bool = False, size: int = 0) -> T:
        future = asyncio.get_running_loop().create_future()
        return cast(T, await self._put(Job(work, None, batched=False, future=future, is_send=is_send, size=size)))

    async def write_batched(self, work: BatchWork[I, R], item: I, *, is_send: bool = False, size: int = 0) -> R:
        future = asyncio.get_running_loop().create_future()
        return cast(R, await self._put(Job(work, item, batched=True, future=future, is_send=is_send, size=size)))

    async def _put(self, job: Job) -> Any:
        self._check_open()
        self._loop = job.future.get_loop()
        try:
            self._lanes.put(job)
        except Unavailable:
            self._watch.refused()
            raise
        if not self._bell.qsize():  # else the writer will look all the same
            self._bell.put(None)
        return await job.future

    def _write_loop(self) -> None:
        while True:
            self._bell.get()
            last = self._closed  # then nothing is put any more
            while jobs := self._lanes.take():
                self._commit(jobs)
            if last:
                return

    def _commit(self, jobs: list[Job]) -> None:
        began = time.perf_counter()
        outcomes: list[tuple[asyncio.Future[Any], Any]]
        try:
            outcomes = self._outcomes(jobs)
            self._away = False
            self.commits += 1
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
            if sqlite_code(error) not in FULL or not self._release():
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

    def reads(self) -> int:
        return self._asked.qsize()  # what was cancelled still stands in it, and counts

    async def read(self, work: Work[T]) -> T:
        self._check_open()
        check_reads(self.reads(), self._watch)
        future = asyncio.get_running_loop().create_future()
        self._asked.put((work, future))
        try:
            return cast(T, await future)
        finally:
            del future  # an error that it holds leads back here by its traceback

    def _read_loop(self) -> None:
        conns: list[DirectConnection] = []  # this thread's one, once it is open
        while asked := self._asked.get():
            self._answer(conns, *asked)
            del asked  # else what it gave would be kept until the next comes
        for conn in conns:
            sqlite_file.close(conn)

    def _answer(self, conns: list[DirectConnection], work: Work[Any], future: "asyncio.Future[Any]") -> None:
        if future.cancelled():
            return
        try:
            outcome = self._read(conns, work)
        except BaseException as error:  # noqa: BLE001 - it is the answer
            outcome = error
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
            future.get_loop().call_soon_threadsafe(settle_futures, [(future, outcome)])
        del future, outcome  # likewise: who asked, and what for, would be kept until the garbage collector comes

    def _read(self, conns: list[DirectConnection], work: Work[T]) -> T:
        try:
            if not conns:
                conns.append(sqlite_file.connection(sqlite_file.connect(str(self.path), read_only=True)))
            (conn,) = conns
            conn.run("BEGIN")
            try:
                return work(conn, self._clock.now_ms())
            finally:
                conn.run("ROLLBACK")
        except (sqlalchemy.exc.DBAPIError, ConfigError, StoreDamaged) as error:
            cause = error.__cause__ if isinstance(error, (ConfigError, StoreDamaged)) else error
            if cause is None or not is_storage_error(cause):
                raise  # our own mistake in SQL: a bug
            raise self._problem(cause) from error  # type: ignore[arg-type]

    async def close(self) -> None:
        """Commits what waits, folds the log back into the database file, and gives the file free."""
        if self._closed:
            return
        self._closed = True
        self._bell.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._shut)

    def _shut(self) -> None:
        self._check.close()
        self._writer.join(timeout=STOP_S)
        for _ in self._readers:
            self._asked.put(None)
        for thread in self._readers:
            thread.join()
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
