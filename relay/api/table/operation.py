"""Rows for operators: vendor accounts, dead pushes, upgrades of the app."""

from typing import Annotated

from pydantic import Field, StringConstraints

from relay.api.routes import Query, Route
from relay.api.schemas.operation import AccountsOut, DeadPushesOut, RequeueBody, RequeuedOut, UnparkedOut, VersionsOut
from relay.api.table.shared import BODY, CALLER, COMMIT, STORE, PageQuery
from relay.shedding import Shed


class DeadQuery(PageQuery):
    why: Annotated[str, StringConstraints(max_length=64)] | None = None


class VersionsQuery(Query):
    hours: int = Field(24, ge=1, le=720)


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/v1/push/accounts",
        handler="list_accounts",
        summary="Vendor accounts and how they are, as this node sees them.",
        access="admin:read",
        shed=Shed.READS,
        responses={200: AccountsOut},
        errors=(*CALLER, *STORE),
        tag="push",
    ),
    Route(
        method="POST",
        path="/v1/push/accounts/{account}/unpark",
        handler="unpark_account",
        summary="Say that a parked account is mended: what rested for it is due again.",
        access="admin:write",
        responses={200: UnparkedOut},
        errors=(*CALLER, *COMMIT, "not_found"),
        tag="push",
    ),
    Route(
        method="GET",
        path="/v1/push/dead",
        handler="dead_pushes",
        summary="Devices that are not told of what they lack, and why: refused, no address, account parked.",
        access="admin:read",
        shed=Shed.READS,
        query=DeadQuery,
        responses={200: DeadPushesOut},
        errors=(*CALLER, *STORE, "invalid_cursor", "validation_failed", "unknown_field"),
        tag="push",
    ),
    Route(
        method="POST",
        path="/v1/push/dead/requeue",
        handler="requeue_pushes",
        summary="Try dead pushes again: those of one device, of one reason, or all.",
        access="admin:write",
        request=RequeueBody,
        responses={200: RequeuedOut},
        errors=(*CALLER, *BODY, *COMMIT, "not_found"),
        tag="push",
    ),
    Route(
        method="GET",
        path="/v1/app-versions",
        handler="app_versions",
        summary="How upgrades to each app version went, of the last hours.",
        access="admin:read",
        shed=Shed.STATISTICS,
        query=VersionsQuery,
        responses={200: VersionsOut},
        errors=(*CALLER, *STORE, "validation_failed", "unknown_field"),
        tag="operation",
    ),
)
