"""The migrations lead to the very tables that the code knows."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from relay.clock import SystemClock
from relay.store.inline import InlineEngine
from relay.store.migrate import migrate
from relay.store.schema import metadata


def test_a_migrated_store_has_the_tables_of_the_schema() -> None:
    engine = InlineEngine(SystemClock())
    migrate(engine.conn, 0)

    differences = compare_metadata(MigrationContext.configure(engine.conn, opts={"compare_type": True}), metadata)

    assert differences == []
    engine.conn.close()
