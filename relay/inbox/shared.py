"""What a device asks of shared timelines: those it has open, and which others there are (protocol 8.2, 10.2, 12.5)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from relay.errors import Missing, Problem
from relay.inbox.batch import PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, Batch
from relay.inbox.cursor import INBOX, KIND_SHARED, Cursor, CursorKeys, short, unseal
from relay.inbox.locked import PolicyOf
from relay.inbox.page import Snapshot, snapshot
from relay.inbox.shared_floor import prune_timeline
from relay.inbox.timeline import FORKED, SharedSnapshot, refusal, shared_page, shared_reset, shared_snapshots
from relay.model import DeviceKey, TimelineKey
from relay.store import meta, readers, timelines
from relay.store.engine import Conn, Engine

OPEN_MAX = 50  # shared timelines that one request or connection may read
WALK = 100
LISTED_MAX = 50  # of those that are ahead, in one answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Cursors as the device sent them, and conversations that it opens for the first time."""

    cursors: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.cursors or self.names)


@dataclass(slots=True, kw_only=True)
class Opened:
    """The timelines that a request is about. `after`: where each goes on."""

    snaps: dict[str, SharedSnapshot] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    resets: list[dict[str, Any]] = field(default_factory=list)  # where the device begins again
    refused: list[dict[str, Any]] = field(default_factory=list)  # what is none of its timelines
    forked: dict[str, str] = field(default_factory=dict)  # whose numbers were lost, as a cursor proves; their epochs

    @property
    def mark(self) -> str:
        """Changes whenever a page of these could."""
        return ",".join(self.snaps[name].mark for name in sorted(self.snaps))

    @property
    def at_heads(self) -> bool:
        """Whether the device has everything, so that nothing is to be said of them."""
        return not self.resets and all(self.after[name] >= snap.head_seq for name, snap in self.snaps.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """What an answer says of shared timelines."""

    opened: Opened
    batches: tuple[Batch, ...] = ()
    unread: bool = False  # some were left out: the answer was full
    ahead: tuple[dict[str, Any], ...] = ()

    def beside(self, others: tuple[dict[str, Any], ...]) -> "Pages":
        """The same with a list of timelines that were not asked for."""
        return replace(self, ahead=others)

    @property
    def more(self) -> bool:
        return self.unread or any(batch.more for batch in self.batches)

    @property
    def caught_up(self) -> bool:
        return not self.unread and not self.opened.resets and all(batch.caught_up for batch in self.batches)

    @property
    def says_nothing(self) -> bool:
        """Whether there is nothing new in them."""
        opened = self.opened
        return not (
            self.unread or opened.resets or opened.refused or any(one.to_seq > one.from_seq for one in self.batches)
        )


def opened(conn: Conn, base: Snapshot, asked: Wanted, keys: CursorKeys, *, session: int | None) -> Opened:
    """Finds the timelines that a device names, and where it goes on in each. A bad cursor spoils nothing but itself.

    `session`: of the store that asks; None: not known, each cursor speaks for itself.
    """
    found = Opened()
    if not asked:
        return found
    device = base.device
    by_hash = {short(name): name for name in readers.places_of(conn, device.key.user)} if asked.cursors else {}
    cursors: dict[str, Cursor] = {}
    for text in asked.cursors:
        cursor = _unsealed(text, device.key, keys)
        name = None if cursor is None else by_hash.get(cursor.timeline8)
        if cursor is None or name is None:
            code = "invalid_cursor" if cursor is None else "not_found"
            found.refused.append({"cursor": text[:256], "code": code})
        elif name not in cursors or _place(cursors[name]) < _place(cursor):
            cursors[name] = cursor
    wanted = list(dict.fromkeys([*cursors, *asked.names]))
    found.snaps = shared_snapshots(conn, base.store_epoch, device, wanted)
    for name in wanted:
        snap = found.snaps.get(name)
        if snap is None:
            found.refused.append({"conversation": name, "code": "not_found"})
            continue
        if session is not None:
            snap = found.snaps[name] = replace(snap, session=session)
        elif name in cursors:
            snap = found.snaps[name] = replace(snap, session=base.session_after(cursors[name]))
        reason = refusal(conn, snap, cursors[name]) if name in cursors else None
        if reason == FORKED:
            found.forked[name] = snap.timeline.epoch
        if reason is not None:
            found.resets.append(shared_reset(conn, snap, keys, reason=reason))
            del found.snaps[name]
            continue
        found.after[name] = cursors[name].seq if name in cursors else snap.start_seq
    return found


def begin_anew(conn: Conn, app_id: str, forked: Mapping[str, str], new_epoch: Callable[[], str]) -> None:
    """Voids every cursor of timelines whose numbers were lost, given their epochs (protocol 4.1): each epoch once, whoever
    has proved it."""
    for key, one in timelines.lock(conn, [TimelineKey(app_id, name) for name in forked]).items():
        if one.epoch == forked[key.conversation_id]:
            timelines.set_epoch(conn, key, new_epoch())


def _place(cursor: Cursor) -> tuple[int, int]:
    """Of two cursors the further one counts."""
    return cursor.session, cursor.seq


def _unsealed(text: str, device: DeviceKey, keys: CursorKeys) -> Cursor | None:
    try:
        cursor = unseal(text, device, keys)
    except Problem:
        return None
    return cursor if cursor.kind == KIND_SHARED else None


def pages(conn: Conn, now_ms: int, found: Opened, keys: CursorKeys, *, tail: int, limit: int, bytes_max: int) -> Pages:
    """A page of each timeline, as far as there is room; and those that lie ahead of what the device has acked."""
    batches: list[Batch] = []
    unread = False
    for name in sorted(found.snaps):
        if batches and (limit <= 0 or bytes_max <= 0):
            unread = unread or found.after[name] < found.snaps[name].head_seq
            continue
        batch = shared_page(
            conn,
            now_ms,
            found.snaps[name],
            keys,
            after=found.after[name],
            tail=tail,
            limit=max(1, limit),
            bytes_max=max(1, bytes_max),
        )
        limit, bytes_max = limit - batch.entries, bytes_max - len(batch.json)
        batches.append(batch)
    return Pages(opened=found, batches=tuple(batches), unread=unread)


def ahead(conn: Conn, base: Snapshot, but: Iterable[str]) -> tuple[dict[str, Any], ...]:
    """Shared timelines that the device has not asked for, and that stand above what it has acked."""
    asked = set(but)
    found = readers.ahead_of(conn, base.device.key, limit=LISTED_MAX + len(asked))
    listed = [one for one in found if one.conversation_id not in asked][:LISTED_MAX]
    if not listed:
        return ()
    mentions = readers.mentions_above(conn, base.device.key, base.device.acked_seq)
    return tuple(
        {
            "conversation": one.conversation_id,
            "head": one.head_seq,
            "floor": max(one.floor_seq, one.joined_seq),
            "mentions": mentions.get(one.conversation_id, 0),
        }
        for one in listed
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A timeline that a connection follows, and the number up to which its device has it."""

    name: str
    epoch: str
    seq: int
    head_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a handshake makes of shared cursors."""

    cursors: Mapping[str, str]
    verdicts: tuple[dict[str, Any], ...]
    stands: tuple[Cursor, ...]  # where the device goes on: so far it has each, and no further


@dataclass(slots=True, kw_only=True)
class SharedService:
    """Reading shared timelines, one snapshot each."""

    engine: Engine
    keys: CursorKeys
    policy_of: PolicyOf
    new_epoch: Callable[[], str]
    page_entries: int = PAGE_ENTRIES_MAX
    page_bytes: int = PAGE_BYTES_MAX

    async def follow(self, device: DeviceKey, asked: Wanted) -> tuple[list[Followed], Opened]:
        """Where a connection goes on in the timelines it names. Raises Unauthenticated.

        A cursor that proves that numbers of one were lost voids all that were made of it, at once.
        """

        def work(conn: Conn, _: int) -> tuple[list[Followed], Opened]:
            base = snapshot(conn, device)
            found = opened(conn, base, asked, self.keys, session=base.device.session)
            return [
                Followed(name=name, epoch=snap.epoch8.hex(), seq=found.after[name], head_seq=snap.head_seq)
                for name, snap in found.snaps.items()
            ], found

        follows, found = await self.engine.read(work)
        if not found.forked:
            return follows, found
        await self._begin_anew(device.app_id, found.forked)
        return await self.engine.read(work)

    async def read_after(
        self, device: DeviceKey, name: str, seq: int, *, limit: int, bytes_max: int
    ) -> tuple[SharedSnapshot, Batch]:
        """The next page of a connection that was sent everything up to `seq`. Raises Unauthenticated, Missing."""

        def work(conn: Conn, now_ms: int) -> tuple[SharedSnapshot, Batch]:
            snap = self._snapshot(conn, device, name)
            return snap, shared_page(
                conn,
                now_ms,
                snap,
                self.keys,
                after=seq,
                tail=self.policy_of(device.app_id).shared_tail,
                limit=min(limit, self.page_entries),
                bytes_max=min(bytes_max, self.page_bytes),
            )

        return await self.engine.read(work)

    async def fill(
        self, device: DeviceKey, name: str, low: int, high: int, *, limit: int
    ) -> tuple[SharedSnapshot, Batch]:
        """The numbers after `low`, up to `high`, as far as they fit a page. Raises Unauthenticated, Missing."""

        def work(conn: Conn, now_ms: int) -> tuple[SharedSnapshot, Batch]:
            snap = self._snapshot(conn, device, name)
            return snap, shared_page(
                conn,
                now_ms,
                snap,
                self.keys,
                after=low,
                upto=high,
                tail=0,
                limit=min(limit, self.page_entries),
                bytes_max=self.page_bytes,
                cursor=False,
            )

        return await self.engine.read(work)

    async def reset(self, device: DeviceKey, name: str, *, reason: str) -> dict[str, Any]:
        """Where a device begins again in a timeline. Raises Unauthenticated, Missing."""
        return await self.engine.read(
            lambda conn, _: shared_reset(conn, self._snapshot(conn, device, name), self.keys, reason=reason)
        )

    def _snapshot(self, conn: Conn, device: DeviceKey, name: str) -> SharedSnapshot:
        base = snapshot(conn, device)
        snap = shared_snapshots(conn, base.store_epoch, base.device, [name]).get(name)
        if snap is None:
            raise Missing("There is no such conversation with a shared timeline, or this user never was in it.")
        return snap

    async def ahead(self, device: DeviceKey, but: Sequence[str]) -> tuple[dict[str, Any], ...]:
        """As `ahead` above."""
        return await self.engine.read(lambda conn, _: ahead(conn, snapshot(conn, device), but))

    async def acked(self, device: DeviceKey) -> dict[str, int]:
        """Up to where the device has said that it has everything: of its inbox, and of the timelines it has read.

        Raises Unauthenticated.
        """

        def work(conn: Conn, _: int) -> dict[str, int]:
            reads = readers.reads_of(conn, [device.user]).get(device, {})
            acked = {name: read.acked_seq for name, read in reads.items()}
            return acked | {INBOX: snapshot(conn, device).device.acked_seq}

        return await self.engine.read(work)

    async def prune(self) -> None:
        """Walks all shared timelines, and has go what is older than they are kept."""
        key: TimelineKey | None = None
        while some := await self.engine.read(lambda conn, _, k=key: timelines.after(conn, k, limit=WALK)):  # type: ignore[misc]
            for one in some:
                while await self.engine.write(lambda conn, now_ms, k=one.key: self._prune(conn, now_ms, k)):  # type: ignore[misc]
                    pass
            key = some[-1].key

    def _prune(self, conn: Conn, now_ms: int, key: TimelineKey) -> bool:
        frozen_ms = meta.pruning_frozen_until_ms(conn)
        return prune_timeline(conn, now_ms, key, self.policy_of, frozen_until_ms=frozen_ms)

    async def heads(self, keys: Iterable[TimelineKey]) -> dict[TimelineKey, int]:
        """Newest numbers, for the poll that finds lost hints."""
        wanted = list(keys)
        found = await self.engine.read(lambda conn, _: timelines.timelines(conn, wanted))
        return {key: one.head_seq for key, one in found.items()}

    # --- the handshake ---

    async def greet(self, device: DeviceKey, given: Mapping[str, str], *, void: bool) -> Greeting:
        """Judges shared cursors after the inbox's (protocol 10.2). `void`: the device's store is another one.

        A fork proves that the numbers of that timeline were lost: it gets a new epoch, and so does every cursor in it.
        """
        greeting, forked = await self._judge(device, given, void=void)
        if forked:
            await self._begin_anew(device.app_id, forked)
            greeting, _ = await self._judge(device, given, void=void, forked=frozenset(forked))
        return greeting

    async def _judge(
        self, device: DeviceKey, given: Mapping[str, str], *, void: bool, forked: frozenset[str] = frozenset()
    ) -> tuple[Greeting, dict[str, str]]:
        def work(conn: Conn, _: int) -> tuple[Greeting, dict[str, str]]:
            base = snapshot(conn, device)
            snaps = shared_snapshots(conn, base.store_epoch, base.device, list(given))
            cursors: dict[str, str] = {}
            verdicts: list[dict[str, Any]] = []
            stands: list[Cursor] = []
            new: dict[str, str] = {}
            for name, text in sorted(given.items()):
                if name not in snaps:
                    verdicts.append({"conversation": name, "verdict": "unknown"})
                    continue
                snap, cursor = snaps[name], _unsealed(text, device, self.keys)
                reason = FORKED if name in forked else self._fault(conn, snap, cursor, void=void)
                if reason == FORKED and name not in forked:
                    new[name] = snap.timeline.epoch
                seq = snap.start_seq if reason is not None or cursor is None else cursor.seq
                cursors[name] = snap.cursor(seq, timelines.id_at(conn, snap.timeline.key, seq), self.keys)
                stands.append(unseal(cursors[name], device, self.keys))
                verdict = "resync" if reason else "resume" if seq >= snap.head_seq else "delta"
                verdicts.append(
                    {
                        "conversation": name,
                        "verdict": verdict,
                        "reason": reason,
                        "epoch": snap.epoch8.hex(),
                        "head": snap.head_seq,
                        "floor": snap.start_seq,
                        "missing": max(0, snap.head_seq - seq),
                    }
                )
            return Greeting(cursors=cursors, verdicts=tuple(verdicts), stands=tuple(stands)), new

        return await self.engine.read(work)

    @staticmethod
    def _fault(conn: Conn, snap: SharedSnapshot, cursor: Cursor | None, *, void: bool) -> str | None:
        if cursor is None or cursor.timeline8 != short(snap.name):
            return "bad_cursor"
        if cursor.epoch8 != snap.epoch8:
            return "epoch"
        if void or cursor.store8 != short(snap.device.store_id or ""):
            return "store_changed"
        return refusal(conn, snap, cursor)

    async def _begin_anew(self, app_id: str, forked: Mapping[str, str]) -> None:
        await self.engine.write(lambda conn, _: begin_anew(conn, app_id, forked, self.new_epoch))
