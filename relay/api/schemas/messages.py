"""Messages: what a backend sends, what it is promised, and what it can look up."""

from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, StringConstraints, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from relay.api.schemas.base import ImageUrl, In, Out, Plain, Text, Url, Version
from relay.realtime.protocol import Id, MessageIdText, Word

TTL_S_MAX = 28 * 86_400
LocKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
LocArgs = Annotated[tuple[Text, ...], Field(max_length=10, strict=False)]
DataKey = Annotated[str, StringConstraints(min_length=1, max_length=256)]
DataValue = Annotated[str, StringConstraints(max_length=4096)]


class DeviceRef(In):
    user: Id
    device: Id


class To(In):
    """Who receives: users (all their devices), single devices, or the members of a group; at most 1,000 users, each once.

    A message to an ultra group stands in the timeline that its members read, however many they are.
    """

    users: Annotated[list[Id], Field(min_length=1)] | None = Field(None, description="All devices of these.")
    devices: Annotated[list[DeviceRef], Field(min_length=1)] | None = Field(None, description="Just these.")
    group: Id | None = Field(None, description="All who are members at the moment.")

    @model_validator(mode="after")
    def _one_of(self) -> "To":
        if sum(one is not None for one in (self.users, self.devices, self.group)) != 1:
            raise ValueError("give one of `users`, `devices` and `group`")
        return self


class ConversationBody(In):
    """The conversation that the message belongs to, as the app names it."""

    type: Literal["direct", "group", "system", "ultra"] = Field(
        "direct", description="What sort it is; with `to.group` it is the group's."
    )
    id: Id | None = Field(
        None, description="By this it is muted, read and looked up. With `to.group`, the group if nothing is said."
    )


class SenderBody(In):
    """Who wrote it. If it is a user of the app, its other devices get a copy."""

    user: Id
    device: Id | None = None


class PushBody(In):
    """What to show on a device that is offline, in neutral words; `overrides` has a vendor's own fields, by provider.

    `title_loc_key` and `body_loc_key` name texts in the app's own resources, whose gaps the `…_args` fill; `title` and
    `body` are then what is shown where the vendor or the app has no such text.
    """

    title: Text | None = Field(None, description="With neither title nor body it is a silent wake-up.")
    body: Text | None = Field(None, description="The text below the title. The message's own `body` is in no push.")
    title_loc_key: LocKey | None = None
    title_loc_args: LocArgs = ()
    body_loc_key: LocKey | None = None
    body_loc_args: LocArgs = ()
    image: ImageUrl | None = Field(None, description="Where the vendor, or the app, fetches a picture.")
    sound: Plain | None = Field(None, description="The name of a sound, as the vendor or the app knows it.")
    badge: int | None = Field(None, ge=0, le=99_999, description="The number on the app's icon.")
    channel: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = Field(
        None, description="Android's channel, Apple's category; other vendors' accounts map it to classes of theirs."
    )
    thread: Plain | None = Field(None, description="What notifications are grouped by.")
    click: Url | None = Field(None, description="What a tap opens.")
    mutable: bool = Field(False, description="The app may change it before it is shown.")
    data: dict[DataKey, DataValue] = Field(
        default_factory=dict, max_length=100, description="The app's own, beside what is shown."
    )
    overrides: dict[Word, dict[str, Any]] = Field(
        default_factory=dict,
        max_length=20,
        description="Takes the place of what we make of the rest, for this provider alone.",
    )

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

    devices: Annotated[list[Id], Field(min_length=1, max_length=100)] | None = Field(None, description="Only these.")
    exclude_devices: Annotated[list[Id], Field(min_length=1, max_length=100)] | None = Field(
        None, description="All but these."
    )
    platforms: Annotated[list[Word], Field(min_length=1, max_length=20)] | None = Field(
        None, description="Only devices whose `platform` is one of these."
    )
    first_ack_wins: bool = Field(
        False,
        description="As for a call: once a device has acked, it ends for the others, and their notifications are taken back.",
    )
    state: Literal["online"] | None = Field(
        None, description="Only devices that are online when it is accepted; goes with `ttl_s: 0`, now or never."
    )


STEPS_MAX, STEP_S_MIN = 5, 10


class StepBody(In):
    """What happens while a device has not acked: `next_address` tells it again, through the next address of its chain (the last
    one again where there is none); `webhook` tells the backend (`delivery.escalated`), so that it can ring somebody."""

    after_s: int = Field(ge=STEP_S_MIN, le=TTL_S_MAX, description="Counted from `accepted_at`, or from `deliver_at`.")
    by: Literal["next_address", "webhook"]


class SendBody(In):
    """One message. `body` is any JSON and reaches the device as it is."""

    to: To
    conversation: ConversationBody = ConversationBody()
    sender: SenderBody | None = None
    type: Word = Field(
        "text", description="The app's own word for what `body` is. Devices may say which words their version knows."
    )
    body: Any = Field(description="With `push`, `fallback` and `push_held` at most 64 KiB.")
    push: PushBody | None = Field(
        None,
        description="What to show on a device that does not ack it at once. null: nobody is told, it comes with the next sync.",
    )
    ttl_s: int | None = Field(
        None,
        ge=0,
        le=TTL_S_MAX,
        description="After so long it has expired. null: `app.ttl_s`. 0: for half a minute, and nobody is told by push.",
    )
    priority: Literal["low", "normal", "high", "urgent"] = Field(
        "normal",
        description="`low` has no hurry and is refused first under load; `high` and `urgent` last. "
        "`urgent` is told in quiet hours, too, and before others.",
    )
    collapse_key: Plain | None = Field(
        None,
        description="It ends what has the same key in a receiver's inbox (`superseded`), and takes its place on the screen.",
    )
    notify: Literal["each_device", "until_read", "first_device"] | None = Field(
        None,
        description="Until when all devices of a user are told: each until it acks; until one has read it; until one acks it "
        "in the foreground. null: `app.notify`.",
    )
    scope: ScopeBody | None = None
    min_schema: int | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="An app below this `schema` is too old: it gets `fallback`, or has the message held until its upgrade.",
    )
    min_app_version: Version | None = Field(None, description="The same, by the app's version.")
    fallback: Any = Field(None, description="What an app that is too old gets as `body`.")
    hold: bool = Field(True, description="false: what is too old, and has no fallback, never gets it.")
    push_held: PushBody | None = Field(None, description="What to show while it is held.")
    notify_release: bool = Field(False, description="Once the full form takes the fallback's place, tell of it anew.")
    escalate: Annotated[list[StepBody], Field(min_length=1, max_length=STEPS_MAX)] | None = Field(
        None, description="Steps with growing deadlines, in place of reminders; what is acked or over takes no more."
    )
    deliver_at: Annotated[str, StringConstraints(max_length=40)] | None = Field(
        None, description="A time with a zone within 28 days: it is on disk now, and gets its number then."
    )
    client_ref: Id | None = Field(None, description="A text of yours that devices get with it.")
    mentions: Annotated[list[Id], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="Members of the group who are meant: told even where they want mentions alone."
    )
    mention_everyone: bool = Field(False, description="All members are.")
    id: MessageIdText | None = Field(
        None, description="In a repeat with the same key, the id of the first answer; you cannot choose one."
    )

    @model_validator(mode="after")
    def _mentions_in_a_group(self) -> "SendBody":
        if self.to.group is None and (self.mentions or self.mention_everyone):
            raise ValueError("`mentions` and `mention_everyone` go with a message to a group")
        if self.to.group is None and self.conversation.type == "ultra":
            raise ValueError("an ultra conversation is reached by `to.group`")
        return self


class BatchItem(SendBody):
    """A message of a batch, with its own key."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")] | None = None


class BatchBody(In):
    """Up to 500 messages: an array of them, or an object with that array. Each has its own result."""

    messages: Annotated[list[Any], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _from_array(cls, value: Any) -> Any:
        return {"messages": value} if isinstance(value, list) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        whole = handler.resolve_ref_schema(handler(core))
        either = [{**whole}, whole["properties"]["messages"]]
        whole.clear()
        return {"title": cls.__name__, "description": cls.__doc__, "anyOf": either}


class RecipientOut(Out):
    user: str
    status: Literal["accepted", "rejected", "waiting"]
    seq: int | None = None
    code: str | None = None


class FanoutOut(Out):
    """`total`: how many receivers it has; left out where that is everybody in an ultra group."""

    total: int | None = None
    job: str


class TimelineOut(Out):
    """Where the message stands in the timeline that the members of an ultra group read."""

    conversation: str
    seq: int


class AcceptedOut(Out):
    """The promise: this message is on disk. `fanout`: it gets to its receivers by and by; its trace says how far it is."""

    id: str
    accepted_at: str
    expires_at: str
    recipients: list[RecipientOut]
    deliver_at: str | None = None
    fanout: FanoutOut | None = None
    timeline: TimelineOut | None = None


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
    timeline: TimelineOut | None = None
    problem: dict[str, Any] | None = None


class BatchOut(Out):
    accepted: int
    rejected: int
    results: list[ItemOut]


class SharedTraceOut(TimelineOut):
    """`acked`: how many users have it on some device; who they are is not kept for every message."""

    state: Literal["live", "expired", "recalled", "superseded"]
    acked: int


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
    timeline: SharedTraceOut | None
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


class LogOut(Out):
    """`empty`: nothing was accepted in that hour, and nothing happened."""

    hour: str
    path: str
    empty: bool


class LogsOut(Out):
    logs: list[LogOut]


class CancelledOut(Out):
    id: str
    status: Literal["cancelled", "recalled"]
