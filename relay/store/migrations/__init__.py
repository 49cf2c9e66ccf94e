"""Schema steps, run by Alembic. Each is one transaction; a database newer than this relay is refused."""
