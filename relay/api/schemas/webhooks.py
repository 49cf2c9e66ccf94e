"""Webhook endpoints, and the events that they are told."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from relay.api.schemas.base import In, Out, Place

EventTypes = Annotated[list[Annotated[str, StringConstraints(max_length=64)]], Field(min_length=1, max_length=100)]
Headers = dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=1024)]]


class EndpointBody(In):
    """Where events are told, and which. `*` means all that are on by default."""

    url: Annotated[str, StringConstraints(max_length=4096)] = Field(
        description="https, by name, of a public address; others only as `[webhooks]` allows."
    )
    types: EventTypes = Field(["*"])
    description: Annotated[str, StringConstraints(max_length=256)] | None = Field(None, description="For you.")
    headers: Headers = Field(
        default_factory=dict,
        max_length=20,
        description="Sent with every call, up to ten; their values are kept sealed.",
    )


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
    undelivered_only: bool = Field(False, description="Leaves out what the endpoint has taken.")
    cursor: Place | None = Field(None, description="`next` of the answer before, for the rest of a range.")

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


class TestEventOut(Out):
    event: str
