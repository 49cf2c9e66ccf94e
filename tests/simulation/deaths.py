"""Whose addresses die (I23): only that of the very token which its vendor called dead, and of a time after its registration.

A vendor's word may be late: the app may have brought another token since, or the same one again.
"""

import random
from typing import TYPE_CHECKING

from relay.keys import KeyRing

from .client import Broken
from .node import SECRETS

if TYPE_CHECKING:
    from .store import Store

DIED = """
CREATE TEMP TRIGGER address_died AFTER UPDATE OF state ON main.address WHEN old.state = 'active' AND new.state = 'dead'
BEGIN SELECT died(new.app_id, new.user_id, new.device_id, new.account, new.token_hash, new.registered_ms); END"""


class Deaths:
    """Of addresses, and what vendors have said of their tokens."""

    def __init__(self, store: "Store") -> None:
        self._ring = KeyRing(SECRETS, random.Random(0))  # for hashes alone, which nothing is drawn for
        self._said_ms: dict[
            bytes, int
        ] = {}  # by token's hash; as of when its vendor has called it dead, by its last word
        self._wrong: str | None = None
        store.raw.create_function("died", 6, self._died)
        store.raw.execute(DIED)

    def said(self, app_id: str, account: str, token: str, since_ms: int) -> None:
        """A vendor has called a token dead, as of then."""
        token_hash = self._ring.token_hash(app_id, account, token)
        self._said_ms[token_hash] = max(since_ms, self._said_ms.get(token_hash, since_ms))

    def _died(self, app: str, user: str, device: str, account: str, token_hash: bytes, registered_ms: int) -> None:
        said_ms = self._said_ms.get(token_hash)
        whose = f"the address of {(app, user, device)} at {account} died"
        if said_ms is None:
            self._wrong = f"{whose}, and nobody has called its token dead"
        elif said_ms <= registered_ms:
            self._wrong = f"{whose} by a word of {said_ms}, and it was registered at {registered_ms}"

    def committed(self) -> None:
        """Raises Broken."""
        if self._wrong is not None:
            raise Broken(f"I23: {self._wrong}")
