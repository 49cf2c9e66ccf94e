"""What the store keeps of an endpoint's secrets: sealed and bound to it, so that none opens in another's place."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from relay.store.endpoints import EndpointKey, Sealed
from relay.store.vault import headers_place, secret_place
from relay.webhooks.signing import SigningKey, signing_key


class Seals(Protocol):
    """The vault, as far as webhooks go."""

    def seal(self, plaintext: bytes, place: tuple[str, ...]) -> bytes: ...

    def open(self, sealed: bytes, place: tuple[str, ...]) -> bytes:
        """Raises ValueError if no key fits, or what is sealed was altered."""
        ...


def seal_secret(seals: Seals, key: EndpointKey, secret: str) -> bytes:
    """The secret as it is stored, bound to its endpoint."""
    return seals.seal(secret.encode(), secret_place(*key))


def open_secret(seals: Seals, key: EndpointKey, sealed: bytes) -> str:
    """Raises ValueError."""
    return seals.open(sealed, secret_place(*key)).decode()


def seal_headers(seals: Seals, key: EndpointKey, headers: Mapping[str, str]) -> bytes | None:
    """The headers as they are stored, bound to their endpoint; None for none."""
    return seals.seal(msgspec.json.encode(dict(headers)), headers_place(*key)) if headers else None


def opened(seals: Seals, key: EndpointKey, sealed: Sealed) -> tuple[list[SigningKey], dict[str, str]]:
    """The signing keys, newest first, and the app's own headers. Raises ValueError."""
    secrets = [sealed.secret, *([sealed.old_secret] if sealed.old_secret is not None else [])]
    keys = [signing_key(open_secret(seals, key, secret)) for secret in secrets]
    if sealed.headers is None:
        return keys, {}
    return keys, msgspec.json.decode(seals.open(sealed.headers, headers_place(*key)), type=dict[str, str])
