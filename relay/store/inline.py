"""The simulation's engine: SQLite in memory, without threads."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import Connection

from relay.clock import Clock
from relay.store import sqlite_file
from relay.store.direct import DirectConnection
from relay.store.engine import BatchWork, I, Job, R, T, Work
from relay.store.sqlite_commit import commit_group


@dataclass
class InlineEngine:
    """SQLite in memory, run where it is called. `after_write` sees the store as each piece of work has left it."""

    clock: Clock
    conn: DirectConnection = field(
        default_factory=lambda: sqlite_file.connection(sqlite_file.connect(":memory:", read_only=False))
    )
    after_write: Callable[[Connection], None] | None = None
    failed: bool = False
    commits: int = 0
    durability: str = "single-node"
    dangers: tuple[str, ...] = ()
    trusted: bool = True

    async def write(self, work: Work[T], *, is_send: bool = False, size: int = 0) -> T:
        return cast(T, self._run(Job(work, None, batched=False, future=asyncio.get_running_loop().create_future())))

    async def write_batched(self, work: BatchWork[I, R], item: I, *, is_send: bool = False, size: int = 0) -> R:
        return cast(R, self._run(Job(work, item, batched=True, future=asyncio.get_running_loop().create_future())))

    def _run(self, job: Job) -> Any:
        ((future, outcome),) = commit_group(self.conn, self.clock.now_ms(), [job])
        future.cancel()
        self.commits += 1
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
