"""The short way to sqlite3 gives what SQLAlchemy's own way gives."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import bindparam, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError, MultipleResultsFound, NoResultFound, OperationalError
from sqlalchemy.pool import StaticPool

from relay.store.direct import DirectConnection

TABLES = sa.MetaData()
thing = sa.Table(
    "thing",
    TABLES,
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("blob", sa.LargeBinary),
    sa.Column("count", sa.BigInteger),
)
ROWS = [{"id": n, "name": f"n{n % 3}", "blob": bytes([n]), "count": None if n % 2 else n} for n in range(6)]


def opened(kind: type[sa.Connection]) -> sa.Connection:
    raw = sqlite3.connect(":memory:", isolation_level=None)
    conn = kind(sa.create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool))
    conn.execution_options(isolation_level="AUTOCOMMIT")
    TABLES.create_all(conn)
    conn.execute(insert(thing), ROWS)
    return conn


@pytest.fixture
def direct() -> Iterator[DirectConnection]:
    conn = opened(DirectConnection)
    assert isinstance(conn, DirectConnection)
    yield conn
    conn.close()


STATEMENTS: dict[str, tuple[Any, Any]] = {
    "a parameter": (select(thing).where(thing.c.id == bindparam("a")), {"a": 3}),
    "no parameters": (select(thing).order_by(thing.c.id), None),
    "one used twice": (
        select(thing.c.id).where((thing.c.id > bindparam("a")) | (thing.c.count == bindparam("a"))),
        {"a": 2},
    ),
    "constants": (select(thing.c.id, thing.c.blob).where(thing.c.name == "n1").limit(1), None),
    "a constant replaced": (select(thing.c.id).where(thing.c.id == bindparam("a", 1)), {"a": 4}),
    "a list of constants": (select(thing.c.name).where(thing.c.id.in_([1, 2, 5])).order_by(thing.c.id), None),
    "a list of constants between parameters": (
        select(thing.c.id)
        .where(thing.c.id > bindparam("a"), thing.c.name.in_(["n0", "n2"]), thing.c.id < bindparam("b"))
        .order_by(thing.c.id),
        {"a": 0, "b": 5},
    ),
    "a list without constants": (select(thing.c.id).where(thing.c.id.in_([])), None),
    "a list replaced": (
        select(thing.c.id).where(thing.c.id.in_(bindparam("a", [1, 2, 3], expanding=True))).order_by(thing.c.id),
        {"a": [4, 5]},
    ),
    "text": (text("SELECT id, name AS called FROM thing WHERE id < :most ORDER BY id"), {"most": 3}),
    "a function": (select(func.count().label("count"), func.max(thing.c.id)).select_from(thing), None),
    "update": (update(thing).where(thing.c.id > bindparam("a")).values(count=thing.c.id + 1), {"a": 2}),
    "update by parameters": (update(thing).where(thing.c.id == bindparam("a")), {"a": 2, "name": "new", "count": 9}),
    "update of many": (
        update(thing).where(thing.c.id == bindparam("a")).values(name=bindparam("called")),
        [{"a": 1, "called": "x"}, {"a": 2, "called": "y"}],
    ),
    "delete": (delete(thing).where(thing.c.name == bindparam("a")), {"a": "n0"}),
    "returning": (
        update(thing).where(thing.c.id == bindparam("a")).values(name="r").returning(thing.c.id, thing.c.name),
        {"a": 1},
    ),
}


@pytest.mark.parametrize("what", STATEMENTS)
def test_a_statement_gives_the_same_each_time(what: str, direct: DirectConnection) -> None:
    statement, parameters = STATEMENTS[what]
    plain = opened(sa.Connection)
    for _ in range(3):
        expected, found = plain.execute(statement, parameters), direct.execute(statement, parameters)
        if isinstance(parameters, list) or not expected.returns_rows:
            assert found.rowcount == expected.rowcount
        else:
            rows, wanted = found.all(), expected.all()
            assert [tuple(row) for row in rows] == [tuple(row) for row in wanted]
            for row, other in zip(rows, wanted, strict=True):
                assert row._asdict() == other._asdict()
        everything = select(thing).order_by(thing.c.id)
        assert list(map(tuple, direct.execute(everything))) == list(map(tuple, plain.execute(everything)))
    plain.close()


def test_the_second_use_does_without_sqlalchemy(direct: DirectConnection) -> None:
    seen: list[str] = []
    sa.event.listen(direct, "before_cursor_execute", lambda *args: seen.append(args[2]))
    statement = select(thing).where(thing.c.id == bindparam("a"))
    for n in range(3):
        direct.execute(statement, {"a": n})
    assert len(seen) == 1


@given(number=st.integers(-(2**63), 2**63 - 1), name=st.none() | st.text(), blob=st.none() | st.binary())
def test_values_come_back_as_they_went_in(number: int, name: str | None, blob: bytes | None) -> None:
    conn = opened(DirectConnection)
    put = update(thing).where(thing.c.id == 1).values(count=bindparam("n"), name=bindparam("s"), blob=bindparam("b"))
    get = select(thing.c.count, thing.c.name, thing.c.blob).where(thing.c.id == 1)
    try:
        name is None or name.encode()
    except UnicodeEncodeError:
        name = None  # no store takes half a surrogate pair: the edge refuses it
    for _ in range(2):
        conn.execute(put, {"n": number, "s": name, "b": blob})
        assert tuple(conn.execute(get).one()) == (number, name, blob)
    conn.close()


def test_one_row_means_one(direct: DirectConnection) -> None:
    few = select(thing.c.id).where(thing.c.id < bindparam("most")).order_by(thing.c.id)
    direct.execute(few, {"most": 0})
    assert direct.execute(few, {"most": 0}).first() is None
    assert direct.execute(few, {"most": 0}).scalar() is None
    assert direct.execute(few, {"most": 0}).scalar_one_or_none() is None
    assert direct.execute(few, {"most": 1}).one().id == 0
    assert direct.execute(few, {"most": 2}).scalars().all() == [0, 1]
    with pytest.raises(NoResultFound):
        direct.execute(few, {"most": 0}).one()
    with pytest.raises(MultipleResultsFound):
        direct.execute(few, {"most": 2}).one_or_none()


def test_errors_are_those_of_sqlalchemy_and_tell_no_values(direct: DirectConnection) -> None:
    double = text("INSERT INTO thing (id, name) VALUES (:id, :name)")
    for _ in range(2):
        with pytest.raises(IntegrityError) as caught:
            direct.execute(double, {"id": 1, "name": "s3cret-value"})
    assert caught.value.orig is not None
    assert caught.value.orig.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
    assert "s3cret" not in str(caught.value)
    with pytest.raises(OperationalError):
        direct.run("SELECT * FROM nothing")


@given(
    names=st.lists(st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"))), max_size=20),
    numbers=st.integers(-(2**63), 2**63 - 1),
    blob=st.none() | st.binary(),
)
def test_rows_packed_into_one_are_the_rows(names: list[str | None], numbers: int, blob: bytes | None) -> None:
    conn = opened(DirectConnection)
    assert isinstance(conn, DirectConnection)
    conn.execute(delete(thing))
    rows = [{"id": n, "name": name, "blob": blob, "count": numbers} for n, name in enumerate(names)]
    if rows:
        conn.execute(insert(thing), rows)
    some = (
        select(thing.c.id, thing.c.name, thing.c.blob, thing.c.count)
        .where(thing.c.id >= bindparam("first"))
        .order_by(thing.c.id.desc())
        .limit(bindparam("count"))
    )
    for _ in range(2):
        found = conn.packed(some, {"first": 2, "count": 10})
        assert found == [list(row) for row in conn.execute(some, {"first": 2, "count": 10})]
    conn.close()
