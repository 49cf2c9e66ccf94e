"""The part of the cache that holds shared timelines: each with a place of its own, beside the inbox's (protocol §12.5)."""

import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from relay.client.fingerprints import Span
from relay.client.follows import FOLLOWED_MAX
from relay.client.outcome import Moved, Outcome
from relay.client.said import READ
from relay.client.steps import NOWHERE, Position
from relay.client.wire import Page, Received

Take = Callable[[Sequence[Received], Outcome, str], int]  # keeps what came, by the timeline's numbers
# What the relay takes for a name: of another it refuses the whole request, and with it the inbox's page of a poll.
NAME = re.compile(r"[^\x00-\x1f\x7f\u202a-\u202e\u2066-\u2069]{1,128}")
HOLES = frozenset({"held", "skipped", "pruned"})  # gaps that may be filled later

CREATE = """CREATE TABLE follow (
    timeline TEXT PRIMARY KEY, epoch TEXT NOT NULL DEFAULT '', seq INTEGER NOT NULL DEFAULT 0, cursor TEXT)
    WITHOUT ROWID"""


def leave_epoch(db: sqlite3.Connection, timeline: str) -> None:
    """Under a new epoch, numbers of the past mean nothing. Messages that a newer one of their collapse key is to end get
    others, below all that follow and in the order that they had: -1 is the newest."""
    live = db.execute(
        "SELECT id, h, expires_ms, collapse_key, kept FROM ledger"
        " WHERE timeline = ? AND collapse_key IS NOT NULL AND ended_by IS NULL ORDER BY seq DESC",
        (timeline,),
    ).fetchall()
    db.execute("DELETE FROM ledger WHERE timeline = ?", (timeline,))
    db.executemany(
        "INSERT INTO ledger (timeline, seq, id, h, expires_ms, collapse_key, kept) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(timeline, -place, *row) for place, row in enumerate(live, start=1)],
    )
    db.execute("DELETE FROM hole WHERE timeline = ?", (timeline,))


class SharedStore:
    """Every method is one transaction, as the cache's are."""

    def __init__(
        self,
        transaction: Callable[[], AbstractContextManager[sqlite3.Connection]],
        rows: Callable[..., list[Any]],
        take: Take,
    ) -> None:
        self._transaction = transaction
        self._rows = rows
        self._take = take

    def follows(self) -> dict[str, Position]:
        """The timelines that are followed, and where each stands."""
        found = self._rows("SELECT timeline, epoch, seq, cursor FROM follow")
        return {name: Position(epoch, seq, cursor) for name, epoch, seq, cursor in found}

    def position(self, name: str) -> Position | None:
        return self.follows().get(name)

    def follow(self, name: str) -> Position:
        """Follows a timeline, if it is not followed yet; gives where it stands. Raises ValueError for one too many, and for
        what is no name."""
        if NAME.fullmatch(name) is None:
            raise ValueError("A conversation's name has 1 to 128 characters, and none that controls how text is shown.")
        with self._transaction() as db:
            follows = self.follows()
            if name not in follows and len(follows) >= FOLLOWED_MAX:
                raise ValueError(f"At most {FOLLOWED_MAX} timelines are followed at once: unfollow one first.")
            db.execute("INSERT INTO follow (timeline) VALUES (?) ON CONFLICT DO NOTHING", (name,))
        return self.position(name) or NOWHERE

    def unfollow(self, name: str) -> None:
        """Its messages stay; where it stood is forgotten."""
        with self._transaction() as db:
            db.execute("DELETE FROM follow WHERE timeline = ?", (name,))

    def keep(self, at: Position, page: Page) -> Outcome:
        """Stores a page and its cursor. Raises Moved if the timeline does not stand at `at`; sqlite3.Error."""
        with self._transaction() as db:
            here = self.position(page.timeline)
            begins = here is not None and (here.cursor is None or page.from_seq == here.seq)
            if here != at or not begins:
                raise Moved(here or NOWHERE)
            outcome = Outcome(Position(page.epoch, page.to_seq, page.cursor))
            self._take(page.received, outcome, page.timeline)
            self._take_gaps(db, page)
            self._put(db, page.timeline, outcome.position)
        return outcome

    def adopt(self, name: str, position: Position) -> Outcome:
        """Stores where a timeline goes on. Under a new epoch, numbers of the past mean nothing, that of its read marker too."""
        with self._transaction() as db:
            here = self.position(name)
            if here is not None and here.epoch != position.epoch:
                leave_epoch(db, name)
                if here.renumbered(position):
                    db.execute("DELETE FROM word WHERE key = ?", (READ + name,))
            self._put(db, name, position)
        return Outcome(position)

    @staticmethod
    def _put(db: sqlite3.Connection, name: str, position: Position) -> None:
        db.execute(
            "UPDATE follow SET epoch = ?, seq = ?, cursor = ? WHERE timeline = ?",
            (position.epoch, position.seq, position.cursor, name),
        )

    # --- what was skipped ---

    def holes(self, name: str) -> list[Span]:
        """Numbers that were skipped, the oldest first."""
        found = self._rows("SELECT from_seq, to_seq FROM hole WHERE timeline = ? ORDER BY from_seq", name)
        return [Span(low, high) for low, high in found]

    def fill(self, page: Page) -> tuple[Outcome, int]:
        """Stores a page of a range, and makes the hole that it lies in smaller. Gives how many messages came."""
        with self._transaction() as db:
            here = self.position(page.timeline)
            outcome = Outcome(here or NOWHERE)
            if here is None or page.epoch != here.epoch:
                return outcome, 0
            came = self._take(page.received, outcome, page.timeline)
            rest: list[tuple[int, int, str]] = []
            inside = (page.timeline, page.to_seq, page.from_seq)
            for low, high, why in db.execute(
                "SELECT from_seq, to_seq, why FROM hole WHERE timeline = ? AND from_seq < ? AND to_seq > ?", inside
            ).fetchall():
                rest += [(low, page.from_seq, why)] if low < page.from_seq else []
                rest += [(page.to_seq, high, why)] if high > page.to_seq else []
            db.execute("DELETE FROM hole WHERE timeline = ? AND from_seq < ? AND to_seq > ?", inside)
            db.executemany("INSERT OR REPLACE INTO hole VALUES (?, ?, ?, ?)", [(page.timeline, *one) for one in rest])
        return outcome, came

    @staticmethod
    def _take_gaps(db: sqlite3.Connection, page: Page) -> None:
        db.executemany(
            "INSERT OR REPLACE INTO hole (timeline, from_seq, to_seq, why) VALUES (?, ?, ?, ?)",
            [(page.timeline, gap.from_, gap.to, gap.why) for gap in page.gaps if gap.why in HOLES],
        )
