"""Claims and answers of pushes: one sender at a time, whose answer alone counts (I20), and which ends nothing (I24).

"Accepted" means that a vendor has a push, not that a device has the message: what was pushed stays owed until it is acked. So
while an answer is written no entry ends, nothing is acked and nobody is told of an end. An answer whose claim is over, as its
node slept or its vendor took too long, changes nothing but the log.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from relay.model import UserKey
from relay.push import worker

from .client import Broken

if TYPE_CHECKING:
    from relay.push.settling import Settlement

    from .store import Store

# By what a row has just had done to it; what of that is an end; and whose.
ENDS = (
    (
        "UPDATE OF state ON main.inbox_entry",
        "old.state = 'live' AND new.state <> 'live'",
        "'entry ' || new.seq || ' of '",
    ),
    ("UPDATE OF acked_seq ON main.device", "new.acked_seq > old.acked_seq", "'what was open of '"),
    ("INSERT ON main.device_ack", "new.kind = 0", "'number ' || new.from_seq || ' of '"),
)
TOLD = """
CREATE TEMP TRIGGER settled_event AFTER INSERT ON main.event
WHEN new.type IN ('delivery.acked', 'delivery.expired', 'delivery.failed', 'delivery.cancelled', 'delivery.superseded')
  AND settling()
BEGIN INSERT INTO broken VALUES ('I24: a vendor answered, and ' || new.type || ' was told: ' || new.data); END"""
TAKEN = """
CREATE TEMP TRIGGER claim_taken AFTER UPDATE OF claim_token ON main.push_job
WHEN old.claim IS NOT NULL AND new.claim_token <> old.claim_token
BEGIN SELECT taken(new.user_id, new.device_id, old.claim_until_ms); END"""
_CLAIM = """
SELECT claim_token FROM push_job WHERE app_id = ? AND user_id = ? AND device_id = ? AND claim IS NOT NULL"""
_ROWS = [
    f"SELECT * FROM {table} WHERE app_id = ? AND user_id = ?" for table in ("inbox", "device", "push_job", "address")
]


class Answers:
    """Of the vendors of a run."""

    def __init__(self, store: "Store") -> None:
        self.settling = False  # at this moment
        self._raw = store.raw
        self._wrong: str | None = None
        self._taken: list[tuple[str, str, int]] = []  # jobs whose claim went to another, and until when it was
        store.raw.create_function("settling", 0, lambda: self.settling)
        for n, (event, ends, what) in enumerate(ENDS):
            store.raw.execute(
                f"CREATE TEMP TRIGGER settled_{n} AFTER {event} WHEN {ends} AND settling() "
                f"BEGIN INSERT INTO broken VALUES ('I24: a vendor answered, and that ended ' || {what} || new.user_id); END"
            )
        store.raw.execute(TOLD)
        store.raw.create_function("taken", 3, lambda *claim: self._taken.append(claim))
        store.raw.execute(TAKEN)

    @contextmanager
    def heard(self, settlements: "Sequence[Settlement]") -> Iterator[None]:
        """These, while a transaction writes them."""
        holds: dict[UserKey, bool] = {}
        for one in settlements:
            user = one.attempt.device.user
            holds[user] = holds.get(user, False) or self._holds(one)
        before = {user: self._rows(user) for user, held in holds.items() if not held}
        self.settling = True
        try:
            yield
        finally:
            self.settling = False
        for user, rows in before.items():
            if self._rows(user) != rows:
                self._wrong = f"a vendor's answer under a claim that is over has changed rows of {user}"

    def _holds(self, one: "Settlement") -> bool:
        found = self._raw.execute(_CLAIM, one.attempt.device).fetchone()
        return found is not None and found[0] == one.attempt.token

    def _rows(self, user: UserKey) -> list[Any]:
        return [self._raw.execute(one, user).fetchall() for one in _ROWS]

    def committed(self, now_ms: int) -> None:
        """Raises Broken."""
        if self._wrong is not None:
            raise Broken(f"I20: {self._wrong}")
        for user, device, until_ms in self._taken:
            if until_ms > now_ms:
                raise Broken(f"I20: the push of {user} {device} has got a second sender while the first held its claim")
        self._taken.clear()


@contextmanager
def heard(answers: Callable[[], Answers]) -> Iterator[None]:
    """Has these know when an answer is written."""
    settle = worker.settle

    def settling(conn: Any, now_ms: int, settlements: "Sequence[Settlement]", policy_of: Any) -> Any:
        with answers().heard(settlements):
            return settle(conn, now_ms, settlements, policy_of)

    worker.settle = settling
    try:
        yield
    finally:
        worker.settle = settle
