"""The shared timelines that a connection follows: how far it was sent each, and the next page (protocol 9.1, 12.5)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from relay.errors import Conflict, Missing
from relay.inbox.batch import Batch
from relay.inbox.shared import OPEN_MAX, Followed, SharedService, Wanted
from relay.model import DeviceKey


@dataclass(slots=True)
class Follow:
    """One of them. `sent_seq` only rises, but for a new epoch."""

    name: str
    epoch: str
    sent_seq: int
    told_caught_up: bool = False


class Follows:
    """All of one connection."""

    def __init__(self, device: DeviceKey, shared: SharedService) -> None:
        self._device = device
        self._shared = shared
        self._by_name: dict[str, Follow] = {}

    @property
    def names(self) -> list[str]:
        return list(self._by_name)

    def get(self, name: str) -> Follow | None:
        return self._by_name.get(name)

    async def add(self, wanted: Wanted) -> tuple[list[str], dict[str, Any]]:
        """Begins to follow; gives the names, and what the client is to be told of the rest. Raises Unauthenticated.

        One that begins anew is followed from there on, and so is one that was followed already.
        """
        found, opened = await self._shared.follow(self._device, wanted)
        for reset in opened.resets:
            found.append(Followed(name=reset["timeline"], epoch=reset["epoch"], seq=reset["floor"], head_seq=0))
        added = []
        for one in found:
            if one.name not in self._by_name and len(self._by_name) >= OPEN_MAX:
                opened.refused.append({"conversation": one.name, "code": "too_many"})
                continue
            self._by_name[one.name] = Follow(one.name, one.epoch, one.seq)
            added.append(one.name)
        return added, {"following": sorted(self._by_name), "resync": opened.resets, "refused": opened.refused}

    def drop(self, name: str) -> None:
        self._by_name.pop(name, None)

    async def page(self, follow: Follow, session: int, *, limit: int, bytes_max: int) -> Batch | dict[str, Any] | None:
        """The next page; or where the device begins anew; None: there is nothing. Raises Unauthenticated, Conflict."""
        try:
            snap, batch = await self._shared.read_after(
                self._device, follow.name, follow.sent_seq, limit=limit, bytes_max=bytes_max
            )
            if snap.device.session != session:
                raise Conflict("A newer session of this device has taken over.")
            if snap.epoch8.hex() != follow.epoch:
                reset = await self._shared.reset(self._device, follow.name, reason="epoch")
                follow.epoch, follow.sent_seq, follow.told_caught_up = reset["epoch"], reset["floor"], False
                return reset
        except Missing:
            self.drop(follow.name)
            return None
        if batch.to_seq == follow.sent_seq and (follow.told_caught_up or not batch.caught_up):
            return None
        follow.sent_seq = batch.to_seq
        follow.told_caught_up = follow.told_caught_up or batch.caught_up
        return batch


def unheard(listed: Iterable[dict[str, Any]], told: dict[str, int]) -> list[dict[str, Any]]:
    """Those of the listed timelines whose heads this connection was not told of yet; they count as told then."""
    new = [one for one in listed if one["head"] > told.get(one["conversation"], -1)]
    told.update({one["conversation"]: one["head"] for one in new})
    return new
