"""Alembic's environment: the connection comes from `relay.store.migrate`, never from a file."""

from alembic import context

from relay.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # `migrate` has begun a transaction that holds every step
)
context.run_migrations()
