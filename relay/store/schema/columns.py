"""What tables are made of."""

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.dialects import sqlite

metadata = MetaData()
Int = BigInteger().with_variant(sqlite.INTEGER(), "sqlite")


def text_(name: str, *, null: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null)


def int_(name: str, *, null: bool = False, default: int | None = None) -> Column[int]:
    return Column(name, Int, nullable=null, server_default=None if default is None else text(str(default)))


def blob_(name: str, *, null: bool = False) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=null)


def table(
    name: str, *columns: Column[str] | Column[int] | Column[bytes], key: tuple[str, ...], clustered: bool = False
) -> Table:
    """`clustered`: on SQLite, rows lie in the order of the key."""
    return Table(
        name,
        metadata,
        *columns,
        PrimaryKeyConstraint(*key),
        sqlite_strict=True,
        sqlite_with_rowid=not clustered,
    )
