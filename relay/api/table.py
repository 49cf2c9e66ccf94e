"""All routes of the relay, in one table."""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from relay.api import schemas as s
from relay.api.routes import DEVICE, PUBLIC, Query, Route
from relay.model import SEQ_MAX
from relay.realtime.protocol import AckBody, HeartbeatBody, HelloBody, Id, Sealed, VerifyBody

KEY_HEADER = {"Idempotency-Key": "Makes a repeat of this send known as one: 1 to 128 of A-Z a-z 0-9 . _ : -"}
CALLER = (
    "unauthenticated",
    "forbidden",
    "rate_limited",
    "auth_throttled",
    "credential_in_url",
    "malformed_http",
    "https_required",
)
PASSER_BY = ("malformed_http", "credential_in_url", "rate_limited")
STORE = ("overloaded", "draining", "storage_unavailable", "storage_full", "storage_failed")
COMMIT = (*STORE, "commit_unknown")
BODY = (
    "json_invalid",
    "json_not_utf8",
    "json_duplicate_key",
    "json_too_complex",
    "number_out_of_range",
    "unknown_field",
    "unsupported_media_type",
    "unsupported_encoding",
    "validation_failed",
    "body_too_large",
    "request_timeout",
)
CURSOR = ("invalid_cursor", "cursor_epoch_changed", "cursor_too_old")


class SyncQuery(Query):
    """Where the device stands, how much it wants, and how long it would wait."""

    cursor: Sealed | None = None
    limit: int = Field(200, ge=1, le=200)
    wait: int = Field(0, ge=0, le=60)
    range: Annotated[str, StringConstraints(max_length=40)] | None = None


class StreamQuery(Query):
    """Where the device stands; and a ticket, for who can't send a header."""

    cursor: Sealed | None = None
    ticket: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None


class PageQuery(Query):
    cursor: s.Place | None = None
    limit: int = Field(50, ge=1, le=200)


class VersionsQuery(Query):
    hours: int = Field(24, ge=1, le=720)


class HistoryQuery(PageQuery):
    """Which messages, the newest first. `state` goes with `user`: what became of it in that inbox."""

    user: Id | None = None
    conversation: Id | None = None
    sender: Id | None = None
    state: Literal["live", "expired", "cancelled", "recalled", "superseded", "failed"] | None = None
    since: Annotated[str, StringConstraints(max_length=40)] | None = None
    until: Annotated[str, StringConstraints(max_length=40)] | None = None


class DeviceHistoryQuery(Query):
    conversation: Id | None = None
    before: int | None = Field(None, ge=1, le=SEQ_MAX)
    limit: int = Field(50, ge=1, le=200)


class MembersQuery(Query):
    after: Id | None = None
    limit: int = Field(200, ge=1, le=1000)


class EventsQuery(PageQuery):
    types: Annotated[str, StringConstraints(max_length=1024)] | None = None


class DeadQuery(PageQuery):
    why: Annotated[str, StringConstraints(max_length=64)] | None = None


ROUTES: tuple[Route, ...] = (
    # --- messages ---
    Route(
        method="POST",
        path="/v1/messages",
        handler="send",
        summary="Send one message; the answer means that it is on disk.",
        access="messages:write",
        request=s.SendBody,
        responses={202: s.AcceptedOut, 200: s.AcceptedOut},
        errors=(
            *CALLER,
            *BODY,
            *COMMIT,
            "idempotency_key_required",
            "idempotency_key_invalid",
            "idempotency_conflict",
            "recipient_unknown",
            "recipient_queue_full",
            "too_many_recipients",
            "payload_too_large",
        ),
        body_bytes_max=128 * 1024,  # the message itself may have 64 KiB; its JSON may be written wastefully
        headers=KEY_HEADER,
    ),
    Route(
        method="POST",
        path="/v1/messages/batch",
        handler="send_batch",
        summary="Send up to 500 messages; each item has its own result.",
        access="messages:write",
        request=s.BatchBody,
        responses={202: s.BatchOut},
        errors=(*CALLER, *BODY, *COMMIT, "batch_too_large"),
        body_bytes_max=1024 * 1024,
        too_large="batch_too_large",
    ),
    Route(
        method="GET",
        path="/v1/messages/{message}",
        handler="look_up",
        summary="A message's state for each device, and every attempt to tell, with its reason.",
        access="messages:read",
        responses={200: s.TraceOut},
        errors=(*CALLER, *STORE, "not_found"),
    ),
    Route(
        method="DELETE",
        path="/v1/messages/{message}",
        handler="cancel",
        summary="Take a message back: cancelled where nobody acked it, else recalled on the devices that have it.",
        access="messages:cancel",
        responses={200: s.CancelledOut},
        errors=(*CALLER, *COMMIT, "not_found", "state_conflict"),
    ),
    # --- devices ---
    Route(
        method="PUT",
        path="/v1/users/{user}/devices/{device}",
        handler="put_device",
        summary="Register a device, or change what is known of it. Makes the user, too.",
        access="devices:write",
        request=s.DeviceBody,
        responses={200: s.DeviceOut, 201: s.DeviceOut},
        errors=(*CALLER, *BODY, *COMMIT, "not_found"),
        tag="devices",
    ),
    Route(
        method="GET",
        path="/v1/users/{user}/devices/{device}",
        handler="get_device",
        summary="Look a device up.",
        access="devices:write",
        responses={200: s.DeviceOut},
        errors=(*CALLER, *STORE, "not_found"),
        tag="devices",
    ),
    Route(
        method="DELETE",
        path="/v1/users/{user}/devices/{device}",
        handler="delete_device",
        summary="Sign a device out: its addresses die, what it had not acked has failed for it.",
        access="devices:write",
        responses={204: None},
        errors=(*CALLER, *COMMIT, "not_found"),
        tag="devices",
    ),
    Route(
        method="POST",
        path="/v1/users/{user}/devices/{device}/token",
        handler="mint_token",
        summary="Mint the device's credential; pass it on to the app.",
        access="devices:token",
        responses={201: s.TokenOut},
        errors=(*CALLER, *COMMIT, "not_found"),
        tag="devices",
    ),
    Route(
        method="DELETE",
        path="/v1/users/{user}/devices/{device}/token",
        handler="revoke_device_tokens",
        summary="Revoke all tokens of a device; it stays registered, its connections end.",
        access="devices:token",
        responses={204: None},
        errors=(*CALLER, *COMMIT, "not_found"),
        tag="devices",
    ),
    Route(
        method="DELETE",
        path="/v1/users/{user}/tokens",
        handler="revoke_user_tokens",
        summary="Revoke all tokens of all devices of a user.",
        access="devices:token",
        responses={204: None},
        errors=(*CALLER, *COMMIT, "not_found"),
        tag="devices",
    ),
    # --- presence ---
    Route(
        method="POST",
        path="/v1/presence",
        handler="post_presence",
        summary="Heartbeats and states of up to 500 devices whose sockets somebody else owns.",
        access="devices:write",
        request=s.PresenceBody,
        responses={200: s.PresenceOut},
        errors=(*CALLER, *BODY, *COMMIT),
        body_bytes_max=256 * 1024,
        tag="presence",
    ),
    Route(
        method="GET",
        path="/v1/users/{user}/presence",
        handler="user_presence",
        summary="Which of a user's devices are online.",
        access="messages:read",
        responses={200: s.UserPresence},
        errors=(*CALLER, *STORE, "not_found"),
        tag="presence",
    ),
    Route(
        method="POST",
        path="/v1/presence/query",
        handler="query_presence",
        summary="Who of up to 500 users is online.",
        access="messages:read",
        request=s.PresenceQuery,
        responses={200: s.PresencesOut},
        errors=(*CALLER, *BODY, *STORE),
        tag="presence",
    ),
    # --- webhooks and events ---
    Route(
        method="POST",
        path="/v1/webhooks",
        handler="create_endpoint",
        summary="Add an endpoint; its signing secret is shown this once.",
        access="webhooks:write",
        request=s.EndpointBody,
        responses={201: s.NewEndpointOut},
        errors=(*CALLER, *BODY, *COMMIT, "endpoint_url_invalid", "endpoint_address_denied"),
        tag="webhooks",
    ),
    Route(
        method="GET",
        path="/v1/webhooks",
        handler="list_endpoints",
        summary="All endpoints.",
        access="webhooks:write",
        responses={200: s.EndpointsOut},
        errors=(*CALLER, *STORE),
        tag="webhooks",
    ),
    Route(
        method="GET",
        path="/v1/webhooks/{endpoint}",
        handler="get_endpoint",
        summary="One endpoint.",
        access="webhooks:write",
        responses={200: s.EndpointOut},
        errors=(*CALLER, *STORE, "not_found"),
        tag="webhooks",
    ),
    Route(
        method="PATCH",
        path="/v1/webhooks/{endpoint}",
        handler="update_endpoint",
        summary="Change an endpoint, or enable it again.",
        access="webhooks:write",
        request=s.EndpointChanges,
        responses={200: s.EndpointOut},
        errors=(*CALLER, *BODY, *COMMIT, "not_found", "endpoint_url_invalid", "endpoint_address_denied"),
        tag="webhooks",
    ),
    Route(
        method="DELETE",
        path="/v1/webhooks/{endpoint}",
        handler="delete_endpoint",
        summary="Remove an endpoint; what waited for it stays in the pull API.",
        access="webhooks:write",
        responses={204: None},
        errors=(*CALLER, *COMMIT, "not_found"),
        tag="webhooks",
    ),
    Route(
        method="POST",
        path="/v1/webhooks/{endpoint}/test",
        handler="test_endpoint",
        summary="Send an `endpoint.test` event to this endpoint alone.",
        access="webhooks:write",
        responses={202: s.TestEventOut},
        errors=(*CALLER, *COMMIT, "not_found", "state_conflict"),
        tag="webhooks",
    ),
    Route(
        method="POST",
        path="/v1/webhooks/{endpoint}/rotate",
        handler="rotate_secret",
        summary="Make a new signing secret; the old one signs beside it for a while.",
        access="webhooks:write",
        request=s.RotateBody,
        responses={200: s.RotatedOut},
        errors=(*CALLER, *BODY, *COMMIT, "not_found"),
        tag="webhooks",
    ),
    Route(
        method="GET",
        path="/v1/webhooks/{endpoint}/deliveries",
        handler="list_deliveries",
        summary="What was told to this endpoint, newest first.",
        access="webhooks:write",
        query=PageQuery,
        responses={200: s.DeliveriesOut},
        errors=(*CALLER, *STORE, "not_found", "invalid_cursor", "validation_failed", "unknown_field"),
        tag="webhooks",
    ),
    Route(
        method="POST",
        path="/v1/webhooks/{endpoint}/replay",
        handler="replay",
        summary="Send events again, by id or of a time range.",
        access="webhooks:write",
        request=s.ReplayBody,
        responses={202: s.ReplayedOut},
        errors=(*CALLER, *BODY, *COMMIT, "not_found", "state_conflict", "invalid_cursor"),
        tag="webhooks",
    ),
    Route(
        method="GET",
        path="/v1/events",
        handler="pull_events",
        summary="The same events by pull, in the order of their sequence.",
        access="events:read",
        query=EventsQuery,
        responses={200: s.EventsOut},
        errors=(*CALLER, *STORE, *CURSOR, "validation_failed", "unknown_field"),
        tag="webhooks",
    ),
    # --- vendor accounts ---
    Route(
        method="GET",
        path="/v1/push/accounts",
        handler="list_accounts",
        summary="Vendor accounts and how they are, as this node sees them.",
        access="admin:read",
        responses={200: s.AccountsOut},
        errors=(*CALLER, *STORE),
        tag="push",
    ),
    Route(
        method="POST",
        path="/v1/push/accounts/{account}/unpark",
        handler="unpark_account",
        summary="Say that a parked account is mended: what rested for it is due again.",
        access="admin:write",
        responses={200: s.UnparkedOut},
        errors=(*CALLER, *COMMIT, "not_found"),
        tag="push",
    ),
    Route(
        method="GET",
        path="/v1/push/dead",
        handler="dead_pushes",
        summary="Devices that are not told of what they lack, and why: refused, no address, account parked.",
        access="admin:read",
        query=DeadQuery,
        responses={200: s.DeadPushesOut},
        errors=(*CALLER, *STORE, "invalid_cursor", "validation_failed", "unknown_field"),
        tag="push",
    ),
    Route(
        method="POST",
        path="/v1/push/dead/requeue",
        handler="requeue_pushes",
        summary="Try dead pushes again: those of one device, of one reason, or all.",
        access="admin:write",
        request=s.RequeueBody,
        responses={200: s.RequeuedOut},
        errors=(*CALLER, *BODY, *COMMIT, "not_found"),
        tag="push",
    ),
    Route(
        method="GET",
        path="/v1/app-versions",
        handler="app_versions",
        summary="How upgrades to each app version went, of the last hours.",
        access="admin:read",
        query=VersionsQuery,
        responses={200: s.VersionsOut},
        errors=(*CALLER, *STORE, "validation_failed", "unknown_field"),
        tag="operation",
    ),
    Route(
        method="PUT",
        path="/v1/groups/{group}/members",
        handler="change_members",
        summary="Let users join and leave a group, in one step; the first to join makes it.",
        access="devices:write",
        request=s.MembersBody,
        responses={200: s.MembershipOut},
        errors=(*CALLER, *BODY, *COMMIT, "not_found", "too_many_recipients"),
        tag="groups",
    ),
    Route(
        method="GET",
        path="/v1/groups/{group}/members",
        handler="list_members",
        summary="Who is a member now.",
        access="messages:read",
        query=MembersQuery,
        responses={200: s.MembersOut},
        errors=(*CALLER, *STORE, "not_found", "validation_failed", "unknown_field"),
        tag="groups",
    ),
    Route(
        method="DELETE",
        path="/v1/groups/{group}/members/{user}",
        handler="remove_member",
        summary="Let a user leave; what was sent before stays its own.",
        access="devices:write",
        responses={204: None},
        errors=(*CALLER, *COMMIT, "not_found"),
        tag="groups",
    ),
    Route(
        method="DELETE",
        path="/v1/groups/{group}",
        handler="dissolve_group",
        summary="Let everybody leave.",
        access="devices:write",
        responses={204: None},
        errors=(*CALLER, *COMMIT, "not_found"),
        tag="groups",
    ),
    Route(
        method="POST",
        path="/v1/users/{user}/rename",
        handler="rename_user",
        summary="Give a user another name. Its tokens end; mint new ones, and its devices begin anew without a loss.",
        access="devices:write",
        request=s.RenameBody,
        responses={204: None},
        errors=(*CALLER, *BODY, *COMMIT, "not_found", "state_conflict"),
        tag="users",
    ),
    Route(
        method="DELETE",
        path="/v1/users/{user}",
        handler="delete_user",
        summary="Erase a user: its devices, inbox and wishes, what only it received, and its name in what others did.",
        access="devices:write",
        responses={204: None},
        errors=(*CALLER, *COMMIT),
        tag="users",
    ),
    *(
        Route(
            method=method,
            path="/v1/users/{user}/preferences",
            handler=handler,
            summary=summary,
            access=access,
            request=request,
            responses=responses,
            errors=errors,
            tag="users",
        )
        for method, handler, summary, access, request, responses, errors in (
            (
                "GET",
                "get_preferences",
                "What the user wants to be told of, and when not.",
                "messages:read",
                None,
                {200: s.PreferencesBody},
                (*CALLER, *STORE, "not_found"),
            ),
            (
                "PUT",
                "put_preferences",
                "Set what the user wants to be told of: quiet hours, levels, mutes. The whole of it.",
                "devices:write",
                s.PreferencesBody,
                {200: s.PreferencesBody},
                (*CALLER, *BODY, *COMMIT, "not_found"),
            ),
            (
                "DELETE",
                "delete_preferences",
                "Tell the user of everything again, at any time.",
                "devices:write",
                None,
                {204: None},
                (*CALLER, *COMMIT, "not_found"),
            ),
        )
    ),
    Route(
        method="GET",
        path="/v1/messages",
        handler="history",
        summary="Messages that are still kept, the newest first: all of the app, or those of one user.",
        access="messages:read",
        query=HistoryQuery,
        responses={200: s.HistoryOut},
        errors=(*CALLER, *STORE, "invalid_cursor", "validation_failed", "unknown_field"),
        tag="messages",
    ),
    Route(
        method="GET",
        path="/v1/logs",
        handler="list_logs",
        summary="The hours whose message log can be downloaded.",
        access="messages:read",
        responses={200: s.LogsOut},
        errors=CALLER,
        tag="messages",
    ),
    Route(
        method="GET",
        path="/v1/logs/{hour}",
        handler="get_log",
        summary="One hour's messages and events as gzip NDJSON, in parts if asked for; its last line checks the rest.",
        access="messages:read",
        responses={200: None, 206: None, 416: None},
        errors=(*CALLER, *STORE, "not_found", "state_conflict"),
        headers={"Range": "Which bytes; to go on with a download that was cut off."},
        media="application/gzip",
        tag="messages",
    ),
    # --- devices' own ---
    Route(
        method="PUT",
        path="/v1/device",
        handler="handshake",
        summary="Shake hands: at every process start and after every upgrade.",
        access=DEVICE,
        request=HelloBody,
        responses={200: s.WelcomeOut},
        errors=(*CALLER, *BODY, *COMMIT),
        tag="device",
    ),
    Route(
        method="POST",
        path="/v1/device/heartbeat",
        handler="heartbeat",
        summary="A sign of life; the answer tells how often, and whether there is something to fetch.",
        access=DEVICE,
        request=HeartbeatBody,
        responses={200: s.BeatOut},
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
        responses={200: s.SyncOut, 304: None},
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
        responses={200: s.AckOut},
        errors=(*CALLER, *BODY, *COMMIT, "invalid_cursor", "cursor_epoch_changed", "batch_too_large"),
        tag="device",
    ),
    Route(
        method="POST",
        path="/v1/device/verify",
        handler="verify",
        summary="Compare what is stored here with what should be, by fingerprints; only differences are listed.",
        access=DEVICE,
        request=VerifyBody,
        responses={200: s.VerifyOut},
        errors=(*CALLER, *BODY, *COMMIT, *CURSOR),
        tag="device",
    ),
    Route(
        method="PUT",
        path="/v1/device/addresses",
        handler="put_addresses",
        summary="The device's whole list of push addresses, in order of preference.",
        access=DEVICE,
        request=s.AddressesBody,
        responses={200: s.AddressesOut},
        errors=(*CALLER, *BODY, *COMMIT, "not_found"),
        tag="device",
    ),
    Route(
        method="POST",
        path="/v1/device/token",
        handler="renew_token",
        summary="The successor of the device's token, past half of its life; the handshake's answer has it as well.",
        access=DEVICE,
        responses={200: s.NextTokenOut},
        errors=(*CALLER, *COMMIT),
        tag="device",
    ),
    Route(
        method="GET",
        path="/v1/device/accounts",
        handler="device_accounts",
        summary="The vendor accounts a device may have addresses in, and the public keys that its app subscribes with.",
        access=DEVICE,
        responses={200: s.OffersOut},
        errors=CALLER,
        tag="device",
    ),
    Route(
        method="POST",
        path="/v1/device/ticket",
        handler="ticket",
        summary="A single-use ticket, good for a minute: what a browser's socket brings instead of the token.",
        access=DEVICE,
        responses={201: s.TicketOut},
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
        errors=(*CALLER, "upgrade_required", "overloaded", "draining"),
        raw=True,
        tag="device",
    ),
    Route(
        method="GET",
        path="/v1/device/stream",
        handler="stream",
        summary="Server-sent events: `batch`, `hb`, `resync_required`, `drain`. Shake hands first; ack by POST.",
        access=DEVICE,
        query=StreamQuery,
        responses={200: None},
        errors=(*CALLER, *STORE, "invalid_cursor", "state_conflict", "validation_failed", "unknown_field"),
        headers={"Last-Event-ID": "The cursor that the last whole event ended with; the further one of both counts."},
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
        query=DeviceHistoryQuery,
        responses={200: s.DeviceHistoryOut},
        errors=(*CALLER, *STORE, "validation_failed", "unknown_field"),
        tag="device",
    ),
    # --- about the relay ---
    # --- vendors ---
    *(
        Route(
            method="POST",
            path=path,
            handler=handler,
            summary="A vendor's delivery receipts; it signs, or knows the account's secret path, and gets its own answer.",
            access=PUBLIC,
            responses={200: None},
            errors=(*PASSER_BY, *COMMIT, "unauthenticated", "not_found", "json_invalid", "body_too_large"),
            raw=True,
            tag="vendors",
        )
        for handler, path in (
            ("take_receipts", "/v1/receipts/{account}"),
            ("take_receipts_by_path", "/v1/receipts/{account}/{secret}"),
        )
    ),
    Route(
        method="GET",
        path="/healthz",
        handler="healthz",
        summary="Whether the process lives.",
        access=PUBLIC,
        responses={200: s.HealthOut},
        errors=PASSER_BY,
        raw=True,
        tag="operation",
    ),
    Route(
        method="GET",
        path="/readyz",
        handler="readyz",
        summary="Whether it can take messages now.",
        access=PUBLIC,
        responses={200: s.HealthOut, 503: s.HealthOut},
        errors=PASSER_BY,
        raw=True,
        tag="operation",
    ),
    Route(
        method="GET",
        path="/metrics",
        handler="metrics",
        summary="Prometheus metrics; only from loopback, or with a key of scope admin:read.",
        access=PUBLIC,
        responses={200: None},
        errors=CALLER,
        raw=True,
        media="text/plain",
        tag="operation",
    ),
    Route(
        method="GET",
        path="/v1/openapi.json",
        handler="openapi",
        summary="This document.",
        access=PUBLIC,
        responses={200: None},
        errors=PASSER_BY,
        raw=True,
        tag="operation",
    ),
    Route(
        method="GET",
        path="/docs",
        handler="docs",
        summary="The same, to read.",
        access=PUBLIC,
        responses={200: None},
        errors=PASSER_BY,
        raw=True,
        media="text/html",
        tag="operation",
    ),
)


def routes(*, send_bytes_max: int, batch_bytes_max: int) -> tuple[Route, ...]:
    """The table with the operator's limits of bodies."""
    own = {"send": send_bytes_max, "send_batch": batch_bytes_max}
    return tuple(replace(row, body_bytes_max=own[row.handler]) if row.handler in own else row for row in ROUTES)
