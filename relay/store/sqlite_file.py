"""The SQLite file: where it may lie, how it is opened, who owns it, and whether it is whole (safety DUR-4)."""

import contextlib
import os
import re
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import sqlalchemy
import structlog
from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.pool import StaticPool
from sqlalchemy.sql import FromClause

from relay.errors import ConfigError, StoreDamaged
from relay.store.direct import DirectConnection

log = structlog.get_logger("relay.store")

sqlite_version: Final = sqlite3.sqlite_version

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
SQLITE_MIN: Final = (3, 37, 0)  # STRICT tables, RETURNING
CHECKED_AT_START_BYTES: Final = 64 * 1024 * 1024  # a larger file is checked while it is served
NETWORK_FILE_SYSTEMS: Final = re.compile(r"(nfs|cifs|smb|9p|fuse|afs|ceph|gluster|lustre|virtiofs|davfs|beegfs).*")
MOUNTS: Final = Path("/proc/mounts")


# --- the library ------------------------------------------------------------------------------------------------------


def check_version(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> None:
    """Raises ConfigError for an SQLite that lacks what our tables need."""
    if version < SQLITE_MIN:
        found = ".".join(map(str, version))
        raise ConfigError([f"store: SQLite {found} is too old; 3.37 or newer is needed."])


def wal_reset_affected(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite has the WAL-reset bug (harmless with one writer; shown as a metric)."""
    return not (version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51, 0) or (3, 44, 6) <= version < (3, 45, 0))


# --- the place --------------------------------------------------------------------------------------------------------


def file_system_of(path: Path, mounts: str) -> str:
    """The type of the file system that holds `path`, by the text of /proc/mounts; '' where that can't be told."""
    here = str(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        point, found = line.split()[1:3]
        point = re.sub(r"\\([0-7]{3})", lambda escaped: chr(int(escaped[1], 8)), point)
        within = here == point or here.startswith(point.rstrip("/") + "/")
        if within and len(point) >= len(best):  # of two at one place, the later one covers the other
            best, kind = point, found
    return kind


def check_place(path: Path) -> None:
    """Raises ConfigError for a file on a network file system: their locks and syncs can't be trusted."""
    try:
        mounts = MOUNTS.read_text()
    except OSError:
        return  # not Linux
    kind = file_system_of(path.resolve(), mounts)
    if NETWORK_FILE_SYSTEMS.fullmatch(kind):
        raise ConfigError(
            [
                f"store.url: {path} lies on a network file system ({kind}), whose locks and syncs can't be trusted; "
                "use a local disk, PostgreSQL, or unsafe_storage = true."
            ]
        )


class OwnerLock:
    """An exclusive lock file beside the database: one relay per file."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if somebody has it, OSError if it can't be made."""
        import fcntl  # noqa: PLC0415 - POSIX only, like the relay

        self._file = path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConfigError(
                [
                    f"store: another relay is using the database {path.name.removesuffix('.lock')!r}; "
                    "stop it, or give this one another store.url."
                ]
            ) from None

    def release(self) -> None:
        self._file.close()


# --- the connection ---------------------------------------------------------------------------------------------------


def connect(path: str, *, read_only: bool) -> sqlite3.Connection:
    """The connection factory: no other code opens the database. Every setting is read back.

    Raises ConfigError if one does not stick or the file can't be opened; StoreDamaged if it is no database.
    """
    where = path if path == ":memory:" else f"file:{path}?mode={'ro' if read_only else 'rwc'}"
    if not read_only and os.path.isfile(path) and not os.access(path, os.R_OK | os.W_OK):
        raise ConfigError([f"store: the database {path} can't be read and written; the relay's own user must own it."])
    try:
        raw = sqlite3.connect(
            where, uri=path != ":memory:", isolation_level=None, check_same_thread=False, cached_statements=512
        )
        try:
            _settle(raw, _wanted(memory=path == ":memory:", read_only=read_only))
        except BaseException:
            raw.close()
            raise
    except sqlite3.OperationalError as error:
        raise ConfigError([f"store: the database {path} can't be opened: {error}."]) from error
    except sqlite3.DatabaseError as error:
        raise StoreDamaged(f"{path}: {error}") from error
    return raw


def connect_copy(path: str) -> sqlite3.Connection:
    """To a new file that nobody else knows yet, for a copy: whoever makes it syncs it, and throws it away if it fails."""
    raw = sqlite3.connect(f"file:{path}?mode=rwc", uri=True, isolation_level=None)
    for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -2048", "cell_size_check = 1"):
        raw.execute(f"PRAGMA {setting}").fetchall()
    return raw


def _wanted(*, memory: bool, read_only: bool) -> dict[str, str | int]:
    wanted = dict(PRAGMAS)
    if memory:
        del wanted["journal_mode"], wanted["mmap_size"]
    if sys.platform == "darwin":
        wanted |= {"fullfsync": 1, "checkpoint_fullfsync": 1}
    return wanted | ({"query_only": 1, "wal_autocheckpoint": 0} if read_only else {"wal_autocheckpoint": 1000})


def _settle(raw: sqlite3.Connection, wanted: dict[str, str | int]) -> None:
    for name, value in wanted.items():
        raw.execute(f"PRAGMA {name} = {value}").fetchall()
        found = raw.execute(f"PRAGMA {name}").fetchone()
        if found is None or str(found[0]).lower() != str(value):
            raise ConfigError([f"store: PRAGMA {name} must be {value}, but the database says {found and found[0]!r}."])


class _Hinting(SQLiteCompiler):
    """Writes what `with_hint` says of a table, INDEXED BY, which SQLAlchemy leaves out for SQLite."""

    def get_from_hint_text(self, table: FromClause, text: str | None) -> str | None:
        return text


def connection(raw: sqlite3.Connection) -> DirectConnection:
    """The same as SQLAlchemy sees it; transactions are begun and ended by hand."""
    engine = sqlalchemy.create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    engine.dialect.statement_compiler = _Hinting
    conn = DirectConnection(engine)
    conn.execution_options(isolation_level="AUTOCOMMIT")
    return conn


def close(conn: Connection) -> None:
    """Closes the connection and what SQLAlchemy holds of it."""
    engine = conn.engine
    conn.close()
    engine.dispose()


# --- is it whole ------------------------------------------------------------------------------------------------------


def quick_check(raw: sqlite3.Connection) -> None:
    """Raises StoreDamaged."""
    found = raw.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreDamaged(str(found))


def integrity_check(raw: sqlite3.Connection) -> None:
    """Raises StoreDamaged."""
    found = raw.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreDamaged(str(found))


def foreign_key_check(raw: sqlite3.Connection) -> None:
    """Raises StoreDamaged."""
    found = raw.execute("PRAGMA foreign_key_check").fetchone()
    if found is not None:
        raise StoreDamaged(f"a row of {found[0]} refers to a row of {found[2]} that is not there")


class BackgroundCheck:
    """Looks through a whole file while it is served. `damaged` is called, from its thread, if it finds something."""

    def __init__(self, path: Path, *, quick: bool, damaged: Callable[[], None]) -> None:
        self._path = path
        self._quick = quick
        self._damaged = damaged
        self._raw = connect(str(path), read_only=True)
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="store-check", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            if self._quick:
                quick_check(self._raw)
            foreign_key_check(self._raw)
        except StoreDamaged as found:
            log.error("store.damaged", reason=str(found))  # noqa: TRY400 - where it was found says nothing
            self._damaged()
        except sqlite3.DatabaseError as error:
            if self._given_up:
                return
            log.warning("store.not_checked", reason=str(error))
            if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR}:
                self._damaged()
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._raw.close()

    def close(self) -> None:
        """Gives up what is not done yet."""
        self._given_up = True
        with contextlib.suppress(sqlite3.Error):  # it is done, and closed
            self._raw.interrupt()
        self._thread.join()
