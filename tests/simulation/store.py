"""The store of a run: a real SQLite in memory that outlives its nodes, and each node's engine on it with group commit.

A transaction runs inline, without a thread; what the disk and the driver can do to it is drawn. Triggers note which users
a transaction touched, so that the invariants are checked after every commit for these alone.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar, cast

import sqlalchemy.exc

from relay.errors import Unavailable
from relay.store import sqlite_file
from relay.store.direct import DirectConnection
from relay.store.engine import GROUP_MAX, BatchWork, Job, Work, settle_futures
from relay.store.lanes import SENDS_MAX
from relay.store.schema import metadata
from relay.store.sqlite_commit import commit_group

from .clocks import NodeClock
from .draws import Stream
from .faults import Faults
from .locks import Locks, WatchedConnection
from .loop import sleep
from .story import Story

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")

WATCHED = ("inbox", "inbox_entry", "device", "device_ack", "device_held", "push_job", "address")
UNLOCKED = frozenset(
    {"inbox", "push_job"}
)  # inboxes are made before they can be locked; jobs may be hurried for all at once
ENDED_TWICE = """
CREATE TEMP TRIGGER ended_twice AFTER UPDATE OF state ON main.inbox_entry
WHEN old.state <> 'live' AND new.state <> old.state
BEGIN INSERT INTO broken VALUES ('I3: entry ' || new.seq || ' of ' || new.user_id || ' ended twice'); END"""
BODY_CHANGED = """
CREATE TEMP TRIGGER body_changed AFTER UPDATE OF body ON main.message WHEN new.body IS NOT old.body AND new.body IS NOT NULL
BEGIN INSERT INTO broken VALUES ('I3: the body of ' || new.message_id || ' changed'); END"""

AfterCommit = Callable[[set[tuple[str, str]]], None]


class Store:
    """What is on the disk."""

    def __init__(self) -> None:
        self.locks = Locks()
        plain = sqlite_file.connection(sqlite_file.connect(":memory:", read_only=False))
        self.conn: DirectConnection = WatchedConnection(plain.engine, self.locks)
        self.conn.execution_options(isolation_level="AUTOCOMMIT")
        self.dirty: set[tuple[str, str]] = set()
        self.after_commit: AfterCommit = lambda _: None
        self.commits = 0
        self.away = False  # nothing can be read or written
        self.conn.exec_driver_sql("BEGIN")
        metadata.create_all(self.conn)
        self.conn.exec_driver_sql("COMMIT")
        self._watch()

    @property
    def raw(self) -> sqlite3.Connection:
        return cast(sqlite3.Connection, self.conn.connection.dbapi_connection)

    def _watch(self) -> None:
        raw = self.raw
        raw.create_function("touched", 2, lambda app_id, user_id: self.dirty.add((app_id, user_id)))
        raw.create_function("written", 2, self._written)
        raw.execute("CREATE TEMP TABLE broken (what TEXT)")
        for table in WATCHED:
            seen = "touched" if table in UNLOCKED else "written"
            for word, row in (("INSERT", "new"), ("UPDATE", "new"), ("DELETE", "old")):
                raw.execute(
                    f"CREATE TEMP TRIGGER {table}_{word} AFTER {word} ON main.{table} "
                    f"BEGIN SELECT {seen}({row}.app_id, {row}.user_id); END"
                )
        raw.execute(ENDED_TWICE)
        raw.execute(BODY_CHANGED)

    def _written(self, app_id: str, user_id: str) -> None:
        user = app_id, user_id
        self.dirty.add(user)
        self.locks.written(user)

    def committed(self) -> None:
        self.commits += 1
        dirty, self.dirty = self.dirty, set()
        self.after_commit(dirty)

    def backup(self) -> sqlite3.Connection:
        copy = sqlite3.connect(":memory:")
        self.raw.backup(copy)
        return copy

    def restore(self, copy: sqlite3.Connection) -> None:
        copy.backup(self.raw)
        self.dirty.clear()

    def close(self) -> None:
        engine = self.conn.engine
        self.conn.close()
        engine.dispose()


class NodeEngine:
    """One node's way to the store: what waits is committed together, as `SqliteEngine` does it."""

    def __init__(self, store: Store, clock: NodeClock, faults: Faults, latency: Stream, story: Story) -> None:
        self.store = store
        self._clock = clock
        self._faults = faults
        self._latency = latency
        self._story = story
        self._waiting: list[Job] = []
        self.asked: Callable[[Any], None] = lambda _: None  # for a transaction for this item
        self.done: Callable[[Any], None] = lambda _: None
        self._writer: asyncio.Task[None] | None = None
        self._failed = False
        self.killed = False
        self.on_failed: Callable[[], None] = lambda: None
        self.durability = "single-node"
        self.dangers: tuple[str, ...] = ()
        self.trusted = True
        self.commits = 0

    @property
    def failed(self) -> bool:
        return self._failed

    async def write(self, work: Work[T], *, is_send: bool = False, size: int = 0) -> T:
        return cast(T, await self._put(work, None, batched=False))

    async def write_batched(self, work: BatchWork[I, R], item: I, *, is_send: bool = False, size: int = 0) -> R:
        return cast(R, await self._put(work, item, batched=True))

    async def _put(self, work: Any, item: Any, *, batched: bool) -> Any:
        self._refuse()
        self.asked(item)
        assert len(self._waiting) < SENDS_MAX, "SIM-I13: the writer's queue is over its bound"
        job = Job(work, item, batched=batched, future=asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="store-writer")
        return await job.future

    def _refuse(self) -> None:
        if self.killed:
            raise asyncio.CancelledError  # this process does not exist any more
        if self._failed:
            raise Unavailable("The store reported an error; the relay stops.", code="storage_failed", retry_after_s=5)

    async def _write(self) -> None:
        while self._waiting and not self.killed:
            slow = self._faults.strikes("store_slow")
            await sleep(self._latency.between(0.2, 8) if slow else self._latency.between(0.001, 0.01))
            if self.killed:
                return
            jobs, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
            self._commit(jobs)

    def _commit(self, jobs: list[Job]) -> None:
        if self._failed or self.store.away or self._faults.strikes("store_refuses"):
            away = Unavailable("Another program holds the database.", code="storage_unavailable", retry_after_s=5)
            settle_futures([(job.future, away) for job in jobs])
            return
        outcomes = commit_group(self.store.conn, self._clock.now_ms(), jobs)
        self.store.committed()
        for job in jobs:
            self.done(job.item)
        self.commits += 1
        if self._faults.strikes("commit_unknown"):  # it is on the disk, and nobody can tell
            self._failed = True
            self._story.tell("store.failed")
            failed = Unavailable("The store reported an error; the relay stops.", code="storage_failed")
            outcomes = [(job.future, failed) for job in jobs]
            self.on_failed()
        settle_futures(outcomes)

    async def read(self, work: Work[T]) -> T:
        self._refuse()
        if self.store.away or self._faults.strikes("read_fails"):
            raise Unavailable("Another program holds the database.", code="storage_unavailable", retry_after_s=5)
        conn = self.store.conn
        conn.exec_driver_sql("BEGIN")
        try:
            found = work(conn, self._clock.now_ms())
        except sqlalchemy.exc.DBAPIError as error:
            raise AssertionError(f"SIM-I17: a read failed without a fault: {error}") from error
        finally:
            conn.exec_driver_sql("ROLLBACK")
        await sleep(self._latency.between(0, 0.005))  # what was read is old by the time it is used
        self._refuse()
        return found

    async def close(self) -> None:
        self.killed = True
