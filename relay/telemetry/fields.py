"""What a log line may say: known fields, as one line of harmless characters. Never bodies, tokens or secrets (safety SEC-12)."""

import hashlib
import re
from typing import Final

from relay.secret import MASK

VALUE_CHARS_MAX: Final = 300

# All that a line may say. A new name here is a decision: it must not hold content, a credential or a whole URL.
FIELDS: Final = frozenset(
    (
        *(
            "account",
            "added",
            "app",
            "attempt",
            "attempts",
            "bad",
            "before",
            "changed",
            "chore",
            "code",
            "count",
            "device",
            "elapsed_ms",
            "endpoint",
        ),
        *(
            "event_id",
            "expires",
            "form",
            "key_id",
            "kind",
            "lag_ms",
            "message_id",
            "method",
            "ms",
            "needs_restart",
            "news",
            "node",
            "now",
        ),
        *(
            "platform",
            "port",
            "provider",
            "reason",
            "removed",
            "request_id",
            "result",
            "route",
            "scope",
            "seconds",
        ),
        *(
            "seq",
            "session",
            "size",
            "sockets",
            "stack",
            "state",
            "status",
            "store",
            "then",
            "tries",
            "user",
        ),
        *("vendor_code", "verdict", "version", "wait_ms"),
    )
)
HASHED: Final = frozenset({"user", "device"})  # names of people and their things

# What would end a line, move a terminal's cursor, or turn the reading direction; and what is no text at all.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# The last line of defence, for a credential inside another text.
_CREDENTIAL = re.compile(
    r"(?<![A-Za-z0-9])(?:rk_(?:live|test)_|rd_|whs[ek]c?_|eyJ|ya29\.)[A-Za-z0-9+/=_.-]{16,}"
    r"|(?i:\b(?:bearer|basic)\s+)\S+"
    r"|(?<=://)[^/\s@]+@"
    r"|(?<=\?)[^\s\"'#]*=[^\s\"']*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*"
)


def hashed(name: str) -> str:
    """Eight hex digits that stand for a device or a user, the same each time: sha256[:8]."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def safe(text: str, limit: int = VALUE_CHARS_MAX) -> str:
    """One line of harmless characters, without credentials, of at most `limit` characters."""
    text = _CREDENTIAL.sub(MASK, text[: 4 * limit])
    cut = text if len(text) <= limit else text[:limit] + "…"
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", cut)
