"""Entries worth a notification, of many devices at once: what a batch of push jobs looks at, in one statement.

One statement for each device costs more than all the rest of planning and settling its push.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, select

from relay.model import Entry, UserKey
from relay.store.entries import DECIDING, LIVE, WITH_MESSAGE, entry_of
from relay.store.schema.inboxes import inbox_entry
from relay.store.spans import Span, in_spans, span_list
from relay.store.sql import many_rows, per_dialect

SPAN = 16  # numbers looked at after a place; who lacks more is asked about by itself

Place = tuple[UserKey, int, int]  # an inbox, and numbers in (after, upto]
e = inbox_entry.c


class Window(NamedTuple):
    """All that is live and may be worth a notification in (after, upto] of one inbox, in order."""

    after: int
    upto: int
    entries: list[Entry]

    def between(self, after: int, upto: int, limit: int) -> list[Entry] | None:
        """The first `limit` in (after, upto]; None if that cannot be told from here."""
        if not self.after <= after <= self.upto:
            return None
        found = [one for one in self.entries if after < one.seq <= upto][:limit]
        return found if upto <= self.upto or len(found) == limit else None


@per_dialect
def _in_windows(sqlite: bool) -> Select[Any]:
    return (
        select(*DECIDING, e.app_id)
        .select_from(WITH_MESSAGE)
        .where(
            in_spans(sqlite=sqlite),
            e.notifiable == 1,
            LIVE,
            e.expires_ms > bindparam("now"),
        )
    )


def windows(conn: Connection, now_ms: int, places: Iterable[Place]) -> dict[UserKey, list[Window]]:
    """What begins at each of these places, as far as SPAN numbers on."""
    wanted = dict.fromkeys(Span(*key, after, min(upto, after + SPAN)) for key, after, upto in places if after < upto)
    entries: dict[UserKey, dict[int, Entry]] = {}
    if wanted:
        for row in many_rows(conn, _in_windows(conn), {"now": now_ms, **span_list(conn, list(wanted))}):
            entry, user_id, app_id = entry_of(row), row[0], row[-1]
            entries.setdefault(UserKey(app_id, user_id), {})[entry.seq] = entry
    found: dict[UserKey, list[Window]] = {}
    for app_id, user_id, after, upto in wanted:
        key = UserKey(app_id, user_id)
        seen = entries.get(key, {})
        inside = [seen[seq] for seq in sorted(seen) if after < seq <= upto]
        found.setdefault(key, []).append(Window(after, upto, inside))
    return found
