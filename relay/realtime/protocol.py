"""What a device may say, over HTTP or in frames, and the words of the answers. Pure.

HTTP refuses fields that it does not know; frames ignore them, so that a newer client can talk to an older relay.
"""

from enum import IntEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator

from relay.inbox.cursor import INBOX
from relay.model import SEQ_MAX

SUBPROTOCOL = "relay.v1.json"
TICKET_PREFIX = "relay.ticket."
FRAME_BYTES_MAX = 64 * 1024
FRAMES_PER_S, FRAMES_BURST = 20, 40
BAD_FRAMES_MAX = 10
HELLO_S = 5.0
PING_S = 25.0
PING_MISSES_MAX = 2
WRITE_S = 20.0
CLOSE_S = 2.0  # for the close frame and its answer; then the connection is cut
ACK_IDS_MAX = 500
WINDOW_ENTRIES, WINDOW_BYTES = 200, 1024 * 1024


class Close(IntEnum):
    """WebSocket close codes."""

    NORMAL = 1000
    NOT_UTF8 = 1007
    TOO_BIG = 1009
    RESTART = 1012
    TRY_LATER = 1013
    REPLACED = 4001
    SLOW = 4008
    RATE = 4029
    BAD_FRAME = 4400
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403


Id = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f\u202a-\u202e\u2066-\u2069]+$")
]
Word = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]
# What is no cursor of ours is `invalid_cursor` where it is unsealed, however long: so this is only said, not checked.
Sealed = Annotated[str, WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 256})]
# Of a shared timeline: what is no cursor of ours begins that timeline again, and acks nothing of it.
SealedShared = Annotated[str, WithJsonSchema({"type": "string"})]
MessageIdText = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Seq = Annotated[int, Field(ge=0, le=SEQ_MAX)]
State = Literal["foreground", "background"]
Timeline = Literal["inbox"]
FOLLOWED_MAX = 50  # shared timelines in one request, or followed by one connection
Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,32}$")]


class Said(BaseModel):
    """Base of everything a device says."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StoreBody(Said):
    """The client's message database. `id` is made in the transaction that creates it, and lives inside it, as does `user`:
    whose messages it holds, by the first welcome that it was given."""

    id: Id
    user: Id | None = None
    migrated_from: Id | None = None
    entries: Seq | None = None
    repair: bool = False


class HeartbeatOffer(Said):
    """What the client can keep up; the relay answers what it shall."""

    min_s: float = Field(10, ge=0, le=3600)
    max_s: float = Field(600, ge=1, le=86_400)
    prefer_s: float = Field(30, ge=1, le=86_400)
    network: Annotated[str, StringConstraints(max_length=128)] | None = None


class SealBody(Said):
    """The device's keys for what a vendor may carry and not read, in base64url as in a Web Push subscription (RFC 8291)."""

    p256dh: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    auth: Annotated[str, StringConstraints(min_length=1, max_length=64)]


class AddressBody(Said):
    """Where a vendor reaches the device: a configured account and the vendor's token, in order of preference."""

    account: Word = Field(description="As the relay's configuration names it.")
    token: Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[\x21-\x7e]+$")] = Field(
        description="What the vendor's SDK gave the app."
    )
    kind: Word = Field("token", description="What sort of token, for providers that have several.")
    seal: SealBody | None = Field(None, description="The device's keys, for what the vendor may not read.")


class WindowBody(Said):
    """How much may be sent without being acked."""

    entries: int = Field(WINDOW_ENTRIES, ge=1, le=WINDOW_ENTRIES)
    bytes: int = Field(WINDOW_BYTES, ge=1, le=WINDOW_BYTES)


class DigestBody(Said):
    """How many entries the client counts up to its cursor, and the sum of their fingerprints."""

    n: Seq
    fp: Fingerprint


class HelloBody(Said):
    """The handshake: at every process start, after every upgrade, on every socket. Nothing goes by `build`, `os`, `sdk`,
    `locale` and `previous_app_version`. What is left out of `platform`, `tz`, `addresses` and `install_id` stays as it is."""

    app_version: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    build: int | None = None
    previous_app_version: Annotated[str, StringConstraints(max_length=64)] | None = None
    schema_: int | None = Field(None, alias="schema", ge=0, le=1_000_000)
    types: Annotated[list[Word], Field(max_length=200)] | None = None
    sdk: Annotated[str, StringConstraints(max_length=64)] | None = None
    platform: Word | None = None
    os: Annotated[str, StringConstraints(max_length=64)] | None = None
    locale: Annotated[str, StringConstraints(max_length=35)] | None = None
    tz: Annotated[str, StringConstraints(max_length=64)] | None = None
    state: State = "foreground"
    store: StoreBody | None = None
    # By timeline; `inbox` is the device's own. Of what is no cursor, a resync is made.
    cursors: Annotated[dict[Id, str | None], Field(max_length=FOLLOWED_MAX + 1)] = {}
    digest: DigestBody | None = None
    addresses: Annotated[list[AddressBody], Field(max_length=8)] | None = None
    install_id: Id | None = None
    replaces: Id | None = None
    heartbeat: HeartbeatOffer | None = None
    window: WindowBody = WindowBody()


class NackBody(Said):
    """What the device could not take in. `storage`: it has no room, so it acked nothing, and comes back for it.
    `app_version`: which version of the app could not, so that a word that comes late is not taken for a newer one's."""

    id: MessageIdText
    code: Literal["unknown_type", "undecodable", "too_big", "storage"]
    app_version: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None


class ReadBody(Said):
    """ "Read up to here" of a conversation; the number is one of the user's inbox, or of the shared timeline."""

    conversation: Id
    read_seq: Seq


class ReceiptBody(Said):
    id: MessageIdText
    what: Literal["shown", "opened"]
    at: Annotated[str, StringConstraints(max_length=40)] | None = None


class AckBody(Said):
    """ "I have stored this." All parts are optional and may be repeated. `store`: as in the handshake that is to follow."""

    store: StoreBody | None = None
    cursor: Sealed | None = None
    shared: Annotated[list[SealedShared], Field(min_length=1, max_length=FOLLOWED_MAX)] | None = None
    ids: Annotated[list[MessageIdText], Field(min_length=1)] | None = None  # at most ACK_IDS_MAX
    nack: Annotated[list[NackBody], Field(min_length=1, max_length=500)] | None = None
    read: Annotated[list[ReadBody], Field(min_length=1, max_length=200)] | None = None
    receipts: Annotated[list[ReceiptBody], Field(min_length=1, max_length=500)] | None = None


class AckFrame(AckBody):
    upto: Seq | None = None
    timeline: Id = INBOX  # that `upto` speaks of


class HeartbeatBody(Said):
    """A sign of life. The cursor is for comparing, it acks nothing. `open_conversation`: the one on the screen; while the app
    is in the foreground, this device is not pushed what comes in it."""

    session: Seq
    cursor: Sealed | None = None
    state: State = "foreground"
    open_conversation: Id | None = None
    battery: float | None = Field(None, ge=0, le=1)
    heartbeat: HeartbeatOffer | None = None


class HeartbeatFrame(Said):
    cursor: Sealed | None = None
    state: State = "foreground"
    open_conversation: Id | None = None
    battery: float | None = Field(None, ge=0, le=1)
    heartbeat: HeartbeatOffer | None = None


class FillFrame(Said):
    """Asks for a range once more; moves no cursor."""

    timeline: Id = INBOX
    from_: Seq = Field(alias="from")
    to: Seq


class FollowFrame(Said):
    """Shared timelines that the connection is sent as well: by cursor, or opened for the first time by their names."""

    shared: Annotated[list[SealedShared], Field(max_length=FOLLOWED_MAX)] = []
    open: Annotated[list[Id], Field(max_length=FOLLOWED_MAX)] = []
    unfollow: Annotated[list[Id], Field(max_length=FOLLOWED_MAX)] = []


class RangeBody(Said):
    """The numbers after `from`, up to `to`: how many entries the client counts there, and the sum of their
    fingerprints modulo 2^128, in hex."""

    from_: Seq = Field(alias="from")
    to: Seq
    n: Seq
    fp: Fingerprint


class VerifyBody(Said):
    """Compares what the device has stored with what it should have; ranges are in order and apart."""

    timeline: Timeline = "inbox"
    cursor: Sealed
    as_of: Annotated[str, StringConstraints(max_length=40)] | None = None
    ranges: Annotated[list[RangeBody], Field(max_length=256)]  # none: of a store in which nothing can be lacking
    purpose: Literal["cache", "upgrade"] = "cache"
    upgrade: Id | None = None
    mended: bool = False  # what an earlier comparison found lacking has been fetched: this one is to prove it
    extra: Annotated[int, Field(ge=0, le=1_000_000)] | None = None  # messages that only the device has

    @model_validator(mode="after")
    def _in_order(self) -> "VerifyBody":
        position = 0
        for index, one in enumerate(self.ranges):
            if one.to <= one.from_ or one.from_ < position:
                raise ValueError(f"ranges must be in order and apart, each with `to` above `from`; see number {index}")
            position = one.to
        return self


class SendFrame(Said):
    """A message of the device's own; `message` is the body of `POST /v1/device/messages`, `key` its Idempotency-Key."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")]
    message: dict[str, Any]


class ByeFrame(Said):
    reason: Literal["background", "quit", "switch"] = "quit"


FRAMES: dict[str, type[Said]] = {
    "hello": HelloBody,
    "hb": HeartbeatFrame,
    "ack": AckFrame,
    "fill": FillFrame,
    "follow": FollowFrame,
    "verify": VerifyBody,
    "send": SendFrame,
    "bye": ByeFrame,
}
FRAME_WORDS = frozenset({"type", "ref", "ticket"})  # of the frame itself


def body_of(frame: dict[str, Any]) -> dict[str, Any]:
    """The frame without its own words."""
    return {key: value for key, value in frame.items() if key not in FRAME_WORDS}
