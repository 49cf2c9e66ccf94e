"""Rows about webhook endpoints and events."""

from typing import Annotated

from pydantic import StringConstraints

from relay.api.routes import Route
from relay.api.schemas.webhooks import (
    DeliveriesOut,
    EndpointBody,
    EndpointChanges,
    EndpointOut,
    EndpointsOut,
    EventsOut,
    NewEndpointOut,
    ReplayBody,
    ReplayedOut,
    RotateBody,
    RotatedOut,
    TestEventOut,
)
from relay.api.table.shared import BODY, CALLER, COMMIT, CURSOR, STORE, PageQuery
from relay.shedding import Shed


class EventsQuery(PageQuery):
    types: Annotated[str, StringConstraints(max_length=1024)] | None = None


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/webhooks",
        handler="create_endpoint",
        summary="Add an endpoint; its signing secret is shown this once.",
        access="webhooks:write",
        request=EndpointBody,
        responses={201: NewEndpointOut},
        errors=(*CALLER, *BODY, *COMMIT, "endpoint_url_invalid", "endpoint_address_denied"),
        tag="webhooks",
    ),
    Route(
        method="GET",
        path="/v1/webhooks",
        handler="list_endpoints",
        summary="All endpoints.",
        access="webhooks:write",
        shed=Shed.READS,
        responses={200: EndpointsOut},
        errors=(*CALLER, *STORE),
        tag="webhooks",
    ),
    Route(
        method="GET",
        path="/v1/webhooks/{endpoint}",
        handler="get_endpoint",
        summary="One endpoint.",
        access="webhooks:write",
        shed=Shed.READS,
        responses={200: EndpointOut},
        errors=(*CALLER, *STORE, "not_found"),
        tag="webhooks",
    ),
    Route(
        method="PATCH",
        path="/v1/webhooks/{endpoint}",
        handler="update_endpoint",
        summary="Change an endpoint, or enable it again.",
        access="webhooks:write",
        request=EndpointChanges,
        responses={200: EndpointOut},
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
        responses={202: TestEventOut},
        errors=(*CALLER, *COMMIT, "not_found", "state_conflict"),
        tag="webhooks",
    ),
    Route(
        method="POST",
        path="/v1/webhooks/{endpoint}/rotate",
        handler="rotate_secret",
        summary="Make a new signing secret; the old one signs beside it for a while.",
        access="webhooks:write",
        request=RotateBody,
        responses={200: RotatedOut},
        errors=(*CALLER, *BODY, *COMMIT, "not_found"),
        tag="webhooks",
    ),
    Route(
        method="GET",
        path="/v1/webhooks/{endpoint}/deliveries",
        handler="list_deliveries",
        summary="What was told to this endpoint, newest first.",
        access="webhooks:write",
        shed=Shed.SEARCHES,
        query=PageQuery,
        responses={200: DeliveriesOut},
        errors=(*CALLER, *STORE, "not_found", "invalid_cursor", "validation_failed", "unknown_field"),
        tag="webhooks",
    ),
    Route(
        method="POST",
        path="/v1/webhooks/{endpoint}/replay",
        handler="replay",
        summary="Send events again, by id or of a time range.",
        access="webhooks:write",
        request=ReplayBody,
        responses={202: ReplayedOut},
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
        responses={200: EventsOut},
        errors=(*CALLER, *STORE, *CURSOR, "validation_failed", "unknown_field"),
        tag="webhooks",
    ),
)
