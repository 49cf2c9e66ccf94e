"""Headers that an app wants on its webhooks, beside those that the relay sets (safety B101). Pure."""

import re
from collections.abc import Mapping
from typing import Final

from relay.errors import FieldError

HEADERS_MAX = 10
HEADER_CHARS_MAX = 1000
HEADERS_OURS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "date",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
    }
)
HEADERS_OURS_BEGIN: Final = ("webhook-", "proxy-", "sec-", ":")

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


def header_errors(headers: Mapping[str, str], *, pointer: str = "/headers") -> list[FieldError]:
    """Every mistake in the headers that an app wants on its webhooks."""
    if len(headers) > HEADERS_MAX:
        return [FieldError(pointer, "too_long", f"At most {HEADERS_MAX} headers of your own.")]
    errors = []
    seen: set[str] = set()
    for name, value in headers.items():
        place = f"{pointer}/{name[:64].replace('~', '~0').replace('/', '~1')}"
        lower = name.lower()
        if not _HEADER_NAME.fullmatch(name):
            errors.append(FieldError(pointer, "value", "A header's name may only have letters, digits and '-'."))
        elif lower in HEADERS_OURS or lower.startswith(HEADERS_OURS_BEGIN):
            errors.append(FieldError(place, "value", "This header is set by the relay; choose another name."))
        elif lower in seen:
            errors.append(FieldError(place, "duplicate", "This header is named twice."))
        elif len(value) > HEADER_CHARS_MAX or not _HEADER_VALUE.fullmatch(value):
            errors.append(
                FieldError(place, "value", f"A header's value is up to {HEADER_CHARS_MAX} printable ASCII characters.")
            )
        seen.add(lower)
    return errors
