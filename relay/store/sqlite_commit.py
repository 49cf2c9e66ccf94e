"""One SQLite transaction for many pieces of work, and what the driver's errors mean (safety DUR-8)."""

import asyncio
import contextlib
import sqlite3
from typing import Any, Final

import sqlalchemy

from relay.errors import Problem, Unavailable
from relay.store.direct import DirectConnection
from relay.store.engine import Job, groups, run_group

FULL: Final = frozenset({sqlite3.SQLITE_FULL})
AWAY: Final = frozenset(  # another program holds it, or there is no file descriptor left for it
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL}
)
FATAL: Final = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def sqlite_code(error: BaseException) -> int | None:
    """SQLite's primary result code of a driver's error; None for another error."""
    code = getattr(getattr(error, "orig", error), "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def storage_problem(error: BaseException) -> tuple[Problem, bool]:
    """The answer for a driver's error, and whether the store must not be used any more (safety DUR-8)."""
    code = sqlite_code(error)
    if code in FULL:
        return Unavailable("The relay's disk is full.", code="storage_full", retry_after_s=60), False
    if code in AWAY:
        return Unavailable("Another program holds the database.", code="storage_unavailable", retry_after_s=5), False
    return failed(), True


def failed() -> Unavailable:
    """The answer once the store must not be used any more."""
    return Unavailable("The store reported an error; the relay stops.", code="storage_failed", retry_after_s=5)


def is_storage_error(error: BaseException) -> bool:
    """Whether the disk, or another program, is the reason."""
    return sqlite_code(error) in FULL | AWAY | FATAL


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
        if sqlite_code(error) in FATAL:
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
