"""Where a list that is read page by page goes on, as opaque text. Pure.

Each list has a place of its own: a tagged `msgspec.Struct` of what its rows are ordered by. Nothing in it is secret: who
forges one reads its own rows from another place. The check only refuses what was altered, cut, or made for another app.
A place holds nothing that a store could not compare with, as anybody can make one.
"""

import base64
import binascii
import hashlib
from typing import Annotated, TypeVar

import msgspec

from relay.errors import Malformed

CHECK_BYTES = 9  # 12 characters
TEXT_LENGTH_MAX = 2048  # two ids of 128 characters outside ASCII make 1,400

Number = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Name = Annotated[str, msgspec.Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f]+\Z")]

P = TypeVar("P", bound=msgspec.Struct)


def printed(place: msgspec.Struct, *, app_id: str) -> str:
    """The place as text for this app."""
    body = msgspec.json.encode(place)
    return base64.urlsafe_b64encode(_check(app_id, body) + body).decode().rstrip("=")


def parsed(text: str, kind: type[P], *, app_id: str) -> P:
    """The place in `text`, which must be a `kind` printed for this app. Raises Malformed (invalid_cursor)."""
    if not text.isascii() or len(text) > TEXT_LENGTH_MAX:
        raise _malformed()
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        place = msgspec.json.decode(raw[CHECK_BYTES:], type=kind)
    except (binascii.Error, ValueError):  # msgspec's errors are ValueErrors
        raise _malformed() from None
    if raw[:CHECK_BYTES] != _check(app_id, raw[CHECK_BYTES:]):
        raise _malformed()
    return place


def _check(app_id: str, body: bytes) -> bytes:
    return hashlib.sha256(app_id.encode() + b"\x00" + body).digest()[:CHECK_BYTES]


def _malformed() -> Malformed:
    return Malformed("A cursor is what an earlier answer gave you; send it back unchanged.", code="invalid_cursor")
