"""Rows that are written together come out as if each had been written by itself, however many there are."""

from typing import Any

import pytest
from sqlalchemy import select

from relay.store.engine import Conn, Engine
from relay.store.schema.push import account_day
from relay.store.sql import insert_missing, insert_rows, update_rows, upsert

KEY = ("app_id", "account", "day")
COUNTS = (1, 2, 3, 41, 63, 64, 65, 200)


def days(count: int, sent: int) -> list[dict[str, Any]]:
    return [{"app_id": "shop", "account": "v", "day": f"{n:03}", "sent": sent + n} for n in range(count)]


def values(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in rows]


def kept(conn: Conn) -> list[int]:
    return list(conn.execute(select(account_day.c.sent).order_by(account_day.c.day)).scalars())


@pytest.mark.parametrize("count", COUNTS)
async def test_as_many_are_inserted_as_there_are(engine: Engine, count: int) -> None:
    await engine.write(lambda conn, _: insert_rows(conn, account_day, days(count, 0)))
    assert await engine.read(lambda conn, _: kept(conn)) == list(range(count))


@pytest.mark.parametrize("count", COUNTS)
async def test_only_what_is_missing_is_inserted_and_counted(engine: Engine, count: int) -> None:
    await engine.write(lambda conn, _: insert_rows(conn, account_day, days(count, 1000)[::2]))
    there = len(range(0, count, 2))
    assert await engine.write(lambda conn, _: insert_missing(conn, account_day, days(count, 0))) == count - there
    assert await engine.read(lambda conn, _: kept(conn)) == [n if n % 2 else 1000 + n for n in range(count)]


@pytest.mark.parametrize("count", COUNTS)
async def test_each_is_updated_with_its_own_values(engine: Engine, count: int) -> None:
    await engine.write(lambda conn, _: insert_rows(conn, account_day, days(count, 0)))
    changed, columns = values(days(count, 1000)[1:]), (*KEY, "sent")
    larger = {"sent": "CASE WHEN v.sent > t.sent THEN v.sent ELSE t.sent END"}
    await engine.write(lambda conn, _: update_rows(conn, account_day, columns, changed, key=KEY, set_=larger))
    lower = values(days(count, 0))
    await engine.write(lambda conn, _: update_rows(conn, account_day, columns, lower, key=KEY, set_=larger))
    assert await engine.read(lambda conn, _: kept(conn)) == [0, *range(1001, 1000 + count)]


@pytest.mark.parametrize("count", COUNTS)
async def test_those_that_are_there_are_added_to(engine: Engine, count: int) -> None:
    await engine.write(lambda conn, _: insert_rows(conn, account_day, days(count, 0)[::2]))
    more = {"sent": "account_day.sent + excluded.sent"}
    await engine.write(lambda conn, _: upsert(conn, account_day, days(count, 0), set_=more))
    assert await engine.read(lambda conn, _: kept(conn)) == [n if n % 2 else 2 * n for n in range(count)]
