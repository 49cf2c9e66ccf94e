"""What the planner is told of one device: what is outstanding, its addresses, and how its accounts are."""

from collections.abc import Collection, Mapping
from enum import StrEnum

from msgspec import Struct, field
from msgspec.structs import replace

from providers.contract import Capabilities
from relay.inbox.push_due import Later
from relay.model import DAY_FULL, Address, Device, Entry, Notification, Policy, PushJob
from relay.push.limits import BUDGET_WAIT_MS

ITEMS_MAX = 200  # outstanding entries looked at in full


class Item(Struct, frozen=True, kw_only=True):
    """One outstanding entry with what it would show."""

    entry: Entry
    push: Notification
    priority: str
    collapse_key: str | None


class SharedNews(Struct, frozen=True, kw_only=True):
    """What there is to tell of a shared timeline: its newest items, and how many numbers they stand for."""

    conversation_id: str
    items: tuple[Item, ...]
    count: int
    since_ms: int  # when the oldest of all was accepted
    upto_seq: int


class Wait(Struct, frozen=True, kw_only=True):
    """Nothing goes before then. `account`: whose turn it is to wait for, if it is an account's; `urgent`: in the line of
    what is."""

    at_ms: int
    reason: Later
    account: str | None = None
    urgent: bool = False


def at_ms_of(wait: Wait) -> int:
    return wait.at_ms


class Privacy(StrEnum):
    """What a vendor may see of a message."""

    FULL = "full"
    TITLE = "title"  # title, sound and badge; no body, image or data
    SEALED = "sealed"  # nothing, but it carries all to the app, encrypted for the device
    NONE = "none"  # ids alone: a wake-up


class Quota(Struct, frozen=True, kw_only=True):
    """What an account may send in one of its vendor's days, which `ends_ms`. No limit: until the vendor says so."""

    limit: int | None
    day: str
    ends_ms: int


# One sort of push that a vendor takes later: a channel of the account, or of one address (its token's hash) alone.
Sort = tuple[bytes | None, str | None]
BATCHES: Sort = (None, "*")  # no channel has such a name: not a sort of push, but calls for many devices
ALL: Sort = (b"", None)  # no token has such a hash: every push of the account


def channel_of(shown: Notification | None, channels: Collection[str] | None) -> str | None:
    """The channel that decides what the vendor takes: none for a wake-up, nor for one that is not of `channels`.

    Those are what the account's settings tell apart; None: each is its own.
    """
    if shown is None or (channels is not None and shown.channel not in channels):
        return None
    return shown.channel


class AccountView(Struct, frozen=True, kw_only=True):
    """What an account can do at this moment. `free`: pushes that may start now; `retries`: how many of them may be retries."""

    capabilities: Capabilities
    parked: bool = False
    mended: int | None = None  # how often, as far as this node has heard; None: it has not asked yet
    closed_for_ms: int = 0  # circuit open, or the vendor asked us to wait
    ill_for_ms: int = 0  # how long the circuit has been open
    shut_until_ms: int = 0  # by the clock: the day's quota is used up, or the vendor takes nothing at this hour
    shut_why: Later = Later.QUOTA
    falls_back_ms: int | None = (
        60_000  # a wait longer than this passes the push on to the next address; None: none does
    )
    free: int = 100
    retries: int = 50
    wait_ms: int = 0  # until there is room again
    privacy: Privacy = Privacy.FULL
    unsealed: str | None = None  # why what was to be sealed is ids alone: what the vendor, or the device, lacks
    quota: Quota | None = None  # `counted` says what is left of it
    held: Mapping[Sort, Wait] = field(default_factory=dict)  # what of it is over counts no more
    channels: Collection[str] | None = None  # see `channel_of`

    def towards(self, address: Address, platform: str | None) -> "AccountView":
        """The same for this address of a device of that platform: of what is to be sealed, nobody sees anything if it cannot
        be."""
        can = self.capabilities.on(platform)
        here = self if can is self.capabilities else replace(self, capabilities=can)
        if self.privacy is not Privacy.SEALED:
            return here
        if can.encrypted:
            return replace(here, privacy=Privacy.FULL)
        lacks = "sealed" if not can.sealed else "seal_keys" if address.keys_sealed is None else None
        return here if lacks is None else replace(here, privacy=Privacy.NONE, unsealed=lacks)

    def counted(self, sent: int) -> "AccountView":
        """The same with that many sent today: the rest of the quota bounds what may go."""
        if self.quota is None:
            return self
        if self.quota.limit is None and sent < DAY_FULL:
            return self
        left = (self.quota.limit or 0) - sent
        if left > 0:
            return replace(self, free=min(self.free, left), quota=replace(self.quota, limit=left))
        return replace(self, shut_until_ms=max(self.shut_until_ms, self.quota.ends_ms), shut_why=Later.QUOTA)

    def used(self, calls: int, *, retry: bool = False) -> "AccountView":
        """The same after so many calls were planned."""
        left = replace(self, free=self.free - calls, retries=self.retries - calls if retry else self.retries)
        if self.quota is None or self.quota.limit is None:
            return left
        return left.counted(calls)

    def waits(self, now_ms: int, *, retry: bool = False) -> Wait | None:
        """Until when nothing can go, and why; None: a push may go now."""
        if self.shut_until_ms > now_ms:
            return Wait(at_ms=self.shut_until_ms, reason=self.shut_why)
        if self.closed_for_ms > 0:
            return Wait(at_ms=now_ms + self.closed_for_ms, reason=Later.CIRCUIT)
        if self.free <= 0:
            return Wait(at_ms=now_ms + max(1, self.wait_ms), reason=Later.RATE)
        if retry and self.retries <= 0:
            return Wait(at_ms=now_ms + BUDGET_WAIT_MS, reason=Later.RATE)
        return None

    def holds(self, token_hash: bytes, shown: Notification | None, now_ms: int) -> Wait | None:
        """Until when the vendor does not take what would show this, and why; None: it does. No `shown`: a wake-up."""
        if not self.held:
            return None
        channel = None if self.privacy is Privacy.NONE else channel_of(shown, self.channels)
        waits = (self.held.get((of, channel)) for of in (None, token_hash))
        return max((one for one in waits if one is not None and one.at_ms > now_ms), key=at_ms_of, default=None)

    def passes_on(self, now_ms: int) -> bool:
        """Whether it is out for so long that the device's next address should have the push."""
        if self.falls_back_ms is None:
            return False
        shut_ms = self.shut_until_ms - now_ms
        return max(shut_ms, self.closed_for_ms, self.ill_for_ms if self.closed_for_ms else 0) > self.falls_back_ms


class AccountsKnown(Struct, frozen=True, kw_only=True):
    """What the store says of accounts, by app and name: who is parked, with the vendor's code; how often each was mended; and
    of those that were since this node last heard of it, which sorts of push have to wait all the same."""

    parked: Mapping[tuple[str, str], str | None]
    mended: Mapping[tuple[str, str], int]
    held: Mapping[tuple[str, str], Mapping[Sort, Wait]]


class Situation(Struct, frozen=True, kw_only=True):
    """Everything a plan depends on."""

    now_ms: int
    device: Device
    job: PushJob
    untold: tuple[Item, ...]  # W(d), oldest first, the newest ITEMS_MAX
    untold_count: int
    told: tuple[Item, ...]  # owed, at or below pushed_seq: what knocks and steps are about
    told_last: tuple[str, bytes] | None = None  # the address (account, token's hash) that was; only for those
    steps: Mapping[str, int] = field(default_factory=dict)  # message with steps -> how many have pushed it again
    shared: tuple[SharedNews, ...] = ()
    upto_seq: int  # highest number looked at
    addresses: tuple[Address, ...]
    accounts: Mapping[str, AccountView]
    policy: Policy
    elsewhere: bool = False
    gateway: bool = False
    muted: bool = False  # something waits that the user does not want to be told of
    quiet_until_ms: int | None = None  # it is in the user's quiet hours
    urgent_breaks: bool = True  # what is urgent is told in them as well, and what else waits with it
    told_count: int = 0  # told, neither acked nor shown; 0 where no account has few collapse keys
    shared_keys: int = 0  # shared timelines of which a notification waits at the vendor, or will; likewise
    grace_until_ms: int = 0  # devices of the time before a restart are given until then to come back
