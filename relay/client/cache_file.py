"""The cache's file: its tables, their migrations, and what to do with a file that can't be used.

A file is never deleted: one that is damaged, or was written by a newer version, is moved aside and a new one begun,
with another store id. The relay sees that, and sends again everything that it still has.
"""

import random
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from relay.client.outbox import CREATE as OUTBOX
from relay.client.shared_store import CREATE as FOLLOW
from relay.ids import random_hex

Migration = Callable[[sqlite3.Connection], None]
BUSY_S = 10.0
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_TABLES = (
    """CREATE TABLE store (
        one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, created_ms INTEGER NOT NULL,
        epoch TEXT NOT NULL DEFAULT '', seq INTEGER NOT NULL DEFAULT 0, cursor TEXT,
        session INTEGER NOT NULL DEFAULT 0, base_seq INTEGER NOT NULL DEFAULT 0, floor_seq INTEGER NOT NULL DEFAULT 0,
        by_tag INTEGER NOT NULL DEFAULT 0, app_migrations INTEGER NOT NULL DEFAULT 0, app_version TEXT,
        token_given TEXT, token TEXT)""",
    """CREATE TABLE message (
        id TEXT PRIMARY KEY, tag TEXT, seq INTEGER NOT NULL, kind TEXT NOT NULL, conversation TEXT,
        expires_ms INTEGER, form TEXT NOT NULL, ended TEXT, raw TEXT NOT NULL)""",
    "CREATE INDEX message_tag ON message (tag)",
    "CREATE INDEX message_conversation ON message (conversation)",
    """CREATE TABLE ledger (
        timeline TEXT NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL, h TEXT NOT NULL, expires_ms INTEGER,
        collapse_key TEXT, kept TEXT NOT NULL, ended_by INTEGER, PRIMARY KEY (timeline, seq)) WITHOUT ROWID""",
    "CREATE INDEX ledger_id ON ledger (id)",
    "CREATE INDEX ledger_collapse ON ledger (collapse_key) WHERE collapse_key IS NOT NULL",
    """CREATE TABLE hole (
        timeline TEXT NOT NULL, from_seq INTEGER NOT NULL, to_seq INTEGER NOT NULL, why TEXT NOT NULL,
        PRIMARY KEY (timeline, from_seq)) WITHOUT ROWID""",
    "CREATE TABLE word (key TEXT PRIMARY KEY, said TEXT NOT NULL) WITHOUT ROWID",
    OUTBOX,
    FOLLOW,
)


def _first(connection: sqlite3.Connection) -> None:
    for statement in _TABLES:
        connection.execute(statement)


def _whose(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE store ADD COLUMN user TEXT")


MIGRATIONS: tuple[Migration, ...] = (_first, _whose)  # the client's own, in order; a released one is never changed


class TooNew(Exception):  # noqa: N818 - not an error of ours
    """The file was written by a version that knows more tables than this one."""


def opened(
    path: Path, *, app_migrations: Sequence[Migration], rng: random.Random, now_ms: int
) -> tuple[sqlite3.Connection, tuple[Path, str] | None]:
    """The cache at `path`, migrated; and where an unusable file went, and why. Raises what a migration raises."""
    try:
        return _open(path, app_migrations, rng, now_ms), None
    except TooNew:
        why = "newer"
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in DAMAGED:
            raise  # locked, no room, no permission, or a migration's own mistake: the file may be whole
        why = "damaged"
    aside = _set_aside(path, why)
    return _open(path, app_migrations, rng, now_ms), (aside, why)


def _open(path: Path, app_migrations: Sequence[Migration], rng: random.Random, now_ms: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # an ack means that it is on the disk
        connection.execute("BEGIN IMMEDIATE")
        try:
            _migrate(connection, app_migrations, rng, now_ms)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(
    connection: sqlite3.Connection, app_migrations: Sequence[Migration], rng: random.Random, now_ms: int
) -> None:
    """All of it in the caller's one transaction: it is done, or nothing has happened."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise TooNew
    for migration in MIGRATIONS[version:]:
        migration(connection)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    if version == 0:
        # The id is made with the tables: another file, or one restored from elsewhere, is another store (protocol §15).
        connection.execute(
            "INSERT INTO store (one, id, created_ms) VALUES (1, ?, ?)", (random_hex(rng, bits=128), now_ms)
        )
    (done,) = connection.execute("SELECT app_migrations FROM store").fetchone()
    if done > len(app_migrations):
        raise TooNew
    for migration in app_migrations[done:]:
        migration(connection)
    connection.execute("UPDATE store SET app_migrations = ?", (len(app_migrations),))


def _set_aside(path: Path, why: str) -> Path:
    n = 1
    while (aside := path.with_name(f"{path.name}.{why}-{n}")).exists():
        n += 1
    for ending in ("-wal", "-shm"):
        beside = path.with_name(path.name + ending)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + ending))
    path.rename(aside)
    return aside
