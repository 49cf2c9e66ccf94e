"""The only place that knows how store functions are run.

A store function is plain and synchronous: `work(conn, now_ms)`. It runs inside one transaction; what it raises undoes
what it did. Three engines run the same functions:

- `SqliteEngine` (in `sqlite.py`): one writer thread with the one writing connection, group commit of all that waits;
  read-only connections in a few threads.
- `PostgresEngine` (in `postgres.py`): asyncpg through `run_sync`, a few workers.
- `InlineEngine` (in `inline.py`): no thread, for the simulation.

A request never awaits the driver: it puts work into a queue and awaits a future, so a cancelled request can neither
tear a transaction nor poison a connection.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection

from relay.errors import Unavailable
from relay.store.scope import ALL, Scope

Conn = Connection  # what services hand through to store functions without knowing what it is
T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")

GROUP_MAX = 256  # pieces of work in one commit
GROUP_BYTES = 4 * 1024 * 1024  # ... and what they store (safety DUR-7)

READS = "store_reads"
READS_MAX = 32_768  # that wait. Each of a node's 20,000 sockets has one at a time, and so has each request (OVL-1)

Queues = dict[
    str, tuple[int, int]
]  # what waits, or is under way, and how much may (OVL-1); by its name for the metrics
Work = Callable[[Connection, int], T]
BatchWork = Callable[[Connection, int, list[I]], Sequence[R | Exception]]


class Watch(Protocol):
    """Told of each commit: how many pieces of work it held and how long it took."""

    def committed(self, size: int, seconds: float) -> None: ...

    def refused(self) -> None: ...

    def turned_away(self, queue: str) -> None: ...


class NoWatch:
    """Nobody looks on."""

    def committed(self, size: int, seconds: float) -> None: ...

    def refused(self) -> None: ...

    def turned_away(self, queue: str) -> None: ...


class Overtaken(Exception):  # noqa: N818 - it is what happened
    """What the work had read before it had its locks has changed since: it is run again from its beginning. SQLite's writer
    is alone, so there nobody comes between."""


def check_reads(waiting: int, watch: Watch) -> None:
    """Raises Unavailable, if so many reads wait already."""
    if waiting >= READS_MAX:
        watch.turned_away(READS)
        raise Unavailable("Too many reads wait for the store.", code="overloaded", retry_after_s=1)


class Engine(Protocol):
    """Runs store functions."""

    async def write(self, work: Work[T], *, is_send: bool = False, size: int = 0) -> T:
        """Runs `work` in a transaction and returns its value after the COMMIT.

        What is a send waits behind all else, and is refused first. `size` is what it stores, about, in bytes: it bounds
        what waits and what goes into one commit. Work that stores little has none.
        """
        ...

    async def write_batched(self, work: BatchWork[I, R], item: I, *, is_send: bool = False, size: int = 0) -> R:
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
    def commits(self) -> int:
        """How many transactions have been committed: while that goes on the store is there, however much waits for it."""
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
    """One piece of work in a queue. `item` is None for plain work."""

    work: Any
    item: Any
    batched: bool
    future: "asyncio.Future[Any]"
    is_send: bool = False
    size: int = 0  # bytes
    scope: Scope = ALL  # whose rows it is for


def settle_futures(outcomes: Sequence[tuple["asyncio.Future[Any]", Any]]) -> None:
    """Gives everybody who waits the outcome. In the loop of the futures."""
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
