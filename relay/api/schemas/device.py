"""What a device is answered on routes of its own; what it says is in `relay.realtime.protocol`."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from relay.api.schemas.base import Out


class DeviceHistoryOut(Out):
    """Entries as in sync, the newest first. `before`: for the next page; null: there is nothing older."""

    entries: list[dict[str, Any]]
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


class WelcomeOut(Out):
    """The handshake's answer."""

    model_config = ConfigDict(extra="allow")

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
    token: NextTokenOut
    now: str


class BeatOut(Out):
    head: int
    interval_s: float
    lease_s: float
    now: str
    do: str | None = None


class SyncOut(Out):
    """Pages of what is missing. `caught_up`: everything up to the head has been given, of every timeline asked for.

    `shared`: timelines that were not asked for and lie ahead of what the device has acked. `resync`: shared timelines that
    begin anew, each with the cursor to store. `refused`: what was asked for and is none of this user's.
    """

    batches: list[dict[str, Any]]
    caught_up: bool
    more: bool
    shared: list[dict[str, Any]]
    resync: list[dict[str, Any]] | None = None
    refused: list[dict[str, Any]] | None = None
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
