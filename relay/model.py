"""The nouns of the relay. Words are those of the glossary; instants are integer milliseconds UTC.

What is made of rows by the thousand (inboxes, devices, jobs, entries, what they show) is a msgspec Struct: made in C, an
eighth of the time of a frozen dataclass. The fields of rows stand in the order of the columns. Nothing in them refers back
to them, so the garbage collector need not look at them (`gc=False`).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from msgspec import Struct, json

SEQ_MAX = 2**53 - 1
DAY_FULL = 10**12  # calls of a day: what is counted of a day whose quota the vendor called used up
GATEWAY = "gateway"  # stands for a node in `Device.node_id` when somebody else owns the socket


class UserKey(NamedTuple):
    """A receiver, within its app. Sorting these gives the order in which inboxes are locked."""

    app_id: str
    user_id: str


class TimelineKey(NamedTuple):
    """A conversation with a shared timeline. Sorting these gives the order in which they are locked: before inboxes."""

    app_id: str
    conversation_id: str


class DeviceKey(NamedTuple):
    """One installation of the app, within its user."""

    app_id: str
    user_id: str
    device_id: str

    @property
    def user(self) -> UserKey:
        return UserKey(self.app_id, self.user_id)


class Kind(StrEnum):
    """What an inbox entry is."""

    MESSAGE = "message"
    OWN = "own"  # a copy for the sender's other devices
    RELEASE = "release"  # the full form of what was held back, same message id
    RECALL = "recall"
    READ = "read"
    POINTER = "pointer"  # a mention in a shared timeline, with the message inside
    NOTICE = "notice"


CARRIES_MESSAGE = frozenset({Kind.MESSAGE, Kind.OWN, Kind.RELEASE, Kind.POINTER})


class EntryState(StrEnum):
    """`live`, or how the entry ended. No state but `live` has a way out."""

    LIVE = "live"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    RECALLED = "recalled"
    SUPERSEDED = "superseded"
    FAILED = "failed"


class Why(StrEnum):
    """Why a number of a page carries no entry (protocol 8.1)."""

    EXPIRED = "expired"
    CANCELLED = "cancelled"
    RECALLED = "recalled"
    SUPERSEDED = "superseded"
    SCOPE = "scope"
    OWN = "own"
    HELD = "held"
    PRUNED = "pruned"
    SKIPPED = "skipped"
    QUARANTINED = "quarantined"


class DeviceState(StrEnum):
    ACTIVE = "active"
    DORMANT = "dormant"  # silent for long (`Policy.dormant_ms`): does not hold the floor any more
    GONE = "gone"


class NotifyPolicy(StrEnum):
    """Which device is told (protocol 7.1)."""

    EACH_DEVICE = "each_device"
    UNTIL_READ = "until_read"
    FIRST_DEVICE = "first_device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which devices a message is for. Empty means all (protocol 12.4)."""

    devices: tuple[str, ...] = ()
    exclude_devices: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    first_ack_wins: bool = False
    online: bool = False  # only those that are online when it is accepted; their names are kept with each entry


EVERYWHERE = Scope()


class Notification(Struct, frozen=True, kw_only=True, gc=False):
    """What to show, in words that every vendor can translate. `overrides` holds a vendor's own fields, by provider."""

    title: str | None = None
    body: str | None = None
    title_loc_key: str | None = None
    title_loc_args: tuple[str, ...] = ()
    body_loc_key: str | None = None
    body_loc_args: tuple[str, ...] = ()
    image: str | None = None
    sound: str | None = None
    badge: int | None = None
    channel: str | None = None
    thread: str | None = None
    click: str | None = None
    mutable: bool = False
    data: dict[str, str] = {}
    overrides: dict[str, Any] = {}


class Entry(Struct, frozen=True, gc=False):
    """A line of an inbox together with what decides who gets it and how. `seq` counts from 1 without gaps."""

    seq: int
    message_id: str
    kind: Kind
    only_device: str
    origin_device: str | None
    origin_session: int | None
    notifiable: bool
    state: EntryState
    accepted_ms: int
    expires_ms: int
    completed_ms: int | None
    data: str | None  # JSON of control entries and releases
    # of the message
    conversation_id: str | None
    min_schema: int | None
    min_app_version: str | None
    has_fallback: bool
    hold: bool
    scope: Scope
    notify_policy: NotifyPolicy | None
    notify_release: bool  # its full form is told once more, although its fallback was shown
    tells_held: bool  # there is something to show where it is held
    only_held: bool  # and nothing where it is not
    escalated: int | None = None  # steps taken, of a message that has some instead of reminders

    def live(self, now_ms: int) -> bool:
        return self.state is EntryState.LIVE and self.expires_ms > now_ms


class Inbox(Struct, frozen=True, gc=False):
    """A user's numbering. Its row's lock is the one lock of everything that belongs to the user."""

    app_id: str
    user_id: str
    epoch: str  # random, new only when this inbox's numbers were lost
    head_seq: int  # newest number
    floor_seq: int  # everything up to here has been pruned
    pinned_until_ms: int
    created_ms: int
    formerly: str | None  # JSON of the user's names before, the last one first
    preferences: str | None  # JSON of what the user wants to be told of
    woken: int  # 1: a shared timeline has had a reason to wake this user

    @property
    def key(self) -> UserKey:
        return UserKey(self.app_id, self.user_id)

    @property
    def former_names(self) -> list[str]:
        """What the user was called before, the last name first."""
        return [] if self.formerly is None else json.decode(self.formerly, type=list[str])


class Device(Struct, frozen=True, gc=False):
    """A device's row: a set of numbers, and whether it was last heard of as online."""

    app_id: str
    user_id: str
    device_id: str
    state: DeviceState
    session: int
    conf_session: int
    lineage_session: int
    online_since_ms: int | None
    offline_since_ms: int | None
    linger_until_ms: int | None
    offline_told: int
    node_id: str | None
    start_seq: int
    acked_seq: int
    acked_high: int
    pushed_seq: int
    progress_ms: int
    store_id: str | None
    app_version: str | None
    schema: int | None
    types: str | None
    platform: str | None
    locale: str | None
    tz: str | None
    background: int
    open_conversation: str | None
    has_address: int
    install_id: str | None
    predecessor: str | None
    created_ms: int
    contact_ms: int
    older_stores: str | None = None  # as relay.inbox.clones notes them
    seen_seq: int = 0  # all up to here was acked when the app was last in the foreground

    @property
    def key(self) -> DeviceKey:
        return DeviceKey(self.app_id, self.user_id, self.device_id)

    @property
    def online(self) -> bool:
        return self.online_since_ms is not None and self.offline_since_ms is None

    @property
    def foreground(self) -> bool:
        return self.online and not self.background


@dataclass(frozen=True, slots=True)
class Facts:
    """What a device says of itself in a heartbeat, and a row remembers."""

    background: bool = False
    open_conversation: str | None = None


class Address(Struct, frozen=True, gc=False):
    """Where a provider reaches a device. `token` is sealed in the store, and so are the keys for what only it may read."""

    preference: int
    account: str
    kind: str
    token_sealed: bytes
    token_hash: bytes
    registered_ms: int
    state: str
    shared: int
    failures: int = 0  # answers in a row by which it is dead if they go on (Outcome.dead_after_s)
    failing_since_ms: int | None = None  # the first of them
    keys_sealed: bytes | None = None
    pushed_ms: int | None = None  # when a push to it was last taken although it was stale


class PushJob(Struct, frozen=True, gc=False):
    """The durable wish to tell one device about what it has not acked. `due_ms` None: resting, for `reason`."""

    app_id: str
    user_id: str
    device_id: str
    due_ms: int | None
    reason: str | None
    knock: int
    told_ms: int | None
    tries: int
    retry_ms: int | None
    bare_seq: int
    claim: str | None
    claim_token: int
    claim_until_ms: int | None
    lost: int = 0  # attempts in a row that a process did not outlive
    shown_seq: int = 0  # the newest that the device says it has shown
    escalate_seq: int = 0  # of what has steps, up to here one is due that pushes again
    escalate_after: int = 0  # ... and of it what lies above here
    escalate_on: int = 0  # 1: of that some has been pushed, and the rest follows it

    @property
    def key(self) -> DeviceKey:
        return DeviceKey(self.app_id, self.user_id, self.device_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """An app's settings, in milliseconds and counts: everything the pure rules need to know of the configuration."""

    create_users: bool = False
    require_idempotency_key: bool = False
    sender_copies: bool = True
    device_sends: bool = False
    trust_presence: bool = False
    start: str = "retained"  # retained, now, days:n
    notify: NotifyPolicy = NotifyPolicy.UNTIL_READ
    ttl_s: int = 7 * 86_400
    inbox_max: int = 10_000
    system_reserve: int = 100
    ack_wait_ms: int = 10_000
    ack_wait_background_ms: int = 3_000
    ack_wait_max_ms: int = 60_000
    linger_ms: int = 5_000
    linger_restart_ms: int = 30_000
    restart_grace_ms: int = 30_000
    debounce_ms: int = 500
    elsewhere_ms: int = 10_000
    knocks_ms: tuple[int, ...] = (3_600_000, 21_600_000, 86_400_000)
    separate_max: int = 3
    claim_ms: int = 30_000
    replay_window_ms: int = 7 * 86_400_000
    shared_tail: int = 200  # numbers of a shared timeline that a device catches up with by itself
    shared_retention_ms: int = 7 * 86_400_000
    upgrade_pin_ms: int = 7 * 86_400_000
    upgrade_verify_ms: int = 86_400_000
    dormant_ms: int = 30 * 86_400_000
    gone_ms: int = 180 * 86_400_000
    history_ms: int = 36 * 86_400_000
    devices_max: int = 20
    origins: tuple[str, ...] = ()
