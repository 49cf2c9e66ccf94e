"""What devices say that is past (I11): by a session which a newer one has replaced, or of a store that is no more.

Such a word may come at any time: from a connection that nobody has noticed is dead, by a request that was long on its way. It
changes no row of its user, whatever it says. By themselves few do come, so what was said is kept, to be said again.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from relay.inbox import online, service
from relay.inbox.ack import AckRequest
from relay.model import Facts, UserKey

from .client import Broken
from .draws import Stream

if TYPE_CHECKING:
    from .node import Node
    from .store import Store

_NOW = """
SELECT session, lineage_session FROM device WHERE app_id = ? AND user_id = ? AND device_id = ? AND state <> 'gone'"""
_ROWS = [
    f"SELECT {what} FROM {table} WHERE app_id = ? AND user_id = ?"
    for table, what in (
        *((table, "*") for table in ("inbox", "device", "device_ack", "device_held", "push_job")),
        ("inbox_entry", "count(*), sum(state = 'live'), sum(completed_ms IS NULL)"),
    )
]
KEPT = 300
Saying = Callable[[Any, int, Sequence[Any], Any], Any]


class PastWords:
    """Those of all devices of a run."""

    def __init__(self, store: "Store") -> None:
        self._raw = store.raw
        self._wrong: str | None = None
        self._said: deque[Any] = deque(maxlen=KEPT)

    @contextmanager
    def heard(self, words: Sequence[Any]) -> Iterator[None]:
        """These words, while a transaction takes them. It looks at users of whom all that is said is past."""
        past: dict[UserKey, bool] = {}
        for one in words:
            user = one.device.user
            past[user] = past.get(user, True) and self._is_past(one)
        before = {user: self._rows(user) for user, all_past in past.items() if all_past}
        self._said.extend(words)
        yield
        for user, rows in before.items():
            if self._rows(user) != rows:
                said = [one for one in words if one.device.user == user]
                self._wrong = f"what is past has changed rows of {user}: {said}"

    def one(self, draws: Stream) -> Any:
        """Something that was said, and is past by now; None if there is nothing."""
        past = [word for word in self._said if self._is_past(word)]
        return draws.pick(past) if past else None

    def forget(self) -> None:
        """The store was set back: what was said since is not past there, but to come."""
        self._said.clear()

    def _is_past(self, word: Any) -> bool:
        found = self._raw.execute(_NOW, word.device).fetchone()
        if found is None:
            return False
        session, lineage = found
        if word.session is not None and word.session < session:
            return True
        return isinstance(word, AckRequest) and _by_cursor_alone(word) and word.cursor.session < lineage

    def _rows(self, user: UserKey) -> list[Any]:
        return [self._raw.execute(one, user).fetchall() for one in _ROWS]

    def committed(self) -> None:
        """Raises Broken."""
        if self._wrong is not None:
            raise Broken(f"I11: {self._wrong}")


def _by_cursor_alone(ack: AckRequest) -> bool:
    """What is said of single messages holds whatever store it comes from, so it may change rows."""
    return ack.cursor is not None and not (ack.ids or ack.reads or ack.receipts or ack.shared or ack.shared_upto)


async def say(node: "Node", word: Any) -> None:
    """Says it to this node. Raises Problem."""
    match word:
        case online.Bye():
            await node.inbox.went(word.device, word.session, linger_ms=word.linger_ms, tell=word.tell)
        case online.Word():
            await node.inbox.said(word.device, word.session, Facts(word.background, word.open_conversation))
        case _:
            await node.inbox.ack(word)


@contextmanager
def heard(past: Callable[[], PastWords]) -> Iterator[None]:
    """Has these see acks, farewells and news of presence as they are taken."""
    places = ((service, "ack"), (online, "bye"), (online, "word"))
    before = [getattr(module, name) for module, name in places]

    def seen(take: Saying) -> Saying:
        def taking(conn: Any, now_ms: int, words: Sequence[Any], policy_of: Any) -> Any:
            with past().heard(words):
                return take(conn, now_ms, words, policy_of)

        return taking

    for (module, name), take in zip(places, before, strict=True):
        setattr(module, name, seen(take))
    try:
        yield
    finally:
        for (module, name), take in zip(places, before, strict=True):
            setattr(module, name, take)
