"""A lazy timing wheel of leases: renewing one is a single write in memory; nobody is moved until its slot comes round."""

from collections import defaultdict

from relay.model import DeviceKey
from relay.presence.rules import Offer

SLOT_MS = 1000


class Lease:
    """A device's lease, held by one session. `until_ms` is monotonic."""

    __slots__ = ("facts", "length_ms", "offer", "session", "slot", "until_ms")

    def __init__(self, session: int, until_ms: int, length_ms: int, facts: object, offer: Offer | None) -> None:
        self.session = session
        self.until_ms = until_ms
        self.length_ms = length_ms
        self.facts = facts  # what the holder last said of itself
        self.offer = offer  # what intervals the holder can keep up
        self.slot = 0


class LeaseBook:
    """All leases of this node."""

    def __init__(self) -> None:
        self._leases: dict[DeviceKey, Lease] = {}
        self._slots: defaultdict[int, list[DeviceKey]] = defaultdict(list)
        self._swept = -1

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, key: DeviceKey) -> Lease | None:
        return self._leases.get(key)

    def grant(
        self,
        key: DeviceKey,
        *,
        session: int,
        now_ms: int,
        length_ms: int,
        more_ms: int = 0,
        facts: object = None,
        offer: Offer | None = None,
    ) -> bool:
        """A lease for this session, `more_ms` longer until it is renewed; False if a newer one holds it. What the session offered
        once holds for all its leases."""
        held = self._leases.get(key)
        if held is not None and session < held.session:
            return False
        if offer is None and held is not None and held.session == session:
            offer = held.offer
        lease = Lease(session, now_ms + length_ms + more_ms, length_ms, facts, offer)
        self._leases[key] = lease
        self._place(key, lease)
        return True

    def renew(self, key: DeviceKey, session: int, now_ms: int) -> Lease | None:
        """The holder was heard of. Gives its lease; None: there is none, or another session holds it."""
        lease = self._leases.get(key)
        if lease is None or lease.session != session:
            return None
        until_ms = now_ms + lease.length_ms
        lease.until_ms = max(lease.until_ms, until_ms)
        return lease

    def drop(self, key: DeviceKey, session: int) -> None:
        """The holder said goodbye."""
        lease = self._leases.get(key)
        if lease is not None and lease.session <= session:
            del self._leases[key]

    def overdue(self, now_ms: int) -> list[tuple[DeviceKey, int]]:
        """Takes out and gives the leases that are over: (device, session)."""
        over: list[tuple[DeviceKey, int]] = []
        last = now_ms // SLOT_MS
        if self._swept < 0:
            self._swept = min(self._slots, default=last) - 1
        for slot in range(self._swept + 1, last + 1):
            for key in self._slots.pop(slot, ()):
                lease = self._leases.get(key)
                if lease is None or lease.slot != slot:
                    continue  # dropped, or granted anew elsewhere in the wheel
                if lease.until_ms <= now_ms:
                    del self._leases[key]
                    over.append((key, lease.session))
                else:
                    self._place(key, lease)
        self._swept = last - 1  # this slot may still get leases that end within it
        return over

    def extend_all(self, by_ms: int) -> None:
        """Moves every deadline: time in which we were away does not count against anybody."""
        for lease in self._leases.values():
            lease.until_ms += by_ms

    def _place(self, key: DeviceKey, lease: Lease) -> None:
        lease.slot = max(lease.until_ms // SLOT_MS, self._swept + 1)
        self._slots[lease.slot].append(key)
