"""Who sends a Web Push: the keys and the contact of RFC 8292 (VAPID), and one signed token for each push service.

Source: vendor sheet `webpush` §2.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from pydantic import AfterValidator, Field, ModelWrapValidatorHandler, SecretStr, field_validator, model_validator

from providers.endpoints import EndpointConfig
from providers.key_files import from_files
from providers.webpush_crypto import base64url, private_key, public_bytes, signed_token

__all__ = ["Signer", "VapidConfig"]

TOKEN_S = 12 * 3600  # Mozilla refuses more than 24 h by its own clock
REBUILT_S = TOKEN_S // 2
RENEWED_S = 3600  # Apple: not more often than once an hour
ORIGINS_MAX = 1024  # remembered tokens; UnifiedPush has as many origins as servers

_MAILTO = re.compile(r"mailto:[\x21-\x3f\x41-\x7e]+@([A-Za-z0-9-]+\.)+[A-Za-z0-9-]+")


def _key(secret: SecretStr) -> SecretStr:
    private_key(secret.get_secret_value())
    return secret


VapidKey = Annotated[SecretStr, AfterValidator(_key)]


class VapidConfig(EndpointConfig):
    """Give `vapid_private_key` or `vapid_private_key_file` (`relay keys vapid` makes one), and `vapid_subject`."""

    vapid_private_key: VapidKey
    wake_text: Annotated[str, Field(min_length=1, max_length=200)] = "New message"  # where nothing may be silent
    vapid_subject: str  # whom a push service writes to: mailto:… or https://…
    # A subscription lives as long as the key that it was made with: keep it here when a new one takes its place.
    vapid_old_private_keys: Annotated[tuple[VapidKey, ...], Field(max_length=10)] = ()

    operator_only: ClassVar[frozenset[str]] = EndpointConfig.operator_only | {"vapid_private_key_file"}

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, given: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        return from_files(given, check, "vapid_private_key")

    @field_validator("vapid_subject")
    @classmethod
    def _reachable(cls, subject: str) -> str:
        """What Apple takes (sheet §2): no bare address, no localhost, no space."""
        try:
            parts = urlsplit(subject)
            host = (parts.hostname or "") if parts.scheme == "https" else subject.rpartition("@")[2].lower()
            fine = parts.scheme == "https" or _MAILTO.fullmatch(subject) is not None
        except ValueError:
            host, fine = "", False
        if not fine or "." not in host or host.endswith(".localhost") or not subject.isascii() or " " in subject:
            raise ValueError("must be mailto: and an e-mail address, or an https URL; not at localhost")
        return subject

    @property
    def keys(self) -> tuple[EllipticCurvePrivateKey, ...]:
        """The current one first."""
        secrets = (self.vapid_private_key, *self.vapid_old_private_keys)
        return tuple(private_key(secret.get_secret_value()) for secret in secrets)


@dataclass(frozen=True, slots=True)
class _Signed:
    text: str
    issued_s: int


class Signer:
    """The `Authorization` header for each origin, signed anew every six hours."""

    def __init__(self, keys: Iterable[EllipticCurvePrivateKey], subject: str) -> None:
        self._keys = {base64url(public_bytes(key)): key for key in keys}
        self._subject = subject
        self._signed: OrderedDict[tuple[str, str], _Signed] = OrderedDict()  # the latest used last

    def __repr__(self) -> str:
        return f"<Signer with {len(self._keys)} keys>"

    @property
    def current(self) -> str:
        """The public key that new subscriptions are made with."""
        return next(iter(self._keys))

    @property
    def old(self) -> tuple[str, ...]:
        """The others."""
        return tuple(self._keys)[1:]

    def knows(self, public: str) -> bool:
        return public in self._keys

    def authorization(self, origin: str, public: str, *, now_s: float) -> str:
        """For a subscription at `origin` that was made with this public key, which has to be one of ours."""
        known = self._signed.get((origin, public))
        if known is None or not 0 <= now_s - known.issued_s < REBUILT_S:
            now = int(now_s)
            token = signed_token(self._keys[public], audience=origin, expires_s=now + TOKEN_S, subject=self._subject)
            known = self._signed[origin, public] = _Signed(f"vapid t={token}, k={public}", now)
        self._signed.move_to_end((origin, public))
        if len(self._signed) > ORIGINS_MAX:
            self._signed.popitem(last=False)
        return known.text

    def renew(self, now_s: float) -> None:
        """A service did not take a token: whatever is older than an hour is signed anew."""
        fresh = {place: one for place, one in self._signed.items() if 0 <= now_s - one.issued_s < RENEWED_S}
        self._signed = OrderedDict(fresh)
