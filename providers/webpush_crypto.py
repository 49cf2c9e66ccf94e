"""The cryptography of Web Push: payloads (RFC 8291 over RFC 8188, `aes128gcm`) and the sender's signature (RFC 8292).

Source: vendor sheet `webpush` §2 and §3; its vectors (§9) are in the tests. Pure: salts and keys are given.
"""

import base64
import binascii
import hmac
import json
import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

__all__ = [
    "AUTH_BYTES",
    "OVERHEAD_BYTES",
    "base64url",
    "encrypt",
    "from_base64",
    "own_key",
    "private_key",
    "public_bytes",
    "signed_token",
]

PUBLIC_BYTES = 65  # an uncompressed point: 0x04, x, y
SCALAR_BYTES = 32
AUTH_BYTES = 16
SALT_BYTES = 16
TAG_BYTES = 16
RECORD_BYTES = 4096  # `rs`, as everybody sends it
HEADER_BYTES = SALT_BYTES + 4 + 1 + PUBLIC_BYTES
OVERHEAD_BYTES = HEADER_BYTES + 1 + TAG_BYTES  # 103: what a body has beyond its data and padding

_ORDER = 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551  # of P-256's group
_BASE64 = re.compile(r"[A-Za-z0-9_-]*")


def base64url(data: bytes) -> str:
    """Without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64(text: str) -> bytes:
    """Either alphabet, padded or not. Raises ValueError."""
    plain = text.rstrip("=").replace("+", "-").replace("/", "_")
    if not _BASE64.fullmatch(plain):
        raise ValueError("is not base64url")
    try:
        return base64.urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
    except binascii.Error:
        raise ValueError("is not base64url") from None


def private_key(text: str) -> EllipticCurvePrivateKey:
    """A P-256 key from PEM, or from its 32 bytes in base64url as other Web Push tools write it. Raises ValueError."""
    try:
        if text.lstrip().startswith("-----BEGIN"):
            key = load_pem_private_key(text.encode("utf-8", "replace"), password=None)
        else:
            scalar = from_base64(text.strip())
            if len(scalar) != SCALAR_BYTES:
                raise ValueError
            key = derive_private_key(int.from_bytes(scalar), SECP256R1())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("must be a P-256 private key: 32 bytes in base64url, or unencrypted PEM") from None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("must be a key of the curve P-256")  # noqa: TRY004
    return key


def public_bytes(key: EllipticCurvePrivateKey) -> bytes:
    """The 65 bytes of its public point."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def public_key(point: bytes) -> EllipticCurvePublicKey:
    """Raises ValueError unless these are the 65 bytes of a point of P-256."""
    if len(point) != PUBLIC_BYTES or point[0] != 4:
        raise ValueError("must be an uncompressed point of P-256: 65 bytes, the first of them 4")
    try:
        return EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point)
    except ValueError:
        raise ValueError("is not a point of the curve P-256") from None


def own_key(seed: bytes, about: bytes) -> tuple[bytes, EllipticCurvePrivateKey]:
    """A salt and a key of our own for one message (`about` tells it from all others), known only to who has `seed`.

    RFC 8291 wants both fresh for every message and recipient; derived, they are, and the same push is encrypted to the
    same bytes. The seed never leaves the process.
    """
    salt = hmac.digest(seed, b"salt\0" + about, "sha256")[:SALT_BYTES]
    # 64 bytes, so that the remainder is as good as uniform.
    wide = hmac.digest(seed, b"key1\0" + about, "sha256") + hmac.digest(seed, b"key2\0" + about, "sha256")
    return salt, derive_private_key(int.from_bytes(wide) % (_ORDER - 1) + 1, SECP256R1())


def encrypt(
    data: bytes, *, to: bytes, auth: bytes, salt: bytes, key: EllipticCurvePrivateKey, record_bytes: int = 0
) -> bytes:
    """The body for the subscription `to` (its `p256dh`) and `auth`: a header and exactly one record.

    Padded with zeros until the plaintext of the record, its delimiter included, has `record_bytes`. Data too large for
    any push service is encrypted all the same. Raises ValueError if `to` is not a point.
    """
    own = public_bytes(key)
    shared = key.exchange(ECDH(), public_key(to))
    ikm = _expand(hmac.digest(auth, shared, "sha256"), b"WebPush: info\0" + to + own, 32)
    secret = hmac.digest(salt, ikm, "sha256")
    cek = _expand(secret, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _expand(secret, b"Content-Encoding: nonce\0", 12)
    record = (data + b"\x02").ljust(record_bytes, b"\0")
    size = max(RECORD_BYTES, len(record) + TAG_BYTES + 1)  # greater than what is in the record (RFC 8291 §4)
    return b"".join((salt, size.to_bytes(4), bytes((len(own),)), own, AESGCM(cek).encrypt(nonce, record, None)))


def _expand(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand (RFC 5869) of at most one block."""
    return hmac.digest(secret, info + b"\x01", "sha256")[:length]


def signed_token(key: EllipticCurvePrivateKey, *, audience: str, expires_s: int, subject: str) -> str:
    """The JWT of RFC 8292 §2, ES256."""
    head = {"typ": "JWT", "alg": "ES256"}
    claims = {"aud": audience, "exp": expires_s, "sub": subject}
    signed = ".".join(base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (head, claims))
    r, s = decode_dss_signature(key.sign(signed.encode(), ECDSA(SHA256())))
    return f"{signed}.{base64url(r.to_bytes(SCALAR_BYTES) + s.to_bytes(SCALAR_BYTES))}"
