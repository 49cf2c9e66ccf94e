"""Numbers that were lost are never taken for those that come in their place (I43): a new epoch begins before anybody is answered.

What an epoch was called is told to devices only. So whatever they were told before the store was set back must not be told
again; and as long as nobody can know who has which of the lost numbers, nothing that is acked is pruned.
"""

from collections import defaultdict
from typing import TYPE_CHECKING

from relay.model import DeviceKey, UserKey
from relay.store.meta import Witness

from .client import Broken

if TYPE_CHECKING:
    from .store import Store

FROZEN_MS = 7 * 86_400_000
EARLY_MS = 90_000  # by so much a node's clock may be off
_META = "SELECT epoch, ticks, pruning_frozen_until_ms FROM store_meta"


class Epochs:
    """Of a run's store and inboxes."""

    def __init__(self, store: "Store") -> None:
        self._raw = store.raw
        self._lost: str | None = None  # numbers of this epoch of the store; nobody has begun another yet
        self._frozen_ms = 0  # until then what is acked stays
        self._told: dict[UserKey, set[str]] = defaultdict(set)
        self._void: dict[UserKey, set[str]] = defaultdict(set)

    def set_back(self, witness: Witness | None, now_ms: int) -> None:
        """The store was set back, now. What was not seen to be ahead of it was not: then nothing has been numbered since."""
        epoch, ticks, _ = self._raw.execute(_META).fetchone()
        if witness is None or witness.epoch != epoch or witness.ticks <= ticks:
            return
        self._lost, self._frozen_ms = epoch, now_ms + FROZEN_MS - EARLY_MS
        for user, told in self._told.items():
            self._void[user] |= told

    def up(self) -> None:
        """A relay has started: from now on it answers. Raises Broken."""
        if self._lost is None:
            return
        epoch, _, frozen_until_ms = self._raw.execute(_META).fetchone()
        if epoch == self._lost:
            raise Broken(f"I43: the store was set back, and its epoch is still {epoch}")
        if frozen_until_ms < self._frozen_ms:
            raise Broken(f"I43: the store was set back, and what is acked is pruned from {frozen_until_ms} on")
        self._lost = None

    def told(self, device: DeviceKey, epoch: str, *, since: bool) -> None:
        """A device was told the epoch of its inbox. `since`: it had asked after the store was last set back. Raises Broken."""
        if since and epoch in self._void[device.user]:
            raise Broken(f"I43: {device} was told {epoch}, in which numbers were lost")
        self._told[device.user].add(epoch)
