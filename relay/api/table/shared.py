"""What rows have in common: groups of error codes, a header, and the query of a page."""

from pydantic import Field

from relay.api.routes import Query
from relay.api.schemas.base import Place

KEY_HEADER = {"Idempotency-Key": "Makes a repeat of this send known as one: 1 to 128 of A-Z a-z 0-9 . _ : -"}
CALLER = (
    "unauthenticated",
    "token_expired",
    "forbidden",
    "rate_limited",
    "auth_throttled",
    "credential_in_url",
    "malformed_http",
    "https_required",
)
PROBE = ("malformed_http", "credential_in_url")
PASSER_BY = (*PROBE, "rate_limited", "https_required", "overloaded", "draining")
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


class PageQuery(Query):
    cursor: Place | None = None
    limit: int = Field(50, ge=1, le=200)
