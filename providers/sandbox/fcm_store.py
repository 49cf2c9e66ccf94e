"""What Google keeps for phones that are off: few of what collapses, not many of the rest, nothing for longer than it lives.

Source: vendor sheet fcm.md §3.2 (`collapse_key`, `ttl`) and §4 (limits); for an iPhone apns.md §8, for a browser webpush.md §4.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from providers.sandbox.checks import Json, seconds
from providers.sandbox.fcm_message import TTL_S_MAX, part
from providers.sandbox.phones import Content

KEYS_MAX = 4  # different collapse keys for one phone
PLAIN_MAX = 100  # messages without one
IOS_TTL_S = 30 * 86_400  # if nothing is said (§3.3)
KEPT_MAX = 10_000  # messages for all phones; then nothing more is kept

DELETED = "deleted_messages"  # what Android's library tells the app, once, when they were too many


@dataclass(frozen=True, slots=True)
class Kept:
    until: float
    key: str | None  # None: it does not collapse
    content: Content
    message: bytes


class Store:
    """Phones are named by their tokens."""

    def __init__(self, *, now: Callable[[], float], rng: random.Random) -> None:
        self.off: set[str] = set()
        self._now = now
        self._rng = rng
        self._kept: dict[str, list[Kept]] = {}
        self._overflown: dict[str, Content] = {}  # the newest that went, of phones for which there were too many

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def keep(self, token: str, content: Content, message: Json, raw: bytes) -> None:
        """A message that came while the phone is off."""
        live_s, key = _terms(content.platform, message, self._now())
        if live_s <= 0 or len(self) >= KEPT_MAX:
            return  # now or never
        kept = self._kept.setdefault(token, [])
        kept[:] = [one for one in kept if one.until > self._now() and (key is None or one.key != key)]
        alike = [one for one in kept if (one.key is None) is (key is None)]
        if content.platform == "android" and key is not None and len(alike) >= KEYS_MAX:
            kept.remove(self._rng.choice(alike))  # nobody knows which
        if content.platform == "android" and key is None and len(alike) >= PLAIN_MAX:
            kept.clear()
            self._overflown[token] = content
            return
        kept.append(Kept(self._now() + live_s, key, content, raw))

    def switch_on(self, token: str) -> list[Kept]:
        """What the phone gets now, oldest first."""
        self.off.discard(token)
        found = [one for one in self._kept.pop(token, []) if one.until > self._now()]
        last = self._overflown.pop(token, None)
        if last is None:
            return found
        told = Content(
            vendor=last.vendor,
            name=DELETED,
            kind=last.kind,
            platform=last.platform,
            shown_by=None,
            data={"message_type": DELETED},
        )
        return [Kept(0.0, None, told, b"{}"), *found]

    def clear(self) -> None:
        self.off.clear()
        self._kept.clear()
        self._overflown.clear()


def _terms(platform: str, message: Json, now: float) -> tuple[float, str | None]:
    """How long it lives, and under which key it takes another's place."""
    if platform == "web":
        headers = _headers(message, "webpush")
        return float(str(headers.get("ttl", TTL_S_MAX))), headers.get("topic")
    if platform == "ios":
        expires = _headers(message, "apns").get("apns-expiration")
        return IOS_TTL_S if expires is None else int(expires) - now, ""  # Apple keeps one
    android = part(message, "android")
    key = android.get("collapse_key")
    if not key and ("notification" in message or "notification" in android):
        key = ""  # it is the package's name, the same for all of them
    return seconds(str(android.get("ttl", f"{TTL_S_MAX}s"))) or 0.0, None if key is None else str(key)


def _headers(message: Json, platform: str) -> dict[str, str]:
    return {name.lower(): str(value) for name, value in part(message, platform, "headers").items()}
