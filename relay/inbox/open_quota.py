"""How many deliveries of an app may be open at a time (safety §5): one that never ends must not fill the store for all.

No count is kept at each message: a chore counts the rows now and then, and in between this process adds what it accepts
itself. So an app may be over by what other nodes accept until the next count, by what a fan-out delivers until then, and by
its last send; and what has ended since the last count makes room at the next.
"""

from collections import Counter
from collections.abc import Iterable

from relay.errors import Throttled
from relay.inbox.send import Accepted

OPEN_DELIVERIES = 1_000_000
RETRY_S = 60.0  # as often as it is counted


class OpenQuota:
    """Of all apps, for one process."""

    def __init__(self, most: int) -> None:
        """`most`: open deliveries of one app."""
        self.most = most
        self._counted: dict[str, int] = {}
        self._since: Counter[str] = Counter()

    def admit(self, app_id: str) -> None:
        """Raises Throttled (tenant_quota_exceeded) for an app that has as many as it may."""
        if self.open(app_id) >= self.most:
            raise Throttled(
                f"The app has {self.most} open deliveries, which is all it may have: devices must ack some, or their time "
                "be over, before more are taken.",
                code="tenant_quota_exceeded",
                retry_after_s=RETRY_S,
            )

    def open(self, app_id: str) -> int:
        """How many there are, as far as is known."""
        return self._counted.get(app_id, 0) + self._since[app_id]

    def add(self, app_id: str, accepted: Iterable[Accepted]) -> None:
        """These were accepted here; a replay is none of them."""
        for one in accepted:
            if not one.replay:
                self._since[app_id] += sum(recipient.seq is not None for recipient in one.recipients)

    def begin(self) -> dict[str, int]:
        """A count begins: what was added so far will be in it."""
        return dict(self._since)

    def counted(self, counts: dict[str, int], begun: dict[str, int]) -> None:
        """The count is there."""
        self._counted = dict(counts)
        self._since.subtract(begun)
