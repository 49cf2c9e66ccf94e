"""Pushes that their vendor cannot read: an app's keys for them, and how it opens one (RFC 8291, `aes128gcm`)."""

import base64
import hmac
import json
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = ["SealKeys", "unseal"]

SALT_BYTES, SIZE_BYTES, POINT_BYTES, AUTH_BYTES = 16, 4, 65, 16
SCALAR_BYTES = 32
LAST = b"\x02"  # ends the data of a last record (RFC 8188 §2); zeros follow


@dataclass(frozen=True, slots=True)
class SealKeys:
    """A device's keys, each in base64url: keep all three where only the app reads them, `private` above all."""

    private: str = field(repr=False)
    p256dh: str
    auth: str = field(repr=False)

    @classmethod
    def new(cls) -> "SealKeys":
        key = generate_private_key(SECP256R1())
        scalar = key.private_numbers().private_value.to_bytes(SCALAR_BYTES)
        return cls(private=_text(scalar), p256dh=_text(_point(key)), auth=_text(AESGCM.generate_key(AUTH_BYTES * 8)))

    @property
    def seal(self) -> dict[str, str]:
        """What the device registers with its address, as `seal`."""
        return {"p256dh": self.p256dh, "auth": self.auth}


def unseal(sealed: str, keys: SealKeys) -> dict[str, Any]:
    """What is in a push's `sealed`: its `id`, and what it shows. Raises ValueError for what was not sealed for these keys."""
    try:
        shown = json.loads(_opened(_bytes(sealed), keys))
    except (InvalidTag, ValueError):
        raise ValueError("It was not sealed for these keys.") from None
    return dict(shown)


def _opened(body: bytes, keys: SealKeys) -> bytes:
    salt, rest = body[:SALT_BYTES], body[SALT_BYTES + SIZE_BYTES :]
    if rest[:1] != bytes((POINT_BYTES,)):
        raise ValueError
    theirs, record = rest[1 : 1 + POINT_BYTES], rest[1 + POINT_BYTES :]
    own = derive_private_key(int.from_bytes(_bytes(keys.private)), SECP256R1())
    shared = own.exchange(ECDH(), EllipticCurvePublicKey.from_encoded_point(SECP256R1(), theirs))
    ikm = _expand(hmac.digest(_bytes(keys.auth), shared, "sha256"), b"WebPush: info\0" + _point(own) + theirs, 32)
    secret = hmac.digest(salt, ikm, "sha256")
    key = _expand(secret, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _expand(secret, b"Content-Encoding: nonce\0", 12)
    return AESGCM(key).decrypt(nonce, record, None).rstrip(b"\0").removesuffix(LAST)


def _expand(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand (RFC 5869) of at most one block."""
    return hmac.digest(secret, info + b"\x01", "sha256")[:length]


def _point(key: EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
