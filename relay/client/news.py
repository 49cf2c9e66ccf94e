"""What a client tells its app: typed events. All are hints; the cache is what counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from relay.client.wire import Conversation, Entry, Sender, instant_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message as it is kept in the cache. `place`: the how-manieth it is there; unlike `seq`, that never begins anew."""

    id: str
    seq: int
    kind: str
    type: str | None
    body: Any
    conversation: Conversation
    sender: Sender | None
    accepted_ms: int | None
    expires_ms: int | None
    form: str  # full · fallback, until an upgrade brings the full form · raw: this version can't show it
    client_ref: str | None = None
    place: int = 0

    @classmethod
    def of(cls, entry: Entry, form: str, place: int = 0) -> "Message":
        """Reads the body. Raises ValueError if it is no JSON."""
        conversation = entry.conversation if isinstance(entry.conversation, Conversation) else Conversation()
        return cls(
            id=entry.id,
            seq=entry.seq,
            kind=entry.kind,
            type=entry.type,
            body=msgspec.json.decode(entry.body) if entry.carries_body else None,
            conversation=conversation,
            sender=entry.sender,
            accepted_ms=instant_ms(entry.accepted_at),
            expires_ms=instant_ms(entry.expires_at),
            form=form,
            client_ref=entry.client_ref,
            place=place,
        )


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """A message that was not in the cache before."""

    message: Message


@dataclass(frozen=True, slots=True)
class MessageChanged:
    """A message has come in a fuller form, or has been repaired. Replace what is shown; do not notify again."""

    message: Message


@dataclass(frozen=True, slots=True)
class Sent:
    """The relay has a message of this device, under this id. It is in the cache, too, as MessageArrived says."""

    key: str
    id: str


@dataclass(frozen=True, slots=True)
class SendRefused:
    """The relay will never take this message as it is. It stays among the unsent until it is dropped."""

    key: str
    code: str
    detail: str
    errors: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class MessagesEnded:
    """Messages that were taken back (`recalled`), or replaced by a newer one of their collapse key (`superseded`)."""

    ids: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class ReadElsewhere:
    """Another device of the user has read this conversation up to a number of the inbox."""

    conversation: str
    read_seq: int


@dataclass(frozen=True, slots=True)
class Noticed:
    """A notice of the relay, or an entry of a kind that this version does not know, as it came."""

    kind: str
    raw: str


@dataclass(frozen=True, slots=True)
class Connected:
    """A handshake. `resync` keeps all messages and reads again from where the relay says."""

    verdict: str
    reason: str | None
    session: int
    missing: int
    transport: str = ""
    advice: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Everything up to the head is in the cache: "Updating …" may end."""

    seq: int


@dataclass(frozen=True, slots=True)
class Reidentify:
    """Another phone goes by this device's id, as after a restored backup: ask your backend for another id and its token,
    and begin again with them on the same cache. It holds everything that the relay had when this was told."""


@dataclass(frozen=True, slots=True)
class TimelinesAhead:
    """Shared timelines that are not followed here and stand above what this device has: conversation -> head."""

    heads: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class FollowRefused:
    """This conversation has no shared timeline for this user, or is one too many (`too_many`); it is asked for again at the
    next connection."""

    conversation: str
    code: str


@dataclass(frozen=True, slots=True)
class Acked:
    """The relay has heard that everything up to this number is stored."""

    seq: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection has ended; the next try comes in `retry_s`, or not by itself if that is None."""

    code: int | None
    retry_s: float | None


@dataclass(frozen=True, slots=True)
class Replaced:
    """Another connection of the same device took over, and this one is in the background: it rests until it is turned."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The relay will not have this device, or something that it said. `code` as in problem+json."""

    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Take these notifications off the screen."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Degraded:
    """The relay's store is away; the connection stays."""


@dataclass(frozen=True, slots=True)
class StorageFailed:
    """The cache can't be written (disk full, for example): nothing is acked, and the relay keeps everything."""

    detail: str


@dataclass(frozen=True, slots=True)
class CacheSetAside:
    """The cache could not be read, or is a newer version's. It was moved, not deleted, and a new one begun."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Verified:
    """The cache was compared with the relay. `fetched` messages were missing or damaged here, and are back."""

    state: str  # ok · repaired · failed
    fetched: int
    rounds: int
    extra: int


News = (
    MessageArrived
    | MessageChanged
    | Sent
    | SendRefused
    | MessagesEnded
    | ReadElsewhere
    | Noticed
    | Connected
    | CaughtUp
    | Reidentify
    | TimelinesAhead
    | FollowRefused
    | Acked
    | Disconnected
    | Replaced
    | Refused
    | Withdrawn
    | Degraded
    | StorageFailed
    | CacheSetAside
    | Verified
)
