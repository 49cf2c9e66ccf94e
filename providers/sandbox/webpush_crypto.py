"""What a browser and a push service do with a Web Push: read the body (RFC 8291), judge the signature (RFC 8292).

Source: vendor sheet webpush.md §2, §3. Keys of the virtual browsers are made of their names, so that a subscription
outlives the sandbox.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256

import jwt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

DAY_S = 86_400


class Unreadable(Exception):  # noqa: N818
    """The browser would drop this message."""


class SignatureRefused(Exception):  # noqa: N818
    """The push service does not take this signature; the text says why."""


def text_of(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def bytes_of(text: str) -> bytes:
    """Raises ValueError."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def key_named(name: str) -> ec.EllipticCurvePrivateKey:
    """A key that anybody can make again from its name: for the sandbox alone."""
    return ec.derive_private_key(int.from_bytes(sha256(name.encode()).digest()) >> 1, ec.SECP256R1())


def point_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


@dataclass(frozen=True, slots=True)
class Browser:
    """The receiving end of a subscription."""

    key: ec.EllipticCurvePrivateKey
    auth: bytes

    @classmethod
    def named(cls, name: str) -> "Browser":
        return cls(key_named(f"browser {name}"), sha256(f"auth {name}".encode()).digest()[:16])

    def read(self, body: bytes) -> bytes:
        """The data in `body`. Raises Unreadable."""
        if len(body) < 21:
            raise Unreadable("shorter than its header")
        salt, size, id_length = body[:16], int.from_bytes(body[16:20]), body[20]
        sender, record = body[21 : 21 + id_length], body[21 + id_length :]
        if size < 18 or len(record) >= size:  # it must exceed what is in it (§3)
            raise Unreadable("not one record")
        try:
            their_key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender)
        except ValueError:
            raise Unreadable("keyid is not the sender's key") from None
        shared = self.key.exchange(ec.ECDH(), their_key)
        ikm = _derived(shared, salt=self.auth, info=b"WebPush: info\x00" + point_of(self.key) + sender, length=32)
        key = _derived(ikm, salt=salt, info=b"Content-Encoding: aes128gcm\x00", length=16)
        nonce = _derived(ikm, salt=salt, info=b"Content-Encoding: nonce\x00", length=12)
        try:
            plain = AESGCM(key).decrypt(nonce, record, None)
        except (InvalidTag, ValueError):
            raise Unreadable("not encrypted for this browser") from None
        data = plain.rstrip(b"\x00")
        if not data.endswith(b"\x02"):
            raise Unreadable("not the last record")
        return data[:-1]


def _derived(secret: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


@dataclass(frozen=True, slots=True)
class Signature:
    """An `Authorization` header that verified."""

    public_key: str
    subject: str | None


def judged(header: str, *, origin: str, now: float) -> Signature:
    """Verifies the header of RFC 8292 §3. Raises SignatureRefused."""
    scheme, _, rest = header.partition(" ")
    parts = dict(part.strip().split("=", 1) for part in rest.split(",") if "=" in part)
    if scheme.lower() != "vapid" or not {"t", "k"} <= parts.keys():
        raise SignatureRefused("not of the form vapid t=…, k=…")
    try:
        point = bytes_of(parts["k"])
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        if len(point) != 65:
            raise SignatureRefused("k is not an uncompressed point")
        if jwt.get_unverified_header(parts["t"]).get("typ", "JWT") != "JWT":
            raise SignatureRefused("typ is not JWT")
        options = {"verify_exp": False, "verify_aud": False}
        claims = jwt.decode(parts["t"], key, algorithms=["ES256"], options=options)  # type: ignore[arg-type]
    except (ValueError, jwt.PyJWTError):
        raise SignatureRefused("does not verify") from None
    expires = claims.get("exp")
    if not isinstance(expires, int) or not now < expires <= now + DAY_S:
        raise SignatureRefused("exp is not within the next 24 hours")
    if claims.get("aud") != origin:
        raise SignatureRefused("aud is not the origin of this service")
    subject = claims.get("sub")
    return Signature(parts["k"], subject if isinstance(subject, str) else None)
