"""What the store's statements share, and the few places where SQLite and PostgreSQL want different words."""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, repeat
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Column, ColumnElement, Connection, Select, Table, and_, bindparam, func, select, text, tuple_
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import BigInteger, LargeBinary, Text

from relay.model import DeviceKey, UserKey
from relay.store.direct import DirectConnection

Row = Mapping[str, Any]
_nothing = text("SELECT 1")
StoreError = DBAPIError  # what a statement raises; the transaction that it was in is over
SIZES = (1, 2, 4, *range(8, 65, 8))  # rows that one statement takes on SQLite: few texts, which sqlite3 keeps compiled
ROWS_TOGETHER = SIZES[-1]


def is_there(conn: Connection) -> bool:
    """Whether the transaction still takes statements: what broke was the work in it, and not the store."""
    try:
        conn.execute(_nothing)
    except Exception:  # noqa: BLE001 - whatever the driver says
        return False
    return True


def by_app(keys: Iterable[UserKey]) -> dict[str, list[str]]:
    """Names of users by app, in order and each once: one statement asks for all of an app's."""
    apps: dict[str, list[str]] = {}
    for key in sorted(dict.fromkeys(keys)):  # they mostly come in order
        apps.setdefault(key.app_id, []).append(key.user_id)
    return apps


def device_params(key: DeviceKey) -> dict[str, Any]:
    """A device's key as the store's statements name it: app, user, device."""
    return {"app": key.app_id, "user": key.user_id, "device": key.device_id}


def is_sqlite(conn: Connection) -> bool:
    return conn.dialect.name == "sqlite"


S = TypeVar("S")


def per_dialect(build: Callable[[bool], S]) -> Callable[[Connection], S]:
    """Builds a statement once per dialect: `build` is told whether it is for SQLite."""
    built = lru_cache(maxsize=2)(build)
    return lambda conn: built(conn.dialect.name == "sqlite")


def in_list(column: Column[Any], name: str, *, sqlite: bool) -> ColumnElement[bool]:
    """`column IN (list)` with the whole list as one parameter called `name`: one cached statement for every length.

    The value to pass is `as_list(conn, values)`.
    """
    if sqlite:
        return column.in_(listed(name, column, sqlite=True))
    return column == func.any(bindparam(name, type_=postgresql.ARRAY(_pg_type(column))))


def listed(name: str, like: Column[Any], *, sqlite: bool) -> Select[Any]:
    """The values of the list that is the parameter `name`, of the kind of this column; to be passed as for `in_list`."""
    if sqlite:
        return select(func.json_each(bindparam(name)).table_valued("value").c.value)
    return select(func.unnest(bindparam(name, type_=postgresql.ARRAY(_pg_type(like)))))


def as_list(conn: Connection, values: Iterable[str] | Iterable[int]) -> Any:
    """The value for `in_list`."""
    listed = list(values)
    return msgspec.json.encode(listed).decode() if is_sqlite(conn) else listed


def among(*columns: Any, sqlite: bool) -> ColumnElement[bool]:
    """Whether the columns together are one of the `keys`, which `key_list` writes.

    SQLite reads the whole table for `(a, b) IN (VALUES …)`, so there it is a join with the list.
    """
    if sqlite:
        one = func.json_each(bindparam("keys")).table_valued("value").c.value
        return and_(*(column == func.json_extract(one, f"$[{place}]") for place, column in enumerate(columns)))
    return tuple_(*columns).in_(bindparam("keys", expanding=True))


def key_list(conn: Connection, keys: Iterable[tuple[str, ...]]) -> Any:
    """The value of `keys` for `among`."""
    listed = sorted(set(keys))
    return msgspec.json.encode(listed).decode() if is_sqlite(conn) else listed


def beyond(columns: Sequence[Any], *names: str) -> ColumnElement[bool]:
    """Whether a row comes after the place that these parameters name. One comparison of rows: an index finds where a walk
    goes on by it, where `a > x OR (a = x AND b > y)` walks from the beginning."""
    return tuple_(*columns) > _place(columns, names)


def before(columns: Sequence[Any], *names: str) -> ColumnElement[bool]:
    """As `beyond`, for a walk backwards."""
    return tuple_(*columns) < _place(columns, names)


def _place(columns: Sequence[Any], names: Sequence[str]) -> ColumnElement[Any]:
    return tuple_(*(bindparam(name, type_=column.type) for column, name in zip(columns, names, strict=True)))


def many_rows(conn: Connection, statement: Select[Any], params: Row) -> Sequence[Sequence[Any]]:
    """Rows of a SELECT that gives many, by place. Where their order matters, it has a LIMIT beside its ORDER BY."""
    if isinstance(conn, DirectConnection):
        return conn.packed(statement, params)
    return conn.execute(statement, params).all()


def insert_rows(conn: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Inserts all rows; one statement, one round trip. Every row has the same keys."""
    if rows:
        _insert(conn, table, rows, missing_only=False)


def insert_missing(conn: Connection, table: Table, rows: Sequence[Row]) -> int:
    """Inserts the rows that are not there yet, in the order given (sort them: it is the order of the locks).

    Gives how many those were.
    """
    return _insert(conn, table, rows, missing_only=True) if rows else 0


def _insert(conn: Connection, table: Table, rows: Sequence[Row], *, missing_only: bool) -> int:
    columns = tuple(rows[0])
    if isinstance(conn, DirectConnection):
        values = [row.values() for row in rows]
        return _run_together(conn, len(columns), values, partial(_sqlite_insert, table, columns, missing_only))
    inserted = conn.execute(
        _pg_insert(table, columns, missing_only=missing_only), {c: [row[c] for row in rows] for c in columns}
    )
    return inserted.rowcount


def _run_together(
    conn: DirectConnection, width: int, rows: Sequence[Collection[Any]], statement: Callable[[int], str]
) -> int:
    """Runs on SQLite what takes so many rows at once, of `width` values each; gives how many it touched.

    sqlite3 gives the interpreter's lock away for each execution, and a busy event loop keeps it for milliseconds: one for
    each row would hold up the writer. Rows of nulls make up the size; a statement passes over them.
    """
    touched = 0
    for at in range(0, len(rows), ROWS_TOGETHER):
        some = rows[at : at + ROWS_TOGETHER]
        size = SIZES[bisect_left(SIZES, len(some))]
        nulls = repeat(None, width * (size - len(some)))
        touched += conn.run(statement(size), (*chain.from_iterable(some), *nulls))
    return touched


@lru_cache(maxsize=1024)
def _sqlite_insert(table: Table, columns: tuple[str, ...], missing_only: bool, size: int) -> str:
    verb = "INSERT OR IGNORE" if missing_only else "INSERT"
    names = ", ".join(columns)
    values = f"WITH v ({names}) AS (VALUES {_marks(len(columns), size)})"
    # `WITH` comes second: of what begins with it, sqlite3 does not count the rows.
    return f'{verb} INTO "{table.name}" ({names}) {values} SELECT * FROM v WHERE {_there(table)}'  # noqa: S608 - names of ours


def _there(table: Table) -> str:
    """Of `v`, no row of nulls: the table's key has none."""
    return f"v.{next(iter(table.primary_key.columns)).name} IS NOT NULL"


def _marks(columns: int, rows: int) -> str:
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)


@lru_cache(maxsize=256)
def _pg_insert(table: Table, columns: tuple[str, ...], *, missing_only: bool) -> Any:
    names = ", ".join(columns)
    arrays = ", ".join(f"CAST(:{c} AS {_pg_name(table.c[c])}[])" for c in columns)
    tail = " ON CONFLICT DO NOTHING" if missing_only else ""
    statement = f'INSERT INTO "{table.name}" ({names}) SELECT * FROM unnest({arrays}){tail}'  # noqa: S608 - as above
    return text(statement).bindparams(*(bindparam(c, type_=postgresql.ARRAY(_pg_type(table.c[c]))) for c in columns))


def upsert(conn: Connection, table: Table, rows: Sequence[Row], *, set_: Mapping[str, str]) -> None:
    """Inserts rows; where the key exists, sets `set_` (column -> SQL over `excluded` and the table's own columns)."""
    if not rows:
        return
    columns = tuple(rows[0])
    key = ", ".join(c.name for c in table.primary_key.columns)
    changes = ", ".join(f"{column} = {value}" for column, value in set_.items())
    tail = f" ON CONFLICT ({key}) DO UPDATE SET {changes}"
    if isinstance(conn, DirectConnection):
        values = [row.values() for row in rows]
        _run_together(conn, len(columns), values, lambda size: _sqlite_insert(table, columns, False, size) + tail)
    else:
        base = _pg_insert(table, columns, missing_only=False)
        statement = text(base.text + tail).bindparams(
            *(bindparam(c, type_=postgresql.ARRAY(_pg_type(table.c[c]))) for c in columns)
        )
        conn.execute(statement, {c: [row[c] for row in rows] for c in columns})


def update_rows(
    conn: Connection,
    table: Table,
    columns: tuple[str, ...],
    rows: Sequence[Sequence[Any]],
    *,
    key: tuple[str, ...],
    set_: Mapping[str, str],
) -> None:
    """Updates many rows, each with its own values, together (PostgreSQL: one statement for each row costs 30 µs each).

    Every row has a value for each of `columns`, by place; `key` are those that find the row, each once; `set_` gives SQL
    over `t` (the row as it is) and `v` (the values) for each column to change.
    """
    if not rows:
        return
    changes = tuple(set_.items())
    if isinstance(conn, DirectConnection):
        _run_together(conn, len(columns), rows, partial(_sqlite_update, table, columns, key, changes))
    else:
        by_column = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
        conn.execute(_pg_update(table, columns, key, changes), by_column)


Changes = tuple[tuple[str, str], ...]


@lru_cache(maxsize=1024)
def _sqlite_update(table: Table, columns: tuple[str, ...], key: tuple[str, ...], set_: Changes, size: int) -> str:
    values = f"WITH v ({', '.join(columns)}) AS (VALUES {_marks(len(columns), size)})"
    return f"{values} {_update(table, set_)} FROM v WHERE {_same(key)}"


@lru_cache(maxsize=512)
def _pg_update(table: Table, columns: tuple[str, ...], key: tuple[str, ...], set_: Changes) -> Any:
    arrays = ", ".join(f"CAST(:{c} AS {_pg_name(table.c[c])}[])" for c in columns)
    statement = f"{_update(table, set_)} FROM unnest({arrays}) AS v({', '.join(columns)}) WHERE {_same(key)}"
    return text(statement).bindparams(*(bindparam(c, type_=postgresql.ARRAY(_pg_type(table.c[c]))) for c in columns))


def _update(table: Table, set_: Changes) -> str:
    changes = ", ".join(f"{column} = {value}" for column, value in set_)
    return f'UPDATE "{table.name}" AS t SET {changes}'  # noqa: S608 - names of ours


def _same(key: tuple[str, ...]) -> str:
    return " AND ".join(f"t.{c} = v.{c}" for c in key)


def least(conn: Connection, *parts: Any) -> Any:
    """The smallest of several expressions, none of which may be null."""
    return func.min(*parts) if is_sqlite(conn) else func.least(*parts)


def greatest(conn: Connection, *parts: Any) -> Any:
    """The largest of several expressions, none of which may be null."""
    return func.max(*parts) if is_sqlite(conn) else func.greatest(*parts)


def _pg_type(column: Column[Any]) -> Any:
    kind = column.type
    if isinstance(kind, LargeBinary):
        return postgresql.BYTEA()
    return Text() if isinstance(kind, Text) else BigInteger()


def _pg_name(column: Column[Any]) -> str:
    return str(_pg_type(column).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
