"""What a sender asks for, and what it is answered."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from relay.errors import FieldError, Invalid, Problem, Throttled
from relay.model import EVERYWHERE, NotifyPolicy, Scope, TimelineKey, UserKey
from relay.store import fanout as fanout_rows
from relay.store.timelines import ULTRA

AT_ONCE_MAX = 200  # receivers in one transaction; more get it by a job
ZERO_TTL_MS = 30_000  # `ttl_s: 0` = now or never
MESSAGE_BYTES = 1024  # its rows and their places in indexes, about
RECEIVER_BYTES = 256


class Send(Struct, frozen=True, kw_only=True):
    """One message to accept, validated, with its id made. JSON stays text from here on."""

    app_id: str
    message_id: str
    id_from_key: bool  # the id is the same whenever this key comes again
    key: str | None  # with its namespace
    body_hash: bytes
    nonce: str  # random: tells our idempotency row from one that was there
    users: tuple[str, ...]
    group: str | None = None  # instead of users: whoever is a member when it is accepted
    devices_named: bool = False  # the devices of the scope are the receivers, so they must exist
    type: str
    conversation_type: str = "direct"
    conversation_id: str | None = None
    sender_user: str | None = None
    sender_device: str | None = None
    by_device: bool = False  # the sender is who asks
    client_ref: str | None = None
    priority: str = "normal"
    body: str
    h: str
    push: str | None = None
    collapse_key: str | None = None
    min_schema: int | None = None
    min_app_version: str | None = None
    fallback: str | None = None
    fallback_h: str | None = None
    push_held: str | None = None
    escalate: str | None = None  # its steps, as `escalation.to_store` has them
    notify_release: bool = False
    hold: bool = True
    scope: Scope = EVERYWHERE
    notify_policy: NotifyPolicy | None = None
    ttl_s: int
    deliver_ms: int | None = None  # not before then
    mentions: tuple[str, ...] = ()  # of an ultra group: who gets a pointer into the inbox
    everyone: bool = False  # all members are mentioned

    @property
    def shared(self) -> bool:
        """Whether it stands in a shared timeline, and its receivers only get pointers to it."""
        return self.conversation_type == ULTRA

    @property
    def waits(self) -> bool:
        """Whether its receivers get it by a job of its own, later or in parts."""
        return self.deliver_ms is not None or len(self.users) > AT_ONCE_MAX

    @property
    def stored_bytes(self) -> int:
        """What accepting it writes, about: for the bounds of the writer's queue and of its commits."""
        texts = sum(len(text.encode()) for text in (self.body, self.push, self.push_held, self.fallback) if text)
        return texts + MESSAGE_BYTES + RECEIVER_BYTES * len(self.users)


class Recipient(NamedTuple):
    """What became of one receiver: a number in the inbox, or a code of why not; neither yet: it waits."""

    user_id: str
    seq: int | None
    refusal: str | None


class Accepted(Struct, frozen=True, kw_only=True):
    """What the sender is told; `wakes` and `due_ms` are hints for after the commit."""

    message_id: str
    accepted_ms: int
    expires_ms: int
    recipients: tuple[Recipient, ...]
    deliver_ms: int | None = None
    job: str | None = None  # the fan-out that it goes by
    everyone: bool = False  # the job goes to all members of a group
    posted: tuple[TimelineKey, int] | None = None  # its number in a shared timeline
    replay: bool = False
    wakes: tuple[UserKey, ...] = ()
    due_ms: int | None = None

    @property
    def fanout_total(self) -> int | None:
        """How many receivers its fan-out has; None: everybody in a group."""
        return None if self.everyone else len(self.recipients)


class JobOptions(Struct, frozen=True, omit_defaults=True):
    """What a job must know of a send that the message's row does not say."""

    devices_named: bool
    ttl_s: int
    mentions: tuple[str, ...] = ()
    everyone: bool = False
    recall: bool = False  # takes back what was delivered
    session: int | None = None  # of the device that sent it, when it did

    @classmethod
    def of(cls, send: Send, session: int | None) -> "JobOptions":
        return cls(send.devices_named, send.ttl_s, send.mentions, send.everyone, session=session)


REFUSALS: dict[str, Callable[[str], Problem]] = {
    "recipient_unknown": lambda who: Invalid(
        f"There is no user {who[:64]!r}, or not with these devices; register them first, or set app.create_users.",
        code="recipient_unknown",
        errors=(FieldError("/to", "unknown", "names nobody who could receive this"),),
    ),
    "recipient_queue_full": lambda who: Throttled(
        f"The inbox of {who[:64]!r} is full; its devices must catch up first.",
        code="recipient_queue_full",
        retry_after_s=60,
    ),
}


def expiry(send: Send, now_ms: int) -> int:
    """When it is over: its life begins when it is delivered."""
    return max(now_ms, send.deliver_ms or 0) + (send.ttl_s * 1000 or ZERO_TTL_MS)


def nobody_there(send: Send) -> Invalid:
    return Invalid(
        f"The group {(send.group or '')[:64]!r} has no member to receive this.",
        code="recipient_unknown",
        errors=(FieldError("/to/group", "unknown", "has no member besides the sender"),),
    )


def replayed(row: Any) -> Accepted:
    """The answer that was given for this message, or how far it has come since."""
    recipients = tuple(Recipient(*one) for one in msgspec.json.decode(row.recipients))
    waits = row.deliver_ms is not None or len(recipients) > AT_ONCE_MAX
    return Accepted(
        message_id=row.message_id,
        accepted_ms=row.accepted_ms,
        expires_ms=row.expires_ms,
        recipients=recipients,
        deliver_ms=row.deliver_ms,
        job=fanout_rows.job_id(row.app_id, row.message_id) if waits else None,
        replay=True,
    )
