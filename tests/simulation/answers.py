"""What comes of a vendor's answers: SETTLE ends nothing, whatever was said (I24).

"Accepted" means that a vendor has a push, not that a device has the message: what was pushed stays owed until it is acked. So
while an answer is written no entry ends, nothing is acked and nobody is told of an end.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from relay.push import worker

if TYPE_CHECKING:
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


class Answers:
    """Of the vendors of a run."""

    def __init__(self, store: "Store") -> None:
        self.settling = False  # at this moment
        store.raw.create_function("settling", 0, lambda: self.settling)
        for n, (event, ends, what) in enumerate(ENDS):
            store.raw.execute(
                f"CREATE TEMP TRIGGER settled_{n} AFTER {event} WHEN {ends} AND settling() "
                f"BEGIN INSERT INTO broken VALUES ('I24: a vendor answered, and that ended ' || {what} || new.user_id); END"
            )
        store.raw.execute(TOLD)


@contextmanager
def heard(answers: Callable[[], Answers]) -> Iterator[None]:
    """Has these know when an answer is written."""
    settle = worker.settle

    def settling(*args: Any, **more: Any) -> Any:
        answers().settling = True
        try:
            return settle(*args, **more)
        finally:
            answers().settling = False

    worker.settle = settling
    try:
        yield
    finally:
        worker.settle = settle
