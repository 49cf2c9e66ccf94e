"""Runs Core statements on sqlite3 with nothing in between.

SQLAlchemy compiles a statement once; after that its execution layer costs about 50 µs a call here, and sqlite3 itself 7.
On the one thread that writes, that was most of what a message cost. A `DirectConnection` keeps the compiled text and the
order of its parameters, and hands both to sqlite3. It does so only for statements whose values need no conversion on the
way in or out, and only from their second use: everything else goes the usual way.

sqlite3 gives the interpreter's lock away and waits for it again at every row. Many rows at once are therefore better had as
one, of JSON (`packed`): two threads that read pages took 1.5 times as long as one did, and so take four fifths of it.
"""

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import msgspec
from sqlalchemy import Connection, CursorResult, Engine, Executable
from sqlalchemy.exc import DBAPIError, MultipleResultsFound, NoResultFound
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import BigInteger, Integer, LargeBinary, NullType, String, TypeEngine

PLAIN: Final = (String, Integer, BigInteger, LargeBinary, NullType)  # the same in Python and in sqlite3

Values = tuple[Any, ...]
Row = Any  # a named tuple


class Rows:
    """What a statement gave: the part of SQLAlchemy's `Result` that the store uses."""

    __slots__ = ("_rows", "rowcount")

    def __init__(self, rows: list[Row], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def all(self) -> list[Row]:
        return self._rows

    def first(self) -> Row | None:
        return self._rows[0] if self._rows else None

    def one_or_none(self) -> Row | None:
        """Raises MultipleResultsFound."""
        if len(self._rows) > 1:
            raise MultipleResultsFound("One row was expected, there were several.")
        return self.first()

    def one(self) -> Row:
        """Raises MultipleResultsFound, NoResultFound."""
        row = self.one_or_none()
        if row is None:
            raise NoResultFound("One row was expected, there was none.")
        return row

    def scalars(self) -> "Rows":
        return Rows([row[0] for row in self._rows], self.rowcount)

    def scalar(self) -> Any:
        return self._rows[0][0] if self._rows else None

    def scalar_one(self) -> Any:
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:
        row = self.one_or_none()
        return None if row is None else row[0]


_plans: WeakKeyDictionary[Executable, dict[tuple[str, ...], "Plan | None"]] = WeakKeyDictionary()
"""By statement and the names of its parameters. All connections share them: SQLite is SQLite."""


def _picker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Values]:
    """From parameters by name to sqlite3's, by place."""
    match names:
        case []:
            return lambda _: ()
        case [name]:
            return lambda params: (params[name],)
    return itemgetter(*names)


class Plan:
    """A statement as sqlite3 takes it: its text, the order of its parameters, the rows it makes."""

    __slots__ = ("_blobs", "_constants", "_make", "_packed", "_pick", "_width", "text")

    def __init__(self, compiled: SQLCompiler) -> None:
        given = dict.fromkeys(name for name, bind in compiled.binds.items() if bind.required)
        whole = compiled.construct_expanded_state(given)  # with constant lists written out, value by value
        places = whole.positiontup or ()
        self.text = whole.statement
        self._constants = {name: value for name, value in whole.parameters.items() if name not in given}
        self._pick = _picker(places)
        self._make: Callable[[Values], Row] | None = None
        self._packed: str | None = None
        columns = compiled._result_columns  # noqa: SLF001 - no public name
        self._width = len(columns)
        self._blobs = [place for place, column in enumerate(columns) if isinstance(column.type, LargeBinary)]

    @property
    def packed(self) -> str:
        """The same rows as one, a JSON array of arrays; bytes in hexadecimal digits."""
        if self._packed is None:
            self._packed = self._as_one_row()
        return self._packed

    def _as_one_row(self) -> str:
        names = [f"c{place}" for place in range(self._width)]
        values = [
            f"iif({name} IS NULL, NULL, hex({name}))" if n in self._blobs else name for n, name in enumerate(names)
        ]
        found = f"WITH found ({', '.join(names)}) AS ({self.text})"
        return f"{found} SELECT json_group_array(json_array({', '.join(values)})) FROM found"  # noqa: S608

    def unpacked(self, text: str) -> list[list[Any]]:
        """The rows of such an array."""
        rows: list[list[Any]] = msgspec.json.decode(text)
        for row in rows if self._blobs else ():
            for place in self._blobs:
                row[place] = None if row[place] is None else bytes.fromhex(row[place])
        return rows

    def values(self, params: Mapping[str, Any] | None) -> Values:
        if self._constants:
            return self._pick({**self._constants, **params} if params else self._constants)
        return self._pick(params or {})

    def rows(self, cursor: sqlite3.Cursor) -> Rows:
        found = cursor.fetchall()
        if found:
            if self._make is None:
                self._make = row_maker([column[0] for column in cursor.description])
            found = list(map(self._make, found))
        return Rows(found, cursor.rowcount)


def row_maker(names: Sequence[str]) -> Callable[[Values], Row]:
    """Makes named tuples of plain ones."""
    kind = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # noqa: PYI024 - its names are the columns
    return partial(tuple.__new__, kind)


def plan_of(statement: Executable, keys: tuple[str, ...], conn: Connection) -> Plan | None:
    """The plan, or None for a statement that needs SQLAlchemy's help at each execution."""
    if statement.get_execution_options():
        return None
    compiled = cast(Any, statement).compile(dialect=conn.dialect, column_keys=list(keys))
    plain = (
        isinstance(compiled, SQLCompiler)
        and not any(bind.required or bind.key in keys for bind in compiled.post_compile_params)
        and not compiled.insert_prefetch
        and not compiled.update_prefetch
        and all(_plain(bind.type) and bind.callable is None for bind in compiled.binds.values())
        and all(_plain(column.type) for column in compiled._result_columns)  # noqa: SLF001 - no public name
    )
    return Plan(compiled) if plain else None


def _plain(kind: TypeEngine[Any]) -> bool:
    return isinstance(kind, PLAIN)


class DirectConnection(Connection):
    """A connection to SQLite that takes the short way where there is one. Transactions are begun and ended by hand."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._raw = cast(sqlite3.Connection, self.connection.driver_connection)

    def execute(self, statement: Executable, parameters: Any = None, **options: Any) -> CursorResult[Any]:
        """See SQLAlchemy; `Rows` stands in for its result."""
        many = isinstance(parameters, list | tuple)
        if statement not in _plans:
            _plans[statement] = {}
            return super().execute(statement, parameters, **options)
        if options or (many and not parameters):
            return super().execute(statement, parameters, **options)
        plan = self._plan(statement, tuple((parameters[0] if many else parameters) or ()))
        if plan is None:
            return super().execute(statement, parameters)
        values = [plan.values(one) for one in parameters] if many else plan.values(parameters)
        return cast(CursorResult[Any], plan.rows(self._run(plan.text, values)))

    def packed(self, statement: Executable, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """The rows of a SELECT in one step; values by their place. Its order counts if it has a LIMIT as well."""
        plan = self._plan(statement, tuple(parameters))
        if plan is None:
            return list(super().execute(statement, parameters))
        (found,) = self._run(plan.packed, plan.values(parameters)).fetchone()
        return plan.unpacked(found)

    def _plan(self, statement: Executable, keys: tuple[str, ...]) -> Plan | None:
        plans = _plans.setdefault(statement, {})
        try:
            return plans[keys]
        except KeyError:
            plan = plans[keys] = plan_of(statement, keys, self)
            return plan

    def run(self, text: str, values: Values | list[Values] = ()) -> int:
        """Runs SQL that gives no rows, once or for each of a list of values; gives the number of rows it touched."""
        return self._run(text, values).rowcount

    def _run(self, text: str, values: Any) -> sqlite3.Cursor:
        try:
            if isinstance(values, list):
                return self._raw.executemany(text, values)
            return self._raw.execute(text, values)
        except sqlite3.Error as error:
            raise DBAPIError.instance(
                text, None, error, sqlite3.Error, hide_parameters=True, dialect=self.dialect
            ) from error
