"""The referee: reads the rows after every commit, and everything at the end, and says what must not be (protocol §17).

It reads the tables by its own SQL, not through the relay's functions, so that a mistake there doesn't cancel out here. What
can't be read in a row is seen where it happens: cursors in answers (I6, `cursors.py`), what is past (I11, `past_words.py`),
causes of ends (I17, `removals.py`), who puts a push off (I21, `due_times.py`), deaths of addresses (I23, `deaths.py`), vendors'
answers (I20, I24, `answers.py`), silence (I27, `silence.py`), heartbeats (I28, `heartbeats.py`), handshakes (I33, I34,
`handshakes.py`), delays (I41, `delays.py`), locks (I42, `locks.py`), epochs (I43, `epochs.py`), logs of hours (I44,
`hour_logs.py`). Jobs that rest have a module of their own (I18, I19, I25, `rests.py`).
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from relay.model import DeviceKey, UserKey
from relay.store import audit
from relay.store.schema import metadata

from . import cursors
from .answers import Answers
from .client import FULL, RAW, Broken
from .deaths import Deaths
from .due_times import DueTimes
from .epochs import Epochs
from .handshakes import Handshakes
from .past_words import PastWords
from .removals import Removals
from .rests import Resting, Rests
from .silence import Silence

if TYPE_CHECKING:
    from .backend import Sent
    from .phone import Phone
    from .store import Store

TRIES = 3  # versions that may choke on a message before nobody gets it again (protocol 8.6)
TERMINAL = frozenset(
    {"delivery.acked", "delivery.expired", "delivery.failed", "delivery.cancelled", "delivery.superseded"}
)
REFUSALS = frozenset(
    {"recipient_unknown", "recipient_queue_full"}
)  # a receiver that a job could not give it to: no delivery's end
EARLY_MS = 90_000  # by so much a node's clock may be off

LATE_MS = 120_000  # a push that was decided before may still go out
# Whether an entry lives and is not acked, or was so lately; nothing is said of those that are gone, or stand in a conversation.
_OPEN = """
SELECT max(d.progress_ms > :late OR d.contact_ms > :late OR coalesce(e.ended_ms > :late, 0) OR (
  e.state = 'live' AND e.expires_ms > :late AND e.seq > d.acked_seq AND NOT EXISTS (
    SELECT 1 FROM device_ack a WHERE a.app_id = e.app_id AND a.user_id = e.user_id AND a.device_id = :device_id
    AND a.kind = 0 AND e.seq BETWEEN a.from_seq AND a.to_seq)))
FROM inbox_entry e JOIN device d ON (d.app_id, d.user_id) = (e.app_id, e.user_id) AND d.device_id = :device_id
WHERE e.app_id = :app_id AND e.user_id = :user_id AND e.message_id = :id"""

_DEVICES = """
SELECT device_id, state, session, lineage_session, start_seq, acked_seq, acked_high, pushed_seq, has_address, schema,
       online_since_ms IS NOT NULL AND offline_since_ms IS NULL, linger_until_ms IS NOT NULL, offline_told
FROM device WHERE app_id = ? AND user_id = ?"""
_LINGER = """
SELECT app_id, user_id, device_id, session FROM device WHERE linger_until_ms IS NOT NULL AND offline_told = 0"""
_JOBS = """
SELECT device_id, due_ms, claim, claim_token, reason, knock, shown_seq FROM push_job WHERE app_id = ? AND user_id = ?"""
_ENTRIES = "SELECT count(*), min(seq), max(seq) FROM inbox_entry WHERE app_id = ? AND user_id = ?"

# The last is until when an upgrade that is not proved, or numbers that were lost, keep what is acked from being pruned.
_INBOX = """
SELECT epoch, head_seq, floor_seq, max(pinned_until_ms, (SELECT pruning_frozen_until_ms FROM store_meta))
FROM inbox WHERE app_id = ? AND user_id = ?"""

OF_USERS = sorted(table.name for table in metadata.sorted_tables if {"app_id", "user_id"} <= set(table.c.keys()))
_NAMED = (
    "SELECT message_id FROM message WHERE app_id = :app AND ("
    "(recipients LIKE :name AND NOT (accepted_ms >= :went AND recipients LIKE :unknown))"
    " OR (sender_user = :user AND accepted_ms < :went))"
)
_WENT = (
    "SELECT max(created_ms) FROM event WHERE app_id = ? AND type IN ('user.renamed', 'user.erased')"
    " AND json_extract(data, '$.user') = ?"
)
_RECIPIENTS = "SELECT recipients FROM message WHERE app_id = ? AND message_id = ?"
_HAS_ENTRY = "SELECT 1 FROM inbox_entry WHERE app_id = ? AND user_id = ? AND message_id = ?"


class Row(NamedTuple):
    """A device's row."""

    device_id: str
    state: str
    session: int
    lineage_session: int
    start_seq: int
    acked_seq: int
    acked_high: int
    pushed_seq: int
    has_address: int
    schema: int | None
    online: int
    lingers: int
    offline_told: int


class Referee:
    """What was, so that what is can be judged."""

    def __init__(self, store: "Store", current: Callable[[UserKey], UserKey], *, window_ms: int) -> None:
        """`current`: by which name a user goes now. `window_ms`: for so long acked entries are kept."""
        self._store = store
        self._current = current
        self.inboxes: dict[tuple[str, str], tuple[str, int, int, int]] = {}
        self._devices: dict[tuple[str, str], dict[str, Row]] = {}
        self._claims: dict[DeviceKey, int] = {}
        self.removals = Removals(store, window_ms=window_ms)
        self.due_times = DueTimes(store)
        self.rests = Rests(store)
        self.answers = Answers(store)
        self.deaths = Deaths(store)
        self.past_words = PastWords(store)
        self.handshakes = Handshakes(store)
        self.epochs = Epochs(store)
        self.silence = Silence()
        self._ids: dict[tuple[str, str, str, int], str] = {}
        self.now_ms = 0
        self.checks = 0
        self.due_ms: dict[tuple[str, str], int] = {}  # messages that are to be delivered later

    def forget(self) -> None:
        """The store was set back: what was is no measure any more. What clients have seen of an epoch stays."""
        self.inboxes.clear()
        self._devices.clear()
        self._claims.clear()
        lingered = self._store.raw.execute(_LINGER).fetchall()
        self.silence.forget((DeviceKey(*key), session) for *key, session in lingered)
        self.past_words.forget()

    # --- after every commit ---

    def committed(self, users: Iterable[tuple[str, str]]) -> None:
        raw = self._store.raw
        if raw.execute("SELECT 1 FROM broken LIMIT 1").fetchone():
            raise Broken(raw.execute("SELECT group_concat(what) FROM broken").fetchone()[0])
        self._store.locks.committed()
        self.removals.committed(self.now_ms)
        self.due_times.committed()
        self.rests.committed()
        self.answers.committed(self.now_ms)
        self.deaths.committed()
        self.past_words.committed()
        self.handshakes.committed()
        for user in sorted(users):
            self.checks += 1
            self._inbox(user)
            self._rows(user)

    def _inbox(self, user: tuple[str, str]) -> None:
        raw = self._store.raw
        row = raw.execute(_INBOX, user).fetchone()
        if row is None:
            if self.inboxes.pop(user, None) is not None:
                self._left(user)
            return
        epoch, head, floor, kept_until_ms = row
        before = self.inboxes.get(user)
        if before is not None and before[0] == epoch:
            if floor < before[2]:
                raise Broken(f"I16: the floor of {user} fell from {before[2]} to {floor}")
            # What comes to be kept in the same commit came, perhaps, after its floor had risen.
            if floor > before[2] and self.now_ms < min(kept_until_ms, before[3]) - EARLY_MS:
                raise Broken(f"I16, I36: the floor of {user} rose to {floor} while everything was to be kept")
            if head < before[1]:
                raise Broken(f"I1: the head of {user} fell from {before[1]} to {head}")
        elif before is not None:
            self._part_from(user)  # in one commit one of this name went, and another came
        if before != row:
            self.inboxes[user] = row
            count, low, high = raw.execute(_ENTRIES, user).fetchone()
            if count != head - floor or (count and (low, high) != (floor + 1, head)):
                raise Broken(f"I1: {user} has {count} entries {low}..{high} for numbers {floor + 1}..{head}")

    def _part_from(self, user: tuple[str, str]) -> None:
        self._devices.pop(user, None)
        self._claims = {key: token for key, token in self._claims.items() if key.user != user}

    def _left(self, user: tuple[str, str]) -> None:
        """E1: whoever was erased, or has another name, is nowhere any more; what is told of it goes with its time."""
        self._part_from(user)
        raw = self._store.raw
        for table in OF_USERS:
            if raw.execute(f"SELECT 1 FROM {table} WHERE app_id = ? AND user_id = ?", user).fetchone():
                raise Broken(f"E1: {user} is no more, but has rows in {table}")
        # A backend may name whom it likes, also who has just gone: as the sender, or as a receiver whom nobody knows.
        (went_ms,) = raw.execute(_WENT, user).fetchone()
        params = {
            "app": user[0],
            "user": user[1],
            "name": f'%"{user[1]}"%',
            "unknown": f'%["{user[1]}",null,%',
            "went": went_ms or self.now_ms,
        }
        found = raw.execute(_NAMED, params).fetchone()
        if found is not None:
            raise Broken(f"E1: {user} is no more, but {found[0]} names it")

    def _rows(self, user: tuple[str, str]) -> None:
        raw = self._store.raw
        inbox = self.inboxes.get(user)
        if inbox is None:
            return
        head = inbox[1]
        before = self._devices.get(user, {})
        now: dict[str, Row] = {}
        for found in raw.execute(_DEVICES, user).fetchall():
            row = Row(*found)
            now[row.device_id] = row
            if row.state != "gone":
                self._device(user, row, head, before.get(row.device_id))
        self._devices[user] = now
        for device_id, due_ms, claim, token, *why in raw.execute(_JOBS, user).fetchall():
            key = DeviceKey(*user, device_id)
            if token < self._claims.get(key, 0):
                raise Broken(f"I20: the claim token of {key} fell to {token}")
            self._claims[key] = token
            row = now[device_id]
            if due_ms is None and claim is None and row.state != "gone":
                self._may_rest(user, row, head, *why)

    def _device(self, user: tuple[str, str], row: Row, head: int, before: Row | None) -> None:
        if not row.start_seq <= row.acked_seq <= head:
            raise Broken(f"I8: {user} {row} with head {head}")
        if not row.acked_seq <= row.acked_high <= row.pushed_seq <= head:
            raise Broken(f"I9: {user} {row} with head {head}")
        low = row.acked_seq
        for from_seq, to_seq in self._store.raw.execute(
            "SELECT from_seq, to_seq FROM device_ack WHERE app_id = ? AND user_id = ? AND device_id = ? "
            "AND kind = 0 ORDER BY from_seq",
            (*user, row.device_id),
        ):
            if from_seq <= low or to_seq < from_seq:
                raise Broken(f"I10: {user} {row} has a range {from_seq}..{to_seq} after {low}")
            low = to_seq
        if before is not None and row.session < before.session:
            raise Broken(f"I26: the session of {user} {row.device_id} fell to {row.session}")
        if before is None or before.state == "gone":
            return
        key = DeviceKey(*user, row.device_id)
        if row.session > before.session:
            self.silence.heard(key, row.session)
        if before.session == row.session and (before.online > row.online or row.offline_told > before.offline_told):
            self.silence.went(key, row.session, lingers=bool(row.lingers and not row.offline_told))
        if row.acked_seq < before.acked_seq and row.lineage_session == before.lineage_session:
            raise Broken(f"I8: acked_seq of {user} {row.device_id} fell to {row.acked_seq} without a rebase")

    def _may_rest(
        self, user: tuple[str, str], row: Row, head: int, reason: str | None, knock: int, shown_seq: int
    ) -> None:
        resting = Resting(
            user=user,
            device_id=row.device_id,
            reason=reason,
            knock=knock,
            shown_seq=shown_seq,
            dormant=row.state == "dormant",
            has_address=bool(row.has_address),
            schema=row.schema or 0,
            acked_seq=row.acked_seq,
            pushed_seq=row.pushed_seq,
            head_seq=head,
        )
        self.rests.check(resting, self.now_ms)

    # --- what clients are told ---

    def told(self, device: DeviceKey, answer: Mapping[str, Any], text: bytes | None = None) -> None:
        """I6: no cursor without what it covers. `text`: the answer as it was sent, where that is at hand."""
        cursors.check(device, answer, json.dumps(answer) if text is None else text.decode())

    def page(self, device: DeviceKey, batch: dict[str, Any]) -> None:
        """I4: in one epoch a number stands for one message, for ever. I31: who is caught up has everything there was."""
        caught_up = "cursor" in batch and batch.get("caught_up", not batch["more"])
        if caught_up and batch["to"] != batch["head"]:
            raise Broken(f"I31: {device} is caught up at {batch['to']}, and the head is {batch['head']}")
        for entry in batch["entries"]:
            place = (*device.user, batch["epoch"], entry["seq"])
            known = self._ids.setdefault(place, entry["id"])
            if known != entry["id"]:
                raise Broken(f"I4: {place} was {known}, is {entry['id']}")
            if self.now_ms < self.due_ms.get((device.app_id, entry["id"]), 0) - EARLY_MS:
                raise Broken(f"D1: {entry['id']} came to {device} before its time")

    def pushed(self, device: DeviceKey, ids: Iterable[str]) -> None:
        """SIM-I10: a push tells of something that is open, or was until a moment ago."""
        lately = self.now_ms - LATE_MS
        found = [
            self._store.raw.execute(_OPEN, {"late": lately, "id": id_, **device._asdict()}).fetchone()[0] for id_ in ids
        ]
        if found and set(found) == {0}:
            raise Broken(f"SIM-I10: {device} is told of {list(ids)}, none of which is open")

    def proved(self, device: DeviceKey, upgrade: str, state: str) -> None:
        """10.4: an upgrade whose phone caught up and compared is known to be complete."""
        found = self._store.raw.execute(_UPGRADE, (*device, upgrade)).fetchone()
        known = None if found is None else found[0]  # None: the store was set back to before it
        complete = state != "failed" and known in {None, "ok", "repaired"}
        if not complete:
            raise Broken(f"10.4: {device} compared after {upgrade} and found {state}, the relay says {known}")

    # --- at the end ---

    def converged(self, phones: Iterable["Phone"]) -> None:
        """Everything live is where it belongs, and every delivery has one end."""
        ends = self._ends()
        for phone in phones:
            self._phone(phone, ends)

    def balanced(self, now_ms: int) -> None:
        """SIM-I15: the books of the relay's own auditor add up."""
        users = [UserKey(*row) for row in self._store.raw.execute("SELECT app_id, user_id FROM inbox").fetchall()]
        if wrong := audit.imbalances(self._store.conn, now_ms, users):
            raise Broken(f"SIM-I15: the books do not add up: {wrong}")

    def accepted(self, app_id: str, sents: Iterable["Sent"], must_have: Callable[[UserKey, "Sent"], bool]) -> None:
        """SIM-I1, I39: whoever was to have an accepted message has an entry of it, or had one that is over."""
        over = {(one[0], one[1], one[3]) for one in self._ends()}
        for sent in sents:
            for user in () if sent.taken_back else sent.owed:
                _, name = self._current(UserKey(app_id, user))
                if (app_id, name, sent.id) in over or self._has_entry(app_id, name, sent.id or ""):
                    continue
                if not must_have(UserKey(app_id, user), sent) or self._refused(app_id, user, name, sent.id):
                    continue
                raise Broken(f"LOST: {sent.id} was accepted for {user} of {app_id}, who has no entry of it")
            self._copied(app_id, sent)
            for user in sent.strangers:
                _, name = self._current(UserKey(app_id, user))
                if self._has_entry(app_id, name, sent.id or ""):
                    raise Broken(f"I39: {user} of {app_id} has {sent.id}, which went to a group that it was not in")

    def _copied(self, app_id: str, sent: "Sent") -> None:
        """I38: the sender's devices have it too, as a copy, unless it is over, or by now its sender is nobody of that name, or
        it went with its last receiver, who was erased before it was due."""
        over = not sent.from_device and self.now_ms > sent.accepted_ms + sent.ttl_s * 1000 - EARLY_MS
        if sent.sender is None or sent.sender in sent.users or sent.taken_back or over or not sent.owed:
            return
        if self._store.raw.execute(_RECIPIENTS, (app_id, sent.id)).fetchone() is None:
            return
        sender = UserKey(app_id, sent.sender)
        there = self._current(sender) == sender and self._store.raw.execute(_INBOX, sender).fetchone() is not None
        if there and not self._has_entry(app_id, sent.sender, sent.id or ""):
            raise Broken(f"I38: {sent.id} was sent by {sent.sender} of {app_id}, who has no copy of it")

    def _has_entry(self, app_id: str, user: str, message_id: str) -> bool:
        found = self._store.raw.execute(_HAS_ENTRY, (app_id, user, message_id)).fetchone()
        return found is not None

    def _refused(self, app_id: str, user: str, name: str, message_id: str | None) -> bool:
        """I39: a job that brought it found nobody by this name any more, or a full inbox, and the message's row says so."""
        found = self._store.raw.execute(_RECIPIENTS, (app_id, message_id)).fetchone()
        recipients = json.loads(found[0])
        return [name, None, "recipient_queue_full"] in recipients or (
            user != name and [user, None, "recipient_unknown"] in recipients
        )

    def _ends(self) -> dict[tuple[str, str, str, str], list[str]]:
        """Terminal events by (app, user, device, message)."""
        ends: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
        for app_id, type_, data in self._store.raw.execute("SELECT app_id, type, data FROM event"):
            if type_ in TERMINAL:
                told = json.loads(data)
                _, name = self._current(UserKey(app_id, told["user"]))
                for one in told["deliveries"]:
                    if one.get("detail") in REFUSALS:
                        continue
                    ends[app_id, name, told["device"] or "", one["message_id"]].append(type_)
        for delivery, types in ends.items():
            if len(types) > 1:
                raise Broken(f"I13: {delivery} ended {len(types)} times: {types}")
        return ends

    def _phone(self, phone: "Phone", ends: dict[tuple[str, str, str, str], list[str]]) -> None:
        key = phone.key
        found = self._store.raw.execute(_DEVICE, key).fetchone()
        if found is None:
            raise Broken(f"{key} is not registered though everything was healed")
        start, created_ms, acked, head = found
        if acked != head:
            raise Broken(f"{key} has acked {acked} of {head} though everything was healed")
        for row in map(Owed._make, self._store.raw.execute(_OWED, (*key.user, start, key.device_id)).fetchall()):
            if not _in_scope(row.scope, key.device_id):
                continue
            if row.kind == "own" and (row.sender_user, row.sender_device) == (key.user_id, key.device_id):
                _wrote(phone, row)
                continue
            ended = ends.get((*key, row.id), []) or ends.get((*key.user, "", row.id), [])
            _content(phone, row, ended)
            if row.kind == "message":
                _end(phone, row, ended, late=row.ended_ms is not None and created_ms >= row.ended_ms)


_DEVICE = """
SELECT d.start_seq, d.created_ms, d.acked_seq, i.head_seq FROM device d JOIN inbox i USING (app_id, user_id)
WHERE d.app_id = ? AND d.user_id = ? AND d.device_id = ?"""
_UPGRADE = """
SELECT coalesce(verify_state, 'nothing') FROM upgrade
WHERE app_id = ? AND user_id = ? AND device_id = ? AND upgrade_id = ?"""
_OWED = """
SELECT e.message_id, e.seq, e.kind, e.state, e.ended_ms, m.scope, m.min_schema, m.fallback IS NOT NULL, m.body,
       m.sender_user, m.sender_device, e.origin_session, e.kind = 'own' OR coalesce(e.data, '') LIKE '%"own":true%'
FROM inbox_entry e JOIN message m ON m.app_id = e.app_id AND m.message_id = e.message_id
WHERE e.app_id = ? AND e.user_id = ? AND e.seq > ? AND e.only_device IN ('', ?)"""


class Owed(NamedTuple):
    """An entry in a device's view, with its message."""

    id: str
    seq: int
    kind: str
    state: str
    ended_ms: int | None
    scope: str | None
    schema: int | None
    fallback: int
    body: str
    sender_user: str | None
    sender_device: str | None
    origin_session: int | None
    own: int  # a copy of what the user sent, or the full form of one


def _content(phone: "Phone", row: Owed, ended: list[str]) -> None:
    """SIM-I6, I14: what is live is there, in the fullest form that this version can show."""
    form = phone.client.database.messages.get(row.id)
    if row.state != "live" or form == FULL:
        return
    if (
        form == RAW
    ):  # kept as it came; another version that can read it gets it again, unless it counts as acked or failed
        bad = json.loads(row.body)["bad"]
        # Nobody is told the end of a copy; nor is it acked anew by who had it, whatever became of its store.
        given_up = ended or (row.own and (len(bad) >= TRIES or row.id in phone.client.ever_full))
        if phone.client.version in bad or given_up:
            return
    shows = (row.schema or 0) <= phone.client.schema
    if shows or (row.fallback and form is None):
        raise Broken(
            f"LOST: {phone.key} lacks {row.id} ({row.seq}): it has {form}, its schema is {phone.client.schema}"
        )


def _wrote(phone: "Phone", row: Owed) -> None:
    """I38: what the user wrote on this phone is there: where it was written, or as the relay gave it back.

    Of two installations with one identity the relay can't tell which one wrote it; nor can it of a request that comes when
    its writer's store is gone, and another has shaken hands.
    """
    draft, database = phone.drafted.get(row.id), phone.client.database
    if draft is None or phone.client.twin or draft.session != row.origin_session or row.state != "live":
        return
    if draft.key not in database.drafts and row.id not in database.messages:
        raise Broken(f"I38: {phone.key} wrote {row.id} ({row.seq}), and has lost it with its store")


def _end(phone: "Phone", row: Owed, ended: list[str], *, late: bool) -> None:
    """I13: no delivery ends in silence, and none is acked by who never had it."""
    form = phone.client.database.messages.get(row.id)
    open_ = row.state == "live" and (form == RAW or ((row.schema or 0) > phone.client.schema and not row.fallback))
    if not ended and not late and not open_:
        raise Broken(f"I13: {phone.key} never ended {row.id} ({row.seq}, {row.state})")
    if "delivery.acked" in ended and row.id not in phone.client.ever_stored:
        raise Broken(f"I12: {phone.key} is said to have acked {row.id}, which it never had")


def _in_scope(scope: str | None, device_id: str) -> bool:
    if scope is None:
        return True
    found = json.loads(scope)
    devices, excluded = found.get("devices") or (), found.get("exclude_devices") or ()
    return (not devices or device_id in devices) and device_id not in excluded
