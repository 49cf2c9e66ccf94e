"""Rows about the relay itself, and what vendors call."""

from relay.api.routes import PUBLIC, Route
from relay.api.schemas.operation import HealthOut
from relay.api.table.shared import CALLER, COMMIT, PASSER_BY, PROBE, STORE

ROUTES: tuple[Route, ...] = (
    *(
        Route(
            method="POST",
            path=path,
            handler=handler,
            summary="A vendor's delivery receipts; it signs, or knows the account's secret path, and gets its own answer.",
            access=PUBLIC,
            responses={200: None},
            errors=(
                *PASSER_BY,
                *COMMIT,
                "unauthenticated",
                "not_found",
                "json_invalid",
                "body_too_large",
                "request_timeout",
            ),
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
        head=True,
        handler="healthz",
        summary="Whether the process lives.",
        access=PUBLIC,
        responses={200: HealthOut},
        errors=PROBE,
        raw=True,
        tag="operation",
    ),
    Route(
        method="GET",
        path="/readyz",
        head=True,
        handler="readyz",
        summary="Whether it can take messages now.",
        access=PUBLIC,
        responses={200: HealthOut, 503: HealthOut},
        errors=PROBE,
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
        errors=(*CALLER, *STORE),
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
