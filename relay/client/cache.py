"""The client's message database: messages, what has come by which number, and the cursor, in one SQLite file.

Every method is one transaction. A page is stored with its cursor or not at all; a message is kept once, whatever way it
came; a fuller form takes the place of a lesser one.
"""

import json
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from typing import Any

from relay.client import news, said
from relay.client.cache_file import Migration, opened
from relay.client.fingerprints import Extent, Row, Span, joined
from relay.client.outbox import Outbox, own_entry
from relay.client.outcome import Moved, Outcome
from relay.client.shared_store import HOLES, SharedStore, leave_epoch
from relay.client.steps import UNKNOWN_SEQ, Position
from relay.client.wire import CARRIES_BODY, KNOWN_KINDS, Entry, Page, Received, hash_of, instant_ms, stored_entry
from relay.ids import is_message_id, tag_of_id, uuid7_ms

INBOX = "inbox"
OWN = "own"  # gaps of what was sent in this device's name: it is here only if it was sent from here
NEAR = 20  # numbers between two of them, that are rather fetched again than asked around
RANK = {"raw": 0, "fallback": 1, "full": 2}
# For so long after a message was accepted, and after its end, the relay knows its key again (protocol 12.1).
KEY_KEPT_MS = 72 * 3_600_000
KEY_AFTER_LIFE_MS = 24 * 3_600_000
# Raises (ValueError, or what it trips over) for what this version of the app can't use.
Check = Callable[[news.Message], None]


class ByTag(IntEnum):
    """What is known by the tag of its id: nothing before an epoch change, all until everything has come after it, and from then
    on what a sender repeats. He hears of the change when devices may long be back."""

    NONE = 0
    ALL = 1
    REPEATS = 2


class Cache:
    """An open cache. `set_aside`: where an unusable file went when it was opened, and why."""

    def __init__(
        self,
        path: str | Path,
        *,
        rng: random.Random,
        now_ms: int,
        migrations: Sequence[Migration] = (),
        types: Sequence[str] | None = None,
        check: Check | None = None,
    ) -> None:
        """`migrations` are the app's own, for tables of its own in this file; they run once each, in order."""
        self.path = Path(path)
        self._lock = threading.RLock()  # the app may read while the client's own thread writes
        self._db, self.set_aside = opened(self.path, app_migrations=migrations, rng=rng, now_ms=now_ms)
        self._types = None if types is None else frozenset(types)
        self._check = check
        self._app_version: str | None = None  # that judges; see `note_version`
        self.outbox = Outbox(self._transaction, self._rows)
        self.shared = SharedStore(self._transaction, self._rows, self._take)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    # --- what it holds ---

    @property
    def store_id(self) -> str:
        return str(self._one("SELECT id FROM store")[0])

    @property
    def user(self) -> str | None:
        """Whose messages it holds; None before the first handshake."""
        user: str | None = self._one("SELECT user FROM store")[0]
        return user

    @property
    def position(self) -> Position:
        return Position(*self._one("SELECT epoch, seq, cursor FROM store"))

    def words(self) -> dict[str, dict[str, Any]]:
        """What is owed to the relay (relay.client.said)."""
        return {key: json.loads(text) for key, text in self._rows("SELECT key, said FROM word")}

    def messages(
        self, *, conversation: str | None = None, after: int = 0, limit: int = 200, now_ms: int = 0
    ) -> list[news.Message]:
        """Messages in the order in which they came, those with a `place` above `after`.

        Those that were taken back, replaced, deleted or have expired are left out, and whose text has rotted: a comparison
        brings them again.
        """
        rows = self._rows(
            "SELECT raw, form, rowid FROM message WHERE ended IS NULL AND rowid > ? AND (? IS NULL OR conversation = ?)"
            " AND (expires_ms IS NULL OR expires_ms > ?) AND form <> 'control' ORDER BY rowid LIMIT ?",
            after,
            conversation,
            conversation,
            now_ms,
            limit,
        )
        read = [_message(*row) for row in rows]
        if rows and not any(read):  # who asks for what follows must not take this for the end
            return self.messages(conversation=conversation, after=rows[-1][2], limit=limit, now_ms=now_ms)
        return [one for one in read if one is not None]

    def message(self, id_: str) -> news.Message | None:
        """A message by its id; None if it is not (or no more) here, or its text has rotted."""
        rows = self._rows(
            "SELECT raw, form, rowid FROM message WHERE id = ? AND ended IS NULL AND form <> 'control'", id_
        )
        return _message(*rows[0]) if rows else None

    def _one(self, sql: str, *values: Any) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._rows(sql, *values)[0]
        return row

    # --- pages ---

    def keep(self, at: Position, page: Page) -> Outcome:
        """Stores a page and its cursor. Raises Moved if the database does not stand at `at`; sqlite3.Error."""
        with self._transaction() as db:
            here = self.position
            if (here.epoch, here.seq) != (at.epoch, at.seq) or page.from_seq != here.seq:
                raise Moved(here)
            outcome = Outcome(Position(page.epoch, page.to_seq, page.cursor))
            self._take(page.received, outcome)
            self._take_gaps(page)
            db.execute("UPDATE store SET seq = ?, cursor = ?", (page.to_seq, page.cursor))
            if page.caught_up:
                self._all_has_come()
            self._put_words(outcome.words)
        return outcome

    def _all_has_come(self) -> None:
        self._db.execute("UPDATE store SET by_tag = ? WHERE by_tag = ?", (ByTag.REPEATS, ByTag.ALL))

    def fill(self, page: Page) -> tuple[Outcome, int]:
        """Stores what came beside the cursor: by a range, or after a comparison. Gives how many messages were mended."""
        with self._transaction() as db:
            outcome = Outcome(self.position)
            if page.epoch != outcome.position.epoch:
                return outcome, 0
            received = [one for one in page.received if one.entry.kind != "read"]  # a newer marker may have been told
            mended = self._take(received, outcome)
            asked = (INBOX, page.from_seq, page.to_seq)
            inside = "FROM hole WHERE timeline = ? AND from_seq >= ? AND to_seq <= ?"
            own = db.execute(f"SELECT from_seq, to_seq {inside} AND why = ?", (*asked, OWN)).fetchall()
            db.execute(f"DELETE {inside}", asked)
            self._take_gaps(page)
            # What this version is not given stays one to ask for, before a later one compares.
            held = [(gap.from_, gap.to) for gap in page.gaps if gap.why == "held"]
            again = [one for one in own if any(low < one[1] and high > one[0] for low, high in held)]
            db.executemany("INSERT OR REPLACE INTO hole VALUES (?, ?, ?, ?)", [(INBOX, *one, OWN) for one in again])
            self._put_words(outcome.words)
        return outcome, mended

    def _take(self, received: Sequence[Received], outcome: Outcome, timeline: str = INBOX) -> int:
        changed = 0
        by_tag = ByTag(self._one("SELECT by_tag FROM store")[0])
        for one in received:
            entry = one.entry
            if entry.carries_body and entry.kind in CARRIES_BODY:
                changed += self._take_message(one, outcome, by_tag=by_tag, timeline=timeline)
            elif entry.kind == "recall":
                self._end(entry.of, "recalled", entry.seq, outcome, timeline)
            elif entry.kind == "read" and entry.conversation_id is not None:
                outcome.told.append(news.ReadElsewhere(entry.conversation_id, entry.read_seq or 0))
            else:
                self._keep_raw(one)
                outcome.told.append(news.Noticed(entry.kind, one.raw))
                if entry.kind not in KNOWN_KINDS:
                    outcome.words.update([said.nack(entry.id, "unknown_type", self._app_version)])
        return changed

    def _keep_raw(self, one: Received) -> None:
        entry = one.entry
        self._db.execute(
            "INSERT INTO message (id, seq, kind, form, raw) VALUES (?, ?, ?, 'control', ?) ON CONFLICT DO NOTHING",
            (entry.id, entry.seq, entry.kind, one.raw),
        )

    def _take_message(
        self, one: Received, outcome: Outcome, *, by_tag: ByTag, numbered: bool = True, timeline: str = INBOX
    ) -> int:
        entry = one.entry
        form, refusal = self._judged(one)
        known = self._known(entry.id, by_tag=by_tag)
        if known is not None:
            past = (timeline, known[0])  # it has a number of this epoch now
            rows = self._rows(
                "DELETE FROM ledger WHERE timeline = ? AND kept = ? AND seq < 0 RETURNING ended_by", *past
            )
            outlived = known[2] == "superseded" and any(by_seq is not None for (by_seq,) in rows)
            if outlived or (known[1] == "control" and known[2] is None):
                # What has ended it here was the older one, after all; or it is of a kind that an earlier version did not know.
                self._db.execute("DELETE FROM message WHERE id = ?", (known[0],))
                known = None
        kept = entry.id if known is None else known[0]
        expires_ms = instant_ms(entry.expires_at)
        changed = True
        if known is None:
            added = self._db.execute(
                "INSERT INTO message (id, tag, seq, kind, conversation, expires_ms, form, raw) VALUES (?,?,?,?,?,?,?,?)",
                (entry.id, _tag(entry.id), entry.seq, entry.kind, entry.conversation_id, expires_ms, form, one.raw),
            )
            outcome.told.append(news.MessageArrived(news.Message.of(entry, form, added.lastrowid or 0)))
            self._settle(entry, outcome)
        elif known[2] is None and (RANK[form] > RANK[known[1]] or not _sound(known[3])):
            self._db.execute("UPDATE message SET form = ?, raw = ? WHERE id = ?", (form, one.raw, kept))
            (place,) = self._one("SELECT rowid FROM message WHERE id = ?", kept)
            outcome.told.append(news.MessageChanged(news.Message.of(entry, form, place)))
        else:
            changed = False
        # What an earlier version could read is kept as that had it, and not refused. Of what is shared, nothing is owed to this
        # device alone.
        had = known is not None and known[1] == "full" and not changed
        if refusal is not None and not had and timeline == INBOX:
            outcome.words.update([said.nack(entry.id, refusal, self._app_version)])
        if numbered and entry.seq > 0:
            self._enter(one, kept, expires_ms, timeline)
        if entry.collapse_key is not None and entry.kind == "message":
            older = self._db.execute(
                "SELECT kept, seq FROM ledger WHERE timeline = ? AND collapse_key = ? AND seq < ? AND ended_by IS NULL",
                (timeline, entry.collapse_key, entry.seq),
            ).fetchall()
            # Which is older of what came under two epochs, their numbers do not say.
            ended = [id_ for id_, seq in older if id_ != kept and (seq > 0 or _accepted_ms(id_) < _accepted_ms(kept))]
            self._end(ended, "superseded", entry.seq, outcome, timeline)
        return int(changed)

    def _settle(self, entry: Entry, outcome: Outcome) -> None:
        """A copy of what this device has sent ends its wait for the answer."""
        if entry.kind == "own" and (key := self.outbox.settle_copy(self._db, entry)) is not None:
            outcome.told.append(news.Sent(key, entry.id))

    def sent(self, key: str, sent: Mapping[str, Any]) -> tuple[Outcome, bool]:
        """Takes a message from the outbox into the inbox's cache; false: its text is different there, and not kept here.

        `sent` is the relay's answer to it.
        """
        with self._transaction() as db:
            outcome = Outcome(self.position)
            raw = self.outbox.settle(db, key)
            if raw is None:  # its copy has come before the answer
                return outcome, True
            received = own_entry(raw, key, sent)
            if received is not None:
                self._take_message(
                    received, outcome, by_tag=ByTag.NONE, numbered=sent["epoch"] == outcome.position.epoch
                )
            outcome.told.append(news.Sent(key, sent["id"]))
        return outcome, received is not None

    def _known(self, id_: str, *, by_tag: ByTag) -> tuple[str, str, str | None, str] | None:
        """(id, form, ended, raw) of the message as it is here already: by its id, or after an epoch change by its tag."""
        columns = "SELECT id, form, ended, raw, expires_ms FROM message WHERE "
        rows = self._db.execute(columns + "id = ?", (self._kept_as(id_),)).fetchall()
        if not rows and by_tag is not ByTag.NONE and (tag := _tag(id_)) is not None:
            rows = self._db.execute(columns + "tag = ?", (tag,)).fetchall()
            rows = [one for one in rows if by_tag is ByTag.ALL or _is_repeat(id_, of=one[0], expires_ms=one[4])]
        return tuple(rows[0][:4]) if rows else None

    def _kept_as(self, id_: str) -> str:
        """The id of the message in this cache: one that was known by its tag keeps the one it had before."""
        row = self._db.execute("SELECT kept FROM ledger WHERE id = ? LIMIT 1", (id_,)).fetchone()
        return id_ if row is None else str(row[0])

    def _judged(self, one: Received) -> tuple[str, str | None]:
        """The form to keep it in, and the code of a refusal."""
        entry = one.entry
        # A fallback is made for versions that don't know the type.
        if self._types is not None and entry.type not in self._types and entry.form != "fallback":
            return "raw", "unknown_type"
        try:
            if self._check is not None:
                self._check(news.Message.of(entry, entry.form))
        except Exception:  # noqa: BLE001 - a KeyError, say: a body that this version trips over must not end it again and again
            return "raw", "undecodable"
        return entry.form if entry.form in RANK else "full", None

    def _enter(self, one: Received, kept: str, expires_ms: int | None, timeline: str) -> None:
        entry = one.entry
        if entry.h is None:
            return
        if entry.kind == "release":
            self._db.execute(
                "UPDATE ledger SET ended_by = ? WHERE timeline = ? AND id = ? AND seq < ? AND ended_by IS NULL",
                (entry.seq, timeline, entry.id, entry.seq),
            )
        self._db.execute(
            "INSERT INTO ledger (timeline, seq, id, h, expires_ms, collapse_key, kept) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (timeline, seq) DO UPDATE SET id = excluded.id, h = excluded.h, kept = excluded.kept,"
            " expires_ms = excluded.expires_ms, collapse_key = excluded.collapse_key",
            (timeline, entry.seq, entry.id, entry.h, expires_ms, entry.collapse_key, kept),
        )

    def _end(self, ids: Sequence[str], why: str, by_seq: int, outcome: Outcome, timeline: str = INBOX) -> None:
        ended = []
        for id_ in map(self._kept_as, ids):
            self._db.execute(
                "UPDATE ledger SET ended_by = ?"
                " WHERE timeline = ? AND (id = ? OR kept = ?) AND seq < ? AND ended_by IS NULL",
                (by_seq, timeline, id_, id_, by_seq),
            )
            changed = self._db.execute(
                "UPDATE message SET ended = ?, raw = '' WHERE id = ? AND ended IS NULL", (why, id_)
            )
            ended += [id_] if changed.rowcount else []
        if ended:
            outcome.told.append(news.MessagesEnded(tuple(ended), why))

    def _take_gaps(self, page: Page) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO hole (timeline, from_seq, to_seq, why) VALUES (?, ?, ?, ?)",
            [(INBOX, gap.from_, gap.to, gap.why) for gap in page.gaps if gap.why in HOLES or gap.why == OWN],
        )

    # --- where to go on ---

    def adopt(
        self,
        position: Position,
        *,
        session: int | None,
        reason: str | None,
        floor: int,
        user: str | None = None,
        complete: bool = False,
    ) -> Outcome:
        """Stores where reading goes on, and for whom (None: as before); every message stays. Under a new epoch, numbers of
        the past mean nothing, those of read markers among them. `complete`: nothing lies beyond it."""
        with self._transaction() as db:
            here = self.position
            if position.epoch != here.epoch:
                leave_epoch(db, INBOX)
                if here.renumbered(position):  # of shared timelines as well, whose numbers may be lost with the inbox's
                    db.execute("DELETE FROM word WHERE key GLOB ?", (f"{said.READ}*",))
                db.execute("UPDATE store SET by_tag = ?", (ByTag.ALL if here.epoch else ByTag.NONE,))
            if complete:
                self._all_has_come()
            if (reason is not None or here.seq == UNKNOWN_SEQ) and position.seq != UNKNOWN_SEQ:
                db.execute("UPDATE store SET base_seq = ?", (position.seq,))
            db.execute(
                "UPDATE store SET epoch = ?, seq = ?, cursor = ?, session = coalesce(?, session), floor_seq = ?,"
                " user = coalesce(?, user)",
                (position.epoch, position.seq, position.cursor, session, floor, user),
            )
        return Outcome(position)

    # --- words ---

    def put_words(self, words: said.Words) -> said.Words:
        """Keeps words until the relay has heard them, and gives them as they stand now: what is read stays read."""
        with self._transaction():
            kept = self.words()
            standing = {key: said.further(word, kept.get(key)) for key, word in words.items()}
            self._put_words(standing)
        return standing

    def _put_words(self, words: said.Words) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO word (key, said) VALUES (?, ?)",
            [(key, json.dumps(said_)) for key, said_ in words.items()],
        )

    def drop_words(self, heard: said.Words) -> None:
        """Forgets words that were heard, unless they have changed since."""
        with self._transaction() as db:
            rows = [(key, json.dumps(said_)) for key, said_ in heard.items()]
            db.executemany("DELETE FROM word WHERE key = ? AND said = ?", rows)

    def delete(self, ids: Sequence[str]) -> None:
        """Takes messages off this device; what came by which number stays known."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE message SET ended = 'deleted', raw = '' WHERE id = ? AND ended IS NULL", [(i,) for i in ids]
            )

    # --- to compare ---

    @property
    def extent(self) -> Extent:
        base, floor, seq, cursor = self._one("SELECT base_seq, floor_seq, seq, cursor FROM store")
        low = max(base, floor)
        return Extent(low, max(low, seq), cursor)

    def own_gaps(self, extent: Extent) -> list[Span]:
        """Numbers of what was sent in this device's name by somebody else, as its backend, and has never come here."""
        found = self._rows(
            "SELECT from_seq, to_seq, (SELECT count(*) FROM ledger WHERE timeline = ? AND seq > from_seq AND seq <= to_seq)"
            " FROM hole WHERE timeline = ? AND why = ? AND to_seq > ? AND from_seq < ?",
            INBOX,
            INBOX,
            OWN,
            extent.from_seq,
            extent.to_seq,
        )
        gaps = [Span(max(low, extent.from_seq), high) for low, high, here in found if here < high - low]
        return joined(gaps, near=NEAR)

    def rows(self, extent: Extent, *, as_of_ms: int) -> list[Row]:
        """What counts in a comparison (protocol 8.7): also what was ended since by an entry beyond it, as messages go on coming
        meanwhile. A row whose body is missing or has rotted does not."""
        found = self._rows(
            "SELECT l.seq, l.id, l.h, m.raw, m.ended FROM ledger l LEFT JOIN message m ON m.id = l.kept"
            " WHERE l.timeline = ? AND l.seq > ? AND l.seq <= ? AND (l.ended_by IS NULL OR l.ended_by > ?)"
            " AND (l.expires_ms IS NULL OR l.expires_ms > ?) ORDER BY l.seq",
            INBOX,
            extent.from_seq,
            extent.to_seq,
            extent.to_seq,
            as_of_ms,
        )
        return [Row(seq, id_, h) for seq, id_, h, raw, ended in found if _has(raw, ended)]

    # --- the app's version and token ---

    def note_version(self, app_version: str | None) -> str | None:
        """Remembers the app's version; gives the one that ran before."""
        with self._transaction() as db:
            before: str | None = self._one("SELECT app_version FROM store")[0]
            db.execute("UPDATE store SET app_version = ?", (app_version,))
        self._app_version = app_version
        return before

    def token_after(self, given: str) -> str:
        """The token to use if the app brings `given`: its successor, if the relay has handed one out."""
        known, token = self._one("SELECT token_given, token FROM store")
        return str(token) if known == given and token is not None else given

    def put_token(self, given: str, token: str, *, after: str) -> str:
        """Keeps the successor of `after`, if that is still the token to use where the app brings `given`; gives the one to use
        now, which is another where a successor was kept before. It must be stored before it is used."""
        with self._transaction() as db:
            newest = self.token_after(given)
            if newest == after:
                db.execute("UPDATE store SET token_given = ?, token = ?", (given, token))
                newest = token
        return newest


def _is_repeat(id_: str, *, of: str, expires_ms: int | None) -> bool:
    """Whether the relay would still have known the key of the message that is here; later, the key may be another message's."""
    until_ms = max(_accepted_ms(of) + KEY_KEPT_MS, (expires_ms or 0) + KEY_AFTER_LIFE_MS)
    return _accepted_ms(id_) < until_ms


def _accepted_ms(id_: str) -> int:
    return uuid7_ms(id_) or 0


def _tag(id_: str) -> str | None:
    return f"{tag_of_id(id_):x}" if is_message_id(id_) else None


def _message(raw: str, form: str, place: int) -> news.Message | None:
    """A kept message; None if its text has rotted."""
    try:
        return news.Message.of(stored_entry(raw), form, place)
    except ValueError:
        return None


def _sound(raw: str) -> bool:
    """Whether a kept entry is what came: its body still has its hash."""
    try:
        entry = stored_entry(raw)
    except ValueError:
        return False
    return entry.h is None or hash_of(entry.body) == entry.h


def _has(raw: str | None, ended: str | None) -> bool:
    """Whether a message has come and is whole, or was taken off this device on purpose."""
    return raw is not None and (ended is not None or _sound(raw))
