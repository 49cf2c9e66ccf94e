"""Rows of the devices' own."""

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from relay.api.device_sends import DeviceSendBody, SentOut
from relay.api.routes import DEVICE, Query, Route
from relay.api.schemas.device import (
    AckOut,
    BeatOut,
    DeviceHistoryOut,
    NextTokenOut,
    OffersOut,
    SyncOut,
    TicketOut,
    VerifyOut,
    WelcomeOut,
)
from relay.api.schemas.devices import AddressesBody, AddressesOut, ProofBody
from relay.api.table.shared import BODY, CALLER, COMMIT, CURSOR, KEY_HEADER, STORE
from relay.inbox.cursor import INBOX
from relay.realtime.protocol import (
    FOLLOWED_MAX,
    AckBody,
    HeartbeatBody,
    HelloBody,
    Id,
    MessageIdText,
    Sealed,
    SealedShared,
    VerifyBody,
)
from relay.shedding import Shed


class SyncQuery(Query):
    """Where the device stands, how much it wants, and how long it would wait.

    `shared`: cursors of shared timelines; `open`: conversations whose timelines it reads for the first time. `range` is of
    `timeline`: the inbox, or a conversation. `ids`: these messages alone, as a push has named them; nothing else goes with it.
    """

    LISTS: ClassVar[frozenset[str]] = frozenset({"shared", "open", "ids"})
    cursor: Sealed | None = None
    limit: int = Field(200, ge=1, le=200)
    wait: int = Field(0, ge=0, le=60)
    range: Annotated[str, StringConstraints(max_length=40)] | None = None
    timeline: Id = INBOX
    ids: Annotated[list[MessageIdText], Field(default_factory=list, max_length=10)]
    shared: Annotated[list[SealedShared], Field(default_factory=list, max_length=FOLLOWED_MAX)]
    open: Annotated[list[Id], Field(default_factory=list, max_length=FOLLOWED_MAX)]


class StreamQuery(Query):
    """Where the device stands, also in shared timelines, as for sync; and a ticket, for who can't send a header."""

    LISTS: ClassVar[frozenset[str]] = frozenset({"shared", "open"})
    cursor: Sealed | None = None
    shared: Annotated[list[SealedShared], Field(default_factory=list, max_length=FOLLOWED_MAX)]
    open: Annotated[list[Id], Field(default_factory=list, max_length=FOLLOWED_MAX)]
    ticket: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None


class DeviceHistoryQuery(Query):
    """Without a conversation: the inbox. `before` is what an earlier answer gave."""

    conversation: Id | None = None
    before: Annotated[str, StringConstraints(pattern=r"^s?[0-9]{1,16}$")] | None = None
    limit: int = Field(50, ge=1, le=200)


ROUTES: tuple[Route, ...] = (
    Route(
        method="PUT",
        path="/v1/device",
        handler="handshake",
        summary="Shake hands: at every process start and after every upgrade.",
        access=DEVICE,
        request=HelloBody,
        responses={200: WelcomeOut},
        errors=(*CALLER, *BODY, *COMMIT, "another_user"),
        tag="device",
    ),
    Route(
        method="POST",
        path="/v1/device/heartbeat",
        handler="heartbeat",
        summary="A sign of life; the answer tells how often, and whether there is something to fetch.",
        access=DEVICE,
        request=HeartbeatBody,
        responses={200: BeatOut},
        errors=(*CALLER, *BODY, *COMMIT, "state_conflict", "invalid_cursor"),
        tag="device",
    ),
    Route(
        method="GET",
        path="/v1/device/sync",
        handler="sync",
        summary="What is missing after the cursor, or 304; waits if asked to.",
        access=DEVICE,
        query=SyncQuery,
        responses={200: SyncOut, 304: None},
        errors=(*CALLER, *STORE, *CURSOR, "validation_failed", "unknown_field"),
        headers={"If-None-Match": "The ETag of the last answer that was caught up."},
        tag="device",
    ),
    Route(
        method="POST",
        path="/v1/device/ack",
        handler="ack",
        summary="Say what is stored: cumulative by cursor, selective by id; refuse, mark as read, report.",
        access=DEVICE,
        request=AckBody,
        responses={200: AckOut},
        errors=(*CALLER, *BODY, *COMMIT, "invalid_cursor", "cursor_epoch_changed", "another_user", "batch_too_large"),
        tag="device",
    ),
    Route(
        method="POST",
        path="/v1/device/verify",
        handler="verify",
        summary="Compare what is stored here with what should be, by fingerprints; only differences are listed.",
        access=DEVICE,
        shed=Shed.STATISTICS,
        request=VerifyBody,
        responses={200: VerifyOut},
        errors=(*CALLER, *BODY, *COMMIT, *CURSOR),
        tag="device",
    ),
    Route(
        method="POST",
        path="/v1/device/messages",
        handler="send_from_device",
        summary="Send a message in the user's name, where app.device_sends lets devices do so.",
        access=DEVICE,
        shed=Shed.URGENT,
        request=DeviceSendBody,
        responses={202: SentOut, 200: SentOut},
        errors=(
            *CALLER,
            *BODY,
            *COMMIT,
            "idempotency_key_required",
            "idempotency_key_invalid",
            "idempotency_conflict",
            "recipient_unknown",
            "recipient_queue_full",
            "tenant_quota_exceeded",
            "too_many_recipients",
            "payload_too_large",
        ),
        body_bytes_max=128 * 1024,
        headers=KEY_HEADER,
        tag="device",
    ),
    Route(
        method="PUT",
        path="/v1/device/addresses",
        handler="put_addresses",
        summary="The device's whole list of push addresses, in order of preference.",
        access=DEVICE,
        request=AddressesBody,
        responses={200: AddressesOut},
        errors=(*CALLER, *BODY, *COMMIT, "not_found"),
        tag="device",
    ),
    Route(
        method="POST",
        path="/v1/device/addresses/challenge",
        handler="challenge_addresses",
        summary="Send the device's unproven addresses their challenge again: at most one in ten seconds to each.",
        access=DEVICE,
        responses={202: AddressesOut},
        errors=(*CALLER, *STORE),
        tag="device",
    ),
    Route(
        method="POST",
        path="/v1/device/addresses/proof",
        handler="prove_address",
        summary="What a push to an unproven address said: from now on the address is used.",
        access=DEVICE,
        request=ProofBody,
        responses={200: AddressesOut},
        errors=(*CALLER, *BODY, *COMMIT, "not_found"),
        tag="device",
    ),
    Route(
        method="POST",
        path="/v1/device/token",
        handler="renew_token",
        summary="The successor of the device's token, past half of its life; the handshake's answer has it as well.",
        access=DEVICE,
        responses={200: NextTokenOut},
        errors=(*CALLER, *COMMIT),
        tag="device",
    ),
    Route(
        method="GET",
        path="/v1/device/accounts",
        handler="device_accounts",
        summary="The vendor accounts a device may have addresses in, and the public keys that its app subscribes with.",
        access=DEVICE,
        responses={200: OffersOut},
        errors=(*CALLER, *STORE),
        tag="device",
    ),
    Route(
        method="POST",
        path="/v1/device/ticket",
        handler="ticket",
        summary="A single-use ticket, good for a minute: what a browser's socket brings instead of the token.",
        access=DEVICE,
        responses={201: TicketOut},
        errors=(*CALLER, *COMMIT),
        tag="device",
    ),
    Route(
        method="GET",
        path="/v1/device/ws",
        handler="socket",
        summary="The WebSocket, subprotocol relay.v1.json: live messages and catch-up on one path.",
        access=DEVICE,
        responses={101: None},
        errors=(*CALLER, *STORE, "upgrade_required"),
        raw=True,
        tag="device",
    ),
    Route(
        method="GET",
        path="/v1/device/stream",
        handler="stream",
        summary="`batch`, `follow`, `heads`, `hb`, `resync_required`, `withdraw`, `drain`, `degraded`. Shake hands first.",
        access=DEVICE,
        query=StreamQuery,
        responses={200: None},
        errors=(*CALLER, *STORE, "invalid_cursor", "state_conflict", "validation_failed", "unknown_field"),
        headers={"Last-Event-ID": "What the last whole event ended with; the further one counts, in each timeline."},
        raw=True,
        media="text/event-stream",
        tag="device",
    ),
    Route(
        method="GET",
        path="/v1/device/history",
        handler="device_history",
        summary="What this device could see of a conversation, backwards; no promise goes with it.",
        access=DEVICE,
        shed=Shed.SEARCHES,
        query=DeviceHistoryQuery,
        responses={200: DeviceHistoryOut},
        errors=(*CALLER, *STORE, "validation_failed", "unknown_field"),
        tag="device",
    ),
)
