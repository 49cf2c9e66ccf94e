"""Devices as the backend knows them: their addresses, their credentials, and whether they are there."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from relay.api.schemas.base import In, Out, Version
from relay.realtime.protocol import AddressBody, Id, MessageIdText, Word


class DeviceBody(In):
    """A device as the backend knows it. What is left out stays as it is.

    `app_version` and `schema` count until the device has shaken hands: then it says itself which version it is.
    """

    platform: Word | None = Field(None, description="Such as `android`; a message's `scope.platforms` goes by it.")
    app_version: Version | None = Field(None, description="A message's `min_app_version` goes by it.")
    schema_: int | None = Field(
        None, alias="schema", ge=0, le=1_000_000, description="A message's `min_schema` goes by it."
    )
    locale: Annotated[str, StringConstraints(max_length=35)] | None = Field(None, description="Kept for you.")
    tz: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="An IANA name; quiet hours go by it where the user's preferences name none."
    )
    install_id: Id | None = Field(
        None,
        description="The same for all who use one installation of the app: then its push token may be several users'.",
    )
    replaces: Id | None = Field(
        None,
        description="A device of the user that this one follows, as after a reinstall: it begins where that one was, which goes.",
    )
    addresses: Annotated[list[AddressBody], Field(max_length=8)] | None = Field(
        None, description="All of them, in order of preference."
    )


class AddressesBody(In):
    """The whole list of addresses, in order of preference."""

    addresses: Annotated[list[AddressBody], Field(max_length=8)]


class ProofBody(In):
    """What a push to one of the device's addresses said (`relay.prove`)."""

    account: Word
    value: Annotated[str, StringConstraints(min_length=1, max_length=64)]


class AddressOut(Out):
    account: str
    kind: str | None = None
    state: str
    registered_at: str | None = None
    failing_since: str | None = Field(None, description="Since then every push to it failed by its own fault.")


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


class AckedBody(In):
    """What the gateway's client has stored: ids, or everything up to a number of the inbox."""

    ids: Annotated[list[MessageIdText], Field(min_length=1, max_length=500)] | None = None
    upto: int | None = Field(None, ge=0, le=2**53 - 1)


class PresenceItem(In):
    user: Id
    device: Id
    state: Literal["foreground", "background", "offline"]
    acked: AckedBody | None = Field(None, description="What the client, not the gateway, has stored.")


class PresenceBody(In):
    """Heartbeats of devices whose sockets somebody else owns."""

    devices: Annotated[list[PresenceItem], Field(min_length=1, max_length=500)]
    lease_s: float | None = Field(
        None, ge=10, le=3600, description="How long each is there without another word. null: as `[heartbeat]` says."
    )


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
