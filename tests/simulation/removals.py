"""Whether whatever ends in an inbox, or goes from it, has a cause that the protocol knows (I17).

Accepting may end an entry by its collapse key, and nothing else: not to make room, nor for any other reason. So the row of
each entry that a commit has ended must show one of these causes, and each row that it has removed must have been over.
"""

import json
import sqlite3
from typing import TYPE_CHECKING

from .client import Broken

if TYPE_CHECKING:
    from .store import Store

ENDED = """
CREATE TEMP TRIGGER entry_ended AFTER UPDATE OF state ON main.inbox_entry WHEN old.state = 'live' AND new.state <> 'live'
BEGIN INSERT INTO ended VALUES (new.app_id, new.user_id, new.seq); SELECT removed(); END"""
GONE = """
CREATE TEMP TRIGGER entry_gone AFTER DELETE ON main.inbox_entry
BEGIN INSERT INTO gone VALUES (old.app_id, old.user_id, old.seq, old.state, old.accepted_ms); SELECT removed(); END"""
_ENDED = """
SELECT g.app_id, g.user_id, g.seq, e.state, e.expires_ms, e.collapse_key, e.message_id, m.scope,
       n.collapse_key, n.kind, n.data
FROM ended g JOIN inbox_entry e ON (e.app_id, e.user_id, e.seq) = (g.app_id, g.user_id, g.seq)
LEFT JOIN message m ON (m.app_id, m.message_id) = (e.app_id, e.message_id)
LEFT JOIN inbox_entry n ON (n.app_id, n.user_id, n.seq) = (e.app_id, e.user_id, e.ended_by_seq) AND n.seq > e.seq"""
_GONE = """
SELECT g.app_id, g.user_id, g.seq FROM gone g JOIN inbox i ON (i.app_id, i.user_id) = (g.app_id, g.user_id)
WHERE g.seq > i.floor_seq OR (g.state = 'live' AND g.accepted_ms > ?)"""


class Removals:
    """What the commits of a run have ended and removed."""

    def __init__(self, store: "Store", *, window_ms: int) -> None:
        """`window_ms`: for so long nothing that lives is removed, though everybody has acked it."""
        self._raw: sqlite3.Connection = store.raw
        self._window_ms = window_ms
        self.taken_back: set[tuple[str, str]] = set()  # messages that their senders have asked for
        self._some = False  # since the last look
        self._raw.create_function("removed", 0, self._note)
        self._raw.execute("CREATE TEMP TABLE ended (app_id TEXT, user_id TEXT, seq INTEGER)")
        self._raw.execute(
            "CREATE TEMP TABLE gone (app_id TEXT, user_id TEXT, seq INTEGER, state TEXT, accepted_ms INTEGER)"
        )
        self._raw.execute(ENDED)
        self._raw.execute(GONE)

    def _note(self) -> None:
        self._some = True

    def committed(self, now_ms: int) -> None:
        """Raises Broken."""
        if not self._some:
            return
        self._some = False
        ended = self._raw.execute(_ENDED).fetchall()
        gone = self._raw.execute(_GONE, (now_ms - self._window_ms,)).fetchall()
        if gone:
            raise Broken(f"I17: of {gone[0][:2]} number {gone[0][2]} was removed, which was not over")
        for app_id, user_id, seq, state, *row in ended:
            if not self._has_cause(app_id, state, *row, now_ms=now_ms):
                raise Broken(f"I17: number {seq} of {(app_id, user_id)} is {state}, for no cause")
        self._raw.execute("DELETE FROM ended")
        self._raw.execute("DELETE FROM gone")

    def _has_cause(
        self,
        app_id: str,
        state: str,
        expires_ms: int,
        collapse_key: str | None,
        message_id: str,
        scope: str | None,
        next_key: str | None,
        next_kind: str | None,
        next_data: str | None,
        *,
        now_ms: int,
    ) -> bool:
        """By the entry's row and that of the one which has ended it. Nothing fails but what goes with its user's rows."""
        match state:
            case "expired":
                return expires_ms <= now_ms
            case "superseded" if next_kind is None:
                return bool(json.loads(scope or "{}").get("first_ack_wins"))
            case "superseded":
                return collapse_key is not None and next_key == collapse_key
            case "recalled" if next_kind != "recall" or message_id not in json.loads(next_data or "{}").get("of", ()):
                return False
            case "recalled" | "cancelled":
                return (app_id, message_id) in self.taken_back
        return False
