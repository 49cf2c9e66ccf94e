"""Rows about messages."""

from typing import Annotated, Literal

from pydantic import StringConstraints

from relay.api.routes import Route
from relay.api.schemas.messages import (
    AcceptedOut,
    BatchBody,
    BatchOut,
    CancelledOut,
    HistoryOut,
    LogsOut,
    SendBody,
    TraceOut,
)
from relay.api.table.shared import BODY, CALLER, COMMIT, KEY_HEADER, STORE, PageQuery
from relay.realtime.protocol import Id
from relay.shedding import Shed


class HistoryQuery(PageQuery):
    """Which messages, the newest first. `state` goes with `user`: what became of it in that inbox."""

    user: Id | None = None
    conversation: Id | None = None
    sender: Id | None = None
    state: Literal["live", "expired", "cancelled", "recalled", "superseded", "failed"] | None = None
    since: Annotated[str, StringConstraints(max_length=40)] | None = None
    until: Annotated[str, StringConstraints(max_length=40)] | None = None


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/messages",
        handler="send",
        summary="Send one message; the answer means that it is on disk.",
        access="messages:write",
        shed=Shed.URGENT,
        request=SendBody,
        responses={202: AcceptedOut, 200: AcceptedOut},
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
        body_bytes_max=128 * 1024,  # the message itself may have 64 KiB; its JSON may be written wastefully
        headers=KEY_HEADER,
    ),
    Route(
        method="POST",
        path="/v1/messages/batch",
        handler="send_batch",
        summary="Send up to 500 messages, as an array or one a line (NDJSON); each item has its own result.",
        access="messages:write",
        shed=Shed.URGENT,
        request=BatchBody,
        lines=True,
        responses={202: BatchOut},
        errors=(*CALLER, *BODY, *COMMIT, "batch_too_large", "tenant_quota_exceeded"),
        body_bytes_max=1024 * 1024,
        too_large="batch_too_large",
    ),
    Route(
        method="GET",
        path="/v1/messages/{message}",
        handler="look_up",
        summary="A message's state for each device, and every attempt to tell, with its reason.",
        access="messages:read",
        shed=Shed.READS,
        responses={200: TraceOut},
        errors=(*CALLER, *STORE, "not_found"),
    ),
    Route(
        method="DELETE",
        path="/v1/messages/{message}",
        handler="cancel",
        summary="Take a message back: cancelled where nobody acked it, else recalled on the devices that have it.",
        access="messages:cancel",
        responses={200: CancelledOut},
        errors=(*CALLER, *COMMIT, "not_found", "state_conflict"),
    ),
    Route(
        method="GET",
        path="/v1/messages",
        handler="history",
        summary="Messages that are still kept, the newest first: all of the app, or those of one user.",
        access="messages:read",
        shed=Shed.SEARCHES,
        query=HistoryQuery,
        responses={200: HistoryOut},
        errors=(*CALLER, *STORE, "invalid_cursor", "validation_failed", "unknown_field"),
        tag="messages",
    ),
    Route(
        method="GET",
        path="/v1/logs",
        handler="list_logs",
        summary="The hours whose message log can be downloaded, and in which there was nothing.",
        access="messages:read",
        shed=Shed.SEARCHES,
        responses={200: LogsOut},
        errors=(*CALLER, *STORE),
        tag="messages",
    ),
    Route(
        method="GET",
        path="/v1/logs/{hour}",
        handler="get_log",
        summary="One hour's messages and events as gzip NDJSON, in parts if asked for; its last line checks the rest.",
        access="messages:read",
        shed=Shed.SEARCHES,
        responses={200: None, 206: None, 304: None, 412: None, 416: None},
        errors=(*CALLER, *STORE, "not_found", "state_conflict"),
        headers={
            "Range": "Which bytes; to go on with a download that was cut off.",
            "If-Match": "The ETag of the file of which the download has begun.",
            "If-None-Match": "The ETag of the file that is there already.",
        },
        media="application/gzip",
        tag="messages",
    ),
)
