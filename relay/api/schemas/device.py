"""What a device is answered on routes of its own; what it says is in `relay.realtime.protocol`."""

from typing import Literal

from pydantic import Field

from relay.api.schemas.base import Out
from relay.api.schemas.devices import AddressOut
from relay.api.schemas.pages import EntryOut, LossOut, PageOut, ResyncOut
from relay.realtime.protocol import WindowBody


class DeviceHistoryOut(Out):
    """Entries as in sync, the newest first. `before`: for the next page; null: there is nothing older."""

    entries: list[EntryOut]
    before: str | None


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


class RhythmOut(Out):
    """A heartbeat every `interval_s`; without one for `lease_s` the device counts as offline."""

    interval_s: float
    lease_s: float


class UpgradeOut(Out):
    """The app's version has changed; the cache is to be verified, by `purpose: "upgrade"` and this id.

    `released`: messages that the new version gets in full. Nothing is pruned until `pinned_until`. `digest`: of that of the
    handshake, if it had one.
    """

    id: str
    from_: str | None = Field(alias="from")
    to: str | None
    released: int
    pinned_until: str
    verify_by: str
    digest: Literal["same", "differs"] | None = None


class SharedVerdictOut(Out):
    """Of a shared timeline whose cursor the handshake had. `unknown`: it is none of the user's."""

    conversation: str
    verdict: Literal["resume", "delta", "resync", "unknown"]
    reason: str | None = None
    epoch: str | None = None
    head: int | None = None
    floor: int | None = None
    missing: int | None = None


class AdviceOut(Out):
    """What the operator advises this version of the app: it is served all the same."""

    min_app_version: str | None
    upgrade: Literal["none", "recommended", "required"]


class WelcomeOut(Out):
    """The handshake's answer. `cursors` has the one to store, which stands at `head - missing`.

    `ack_wait_s`: what is not acked by then is pushed. `loss`: messages that ended before the device had them.
    `reidentify`: another phone goes by this device's id.
    """

    user: str
    verdict: Literal["resume", "delta", "resync"]
    reason: str | None
    session: int
    epoch: str
    cursors: dict[str, str]
    head: int
    floor: int
    acked: int
    missing: int
    upgrade: UpgradeOut | None
    heartbeat: RhythmOut
    ack_wait_s: float
    window: WindowBody
    addresses: list[AddressOut]
    next_poll_s: int
    now: str
    advice: AdviceOut
    token: NextTokenOut
    loss: LossOut | None = None
    reidentify: Literal[True] | None = None
    shared: list[SharedVerdictOut] | None = None
    digest: Literal["same", "differs"] | None = None


class BeatOut(Out):
    head: int
    interval_s: float
    lease_s: float
    now: str
    do: str | None = None


class AheadOut(Out):
    """A shared timeline that is not followed and lies ahead of what the device has acked; unread mentions of the user."""

    conversation: str
    head: int
    floor: int
    mentions: int


class RefusedTimelineOut(Out):
    """What was asked for and is none of this user's (`conversation`), or no cursor of one (`cursor`, its beginning)."""

    conversation: str | None = None
    cursor: str | None = None
    code: Literal["not_found", "invalid_cursor"]


class SyncOut(Out):
    """Pages of what is missing. `caught_up`: everything up to the head has been given, of every timeline asked for.

    `shared`: timelines that were not asked for and lie ahead of what the device has acked. `resync`: shared timelines that
    begin anew, each with the cursor to store. `refused`: what was asked for and is none of this user's.
    """

    batches: list[PageOut]
    caught_up: bool
    more: bool
    shared: list[AheadOut]
    resync: list[ResyncOut] | None = None
    refused: list[RefusedTimelineOut] | None = None
    session: int
    next_poll_s: int
    now: str


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
    shared: dict[str, int] | None = None
