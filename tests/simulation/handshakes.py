"""What a handshake passes, and what it gives again, beside what it found (protocol 10.2, steps 5 and 8).

I33: what is acked by the cursor that a device comes with was shown by the version that it had, not by the one that comes. So
whatever the older one could not show in full is held, or comes again (what the device sent itself is I38's matter). I34: what
was held, and can be shown now, comes again: once, and nothing else does. I26: each begins a session of its own.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from relay.inbox import handshake, service
from relay.model import DeviceKey

from .client import Broken

if TYPE_CHECKING:
    from .store import Store

_DEVICE = """
SELECT d.session, coalesce(d.schema, 0), d.app_version, d.acked_seq, i.head_seq
FROM device d JOIN inbox i ON (i.app_id, i.user_id) = (d.app_id, d.user_id)
WHERE d.app_id = ? AND d.user_id = ? AND d.device_id = ? AND d.state <> 'gone'"""
_HELD = """
SELECT h.seq, h.why, e.message_id, CASE WHEN m.message_id IS NOT NULL AND m.scope IS NULL THEN coalesce(m.min_schema, 0) END
FROM device_held h
LEFT JOIN inbox_entry e ON (e.app_id, e.user_id, e.seq) = (h.app_id, h.user_id, h.seq)
  AND e.state = 'live' AND e.expires_ms > :now
LEFT JOIN message m ON (m.app_id, m.message_id) = (e.app_id, e.message_id)
WHERE h.app_id = :app AND h.user_id = :user AND h.device_id = :device"""
_PASSED = """
SELECT e.seq, e.message_id,
  (e.kind = 'message' OR (e.kind = 'own' AND e.origin_device IS NOT :device))
  AND e.only_device = '' AND m.scope IS NULL AND coalesce(m.min_schema, 0) > :schema
FROM inbox_entry e JOIN message m ON (m.app_id, m.message_id) = (e.app_id, e.message_id)
WHERE e.app_id = :app AND e.user_id = :user AND e.seq > :after AND e.seq <= :upto AND e.state = 'live' AND e.expires_ms > :now"""
_RELEASED = """
SELECT message_id, count(*) FROM inbox_entry
WHERE app_id = ? AND user_id = ? AND only_device = ? AND seq > ? AND kind = 'release' GROUP BY message_id"""


class Held(NamedTuple):
    """A row of what is held: by which message, if that lives, and from which schema on that is shown, if it has no scope."""

    seq: int
    why: str
    message_id: str | None
    min_schema: int | None


class Known(NamedTuple):
    """A device as its rows have it."""

    session: int
    schema: int
    app_version: str | None
    acked_seq: int
    head_seq: int
    held: list[Held]


class Handshakes:
    """Of all devices of a run."""

    def __init__(self, store: "Store") -> None:
        self._raw = store.raw
        self._wrong: str | None = None

    @contextmanager
    def heard(self, devices: Iterable[DeviceKey], now_ms: int) -> Iterator[set[DeviceKey]]:
        """These shake hands, in one transaction. Takes those that were welcomed."""
        before, welcomed = {device: self._known(device, now_ms) for device in devices}, set[DeviceKey]()
        yield welcomed
        for device, old in before.items():
            new = self._known(device, now_ms)
            if old is None or new is None:
                continue
            if device in welcomed and new.session <= old.session:
                self._wrong = f"I26: {device} has shaken hands, and its session is still {new.session}"
            if new.session > old.session:
                wrong = self._judged(device, old, new, now_ms)
                self._wrong = self._wrong or wrong

    def committed(self) -> None:
        """Raises Broken."""
        if self._wrong is not None:
            raise Broken(self._wrong)

    def _known(self, device: DeviceKey, now_ms: int) -> Known | None:
        row = self._raw.execute(_DEVICE, device).fetchone()
        if row is None:
            return None
        return Known(*row, [Held(*one) for one in self._raw.execute(_HELD, _place(device, now_ms)).fetchall()])

    def _judged(self, device: DeviceKey, old: Known, new: Known, now_ms: int) -> str | None:
        """What is wrong, if anything."""
        released = dict(self._raw.execute(_RELEASED, (*device, old.head_seq)).fetchall())
        passed = []
        if new.acked_seq > old.acked_seq:
            place = {"schema": old.schema, "after": old.acked_seq, "upto": new.acked_seq}
            passed = self._raw.execute(_PASSED, _place(device, now_ms) | place).fetchall()
        kept = {one.seq for one in new.held}
        for seq, message_id, unshown in passed:
            if unshown and seq not in kept and message_id not in released:
                return f"I33: {device} passed {seq}, which its version could not show, and does not get it again"
        for one in new.held:
            if one.seq <= new.acked_seq and _shows(one, old, new):
                return f"I34: {device} can show {one.seq} now, and it is still held ({one.why})"
        for one in old.held:
            if (
                one.seq <= min(old.acked_seq, new.acked_seq)
                and _shows(one, old, new)
                and one.message_id not in released
            ):
                return f"I34: {device} can show {one.seq} now, and it does not come again"
        # A message may have two entries, itself and a release of it, and a device that was set back may have passed both.
        entries = Counter([one.message_id for one in old.held] + [message_id for _, message_id, _ in passed])
        for message_id, times in released.items():
            if times > entries[message_id]:
                return f"I34: {message_id} comes to {device} again, {times} times, and was held {entries[message_id]} times"
        return None


def _place(device: DeviceKey, now_ms: int) -> dict[str, Any]:
    return {"app": device.app_id, "user": device.user_id, "device": device.device_id, "now": now_ms}


def _shows(one: Held, old: Known, new: Known) -> bool:
    """Whether it is to be shown by the version that has come: one that refused it is not asked again."""
    if one.min_schema is None or one.min_schema > new.schema:
        return False
    return one.why in {"held", "fallback"} or (
        one.why in {"poison", "unknown_type"} and new.app_version != old.app_version
    )


@contextmanager
def heard(handshakes: Callable[[], Handshakes]) -> Iterator[None]:
    """Has these see handshakes as they are made."""
    hello = service.hello

    def shaking(conn: Any, now_ms: int, hellos: Sequence[Any], *more: Any) -> Any:
        with handshakes().heard({one.device: None for one in hellos}, now_ms) as welcomed:
            answers = hello(conn, now_ms, hellos, *more)
            taken = zip(hellos, answers, strict=True)
            welcomed |= {one.device for one, answer in taken if isinstance(answer, handshake.Welcome)}
        return answers

    service.hello = shaking
    try:
        yield
    finally:
        service.hello = hello
