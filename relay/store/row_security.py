"""PostgreSQL's row-level security: a statement that forgets its app finds and changes nothing of another's (safety SEC-5).

Each transaction names in `relay.apps` the apps whose rows it is for; where none is named, no row is found. The owner of the
tables is held to it too, as the relay owns them; a superuser, or a role with BYPASSRLS, never is (PostgreSQL 18, 5.9).
"""

from typing import Final

from sqlalchemy import Connection, text

from relay.store.schema import metadata
from relay.store.scope import Scope
from relay.store.sql import is_sqlite

OPEN: Final = frozenset({"node", "store_meta"})  # tables of the store itself: their rows are no app's
OWNED: Final = frozenset(metadata.tables) - OPEN

_EVERY: Final = "*"
_NAMED: Final = "current_setting('relay.apps', true)"  # null or empty, where nobody has said anything
# Sub-selects are worked out once a statement, not once a row; and as the whole is an OR, no plan begins with it.
_POLICY: Final = f"""
(SELECT {_NAMED} = '{_EVERY}')
OR app_id = ANY ((SELECT CASE WHEN left({_NAMED}, 1) = '{{' THEN {_NAMED}::text[] END)::text[])"""

_unprotected = text(
    "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relname = ANY (:owned) AND NOT "
    "(relrowsecurity AND relforcerowsecurity AND EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid)) "
    "ORDER BY relname"
)


def protect(conn: Connection) -> None:
    """Gives every table of apps' rows its policy, if it has none yet. Nothing is done on SQLite."""
    if is_sqlite(conn):
        return
    for name in conn.scalars(_unprotected, {"owned": sorted(OWNED)}).all():
        conn.execute(text(f"DROP POLICY IF EXISTS of_app ON {name}"))
        conn.execute(text(f"CREATE POLICY of_app ON {name} USING ({_POLICY})"))
        conn.execute(text(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"))


def begin(scope: Scope, *, how: str = "") -> str:
    """Begins a transaction for the rows of these apps: two statements, for one round trip. `how`: its isolation level."""
    named = _EVERY if scope is None else "{" + ",".join(map(_element, sorted(scope))) + "}"
    literal = named.replace("'", "''")
    return f"BEGIN {how}; SET LOCAL relay.apps = '{literal}'"


def see_all(conn: Connection) -> None:
    """From here on, the transaction is the relay's own and for the rows of all apps, whoever began it."""
    if not is_sqlite(conn):
        conn.execute(text(f"SET LOCAL relay.apps = '{_EVERY}'"))


def _element(app_id: str) -> str:
    """Quoted as an array's (PostgreSQL 18, 8.15.6)."""
    escaped = app_id.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
