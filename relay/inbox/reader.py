"""The reading half of the inbox room's face: each method is one reading, on one snapshot and without locks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from relay.errors import CursorRefused, Missing
from relay.inbox import history
from relay.inbox.batch import PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, Batch
from relay.inbox.comparing import Comparison, Range, compare
from relay.inbox.cursor import Cursor, CursorKeys, unseal
from relay.inbox.history import Asked, Pages
from relay.inbox.locked import PolicyOf
from relay.inbox.page import Snapshot, check, reset_data, snapshot
from relay.inbox.preferences import Preferences, from_store
from relay.inbox.reading import NOTHING_SHARED, Next, Reading, place_of, read, read_messages, read_next
from relay.inbox.shared import Wanted, begin_anew
from relay.inbox.trace import Trace, trace
from relay.inbox.voiding import proves_loss, void
from relay.model import Address, Device, DeviceKey, DeviceState, UserKey
from relay.store import addresses as address_rows
from relay.store import devices as device_rows
from relay.store import inbox as inbox_rows
from relay.store.engine import Conn, Engine
from relay.store.gathered import Gathered
from relay.store.rollback import SetBackProofs

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class InboxReader:
    """Everything that is asked of inboxes. It writes only where a cursor proves that numbers were lost."""

    engine: Engine
    policy_of: PolicyOf
    keys: CursorKeys
    new_epoch: Callable[[], str]
    proofs: SetBackProofs
    facts_told: Callable[[], None]  # events may have been written
    page_entries: int = PAGE_ENTRIES_MAX
    page_bytes: int = PAGE_BYTES_MAX
    _next_pages: Gathered[Next, Reading] = field(init=False)

    def __post_init__(self) -> None:
        self._next_pages = Gathered(self.engine, lambda conn, now_ms, asked: read_next(conn, now_ms, asked, self.keys))

    # --- pages ---

    def unseal(self, text: str, device: DeviceKey) -> Cursor:
        """Raises Malformed (invalid_cursor)."""
        return unseal(text, device, self.keys)

    async def read(
        self,
        device: DeviceKey,
        cursor: Cursor | None,
        *,
        limit: int,
        etag: str | None = None,
        range_: tuple[int, int] | None = None,
        asked: Wanted = NOTHING_SHARED,
    ) -> Reading:
        """One page after `cursor` (or of `range_`, which moves no cursor); batch None if `etag` still holds.

        With a page of each shared timeline that is asked for, and a list of the others that lie ahead. A cursor that proves that
        numbers of one were lost voids all that were made of it, at once.
        """

        def work(conn: Conn, now_ms: int) -> Reading:
            return read(
                conn,
                now_ms,
                device,
                cursor,
                self.keys,
                limit=min(limit, self.page_entries),
                bytes_max=self.page_bytes,
                tail=self.policy_of(device.app_id).shared_tail,
                etag=etag,
                range_=range_,
                asked=asked,
            )

        reading = await self._judged(device, cursor, work)
        if reading.shared is None or not reading.shared.opened.forked:
            return reading
        forked = reading.shared.opened.forked
        await self.engine.write(lambda conn, _: begin_anew(conn, device.app_id, forked, self.new_epoch))
        return await self._judged(device, cursor, work)

    async def read_messages(self, device: DeviceKey, message_ids: Sequence[str]) -> tuple[Snapshot, list[Batch]]:
        """Those of these messages that are in the device's inbox, each as a page of its own that moves no cursor."""
        return await self.engine.read(
            lambda conn, now_ms: read_messages(conn, now_ms, device, message_ids, self.keys, bytes_max=self.page_bytes)
        )

    async def read_after(
        self,
        device: DeviceKey,
        seq: int,
        *,
        limit: int,
        bytes_max: int,
        followed: Sequence[str] = (),
        first: bool = False,
    ) -> Reading:
        """The next page of a connection that was sent everything up to `seq`.

        On the `first` look, and of a user who is woken for shared timelines, with a list of those that lie ahead and are
        not `followed`.
        """
        asked = Next(
            device, seq, min(limit, self.page_entries), min(bytes_max, self.page_bytes), tuple(followed), first
        )
        while (found := await self._next_pages.get(asked)) is None:
            continue  # the reading was full
        return found

    async def reset(self, device: DeviceKey, *, reason: str) -> dict[str, Any]:
        """Where a device begins again."""
        return await self.engine.read(
            lambda conn, _: reset_data(conn, snapshot(conn, device), self.keys, reason=reason)
        )

    # --- comparing (protocol 8.7, 10.4) ---

    async def compare(
        self,
        device: DeviceKey,
        ranges: Sequence[Range],
        *,
        cursor: Cursor | None = None,
        upto: int = 0,
        as_of_ms: int | None = None,
    ) -> Comparison:
        """Compares ranges up to `cursor`, or up to a number that the relay itself knows. Raises CursorRefused, Invalid."""

        def work(conn: Conn, now_ms: int) -> Comparison:
            snap = snapshot(conn, device)
            if cursor is not None:
                check(conn, snap, cursor, self.keys)
            end = upto if cursor is None else cursor.seq
            return compare(conn, snap, upto=end, as_of_ms=now_ms if as_of_ms is None else as_of_ms, ranges=ranges)

        return await self._judged(device, cursor, work)

    async def judge(self, device: DeviceKey, cursor: Cursor) -> None:
        """Raises CursorRefused, with where to begin again, for one that is no good."""
        await self._judged(device, cursor, lambda conn, _: check(conn, snapshot(conn, device), cursor, self.keys))

    async def _judged(self, device: DeviceKey, cursor: Cursor | None, work: Callable[[Conn, int], T]) -> T:
        """Reads with a cursor; one that proves that numbers were lost voids all that were made before, at once."""
        try:
            return await self.engine.read(work)
        except CursorRefused as problem:
            if cursor is None or not proves_loss(problem):
                raise
        found = await self.engine.write(
            lambda conn, now_ms: void(
                conn, now_ms, device, cursor, self.policy_of, self.keys, self.new_epoch, self.proofs
            )
        )
        self.facts_told()
        if found is not None:
            raise found
        return await self.engine.read(work)

    # --- looking back ---

    async def trace(self, app_id: str, message_id: str) -> Trace:
        """What became of a message. Raises Missing."""
        return await self.engine.read(
            lambda conn, now_ms: trace(conn, now_ms, self.policy_of, app_id=app_id, message_id=message_id)
        )

    async def history(self, app_id: str, asked: Asked) -> Pages:
        """Messages of an app or of one user, the newest first. Raises Malformed (invalid_cursor)."""
        return await self.engine.read(lambda conn, _: history.of_app(conn, app_id, asked))

    async def history_of_device(
        self, device: DeviceKey, *, conversation: str | None, before: str | None, limit: int
    ) -> Pages:
        """What the device could see of a conversation, backwards. No promise goes with it, and no cursor."""
        return await self.engine.read(
            lambda conn, now_ms: history.of_device(
                conn, now_ms, device, conversation=conversation, before=before, limit=limit
            )
        )

    # --- rows ---

    async def heads(self, users: Iterable[UserKey]) -> dict[UserKey, int]:
        """Newest numbers, for the poll that finds lost hints."""
        wanted = list(users)
        return await self.engine.read(lambda conn, _: inbox_rows.heads_of(conn, wanted))

    async def place_of(self, device: DeviceKey, message_id: str) -> tuple[int | None, str]:
        """A message's number in the inbox of the device's user, if it has one there, and the epoch. Raises Unauthenticated."""
        return await self.engine.read(lambda conn, _: place_of(conn, device, message_id))

    async def device(self, key: DeviceKey) -> tuple[Device, list[Address]]:
        """A device that is not gone, with its addresses. Raises Missing."""

        def work(conn: Conn, _: int) -> tuple[Device, list[Address]]:
            device = device_rows.device_row(conn, key)
            if device is None or device.state is DeviceState.GONE:
                raise Missing("There is no such device.")
            return device, address_rows.addresses_of(conn, [key.user]).get(key, [])

        return await self.engine.read(work)

    async def devices(self, users: Iterable[UserKey]) -> dict[UserKey, list[Device]]:
        wanted = list(users)
        return await self.engine.read(lambda conn, _: device_rows.devices_of(conn, wanted))

    async def preferences(self, user: UserKey) -> Preferences:
        """Raises Missing."""

        def work(conn: Conn, _: int) -> Preferences:
            found = inbox_rows.inbox_of(conn, user)
            if found is None:
                raise Missing("There is no such user.")
            return from_store(found.preferences)

        return await self.engine.read(work)
