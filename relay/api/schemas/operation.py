"""What an operator looks at: vendor accounts, pushes that rest, upgrades of the app, health."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from relay.api.schemas.base import In, Out
from relay.realtime.protocol import Id


class VersionOut(Out):
    """How upgrades to one app version went. `suspect`: it looks as if it loses its users' messages.

    `verdicts`: as the devices' welcomes said them. `reasons`: of those that had to begin anew. `verified`: how the comparisons
    ended, or `waiting`. `caught_up_s`: the median, from the upgrade to the first comparison. `silent`: devices that are owed
    something and have acked nothing for ten minutes. `bad`: those with a lost store, messages to repair, or silence.
    """

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


class AccountOut(Out):
    name: str
    provider: str
    state: Literal["ready", "impaired", "parked", "circuit_open", "paused", "out_of_hours", "quota_used"]
    code: str | None  # the vendor's word for what must be mended
    until: str | None  # when it goes on by itself
    in_flight: int
    rate_per_s: float  # at present: lower than configured after a pause (`start_per_s`), or after "too many"
    daily_quota: int | None
    sent_today: int | None
    credential_expires: str | None


class AccountsOut(Out):
    accounts: list[AccountOut]


class UnparkedOut(Out):
    released: int  # pushes that rested when this was said, for this account or another of the app, and are due again


class DeadPushOut(Out):
    """A device that is not told of what it lacks. The messages wait for its next sync."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    user: str
    device: str
    why: Literal["refused", "quarantined", "no_address", "account_parked"]
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
    """One device, by `user` and `device`, or all that are listed; with `why`, if they are for that reason."""

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


class HealthOut(Out):
    status: str
    reason: str | None = None  # why it is not ready
    durability: Literal["single-node", "sync-replica", "async-replica"]
    unsafe_storage: list[str]
