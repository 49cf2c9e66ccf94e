"""Standard Webhooks 1.0.0: how a body is signed and how a receiver checks it (safety SEC-9). Pure.

What is signed is `id.timestamp.body`, the very bytes that are sent. `v1` is HMAC-SHA-256 with a secret that both sides
have; `v1a` is Ed25519, for receivers that should not be able to sign themselves.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from relay.ids import Rng

SECRET = "whsec_"  # noqa: S105 - prefixes, not secrets
PRIVATE = "whsk_"
PUBLIC = "whpk_"
SECRET_BYTES = 32
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64
TOLERANCE_S = 300
SIGNATURES_MAX = 16  # looked at in one header

_ID = re.compile(r"[A-Za-z0-9_-]{1,256}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")

SigningKey = bytes | Ed25519PrivateKey
VerifyingKey = bytes | Ed25519PublicKey


class Scheme(StrEnum):
    """How bodies are signed, as the signature header names it."""

    HMAC = "v1"
    ED25519 = "v1a"


class SignatureRefused(Exception):  # noqa: N818 - it is a refusal, by design
    """The request was not signed by a holder of the key, or not within the tolerance of now."""


def mint_secret(rng: Rng, scheme: Scheme = Scheme.HMAC) -> str:
    """A new endpoint's secret in its text form, to be sealed: `whsec_…`, or `whsk_…` for Ed25519."""
    prefix = SECRET if scheme is Scheme.HMAC else PRIVATE
    return prefix + base64.b64encode(rng.randbytes(SECRET_BYTES)).decode()


def shown_secret(secret: str) -> str:
    """What the endpoint's owner gets to see, once: the secret itself, or the public key `whpk_…` of an Ed25519 pair."""
    key = signing_key(secret)
    if isinstance(key, bytes):
        return secret
    return PUBLIC + base64.b64encode(key.public_key().public_bytes_raw()).decode()


def scheme_of(secret: str) -> Scheme:
    """By the prefix of the secret."""
    return Scheme.ED25519 if secret.startswith(PRIVATE) else Scheme.HMAC


def signing_key(secret: str) -> SigningKey:
    """The key in `whsec_…` (24 to 64 bytes) or `whsk_…` (a 32-byte seed). Raises ValueError, without the secret."""
    if secret.startswith(PRIVATE):
        return Ed25519PrivateKey.from_private_bytes(_decoded(secret, PRIVATE, SECRET_BYTES, SECRET_BYTES))
    return _decoded(secret, SECRET, SECRET_BYTES_MIN, SECRET_BYTES_MAX)


def verifying_key(text: str) -> VerifyingKey:
    """The key in `whsec_…` or `whpk_…`. Raises ValueError."""
    if text.startswith(PUBLIC):
        return Ed25519PublicKey.from_public_bytes(_decoded(text, PUBLIC, SECRET_BYTES, SECRET_BYTES))
    return _decoded(text, SECRET, SECRET_BYTES_MIN, SECRET_BYTES_MAX)


def _decoded(text: str, prefix: str, least: int, most: int) -> bytes:
    try:
        raw = base64.b64decode(text.removeprefix(prefix), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"A key is written {prefix} and base64.") from None
    if not text.startswith(prefix) or not least <= len(raw) <= most:
        raise ValueError(f"A key is written {prefix} and the base64 of {least} to {most} bytes.")
    return raw


def sign(keys: Sequence[SigningKey], *, event_id: str, timestamp_s: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature per key, in their order (during a rotation the new key first).

    Raises ValueError without a key, or for an id with a dot: that would move the borders of what is signed.
    """
    if not keys or not _ID.fullmatch(event_id):
        raise ValueError("A webhook is signed with a key, and for an id of letters, digits, '_' and '-'.")
    content = _content(event_id, str(timestamp_s), body)
    return " ".join(_signature(key, content) for key in keys)


def headers(keys: Sequence[SigningKey], *, event_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three headers of one attempt. The id is the same for all attempts, the timestamp is this one's."""
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": sign(keys, event_id=event_id, timestamp_s=timestamp_s, body=body),
    }


def _content(event_id: str, timestamp: str, body: bytes) -> bytes:
    return b".".join((event_id.encode(), timestamp.encode(), body))


def _signature(key: SigningKey, content: bytes) -> str:
    if isinstance(key, bytes):
        scheme, raw = Scheme.HMAC, hmac.digest(key, content, hashlib.sha256)
    else:
        scheme, raw = Scheme.ED25519, key.sign(content)
    return f"{scheme},{base64.b64encode(raw).decode()}"


def verify(
    keys: Sequence[VerifyingKey],
    received: Mapping[str, str],
    body: bytes,
    *,
    now_s: int,
    tolerance_s: int = TOLERANCE_S,
) -> None:
    """What a receiver does: raises SignatureRefused unless one listed signature fits one key, and the time fits.

    `body` is the raw bytes as they came. Comparing takes the same time whether and wherever they differ.
    """
    found = {name.lower(): value for name, value in received.items()}
    event_id, timestamp = found.get("webhook-id", ""), found.get("webhook-timestamp", "")
    if not _ID.fullmatch(event_id) or not _TIMESTAMP.fullmatch(timestamp):
        raise SignatureRefused("The webhook's id or timestamp is missing or malformed.")
    if abs(int(timestamp) - now_s) > tolerance_s:
        raise SignatureRefused(f"The webhook's timestamp is more than {tolerance_s} s from now.")
    content = _content(event_id, timestamp, body)
    listed = found.get("webhook-signature", "").split(" ")[:SIGNATURES_MAX]
    matches = [_fits(key, content, signature) for key in keys for signature in listed]
    if not any(matches):
        raise SignatureRefused("No signature fits.")


def _fits(key: VerifyingKey, content: bytes, signature: str) -> bool:
    scheme, _, text = signature.partition(",")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    if isinstance(key, bytes):
        return scheme == Scheme.HMAC and hmac.compare_digest(hmac.digest(key, content, hashlib.sha256), raw)
    if scheme != Scheme.ED25519:
        return False
    try:
        key.verify(raw, content)
    except InvalidSignature:
        return False
    return True
