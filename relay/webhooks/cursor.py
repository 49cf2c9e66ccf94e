"""Where a backend stands in its events, and in lists, as opaque text. Pure.

Nothing here is secret: a backend that forges one reads its own rows from another place. The check only refuses what was
altered, cut, or made for another app.
"""

import base64
import binascii
import hashlib
from typing import Annotated, Any

import msgspec

from relay.errors import Malformed

CHECK_BYTES = 9  # 12 characters
TEXT_LENGTH_MAX = 512

# Anybody can make one, so it holds nothing that a store could not compare with.
Number = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Name = Annotated[str, msgspec.Meta(max_length=64, pattern="^[A-Za-z0-9_-]+$")]


class EventPlace(msgspec.Struct, frozen=True, tag="e", array_like=True):
    """Has every event up to `sequence`, as numbered in this epoch."""

    epoch8: Name
    sequence: Number


class DeliveryPlace(msgspec.Struct, frozen=True, tag="d", array_like=True):
    """After this row of a list of deliveries, which runs from the newest to the oldest."""

    endpoint_id: Name
    created_ms: Number
    event_id: Name


class ReplayPlace(msgspec.Struct, frozen=True, tag="r", array_like=True):
    """After this event of a range that is replayed, which runs from the oldest to the newest."""

    endpoint_id: Name
    created_ms: Number
    event_id: Name


Place = EventPlace | DeliveryPlace | ReplayPlace
_decoder = msgspec.json.Decoder(Place)


def epoch8(epoch: str) -> str:
    """The short form of the store's epoch, as cursors have it."""
    return hashlib.sha256(epoch.encode()).hexdigest()[:16]


def _check(app_id: str, body: bytes) -> bytes:
    return hashlib.sha256(app_id.encode() + b"\x00" + body).digest()[:CHECK_BYTES]


def printed(place: Place, *, app_id: str) -> str:
    """The place as text for this app."""
    body = msgspec.json.encode(place)
    return base64.urlsafe_b64encode(_check(app_id, body) + body).decode().rstrip("=")


def parsed(text: str, kind: type[Any], *, app_id: str) -> Any:
    """The place in `text`, which must be a `kind` printed for this app; raises Malformed (invalid_cursor)."""
    refused = Malformed("A cursor is what an earlier answer gave you; send it back unchanged.", code="invalid_cursor")
    if not text.isascii() or len(text) > TEXT_LENGTH_MAX:
        raise refused
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        place = _decoder.decode(raw[CHECK_BYTES:])
    except (binascii.Error, ValueError):  # msgspec's errors are ValueErrors
        raise refused from None
    if raw[:CHECK_BYTES] != _check(app_id, raw[CHECK_BYTES:]) or type(place) is not kind:
        raise refused
    return place
