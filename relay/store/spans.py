"""Spans of many inboxes, read in one statement: one for each would cost more than what is in them."""

from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, func, select, type_coerce
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import BigInteger, Text

from relay.model import Entry, UserKey
from relay.store.entries import DECIDING, WITH_MESSAGE, entry_of
from relay.store.schema.inboxes import inbox_entry
from relay.store.sql import is_sqlite, many_rows, per_dialect

TOGETHER = 500  # numbers that one statement goes through

e = inbox_entry.c


class Span(NamedTuple):
    """The numbers in (after, upto] of an inbox."""

    app_id: str
    user_id: str
    after: int
    upto: int


_LISTS: dict[str, Any] = {
    "apps": Text(),
    "users": Text(),
    "afters": BigInteger(),
    "uptos": BigInteger(),
    "places": BigInteger(),
}


def in_spans(*, sqlite: bool) -> tuple[ColumnElement[bool], ColumnElement[int]]:
    """Whether an entry lies in a span that `span_list` writes, and the place of that one in the list; in two: it comes twice.

    All of a key comes from the list: so SQLite begins with that (see `sql.among`).
    """
    columns: Any
    if sqlite:
        listed = func.json_each(bindparam("spans")).table_valued("value").c.value
        columns = [func.json_extract(listed, f"$[{place}]") for place in range(len(_LISTS))]
    else:
        arrays = [bindparam(name, type_=ARRAY(kind)) for name, kind in _LISTS.items()]
        span = func.unnest(*arrays).table_valued("app", "holder", "after_seq", "upto_seq", "place", name="span")
        columns = span.render_derived().c
    app, user, after, upto, place = columns
    return and_(e.app_id == app, e.user_id == user, e.seq > after, e.seq <= upto), type_coerce(place, BigInteger)


def span_list(conn: Connection, spans: Iterable[Span]) -> dict[str, Any]:
    """The parameters of `in_spans`."""
    flat = [(*span, place) for place, span in enumerate(spans)]
    if is_sqlite(conn):
        return {"spans": msgspec.json.encode(flat).decode()}
    return dict(zip(_LISTS, map(list, zip(*flat, strict=True)), strict=True))


@per_dialect
def _inside(sqlite: bool) -> Select[Any]:
    inside, place = in_spans(sqlite=sqlite)
    return select(*DECIDING, place).select_from(WITH_MESSAGE).where(inside)


@per_dialect
def _ids_inside(sqlite: bool) -> Select[Any]:
    inside, place = in_spans(sqlite=sqlite)
    return select(e.message_id, place).where(inside)


def ids_at(conn: Connection, numbers: Sequence[tuple[UserKey, int]]) -> list[str | None]:
    """The id of the entry with each of these numbers; None if it has been pruned (or never was)."""
    ids: list[str | None] = [None] * len(numbers)
    if numbers:
        for id_, place in many_rows(
            conn, _ids_inside(conn), span_list(conn, [Span(*key, n - 1, n) for key, n in numbers])
        ):
            ids[place] = id_
    return ids


def entries_in(conn: Connection, spans: Sequence[Span]) -> Iterator[list[Entry]]:
    """Of each of these spans its entries, in order and without their content. Each is another inbox's.

    Read as they are asked for, TOGETHER numbers at a time.
    """
    ends = {span[:2]: span.upto for span in spans}
    found: list[Entry] = []  # of the span that the portion before did not end
    for portion in _portions(spans):
        parts: list[list[Entry]] = [found, *([] for _ in portion[1:])]
        for row in sorted(many_rows(conn, _inside(conn), span_list(conn, portion)), key=itemgetter(1)):
            parts[row[-1]].append(entry_of(row))
        for span, part in zip(portion, parts, strict=True):
            if span.upto == ends[span[:2]]:
                yield part
                found = []
            else:
                found = part


def _portions(spans: Iterable[Span]) -> Iterator[list[Span]]:
    """The same numbers, TOGETHER at a time; of each span at least one part, be there no number in it."""
    portion: list[Span] = []
    room = TOGETHER
    for app_id, user_id, after, upto in spans:
        while True:
            end = min(upto, after + room)
            portion.append(Span(app_id, user_id, after, end))
            room -= end - after
            if not room:
                yield portion
                portion, room = [], TOGETHER
            if end == upto:
                break
            after = end
    if portion:
        yield portion
