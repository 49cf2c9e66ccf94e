"""A push in the words of Web Push: the address, the headers, and the envelope that we encrypt. Pure.

Source: vendor sheet `webpush` §1 (subscription), §4 (headers), §7 (mapping). Web Push carries bytes and does not look
into them, so the envelope is ours: a JSON object for the app's service worker (or a UnifiedPush app) to show.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from providers.contract import AddressInvalid, Push
from providers.fields import is_json
from providers.guard import Guard, Target, TargetRefused
from providers.http import json_body
from providers.webpush_crypto import AUTH_BYTES, base64url, from_base64, public_key

__all__ = [
    "TTL_S_MAX",
    "Subscription",
    "envelope",
    "override_mistakes",
    "padded",
    "subscription",
    "topic",
    "ttl",
]

TTL_S_MAX = 2_419_200  # 28 days: Google's limit, the shortest
ENDPOINT_BYTES_MAX = 2048
TOKEN_CHARS_MAX = 4096
OVERRIDE_DEPTH_MAX = 16
URGENCIES = ("very-low", "low", "normal", "high")
OURS = frozenset({"v", "id", "expires_at", "relay", "silent", "sealed"})  # in the envelope: not for overrides

# Lengths that push services get to see (plaintext with its delimiter); the third keeps a body within the 2744 bytes
# that Firefox for Android can take (sheet §6.1). What is longer than all is not padded.
BUCKETS = (256, 1024, 2560)

_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Where a browser or app is reached. Without keys: an old UnifiedPush client, which gets plain text."""

    target: Target
    endpoint: str = field(repr=False)
    p256dh: bytes | None = field(default=None, repr=False)
    auth: bytes | None = field(default=None, repr=False)
    vapid: str | None = None  # the public key that it was made with, if it says so

    @property
    def origin(self) -> str:
        """`https://host[:port]`, as RFC 6454 writes it."""
        return f"{self.target.scheme}://{self.target.authority}"

    @property
    def text(self) -> str:
        """The address as it is kept: the same for every way of writing the same subscription."""
        keys = {"p256dh": base64url(self.p256dh or b""), "auth": base64url(self.auth or b"")} if self.p256dh else None
        members = {"endpoint": self.endpoint, "keys": keys, "vapid": self.vapid}
        return json.dumps({key: value for key, value in members.items() if value is not None}, separators=(",", ":"))


def subscription(token: str, *, guard: Guard, endpoint_bytes_max: int = ENDPOINT_BYTES_MAX) -> Subscription:
    """What a browser's `JSON.stringify(subscription)` says, and `vapid` beside it. Raises AddressInvalid.

    Whether `p256dh` lies on the curve is not looked at here, since it takes long.
    """
    try:
        given = json.loads(token) if len(token) <= TOKEN_CHARS_MAX else None
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise AddressInvalid('write the subscription as JSON, like {"endpoint": "https://…", "keys": {…}}')
    endpoint = given.get("endpoint")
    if not isinstance(endpoint, str) or not endpoint:
        raise AddressInvalid("the subscription lacks its endpoint, a URL")
    if len(endpoint.encode("utf-8", "replace")) > endpoint_bytes_max:
        raise AddressInvalid(f"the endpoint has more than {endpoint_bytes_max} bytes")
    try:
        target = guard.parse(endpoint)
    except TargetRefused as refused:
        raise AddressInvalid(f"the endpoint cannot be called. {refused.detail}") from None
    vapid = given.get("vapid")
    if vapid is not None:
        vapid = base64url(_bytes(vapid, "vapid", 65))
    keys = given.get("keys")
    if keys is None:
        return Subscription(target=target, endpoint=endpoint, vapid=vapid)
    if not isinstance(keys, Mapping):
        raise AddressInvalid("keys must be an object with p256dh and auth")
    return Subscription(
        target=target,
        endpoint=endpoint,
        p256dh=_bytes(keys.get("p256dh"), "keys.p256dh", 65),
        auth=_bytes(keys.get("auth"), "keys.auth", AUTH_BYTES),
        vapid=vapid,
    )


def check_point(known: Subscription) -> None:
    """Raises AddressInvalid if the subscription's key is not a point of P-256."""
    if known.p256dh is not None:
        try:
            public_key(known.p256dh)
        except ValueError as error:
            raise AddressInvalid(f"keys.p256dh {error}") from None


def _bytes(text: object, name: str, length: int) -> bytes:
    try:
        found = from_base64(text) if isinstance(text, str) else b""
    except ValueError:
        found = b""
    if len(found) != length:
        raise AddressInvalid(f"{name} must be {length} bytes in base64url")
    return found


def ttl(seconds: float) -> int:
    """Whole seconds, at most 28 days; 0 only where 0 is meant: it asks to be dropped unless the browser is online."""
    return min(max(int(seconds), 1), TTL_S_MAX) if seconds > 0 else 0


def topic(key: str) -> str:
    """32 characters of base64url for any key: the only form that every service is known to take (sheet §4)."""
    return base64.urlsafe_b64encode(hashlib.sha256(key.encode("utf-8", "replace")).digest()[:24]).decode()


def padded(length: int) -> int:
    """What the record of `length` bytes of data is padded to, the delimiter included."""
    return next((bucket for bucket in BUCKETS if length < bucket), length + 1)


def envelope(push: Push, *, now_s: float) -> bytes:
    """What the app gets. No member is null; an app of a later version may find more of them."""
    members: dict[str, Any] = {
        "v": 1,
        "id": push.id,  # no push service recognises repeats; the app does, by this
        "silent": True if push.silent else None,
        "title": push.title,
        "body": push.body,
        "title_loc_key": push.title_loc_key,
        "title_loc_args": list(push.title_loc_args) or None,
        "body_loc_key": push.body_loc_key,
        "body_loc_args": list(push.body_loc_args) or None,
        "image": push.image,
        "badge_count": push.badge,
        "sound": push.sound,
        "channel": push.channel,
        "thread": push.thread,
        "click": push.click,
        "mutable": True if push.mutable else None,
        "sealed": push.sealed,
        "tag": push.collapse_key,  # also where the service ignores Topic, as UnifiedPush's do
        "data": dict(push.data) or None,
        "expires_at": int(now_s) + ttl(push.ttl_s),  # ntfy ignores TTL: the app has to look
        "relay": dict(push.relay) or None,
    }
    own = push.overrides.get("envelope")
    if isinstance(own, Mapping):
        members |= {key: value for key, value in own.items() if key not in OURS}
    return json_body({key: value for key, value in members.items() if value is not None})


def override_mistakes(overrides: Mapping[str, Any]) -> Iterator[str]:
    """Every mistake in overrides of the request's headers and the envelope's members."""
    for key in overrides:
        if key not in {"urgency", "topic", "envelope"}:
            yield f"{key[:64]!r} may not be overridden; urgency, topic and envelope may."
    if "urgency" in overrides and overrides["urgency"] not in URGENCIES:
        yield f"urgency must be one of {', '.join(URGENCIES)}."
    name = overrides.get("topic")
    if "topic" in overrides and not (isinstance(name, str) and _TOPIC.fullmatch(name)):
        yield "topic must be 1 to 32 of a-z A-Z 0-9 - _."
    elif isinstance(name, str) and len(name) % 4 == 1:
        # Apple decodes it, and nothing has such a length in base64url (sheet §4).
        yield "topic must be base64url that can be decoded: it never has 1, 5, 9, … characters."
    members = overrides.get("envelope", {})
    if not isinstance(members, Mapping):
        yield "envelope must be an object."
    elif not is_json(dict(members), OVERRIDE_DEPTH_MAX):
        yield f"envelope must be JSON, at most {OVERRIDE_DEPTH_MAX} levels deep."
    else:
        yield from (f"envelope: {key!r} is the relay's own." for key in members if key in OURS)
