"""Entries worth a notification, of many devices at once: what a batch of push jobs looks at, in one statement.

One statement for each device costs more than all the rest of planning and settling its push.
"""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Select, bindparam, func, literal_column, select, type_coerce
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import BigInteger, Text

from relay.model import Entry, UserKey
from relay.store.entries import DECIDING, WITH_MESSAGE, entry_of
from relay.store.schema.inboxes import inbox_entry
from relay.store.sql import is_sqlite, many_rows, per_dialect

SPAN = 16  # numbers looked at after a place; who lacks more is asked about by itself

Place = tuple[UserKey, int, int]  # an inbox, and numbers in (after, upto]
e = inbox_entry.c
_seq = attrgetter("seq")


class Window(Struct, frozen=True, gc=False):
    """All that is live and may be worth a notification in (after, upto] of one inbox, in order."""

    after: int
    upto: int
    entries: list[Entry]

    def between(self, after: int, upto: int, limit: int) -> list[Entry] | None:
        """The first `limit` in (after, upto]; None if that cannot be told from here."""
        if not self.after <= after <= self.upto:
            return None
        whole = after == self.after and upto >= self.upto
        found = self.entries if whole else [one for one in self.entries if after < one.seq <= upto]
        return found[:limit] if upto <= self.upto or len(found) >= limit else None


_LISTS: dict[str, Any] = {
    "apps": Text(),
    "users": Text(),
    "afters": BigInteger(),
    "uptos": BigInteger(),
    "places": BigInteger(),
}


@per_dialect
def _in_windows(sqlite: bool) -> Select[Any]:
    """Each entry with the place of its window; what lies in two comes twice. All of a key comes from the list: so SQLite
    begins with that (see `among`)."""
    columns: Any
    if sqlite:
        listed = func.json_each(bindparam("windows")).table_valued("value").c.value
        columns = [func.json_extract(listed, f"$[{place}]") for place in range(len(_LISTS))]
    else:
        arrays = [bindparam(name, type_=ARRAY(kind)) for name, kind in _LISTS.items()]
        span = func.unnest(*arrays).table_valued("app", "holder", "after_seq", "upto_seq", "place", name="span")
        columns = span.render_derived().c
    app, user, after, upto, place = columns
    return (
        select(*DECIDING, type_coerce(place, BigInteger))
        .select_from(WITH_MESSAGE)
        .where(
            e.app_id == app,
            e.user_id == user,
            e.seq > after,
            e.seq <= upto,
            e.notifiable == 1,
            e.state == literal_column("'live'"),
            e.expires_ms > bindparam("now"),
        )
    )


def windows(conn: Connection, now_ms: int, places: Iterable[Place]) -> dict[UserKey, list[Window]]:
    """What begins at each of these places, as far as SPAN numbers on."""
    wanted = list(dict.fromkeys((key, after, min(upto, after + SPAN)) for key, after, upto in places if after < upto))
    if not wanted:
        return {}
    entries: list[list[Entry]] = [[] for _ in wanted]
    for row in many_rows(conn, _in_windows(conn), {"now": now_ms, **_listed(conn, wanted)}):
        entries[row[-1]].append(entry_of(row))
    found: dict[UserKey, list[Window]] = {}
    for (key, after, upto), inside in zip(wanted, entries, strict=True):
        inside.sort(key=_seq)
        found.setdefault(key, []).append(Window(after, upto, inside))
    return found


def _listed(conn: Connection, wanted: Iterable[Place]) -> dict[str, Any]:
    flat = [(*key, after, upto, place) for place, (key, after, upto) in enumerate(wanted)]
    if is_sqlite(conn):
        return {"windows": msgspec.json.encode(flat).decode()}
    return dict(zip(_LISTS, map(list, zip(*flat, strict=True)), strict=True))
