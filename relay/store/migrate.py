"""Brings a database to this relay's schema. Alembic is imported only when there is something to do."""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

from relay.errors import ConfigError
from relay.store.sql import is_sqlite

HEAD = "0001"  # the newest step under migrations/versions
LOCK = 0x72656C6179  # "relay": the number of the lock under which a PostgreSQL database is migrated
HERE = Path(__file__).parent / "migrations"


def revision(conn: Connection) -> str | None:
    """The schema step the database is at; None for an empty one."""
    if not inspect(conn).has_table("alembic_version"):
        return None
    return conn.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def migrate(conn: Connection, now_ms: int) -> str | None:
    """Runs the steps that are missing, within the caller's transaction; gives the step before, or None if it was empty.

    Raises ConfigError for a database that a newer relay has written.
    """
    del now_ms
    if not is_sqlite(conn):
        _alone(conn)
    at = revision(conn)
    if at == HEAD:
        return at
    if at is not None and at not in known():
        raise ConfigError(
            [f"store: the database is at schema {at}, which is newer than this relay's {HEAD}; run the newer relay."]
        )
    import alembic.command  # noqa: PLC0415 - 0.3 s that most starts don't need

    config = _config()
    config.attributes["connection"] = conn
    alembic.command.upgrade(config, HEAD)
    return at


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
