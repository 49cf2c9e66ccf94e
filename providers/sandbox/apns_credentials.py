"""Who is pushing: provider tokens and client certificates, and what a connection is bound to.

Source: vendor sheet `apns` §2 (authentication) and §10.2 (tokens that change too often).
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from providers.sandbox.apns_checks import Wrong

TOKEN_LIFE_S = 3600
TOKEN_CHANGE_S = 1200  # on one connection
KNOWN_TOKENS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A signing key of a team, as it stands in Apple's portal."""

    team_id: str
    public: ec.EllipticCurvePublicKey
    revoked: bool = False


@dataclass(slots=True)
class Memory:
    """What Apple remembers of one connection."""

    team_id: str | None = None
    key_id: str | None = None
    bundles: frozenset[str] | None = None  # the team's apps, as they were at the first push
    token: str | None = None
    changed_s: float | None = None  # when another token was first shown on it
    tokens: int = 0  # different ones accepted
    errors: int = 0  # 4xx, but for 410


@dataclass(slots=True)
class Gate:
    """Looks at bearer tokens. Signatures are remembered: one serves thousands of pushes."""

    keys: dict[str, Key]
    _good: dict[str, tuple[str, str, int]] = field(default_factory=dict)  # token -> key id, team, iat

    def pass_token(self, authorization: str | None, memory: Memory, *, now_s: float) -> None:
        """Raises Wrong; binds the connection to the key and the team that it first sees."""
        if authorization is None:
            raise Wrong("MissingProviderToken")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Wrong("InvalidProviderToken")
        key_id, team_id, issued_s = self._good.get(token) or self._read(token)
        key = self.keys.get(key_id)
        if key is None or key.revoked or key.team_id != team_id:
            raise Wrong("InvalidProviderToken")
        if abs(now_s - issued_s) > TOKEN_LIFE_S:
            raise Wrong("ExpiredProviderToken")
        if memory.team_id is not None and memory.team_id != team_id:
            raise Wrong("Forbidden")  # a second developer account on one connection
        if memory.key_id is not None and memory.key_id != key_id:
            raise Wrong("UnrelatedKeyIdInToken")
        if memory.token != token:
            if memory.token is not None:
                if memory.changed_s is not None and now_s - memory.changed_s < TOKEN_CHANGE_S:
                    raise Wrong("TooManyProviderTokenUpdates")
            memory.changed_s = now_s
            memory.tokens += 1
        memory.team_id, memory.key_id, memory.token = team_id, key_id, token
        if len(self._good) >= KNOWN_TOKENS_MAX:
            self._good.clear()
        self._good[token] = (key_id, team_id, issued_s)

    def _read(self, token: str) -> tuple[str, str, int]:
        try:
            head_text, claims_text, signature_text = token.split(".")
            head = _object(head_text)
            claims = _object(claims_text)
            signature = _bytes(signature_text)
        except (ValueError, binascii.Error, msgspec.DecodeError):
            raise Wrong("InvalidProviderToken") from None
        key_id, team_id, issued_s = head.get("kid"), claims.get("iss"), claims.get("iat")
        if head.get("alg") != "ES256" or not isinstance(key_id, str) or not isinstance(team_id, str):
            raise Wrong("InvalidProviderToken")
        if type(issued_s) is not int or len(signature) != 64:  # raw r and s; not DER
            raise Wrong("InvalidProviderToken")
        key = self.keys.get(key_id)
        if key is None:
            raise Wrong("InvalidProviderToken")
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        signed = f"{head_text}.{claims_text}".encode()
        try:
            key.public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise Wrong("InvalidProviderToken") from None
        return key_id, team_id, issued_s


def certificate_topic(certificate: Mapping[str, object]) -> str | None:
    """The bundle id in a client certificate's subject (its UID)."""
    subject = certificate.get("subject")
    for part in subject if isinstance(subject, tuple) else ():
        for name, value in part:
            if name in {"userId", "UID"}:
                return str(value)
    return None


def _bytes(text: str) -> bytes:
    if "=" in text:
        raise ValueError("padded")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _object(text: str) -> dict[str, object]:
    found = msgspec.json.decode(_bytes(text))
    if not isinstance(found, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one kind of trouble for the caller
    return found
