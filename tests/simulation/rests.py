"""Whether a push job that rests may: who lacks something untold is told (I18, I19), and each rest has a reason that holds (I25).

What ends a reason makes the job due, or gives it another reason, in the same transaction. So at every look a job that rests
names one of the reasons of protocol 7.2, and its device's rows bear it out. Nothing here asks `rearm` or the planner. Entries
of conversations are left to the whole of the run: whether one of them is worth telling is a question of much else.
"""

import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from .client import Broken

if TYPE_CHECKING:
    from .store import Store

UNTOLD_RESTS = frozenset(
    {"no_address", "account_parked", "quarantined", "gone", "muted"}
)  # why a job may rest although something is untold
REMINDERS = 3  # of what was told and is not acked (protocol 7.5)
EXPIRING_MS = 2_000  # with less left, nobody is told any more

_OWED = """
SELECT e.seq FROM inbox_entry e JOIN message m ON m.app_id = e.app_id AND m.message_id = e.message_id
WHERE e.app_id = :app AND e.user_id = :user AND e.seq > :after AND e.seq <= :upto
  AND e.notifiable = 1 AND e.state = 'live' AND e.expires_ms > :now AND (:steps OR e.escalated IS NULL)
  AND e.only_device IN ('', :device) AND m.conversation_id IS NULL AND m.scope IS NULL
  AND (coalesce(m.min_schema, 0) <= :schema OR m.fallback IS NOT NULL)
  AND NOT EXISTS (SELECT 1 FROM device_ack a WHERE a.app_id = e.app_id AND a.user_id = e.user_id AND a.device_id = :device
                  AND e.seq BETWEEN a.from_seq AND a.to_seq)
LIMIT 1"""
_TOLD = """
SELECT 1 FROM inbox_entry WHERE app_id = ? AND user_id = ? AND only_device IN ('', ?) AND seq > ? AND seq <= ?
  AND notifiable = 1 AND state = 'live' LIMIT 1"""
_EXPIRING = """
SELECT 1 FROM inbox_entry WHERE app_id = ? AND user_id = ? AND only_device IN ('', ?) AND seq > ?
  AND notifiable = 1 AND state = 'live' AND expires_ms <= ? LIMIT 1"""
_WANTS = "SELECT preferences FROM inbox WHERE app_id = ? AND user_id = ?"
# How many addresses, and of these how many that no account's state keeps from being used. What rests for a mended account is
# made due in portions: until the last of them it may.
_ADDRESSES = """
SELECT count(*), coalesce(sum(coalesce(s.parked_ms IS NULL AND s.mended <= s.released, 1)), 0)
FROM address a LEFT JOIN account_state s ON s.app_id = a.app_id AND s.account = a.account
WHERE a.app_id = ? AND a.user_id = ? AND a.device_id = ? AND a.state = 'active'"""
RELEASED = """
CREATE TEMP TRIGGER released AFTER UPDATE OF released ON main.account_state WHEN new.released > old.released
BEGIN SELECT released(); END"""
_RESTING_FOR_ACCOUNTS = """
SELECT j.app_id, j.user_id, j.device_id FROM push_job j JOIN device d USING (app_id, user_id, device_id)
WHERE j.due_ms IS NULL AND j.claim IS NULL AND j.reason = 'account_parked' AND d.state <> 'gone'"""


class Resting(NamedTuple):
    """A job that rests, with what its device's row says."""

    user: tuple[str, str]
    device_id: str
    reason: str | None
    knock: int
    shown_seq: int
    dormant: bool
    has_address: bool
    schema: int
    acked_seq: int
    pushed_seq: int
    head_seq: int


class Rests:
    """Judges by the rows as they are."""

    def __init__(self, store: "Store") -> None:
        self._raw: sqlite3.Connection = store.raw
        self._released = False  # of a mended account all that rested for it, since the last look
        self._raw.create_function("released", 0, self._note)
        self._raw.execute(RELEASED)

    def _note(self) -> None:
        self._released = True

    def check(self, job: Resting, now_ms: int) -> None:
        """Raises Broken."""
        if job.reason == "muted" and self._raw.execute(_WANTS, job.user).fetchone()[0] is None:
            raise Broken(f"I19: the job of {job.user} {job.device_id} rests as muted, and the user wants to be told")
        if job.has_address and job.reason not in UNTOLD_RESTS:
            untold = self._owed(job, now_ms, after=max(job.acked_seq, job.pushed_seq), upto=job.head_seq)
            if untold is not None:
                raise Broken(
                    f"I18: {job.user} {job.device_id} is stranded before {untold}: its job rests ({job.reason})"
                )
        wrong = self._unfounded(job, now_ms)
        if wrong is not None:
            raise Broken(f"I25: the job of {job.user} {job.device_id} rests ({job.reason}), but {wrong}")

    def committed(self) -> None:
        """Looks at everybody when all that rested for a mended account is said to be due. Raises Broken."""
        if not self._released:
            return
        self._released = False
        for *user, device_id in self._raw.execute(_RESTING_FOR_ACCOUNTS).fetchall():
            if self._addresses((*user, device_id))[1]:
                raise Broken(f"I25: the job of {user} {device_id} rests for an account, and none of its is parked")

    def _unfounded(self, job: Resting, now_ms: int) -> str | None:
        """What speaks against the reason."""
        if not job.has_address or job.reason in {"no_address", "account_parked"}:
            addresses, usable = self._addresses((*job.user, job.device_id))
            if addresses and job.reason != "account_parked":
                return f"it has {addresses} active addresses"
            if usable:
                return "its account is not parked"
        match job.reason:
            case "no_address" | "account_parked" | "muted":
                return None
            case "nothing_owed" if job.has_address:
                owed = self._owed(job, now_ms, after=job.acked_seq, upto=job.head_seq)
                return None if owed is None or self._expiring(job, now_ms) else f"{owed} is owed"
            case "nothing_owed":
                return None  # who has no address is not looked for when something comes
            case "told":
                return self._not_told(job, now_ms)
        return "that is no reason"

    def _not_told(self, job: Resting, now_ms: int) -> str | None:
        """Told to the end: reminded as often as one is, or seen, or away for so long that nobody reminds it."""
        place = (*job.user, job.device_id, job.acked_seq, job.pushed_seq)
        if self._raw.execute(_TOLD, place).fetchone() is None:
            return "nothing that it was told of is owed"
        if job.knock >= REMINDERS or job.dormant:
            return None
        unseen = self._owed(job, now_ms, after=max(job.acked_seq, job.shown_seq), upto=job.pushed_seq, steps=False)
        return None if unseen is None else f"it was reminded {job.knock} times of {unseen}"

    def _expiring(self, job: Resting, now_ms: int) -> bool:
        """Whether something untold has no time left: its end, a moment later, is what looks at the rest again."""
        place = (*job.user, job.device_id, max(job.acked_seq, job.pushed_seq), now_ms + EXPIRING_MS)
        return self._raw.execute(_EXPIRING, place).fetchone() is not None

    def _addresses(self, device: tuple[str, ...]) -> tuple[int, int]:
        active, usable = self._raw.execute(_ADDRESSES, device).fetchone()
        return active, usable

    def _owed(self, job: Resting, now_ms: int, *, after: int, upto: int, steps: bool = True) -> int | None:
        """The first number in (after, upto] that is owed and worth a notification, of those that stand in no conversation.

        `steps`: also of those that are told again by steps of their own, and so by no reminder.
        """
        if after >= upto:
            return None
        app, user = job.user
        found = self._raw.execute(
            _OWED,
            {
                "app": app,
                "user": user,
                "device": job.device_id,
                "schema": job.schema,
                "after": after,
                "upto": upto,
                "now": now_ms + EXPIRING_MS,
                "steps": steps,
            },
        ).fetchone()
        return None if found is None else found[0]
