"""What a vendor carries and cannot read: a notification encrypted for the device that shows it (RFC 8291, `aes128gcm`). Pure."""

from dataclasses import dataclass, field
from hashlib import sha256

import msgspec

from providers.webpush_crypto import AUTH_BYTES, base64url, encrypt, from_base64, own_key, public_key
from providers.webpush_message import padded
from relay.model import Notification

NOTHING = Notification()


class KeyInvalid(ValueError):  # noqa: N818
    """`field` is what is wrong, the sentence how."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


@dataclass(frozen=True, slots=True)
class SealKeys:
    """A device's public key, an uncompressed point of P-256, and its 16 secret bytes of RFC 8291."""

    p256dh: bytes = field(repr=False)
    auth: bytes = field(repr=False)

    @classmethod
    def read(cls, p256dh: str, auth: str) -> "SealKeys":
        """Both in base64url. Raises KeyInvalid."""
        try:
            point = from_base64(p256dh)
            public_key(point)
        except ValueError as error:
            raise KeyInvalid("p256dh", str(error)) from None
        try:
            secret = from_base64(auth)
        except ValueError as error:
            raise KeyInvalid("auth", str(error)) from None
        if len(secret) != AUTH_BYTES:
            raise KeyInvalid("auth", f"must be {AUTH_BYTES} bytes in base64url")
        return cls(point, secret)

    @property
    def text(self) -> str:
        """As it is kept."""
        return f"{base64url(self.p256dh)}.{base64url(self.auth)}"

    @classmethod
    def kept(cls, text: str) -> "SealKeys":
        return cls.read(*text.split("."))


def encrypted(shown: Notification, push_id: str, keys: SealKeys, seed: bytes) -> str:
    """All that is shown, as JSON with the push's id, encrypted and in base64url. `seed` never leaves the process.

    Padded, so that its length tells little. A vendor's own fields stay out: the app could do nothing with them.
    """
    members = {"id": push_id} | {
        name: value
        for name in Notification.__struct_fields__
        if name != "overrides" and (value := getattr(shown, name)) != getattr(NOTHING, name)
    }
    data = msgspec.json.encode(members)
    # Each part has a length of its own, so that no two messages are about the same bytes.
    salt, key = own_key(seed, sha256(keys.p256dh + keys.auth + data).digest())
    return base64url(encrypt(data, to=keys.p256dh, auth=keys.auth, salt=salt, key=key, record_bytes=padded(len(data))))


def cover(shown: Notification, count: int) -> Notification:
    """What the vendor sees in its stead: that there is something, and how it is to be brought."""
    return Notification(
        title="New message" if count == 1 else f"{count} new messages",
        sound=shown.sound,
        badge=shown.badge,
        channel=shown.channel,
        mutable=True,
    )
