"""What the backend may say and what it is answered: the models that validate are the ones that the document shows."""

import re
from itertools import groupby
from typing import Annotated, Any, Literal
from unicodedata import category

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from relay.inbox.preferences import is_zone
from relay.realtime.protocol import AddressBody, Id, MessageIdText, Word

TTL_S_MAX = 28 * 86_400
PAYLOAD_BYTES_MAX = 64 * 1024
BIDI = "\u202a-\u202e\u2066-\u2069"

MARKS_MAX = 30  # in a row: the bound of the Unicode Standard's stream-safe text (UAX #15)
_CONTROL = re.compile(rf"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{BIDI}]")

_INVISIBLE = frozenset({"Cc", "Cf", "Mn", "Me", "Zl", "Zp", "Zs"})


def _readable(text: str) -> str:
    """Refuses what shows nothing, and what spoils the text around it."""
    if _CONTROL.search(text):
        raise ValueError("may have no control characters but tab and line breaks, and none that turn its direction")
    if text.isspace():
        raise ValueError("must have a visible character")
    if text.isascii():
        return text
    kinds = [category(character) for character in text]
    if _INVISIBLE.issuperset(kinds):
        raise ValueError("must have a visible character")
    if (
        max((len(list(run)) for is_mark, run in groupby(kind[0] == "M" for kind in kinds) if is_mark), default=0)
        > MARKS_MAX
    ):
        raise ValueError(f"may have {MARKS_MAX} combining marks in a row")
    return text


Text = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_readable)]


def _link(text: str) -> str:
    scheme = text.partition(":")[0].lower()
    if not text.isascii() or not text.isprintable() or " " in text or ":" not in text:
        raise ValueError("must be an absolute URL in visible ASCII characters")
    if scheme in {"javascript", "data", "file", "vbscript", "blob"}:
        raise ValueError(f"may not be a {scheme}: URL")
    return text


Url = Annotated[str, StringConstraints(min_length=3, max_length=2048), AfterValidator(_link)]
Plain = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:@/+=-]*[A-Za-z0-9._:@+=-]$")
]
LocKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
LocArgs = Annotated[tuple[Text, ...], Field(max_length=10, strict=False)]
DataKey = Annotated[str, StringConstraints(min_length=1, max_length=256)]
DataValue = Annotated[str, StringConstraints(max_length=4096)]
# Checked where it is read, as `invalid_cursor`.
Place = Annotated[str, WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 512})]
Version = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class In(BaseModel):
    """Base of what callers send: unknown fields are mistakes, and nothing is guessed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Out(BaseModel):
    """Base of what is answered."""

    model_config = ConfigDict(extra="forbid")


# --- messages ---------------------------------------------------------------------------------------------------------


class DeviceRef(In):
    user: Id
    device: Id


class To(In):
    """Who receives: users (all their devices), single devices, or the members of a group; at most 1,000 users, each once."""

    users: Annotated[list[Id], Field(min_length=1)] | None = None
    devices: Annotated[list[DeviceRef], Field(min_length=1)] | None = None
    group: Id | None = None

    @model_validator(mode="after")
    def _one_of(self) -> "To":
        if sum(one is not None for one in (self.users, self.devices, self.group)) != 1:
            raise ValueError("give one of `users`, `devices` and `group`")
        return self


class ConversationBody(In):
    """The conversation that the message belongs to, as the app names it."""

    type: Literal["direct", "group", "system"] = "direct"
    id: Id | None = None


class SenderBody(In):
    """Who wrote it. If it is a user of the app, its other devices get a copy."""

    user: Id
    device: Id | None = None


class PushBody(In):
    """What to show on a device that is offline, in neutral words; `overrides` has a vendor's own fields, by provider.

    `title_loc_key` and `body_loc_key` name texts in the app's own resources, whose gaps the `…_args` fill; `title` and
    `body` are then what is shown where the vendor or the app has no such text.
    """

    title: Text | None = None
    body: Text | None = None
    title_loc_key: LocKey | None = None
    title_loc_args: LocArgs = ()
    body_loc_key: LocKey | None = None
    body_loc_args: LocArgs = ()
    image: Url | None = None
    sound: Plain | None = None
    badge: int | None = Field(None, ge=0, le=99_999)
    channel: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    thread: Plain | None = None
    click: Url | None = None
    mutable: bool = False
    data: dict[DataKey, DataValue] = Field(default_factory=dict, max_length=100)
    overrides: dict[Word, dict[str, Any]] = Field(default_factory=dict, max_length=20)

    @field_validator("title_loc_key", "body_loc_key")
    @classmethod
    def _with_text(cls, key: str | None, info: ValidationInfo) -> str | None:
        part = str(info.field_name).partition("_")[0]
        if key is not None and part in info.data and info.data[part] is None:
            raise ValueError(f"needs `{part}` beside it: what is shown where nobody knows this name")
        return key

    @field_validator("title_loc_args", "body_loc_args")
    @classmethod
    def _of_a_key(cls, args: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        key = str(info.field_name).replace("args", "key")
        if args and key in info.data and info.data[key] is None:
            raise ValueError(f"needs `{key}` beside it")
        return args


class ScopeBody(In):
    """Which of the receiver's devices it is for; nothing means all."""

    devices: Annotated[list[Id], Field(min_length=1, max_length=100)] | None = None
    exclude_devices: Annotated[list[Id], Field(min_length=1, max_length=100)] | None = None
    platforms: Annotated[list[Word], Field(min_length=1, max_length=20)] | None = None
    first_ack_wins: bool = False


class SendBody(In):
    """One message. `body` is any JSON and reaches the device as it is."""

    to: To
    conversation: ConversationBody = ConversationBody()
    sender: SenderBody | None = None
    type: Word = "text"
    body: Any
    push: PushBody | None = None
    ttl_s: int | None = Field(None, ge=0, le=TTL_S_MAX)
    priority: Literal["low", "normal", "high", "urgent"] = "normal"
    collapse_key: Plain | None = None
    notify: Literal["each_device", "until_read", "first_device"] | None = None
    scope: ScopeBody | None = None
    min_schema: int | None = Field(None, ge=0, le=1_000_000)
    min_app_version: Version | None = None
    fallback: Any = None
    hold: bool = True
    push_held: PushBody | None = None
    notify_release: bool = False
    deliver_at: Annotated[str, StringConstraints(max_length=40)] | None = None
    client_ref: Id | None = None
    id: MessageIdText | None = None


class BatchItem(SendBody):
    """A message of a batch, with its own key."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")] | None = None


class BatchBody(In):
    """Up to 500 messages; each has its own result."""

    messages: Annotated[list[Any], Field(min_length=1)]


class RecipientOut(Out):
    user: str
    status: Literal["accepted", "rejected", "waiting"]
    seq: int | None = None
    code: str | None = None


class FanoutOut(Out):
    total: int
    job: str


class AcceptedOut(Out):
    """The promise: this message is on disk. `fanout`: it gets to its receivers by and by; its trace says how far it is."""

    id: str
    accepted_at: str
    expires_at: str
    recipients: list[RecipientOut]
    deliver_at: str | None = None
    fanout: FanoutOut | None = None


class ItemOut(Out):
    """One item of a batch: `accepted`, `replayed`, or `rejected` with a problem."""

    index: int
    status: Literal["accepted", "replayed", "rejected"]
    id: str | None = None
    accepted_at: str | None = None
    expires_at: str | None = None
    recipients: list[RecipientOut] | None = None
    deliver_at: str | None = None
    fanout: FanoutOut | None = None
    problem: dict[str, Any] | None = None


class BatchOut(Out):
    accepted: int
    rejected: int
    results: list[ItemOut]


class TraceOut(Out):
    """A message's state for each device, and every attempt to tell."""

    id: str
    type: str
    conversation: dict[str, str | None]
    sender: dict[str, str | None] | None
    priority: str
    collapse_key: str | None
    accepted_at: str
    expires_at: str
    deliver_at: str | None
    recipients: list[dict[str, Any]]


class MessageOut(Out):
    """A message as it is kept. `seq` and `state`: in the inbox that was asked for."""

    id: str
    type: str
    conversation: dict[str, str | None]
    sender: dict[str, str | None] | None
    client_ref: str | None
    priority: str
    collapse_key: str | None
    accepted_at: str
    expires_at: str
    deliver_at: str | None
    recipients: int
    h: str
    body: Any
    seq: int | None = None
    kind: str | None = None
    state: str | None = None


class HistoryOut(Out):
    """`cursor`: where the next page begins; null: there is nothing older. A page may be short, or empty, and go on."""

    messages: list[MessageOut]
    cursor: str | None


class DeviceHistoryOut(Out):
    """Entries as in sync, the newest first. `before`: for the next page; null: there is nothing older."""

    entries: list[dict[str, Any]]
    before: int | None


class LogOut(Out):
    hour: str
    path: str


class LogsOut(Out):
    logs: list[LogOut]


class CancelledOut(Out):
    id: str
    status: Literal["cancelled", "recalled"]


# --- devices ----------------------------------------------------------------------------------------------------------


class DeviceBody(In):
    """A device as the backend knows it. What is left out stays as it is."""

    platform: Word | None = None
    app_version: Version | None = None
    schema_: int | None = Field(None, alias="schema", ge=0, le=1_000_000)
    locale: Annotated[str, StringConstraints(max_length=35)] | None = None
    tz: Annotated[str, StringConstraints(max_length=64)] | None = None
    install_id: Id | None = None
    replaces: Id | None = None
    addresses: Annotated[list[AddressBody], Field(max_length=8)] | None = None


class AddressesBody(In):
    """The whole list of addresses, in order of preference."""

    addresses: Annotated[list[AddressBody], Field(max_length=8)]


class AddressOut(Out):
    account: str
    kind: str | None = None
    state: str
    registered_at: str | None = None


class AddressesOut(Out):
    addresses: list[AddressOut]


class DeviceOut(Out):
    user: str
    device: str
    state: str
    online: bool
    platform: str | None
    app_version: str | None
    schema_: int | None = Field(None, alias="schema")
    locale: str | None
    tz: str | None
    session: int
    acked: int
    created_at: str
    last_contact_at: str
    addresses: list[AddressOut]

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class TokenOut(Out):
    """The device's credential; shown once. From `renew_at` on, the device is handed its successor."""

    token: str
    expires_at: str
    renew_at: str


class NextTokenOut(Out):
    """The token that follows the one in use. Null: there is none yet, and `renew_at` says when to ask again.

    The device stores the new token before it uses it: with its first use, the old one ends ten minutes later.
    """

    token: str | None
    expires_at: str
    renew_at: str | None


class OfferOut(Out):
    """An account that a device may have addresses in. `offer`: what its app needs for that, like a `vapid` public key."""

    account: str
    provider: str
    kinds: list[str]
    offer: dict[str, str]


class OffersOut(Out):
    accounts: list[OfferOut]


class TicketOut(Out):
    """A single-use stand-in for the token, for a browser's socket or stream."""

    ticket: str
    expires_at: str


# --- users ------------------------------------------------------------------------------------------------------------


class RenameBody(In):
    to: Id


# --- groups -----------------------------------------------------------------------------------------------------------


class MembersBody(In):
    """Who joins and who leaves, in one step."""

    add: Annotated[list[Id], Field(max_length=1000)] | None = None
    remove: Annotated[list[Id], Field(max_length=1000)] | None = None

    @model_validator(mode="after")
    def _apart(self) -> "MembersBody":
        if not self.add and not self.remove:
            raise ValueError("give `add` or `remove`")
        if set(self.add or ()) & set(self.remove or ()):
            raise ValueError("nobody can join and leave at once")
        return self


class MembershipOut(Out):
    version: int
    members: int


class MembersOut(Out):
    """`after`: for the next page; null: there is none."""

    members: list[str]
    after: str | None


# --- preferences ------------------------------------------------------------------------------------------------------

NotifyLevel = Literal["all", "mentions", "none"]
ClockTime = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class QuietHours(In):
    """By the user's clock on the wall; over midnight if `to` is not after `from`. `days`: those of the start."""

    from_: ClockTime = Field(alias="from")
    to: ClockTime
    days: Annotated[list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]], Field(max_length=7)] | None = None

    @model_validator(mode="after")
    def _long(self) -> "QuietHours":
        if self.from_ == self.to:
            raise ValueError("`from` and `to` must differ")
        return self


class ConversationPreference(In):
    """`muted_until`: what comes before then is not told, not later either; mentions are, unless `mute_mentions`."""

    notify: NotifyLevel | None = None
    muted_until: Annotated[str, StringConstraints(max_length=40)] | None = None
    mute_mentions: bool = False


class PreferencesBody(In):
    """What the user wants to be told of, and when not. `tz`: an IANA name; null: each device's own."""

    tz: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    quiet_hours: Annotated[list[QuietHours], Field(max_length=14)] = []
    urgent_breaks_quiet: bool = True
    notify: NotifyLevel = "all"
    conversations: Annotated[dict[Id, ConversationPreference], Field(max_length=250)] = {}

    @field_validator("tz")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and not is_zone(name):
            raise ValueError("must be the name of a time zone, such as Europe/Berlin")
        return name


# --- presence ---------------------------------------------------------------------------------------------------------


class AckedBody(In):
    """What the gateway's client has stored: ids, or everything up to a number of the inbox."""

    ids: Annotated[list[MessageIdText], Field(min_length=1, max_length=500)] | None = None
    upto: int | None = Field(None, ge=0, le=2**53 - 1)


class PresenceItem(In):
    user: Id
    device: Id
    state: Literal["foreground", "background", "offline"]
    acked: AckedBody | None = None


class PresenceBody(In):
    """Heartbeats of devices whose sockets somebody else owns."""

    devices: Annotated[list[PresenceItem], Field(min_length=1, max_length=500)]
    lease_s: float | None = Field(None, ge=10, le=3600)


class PresenceResult(Out):
    user: str
    device: str
    status: Literal["ok", "rejected"]
    code: str | None = None


class PresenceOut(Out):
    lease_s: float
    results: list[PresenceResult]


class PresenceQuery(In):
    users: Annotated[list[Id], Field(min_length=1, max_length=500)]


class DevicePresence(Out):
    device: str
    online: bool
    state: Literal["foreground", "background", "offline"]
    since: str | None


class UserPresence(Out):
    user: str
    online: bool
    devices: list[DevicePresence]


class PresencesOut(Out):
    users: list[UserPresence]


# --- devices' own answers ---------------------------------------------------------------------------------------------


class WelcomeOut(Out):
    """The handshake's answer."""

    model_config = ConfigDict(extra="allow")

    verdict: Literal["resume", "delta", "resync"]
    reason: str | None
    session: int
    epoch: str
    cursors: dict[str, str]
    head: int
    floor: int
    acked: int
    missing: int
    token: NextTokenOut
    now: str


class BeatOut(Out):
    head: int
    interval_s: float
    lease_s: float
    now: str
    do: str | None = None


class SyncOut(Out):
    """Pages of what is missing. `caught_up`: everything up to the head has been given."""

    batches: list[dict[str, Any]]
    caught_up: bool
    more: bool
    shared: list[dict[str, Any]]
    session: int
    next_poll_s: int
    now: str


class VersionOut(Out):
    """How upgrades to one app version went. `suspect`: it looks as if it loses its users' messages."""

    version: str
    upgrades: int
    verdicts: dict[str, int]
    reasons: dict[str, int]
    verified: dict[str, int]
    messages_repaired: int
    caught_up_s: float | None
    silent: int
    bad: int
    suspect: bool


class VersionsOut(Out):
    since: str
    versions: list[VersionOut]


class VerifiedRange(Out):
    """`split`: it differs; send its parts. `items`: it differs, and these are the entries that count: [seq, id, h]."""

    from_: int = Field(alias="from")
    to: int
    result: Literal["same", "split", "items"]
    items: list[tuple[int, str, str]] | None = None


class VerifyOut(Out):
    """`as_of` is to be repeated in later rounds; nothing up to `floor` counts. `state`: of the upgrade, if it is to be
    proved."""

    timeline: Literal["inbox"]
    as_of: str
    floor: int
    ranges: list[VerifiedRange]
    state: Literal["repairing", "ok", "repaired", "failed", "missing"] | None


class AckOut(Out):
    acked: int
    results: dict[str, Literal["acked", "already", "expired", "unknown"]]


# --- webhooks and events ----------------------------------------------------------------------------------------------


EventTypes = Annotated[list[Annotated[str, StringConstraints(max_length=64)]], Field(min_length=1, max_length=100)]
Headers = dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=1024)]]


class EndpointBody(In):
    """Where events are told, and which. `*` means all that are on by default."""

    url: Annotated[str, StringConstraints(max_length=4096)]
    types: EventTypes = ["*"]
    description: Annotated[str, StringConstraints(max_length=256)] | None = None
    headers: Headers = Field(default_factory=dict, max_length=20)


class EndpointChanges(In):
    """What is left out stays as it is."""

    url: Annotated[str, StringConstraints(max_length=4096)] | None = None
    types: EventTypes | None = None
    description: Annotated[str, StringConstraints(max_length=256)] | None = None
    headers: Headers | None = Field(None, max_length=20)
    enabled: bool | None = None


class EndpointOut(Out):
    id: str
    url: str
    types: list[str]
    description: str | None
    state: str
    failing_since: str | None
    created_at: str


class NewEndpointOut(EndpointOut):
    """With the secret that signs; shown once."""

    secret: str
    warnings: list[str]


class EndpointsOut(Out):
    endpoints: list[EndpointOut]


class ReplayBody(In):
    """Which events to send again: some by id, or those of a time range, a thousand a call."""

    events: (
        Annotated[list[Annotated[str, StringConstraints(max_length=64)]], Field(min_length=1, max_length=500)] | None
    ) = None
    since: Annotated[str, StringConstraints(max_length=40)] | None = None
    until: Annotated[str, StringConstraints(max_length=40)] | None = None
    undelivered_only: bool = False
    cursor: Place | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "ReplayBody":
        ranged = self.since is not None or self.until is not None
        if (self.events is None) != ranged or (ranged and (self.since is None or self.until is None)):
            raise ValueError("give either `events`, or `since` and `until`")
        return self


class RotateBody(In):
    """How long the old secret goes on signing beside the new one."""

    overlap_s: int = Field(86_400, ge=0, le=7 * 86_400)


class RotatedOut(Out):
    secret: str
    old_secret_until: str


class ReplayedOut(Out):
    count: int
    next: str | None


class EventsOut(Out):
    events: list[dict[str, Any]]
    cursor: str
    more: bool


class DeliveriesOut(Out):
    deliveries: list[dict[str, Any]]
    next: str | None = None


class AccountOut(Out):
    name: str
    provider: str
    state: Literal["ready", "parked", "circuit_open", "paused", "out_of_hours", "quota_used"]
    code: str | None  # the vendor's word for what must be mended
    until: str | None  # when it goes on by itself
    in_flight: int
    rate_per_s: float  # lower than configured for a while after the vendor said "too many"
    daily_quota: int | None
    sent_today: int | None
    credential_expires: str | None


class AccountsOut(Out):
    accounts: list[AccountOut]


class UnparkedOut(Out):
    released: int  # pushes that rested for this account and are due again


class DeadPushOut(Out):
    """A device that is not told of what it lacks. The messages wait for its next sync."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    user: str
    device: str
    why: Literal["refused", "no_address", "account_parked"]
    since: str | None
    account: str | None
    verdict: str | None
    code: str | None
    first: int | None = Field(alias="from")
    last: int | None = Field(alias="to")


class DeadPushesOut(Out):
    pushes: list[DeadPushOut]
    next: str | None = None


class RequeueBody(In):
    """One device, by `user` and `device`; or all that are listed, or all that are for one reason."""

    user: Id | None = None
    device: Id | None = None
    why: Annotated[str, StringConstraints(max_length=64)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> "RequeueBody":
        if (self.user is None) != (self.device is None):
            raise ValueError("give both `user` and `device`, or neither")
        return self


class RequeuedOut(Out):
    requeued: int  # pushes that are due now


class TestEventOut(Out):
    event: str


class HealthOut(Out):
    status: str
    durability: Literal["single-node", "sync-replica", "async-replica"]
    unsafe_storage: list[str]
