"""The sealed cursor: "this store of this device holds everything up to seq, and knows every gap" (protocol 2.3).

A cursor is sealed here and nowhere else, and only together with the page that it covers.
"""

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from relay.errors import Malformed
from relay.mac import hmac_sha256
from relay.model import SEQ_MAX, DeviceKey

VERSION = 1
KIND_INBOX = 0
KIND_SHARED = 1
LENGTH = 66
MAC_LENGTH = 15
TEXT_LENGTH = 88
NO_TAIL = bytes(8)
INBOX = "inbox"

_BODY = struct.Struct(">BBB8s8sQQ8s8s")
assert _BODY.size + MAC_LENGTH == LENGTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """What a cursor says. Eight-byte fields are prefixes of SHA-256."""

    epoch8: bytes
    timeline8: bytes
    session: int
    seq: int
    store8: bytes
    tail8: bytes
    kind: int = KIND_INBOX


@dataclass(frozen=True, slots=True)
class CursorKeys:
    """The keys that seal (the newest) and read cursors, by key id. An old one stays readable for 90 days."""

    newest: int
    keys: Mapping[int, bytes]


def short(text: str) -> bytes:
    """The prefix of a SHA-256 by which a cursor names what is longer."""
    return hashlib.sha256(text.encode()).digest()[:8]


def epoch8(store_epoch: str, inbox_epoch: str) -> bytes:
    """Either epoch's change voids every cursor made before."""
    return short(store_epoch + inbox_epoch)


def tail8(message_id: str | None) -> bytes:
    """Of the entry that a cursor ends at; NO_TAIL if it is none."""
    return NO_TAIL if message_id is None else short(message_id)


INBOX8 = short(INBOX)


def _mac(key: bytes, device: DeviceKey, body: bytes) -> bytes:
    bound = "\x1f".join(device).encode() + b"\x1f" + body
    return hmac_sha256(key, bound)[:MAC_LENGTH]


def seal(cursor: Cursor, device: DeviceKey, keys: CursorKeys) -> str:
    """The cursor as text, with a MAC that binds it to the device."""
    body = _BODY.pack(
        VERSION,
        keys.newest,
        cursor.kind,
        cursor.epoch8,
        cursor.timeline8,
        cursor.session,
        cursor.seq,
        cursor.store8,
        cursor.tail8,
    )
    return base64.urlsafe_b64encode(body + _mac(keys.keys[keys.newest], device, body)).decode()


def unseal(text: str, device: DeviceKey, keys: CursorKeys) -> Cursor:
    """The cursor in `text`, if this relay sealed it for this device; raises `Malformed` (invalid_cursor)."""
    refused = Malformed("A cursor is what an earlier answer gave you; send it back unchanged.", code="invalid_cursor")
    if len(text) != TEXT_LENGTH or not text.isascii():
        raise refused
    try:
        raw = base64.b64decode(text, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise refused from None
    if len(raw) != LENGTH:  # padding took the place of its last bytes
        raise refused
    body, mac = raw[:-MAC_LENGTH], raw[-MAC_LENGTH:]
    version, key_id, kind, epoch, timeline, session, seq, store, tail = _BODY.unpack(body)
    key = keys.keys.get(key_id)
    if version != VERSION or key is None or not hmac.compare_digest(mac, _mac(key, device, body)):
        raise refused
    assert seq <= SEQ_MAX
    return Cursor(epoch8=epoch, timeline8=timeline, session=session, seq=seq, store8=store, tail8=tail, kind=kind)
