"""Virtual phones: what each has received and what stands on its screen. Bounded in memory; times by the given clock."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from providers.sandbox.checks import Json, read_json

SHOWN_MAX = 50  # notifications on a screen; the oldest go
WAITERS_MAX = 1000
DELIVERY_OVERHEAD_BYTES = 850  # its objects and its place, besides its text (measured)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneLimits:
    """At the first, a phone forgets its oldest delivery; at the others, the phone that was quiet longest goes."""

    deliveries_max: int = 1000  # of one phone
    phones_max: int = 10_000
    bytes_max: int = 256 * 1024 * 1024  # all deliveries together, roughly


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a message says to a phone."""

    vendor: str
    name: str  # the vendor's name of the message
    kind: str  # how it was addressed: token, fid, topic, condition
    platform: str
    shown_by: str | None  # "system", "app" (data-only with a title or body), None: nothing to see
    title: str | None = None
    body: str | None = None
    data: Json = field(default_factory=dict)
    collapse: str | None = None  # replaces what stands there under the same key
    badge: int | None = None
    sound: str | None = None
    channel: str | None = None
    priority: str | None = None
    ttl: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """`seq` counts all deliveries of the sandbox, `at` is in seconds since 1970.

    Kept as JSON: of a hundred thousand small dicts the garbage collector made half of the sandbox's work.
    """

    seq: int
    at: float
    content: bytes
    message: bytes

    @property
    def name(self) -> str:
        """The vendor's name of the message."""
        return str(msgspec.json.decode(self.content)["name"])

    @property
    def size(self) -> int:
        return len(self.content) + len(self.message) + DELIVERY_OVERHEAD_BYTES


class Phone:
    __slots__ = ("badge", "count", "first_seq", "received", "shown", "size", "token")

    def __init__(self, token: str, first_seq: int, deliveries_max: int) -> None:
        self.token = token
        self.first_seq = first_seq
        self.count = 0  # ever received; `received` keeps the newest
        self.received: deque[Delivery] = deque(maxlen=deliveries_max)
        self.shown: dict[str, Delivery] = {}  # oldest first
        self.badge: int | None = None  # as last told
        self.size = 0

    def take(self, delivery: Delivery, content: Content) -> None:
        if len(self.received) == self.received.maxlen:
            self.size -= self.received[0].size
        self.received.append(delivery)
        self.size += delivery.size
        self.count += 1
        if content.badge is not None:
            self.badge = content.badge
        if content.shown_by is None:
            self._tidy(_relay_words(content))
        else:
            key = str(delivery.seq) if content.collapse is None else f"={content.collapse}"
            self.shown.pop(key, None)
            self.shown[key] = delivery
            if len(self.shown) > SHOWN_MAX:
                del self.shown[next(iter(self.shown))]

    def _tidy(self, told: Json) -> None:
        """What an app does that is told so in silence (guide providers, "Taking back"): it removes the notifications of
        these messages, and one of several when all of them are named; and it sets its badge."""
        gone = _texts(told.get("withdraw"))
        for place, one in list(self.shown.items()) if gone else ():
            named = _texts(_relay_words(msgspec.json.decode(one.content, type=Content)).get("ids"))
            if named and named <= gone:
                del self.shown[place]
        badge = told.get("badge")
        if type(badge) is int:
            self.badge = badge


def _texts(value: object) -> set[str]:
    return {one for one in value if isinstance(one, str)} if isinstance(value, list) else set()


def _relay_words(content: Content) -> Json:
    """The relay's own object in the app's data, as an object or as its JSON."""
    words = content.data.get("relay")
    words = read_json(words) if isinstance(words, str) else words
    return words if isinstance(words, dict) else {}


class Phones:
    """All phones, by the address that messages name (a token, a FID)."""

    def __init__(self, *, now: Callable[[], float], limits: PhoneLimits | None = None) -> None:
        self.limits = limits or PhoneLimits()
        self.version = 0  # changes with every change
        self.delivered = 0  # ever, on all phones
        self.forgotten = 0  # phones that went to keep within the limits
        self._now = now
        self._seq = 0
        self._size = 0
        self._phones: dict[str, Phone] = {}  # quiet longest first
        self._waiters: dict[str | None, list[tuple[int, asyncio.Future[None]]]] = {}

    @property
    def kept_bytes(self) -> int:
        """What all deliveries take, roughly."""
        return self._size

    @property
    def waiting(self) -> int:
        """Calls of `wait` under way."""
        return sum(map(len, self._waiters.values()))

    def __len__(self) -> int:
        return len(self._phones)

    def deliver(self, token: str, content: Content, *, message: bytes) -> None:
        """`message` is the whole message as JSON, as the vendor took it."""
        self._seq += 1
        self.version += 1
        self.delivered += 1
        phone = self._phones.pop(token, None)
        if phone is None:
            phone = Phone(token, self._seq, self.limits.deliveries_max)
        self._phones[token] = phone  # at the end: the liveliest
        before = phone.size
        delivery = Delivery(self._seq, self._now(), msgspec.json.encode(content), message)
        phone.take(delivery, content)
        self._size += phone.size - before
        while len(self._phones) > self.limits.phones_max or (
            self._size > self.limits.bytes_max and len(self._phones) > 1
        ):
            quiet = self._phones.pop(next(iter(self._phones)))
            self._size -= quiet.size
            self.forgotten += 1
        if self._waiters:
            self._wake(token)
            self._wake(None)

    def withdraw(self, token: str, key: str) -> bool:
        """Takes what stands there under the collapse key, or under the vendor's name of the message, off the screen."""
        phone = self._phones.get(token)
        if phone is None:
            return False
        found = [place for place, one in phone.shown.items() if place == f"={key}" or one.name == key]
        for place in found:
            del phone.shown[place]
        self.version += bool(found)
        return bool(found)

    def clear(self) -> None:
        self.version += 1
        self.delivered = 0
        self.forgotten = 0
        self._size = 0
        self._phones.clear()

    def count(self, token: str | None) -> int:
        """Deliveries so far: of one phone, or of all."""
        if token is None:
            return self.delivered
        phone = self._phones.get(token)
        return 0 if phone is None else phone.count

    def view(
        self, *, token: str | None = None, phones_max: int, received_max: int | None = None, with_message: bool = True
    ) -> list[Json]:
        """The liveliest phone first; its deliveries oldest first, the newest `received_max` of them."""
        if token is not None:
            chosen = [self._phones[token]] if token in self._phones else []
        else:
            chosen = list(islice(reversed(self._phones.values()), phones_max))
        return [_phone_view(phone, received_max, with_message) for phone in chosen]

    async def wait(self, token: str | None, count: int, *, timeout_s: float) -> bool:
        """True as soon as `count` deliveries have been made (to that phone, or at all); False when time is up."""
        if self.count(token) >= count:
            return True
        if self.waiting >= WAITERS_MAX:
            return False
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (count, arrived)
        self._waiters.setdefault(token, []).append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await arrived
        except TimeoutError:
            pass
        finally:
            waiters = self._waiters[token]
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[token]
        return self.count(token) >= count

    def release(self) -> None:
        """Ends every wait, for a stop."""
        for waiters in self._waiters.values():
            for _, arrived in waiters:
                _settle(arrived)

    def _wake(self, token: str | None) -> None:
        for count, arrived in self._waiters.get(token, ()):
            if self.count(token) >= count:
                _settle(arrived)


def _settle(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)


def _phone_view(phone: Phone, received_max: int | None, with_message: bool) -> Json:
    skipped = 0 if received_max is None else max(0, len(phone.received) - received_max)
    received = islice(phone.received, skipped, None)
    return {
        "token": phone.token,
        "first_seq": phone.first_seq,
        "count": phone.count,
        "badge": phone.badge,
        "received": [_delivery_view(delivery, with_message) for delivery in received],
        "shown": [_delivery_view(delivery, with_message) for delivery in phone.shown.values()],
    }


def _delivery_view(delivery: Delivery, with_message: bool) -> Json:
    view: Json = {"seq": delivery.seq, "at": delivery.at, **msgspec.json.decode(delivery.content)}
    if with_message:
        view["message"] = msgspec.Raw(delivery.message)
    return view
