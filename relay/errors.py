"""What a caller did wrong or must wait for, as exceptions that one middleware prints as problem+json (RFC 9457).

The registry of codes is `CODES`; its meanings never change, codes are only added. A `Problem`'s detail is one
sentence for a developer and never carries a message body, a token or a secret.
"""

import random
from dataclasses import dataclass
from typing import Any, ClassVar

# code -> (HTTP status, title). The one registry: handlers, sockets, documents and tests read it.
CODES: dict[str, tuple[int, str]] = {
    "malformed_http": (400, "The HTTP request is malformed"),
    "https_required": (400, "HTTPS is required"),
    "credential_in_url": (400, "A credential stands where it may leak"),
    "json_invalid": (400, "The body is not valid JSON"),
    "json_not_utf8": (400, "The body is not UTF-8"),
    "json_duplicate_key": (400, "An object names a key twice"),
    "json_too_complex": (400, "The JSON document is too complex"),
    "number_out_of_range": (400, "A number is out of range"),
    "unknown_field": (400, "A field is not known"),
    "idempotency_key_required": (400, "An Idempotency-Key is required"),
    "idempotency_key_invalid": (400, "The Idempotency-Key is not valid"),
    "invalid_cursor": (400, "The cursor is not valid"),
    "unauthenticated": (401, "A valid credential is required"),
    "token_expired": (401, "The token has expired"),
    "forbidden": (403, "This credential may not do that"),
    "not_found": (404, "Not found"),
    "method_not_allowed": (405, "Method not allowed"),
    "request_timeout": (408, "The request took too long to arrive"),
    "idempotency_conflict": (409, "The key was used for another body"),
    "state_conflict": (409, "The current state does not allow that"),
    "another_user": (409, "The message database is another user's"),
    "cursor_epoch_changed": (409, "The numbering has begun anew"),
    "cursor_too_old": (410, "Some messages after this cursor are gone"),
    "body_too_large": (413, "The body is too large"),
    "payload_too_large": (413, "The message is too large"),
    "batch_too_large": (413, "The batch is too large"),
    "unsupported_media_type": (415, "The content type is not supported"),
    "unsupported_encoding": (415, "The content encoding is not supported"),
    "validation_failed": (422, "Request is not valid"),
    "too_many_recipients": (422, "Too many recipients"),
    "recipient_unknown": (422, "A recipient is not known"),
    "endpoint_url_invalid": (422, "The endpoint's URL is not valid"),
    "endpoint_address_denied": (422, "The endpoint's address may not be called"),
    "upgrade_required": (426, "A WebSocket upgrade is required"),
    "rate_limited": (429, "Too many requests"),
    "auth_throttled": (429, "Too many failed logins"),
    "recipient_queue_full": (429, "The recipient's inbox is full"),
    "tenant_quota_exceeded": (429, "The app has too many open deliveries"),
    "internal": (500, "The relay has a bug"),
    "overloaded": (503, "The relay is overloaded"),
    "draining": (503, "The relay is shutting down"),
    "storage_unavailable": (503, "The store cannot be reached"),
    "storage_full": (503, "The store is full"),
    "storage_failed": (503, "The store has failed"),
    "commit_unknown": (503, "The request may or may not have been stored"),
}
RETRY_AFTER_S = 1.0
SPREAD = 0.25
CROWD_S = (1.0, 30.0)
RETRYABLE = frozenset(code for code, (status, _) in CODES.items() if status in {408, 429, 503})


@dataclass(frozen=True, slots=True)
class FieldError:
    """One mistake: where it stands (JSON Pointer, RFC 6901), its short code, and how to mend it."""

    pointer: str
    code: str
    detail: str


class Problem(Exception):  # noqa: N818 - it is the word of RFC 9457
    """An answer to a caller. `code` is a key of CODES; `extra` are further problem members (e.g. resync)."""

    default: ClassVar[str] = "internal"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        errors: tuple[FieldError, ...] = (),
        retry_after_s: float | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code or self.default
        self.status, self.title = CODES[self.code]
        self.detail = detail
        self.errors = errors
        self.retry_after_s = retry_after_s
        self.extra = extra or {}

    @property
    def retryable(self) -> bool:
        return self.code in RETRYABLE

    def drawn_s(self, rng: random.Random) -> float | None:
        """Seconds until the caller should come again, spread so that callers don't come as one (safety OVL-2); None where
        waiting does not mend it."""
        if self.status not in {429, 503}:
            return None
        wait_s = RETRY_AFTER_S if self.retry_after_s is None else self.retry_after_s
        return wait_s * rng.uniform(1 - SPREAD, 1 + SPREAD)


class Invalid(Problem):
    """422: fields that do not hold what they should."""

    default = "validation_failed"


def not_an_instant(pointer: str) -> Invalid:
    """The field is no time, or has no zone."""
    # In a URL a plus sign means a space, and that is how most get here.
    example = "2026-05-03T09:12:44Z" + (", or …%2B02:00" if pointer.startswith("?") else "")
    detail = f"must be a time with a zone (RFC 3339), for example {example}"
    return Invalid(f"{pointer} {detail}.", errors=(FieldError(pointer, "wrong_form", detail),))


class Malformed(Problem):
    """400: not even readable."""

    default = "json_invalid"


class Unauthenticated(Problem):
    default = "unauthenticated"


class Forbidden(Problem):
    default = "forbidden"


class Missing(Problem):
    default = "not_found"


class Conflict(Problem):
    default = "state_conflict"


class StoreOfAnother(Problem):
    """409: a device stated a message database that holds another user's messages."""

    default = "another_user"


class CursorRefused(Problem):
    """409 or 410 with the reset data of protocol 8.5 in `extra["resync"]`."""

    default = "cursor_epoch_changed"


class TooLarge(Problem):
    default = "body_too_large"


class Throttled(Problem):
    """429: this caller should slow down."""

    default = "rate_limited"


class Unavailable(Problem):
    """503: the relay should not be called now."""

    default = "overloaded"


class Crowded(Unavailable):
    """503 for one of many that connect at once: they come back over half a minute (protocol 6.6)."""

    def drawn_s(self, rng: random.Random) -> float:
        return rng.uniform(*CROWD_S)


class StoreDamaged(Exception):  # noqa: N818 - not an error of ours
    """The database file is none any more, or its pages contradict each other. Somebody must look at it."""


class ConfigError(Exception):
    """Everything that is wrong with the configuration, all at once: (where, key, found, what would be right)."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes
