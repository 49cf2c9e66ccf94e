"""Heartbeats that say nothing new write nothing (I28): presence lives in memory.

What is new, the rows decide: a heartbeat of the session that they name as online, with the facts that they have, must not
ask the store for a transaction.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from relay.inbox.online import Bye, Word
from relay.model import DeviceKey, Facts

from .client import Broken
from .store import Store

_SAYS = """
SELECT 1 FROM device WHERE app_id = ? AND user_id = ? AND device_id = ? AND state = 'active' AND session = ?
AND online_since_ms IS NOT NULL AND offline_since_ms IS NULL AND background = ? AND open_conversation IS ?"""

NEWS = (Bye, Word)
_WRITES: ContextVar[list[str] | None] = ContextVar("writes", default=None)


class Heartbeats:
    """Those of one node."""

    def __init__(self, store: Store, fail: Callable[[BaseException], None]) -> None:
        self._store = store
        self._fail = fail
        self._changing: set[DeviceKey] = set()  # a farewell, or news, is on the way to the rows

    @contextmanager
    def heard(self, device: DeviceKey, session: int, facts: Facts) -> Iterator[None]:
        """A heartbeat, while it is dealt with."""
        said = (*device, session, int(facts.background), facts.open_conversation)
        nothing_new = device not in self._changing and self._store.raw.execute(_SAYS, said).fetchone() is not None
        writes: list[str] = []
        token = _WRITES.set(writes)
        try:
            yield
        finally:
            _WRITES.reset(token)
        if nothing_new and writes:
            self._fail(Broken(f"I28: a heartbeat of {device} with nothing new asked for {writes}"))

    def asked(self, item: object) -> None:
        """The node's store is asked for a transaction."""
        if isinstance(item, NEWS):
            self._changing.add(item.device)
        writes = _WRITES.get()
        if writes is not None:
            writes.append(type(item).__name__)

    def done(self, item: object) -> None:
        """The transaction is on the disk."""
        if isinstance(item, NEWS):
            self._changing.discard(item.device)
