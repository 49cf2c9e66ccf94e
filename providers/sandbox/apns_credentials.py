"""Who is pushing: provider tokens and client certificates, and what a connection is bound to.

Source: vendor sheet `apns` §2 (authentication) and §10.2 (tokens that change too often).
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import NameOID

from providers.sandbox.apns_checks import Wrong
from providers.sandbox.checks import read_json

TOKEN_LIFE_S = 3600
TOKEN_CHANGE_S = 1200  # on one connection
KNOWN_TOKENS_MAX = 1000
TOPICS_LISTED_IN = x509.ObjectIdentifier("1.2.840.113635.100.6.3.6")


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
    topics: frozenset[str] | None = None  # of its client certificate, if it showed one
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
        except ValueError:
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


def certificate_topics(der: bytes) -> frozenset[str]:
    """What a client certificate is for (§2.2): the topics that it lists, else the app in its subject (its UID) alone."""
    certificate = x509.load_der_x509_certificate(der)
    for extension in certificate.extensions:
        if extension.oid == TOPICS_LISTED_IN:
            return frozenset(_texts(extension.value.public_bytes()))
    return frozenset(str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.USER_ID))


def listed(topics: Sequence[str]) -> bytes:
    """The value of that extension: a sequence of texts in DER. The sheet does not say what else Apple's has in it."""
    return _element(0x30, b"".join(_element(0x0C, topic.encode()) for topic in topics))


def _element(tag: int, value: bytes) -> bytes:
    return bytes((tag, 0x82)) + len(value).to_bytes(2) + value


def _texts(der: bytes) -> Iterator[str]:
    """Of what `listed` has made."""
    at = 4
    while at < len(der):
        end = at + 4 + int.from_bytes(der[at + 2 : at + 4])
        yield der[at + 4 : end].decode()
        at = end


def _bytes(text: str) -> bytes:
    if "=" in text:
        raise ValueError("padded")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _object(text: str) -> dict[str, object]:
    found = read_json(_bytes(text))
    if not isinstance(found, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one kind of trouble for the caller
    return found
