"""Brings a database to this relay's schema. Alembic is imported only for one that an older relay has made."""

from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, inspect, select, text
from sqlalchemy.schema import CreateTable

from relay.errors import ConfigError
from relay.store.row_security import protect
from relay.store.schema import metadata
from relay.store.sql import is_sqlite

HEAD = "0001"  # the newest step under migrations/versions
LOCK = 0x72656C6179  # "relay": the number of the lock under which a PostgreSQL database is migrated
HERE = Path(__file__).parent / "migrations"

_versions = Table(  # Alembic's own, as Alembic makes it
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
_OURS = frozenset(metadata.tables)
_MAY_CREATE = text("SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)")


def revision(conn: Connection) -> str | None:
    """The schema step the database is at; None for an empty one."""
    if not inspect(conn).has_table(_versions.name):
        return None
    return conn.execute(select(_versions.c.version_num)).scalar_one_or_none()


def judged(conn: Connection) -> str | None:
    """The step the database is at, if this relay can bring it to its own; None for an empty one.

    Raises ConfigError for a database that a newer relay has written, that is something else's, or that is closed to us.
    """
    at = revision(conn)
    if at is None:
        _is_free(conn)
    elif at != HEAD and at not in known():
        if not _OURS & set(inspect(conn).get_table_names()):  # Alembic's table is another program's
            _is_free(conn)
        raise ConfigError(
            [f"store: the database is at schema {at}, which is newer than this relay's {HEAD}; run the newer relay."]
        )
    return at


def _is_free(conn: Connection) -> None:
    """Raises ConfigError for a database where our tables cannot be made, or would stand beside another program's: in a file
    any, on a server those of the same name."""
    there = set(inspect(conn).get_table_names())
    if taken := sorted(there if is_sqlite(conn) else there & (_OURS | {_versions.name})):
        raise ConfigError(
            [f"store: the database has tables of something else, such as {taken[0]!r}; name another store.url."]
        )
    if not is_sqlite(conn) and not conn.execute(_MAY_CREATE).scalar_one():
        raise ConfigError(
            [
                "store: the role may make no tables in this database; let it own the database (ALTER DATABASE … OWNER TO …)."
            ]
        )


def migrate(conn: Connection, now_ms: int) -> str | None:
    """Runs the steps that are missing, within the caller's transaction; gives the step before, or None if it was empty.

    An empty database is given the tables as they are now, which is what all steps together lead to. However a table came to
    be, on PostgreSQL its rows are each app's own from here on.

    Raises what `judged` raises.
    """
    del now_ms
    if not is_sqlite(conn):
        _alone(conn)
    at = judged(conn)
    if at is None:
        create(conn)
    elif at != HEAD:
        step_by_step(conn)
    protect(conn)
    return at


def create(conn: Connection) -> None:
    """Makes all tables in an empty database. In one order always: which of two indexes is taken may hang on it."""
    for table in metadata.sorted_tables:
        conn.execute(CreateTable(table))
        for index in sorted(table.indexes, key=lambda one: str(one.name)):
            index.create(conn)
    _versions.create(conn)
    conn.execute(_versions.insert().values(version_num=HEAD))


def step_by_step(conn: Connection) -> None:
    """Runs the steps from where the database is."""
    import alembic.command  # noqa: PLC0415 - 0.3 s that most starts don't need

    config = _config()
    config.attributes["connection"] = conn
    alembic.command.upgrade(config, HEAD)


def known() -> set[str]:
    """Every step that this relay knows."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Any:
    import alembic.config  # noqa: PLC0415

    config = alembic.config.Config()
    config.set_main_option("script_location", str(HERE))
    config.set_main_option("path_separator", "os")
    return config


def _alone(conn: Connection) -> None:
    """Several relays may start at once: one migrates, the others wait for it. No statement is cut in the middle."""
    conn.execute(text("SET LOCAL lock_timeout = '25s'"))
    conn.execute(text("SET LOCAL statement_timeout = 0"))
    conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
