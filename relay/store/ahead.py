"""Entries worth a notification, of many devices at once: what a batch of push jobs looks at, in one statement.

One statement for each device costs more than all the rest of planning and settling its push.
"""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Select, bindparam, select

from relay.model import Entry, UserKey
from relay.store.entries import DECIDING, LIVE, WITH_MESSAGE, entry_of
from relay.store.schema.inboxes import inbox_entry
from relay.store.spans import Span, in_spans, span_list
from relay.store.sql import many_rows, per_dialect

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


@per_dialect
def _in_windows(sqlite: bool) -> Select[Any]:
    inside, place = in_spans(sqlite=sqlite)
    return (
        select(*DECIDING, place)
        .select_from(WITH_MESSAGE)
        .where(inside, e.notifiable == 1, LIVE, e.expires_ms > bindparam("now"))
    )


def windows(conn: Connection, now_ms: int, places: Iterable[Place]) -> dict[UserKey, list[Window]]:
    """What begins at each of these places, as far as SPAN numbers on."""
    wanted = list(dict.fromkeys((key, after, min(upto, after + SPAN)) for key, after, upto in places if after < upto))
    if not wanted:
        return {}
    entries: list[list[Entry]] = [[] for _ in wanted]
    spans = (Span(*key, after, upto) for key, after, upto in wanted)
    for row in many_rows(conn, _in_windows(conn), {"now": now_ms, **span_list(conn, spans)}):
        entries[row[-1]].append(entry_of(row))
    found: dict[UserKey, list[Window]] = {}
    for (key, after, upto), inside in zip(wanted, entries, strict=True):
        inside.sort(key=_seq)
        found.setdefault(key, []).append(Window(after, upto, inside))
    return found
