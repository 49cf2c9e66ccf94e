"""What is sent of an event. Pure."""

from typing import Any

import msgspec

from relay.clock import rfc3339

BODY_BYTES_MAX = 20_000


def body_of(*, event_type: str, created_ms: int, sequence: int, data: str, event_id: str) -> bytes:
    """The body of an event, the same bytes for every attempt. `data` is JSON.

    One that is too large keeps its plain members and says `"truncated": true`: `GET /v1/events` has it whole.
    """

    def encoded(content: Any) -> bytes:
        return msgspec.json.encode(
            {
                "type": event_type,
                "timestamp": rfc3339(created_ms),
                "sequence": sequence,
                "data": content,
                "id": event_id,
            }
        )

    body = encoded(msgspec.Raw(data.encode()))
    if len(body) <= BODY_BYTES_MAX:
        return body
    whole = msgspec.json.decode(data)
    plain = {k: v for k, v in whole.items() if not isinstance(v, dict | list)} if isinstance(whole, dict) else {}
    body = encoded(plain | {"truncated": True})
    return body if len(body) <= BODY_BYTES_MAX else encoded({"truncated": True})
