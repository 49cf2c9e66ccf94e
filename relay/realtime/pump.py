"""Sends a connection what is new: its inbox and the shared timelines that it follows (protocol 9.1, 9.2, 12.5).

It holds no queue: it remembers the highest number that it has sent, and reads again from there whenever it is told to
look. So live messages and catch-up take one path, in order.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from relay.errors import Conflict, Problem, Unauthenticated
from relay.inbox.batch import Batch
from relay.inbox.cursor import INBOX
from relay.inbox.shared import Wanted
from relay.model import DeviceKey
from relay.realtime.follows import Follows, unheard
from relay.realtime.protocol import Close
from relay.realtime.service import DeviceService
from relay.realtime.window import Window
from relay.realtime.writer import DEGRADED

PAGE_MAX = 200
WITHDRAWN_MAX = 200  # not said yet; of more, the rest stays on the screen
Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None] | None]  # None: the connection is about to end


class Writer(Protocol):
    """What goes out on a connection. Raises ConnectionError."""

    @property
    def closed(self) -> bool: ...

    async def send(self, frame: dict[str, Any]) -> None: ...

    async def batch(self, batch: Batch, *, extra: dict[str, Any]) -> None: ...

    async def close(self, code: Close) -> None: ...


class Pump:
    """What one connection was sent, what it has not acked of it, and the task that sends the rest."""

    def __init__(
        self,
        writer: Writer,
        device: DeviceKey,
        service: DeviceService,
        *,
        session: int,
        epoch: str,
        sent_seq: int,
        head_seq: int,
        window: Window,
        spawn: Spawn,
        full: Callable[[], None],
    ) -> None:
        """The client has everything up to `sent_seq`. `full` is called whenever the window has become full."""
        self.head_seq = head_seq
        self.sent_seq = sent_seq
        self._writer = writer
        self._device = device
        self._reader = service.inbox.reader
        self._shared = service.inbox.shared
        self._session = session
        self._epoch = epoch
        self._window = window
        self._spawn = spawn
        self._full = full
        self._task: asyncio.Task[None] | None = None
        self._look = False  # at the inbox
        self._fresh: dict[str, None] = {}  # followed timelines to look at
        self._unheard = False  # acks that others took may have opened the window
        self._withdrawn: dict[str, None] = {}  # messages that are still to be taken back
        self._looked = False
        self._told_caught_up = False
        self._follows = Follows(device, self._shared)
        self._told_heads: dict[str, int] = {}  # of those that are not followed

    # --- there may be something to send ---

    def look(self, head_seq: int | None = None) -> None:
        """In the inbox, which stands at `head_seq`, if that is known: then there is nothing, if all of that was sent.

        Where the window is shut the rows are not read: so the heartbeats' answers know of it by this alone.
        """
        self.head_seq = max(self.head_seq, head_seq or 0)
        if head_seq is None or head_seq != self.sent_seq:
            self._look = True
        self.go_on()

    def look_at(self, timeline: str) -> None:
        """In a shared timeline that is followed."""
        self._fresh[timeline] = None
        self.go_on()

    def withdrawn(self, message_ids: Sequence[str]) -> None:
        """Messages that need not be shown any more. This is said after any page that is on its way, for it may hold them."""
        if len(self._withdrawn) < WITHDRAWN_MAX:
            self._withdrawn |= dict.fromkeys(message_ids)
        self.go_on()

    def look_if_behind(self) -> None:
        self._look = self._look or self.head_seq > self.sent_seq
        self.go_on()

    def go_on(self) -> None:
        """If it stopped when the store was away: no hint comes for what it was to send."""
        if self._has_to_say and (self._task is None or self._task.done()):
            self._task = self._spawn(self._send_what_is_new(), "session-pump")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    # --- what the client has, and wants ---

    def sent_of(self, timeline: str) -> int:
        """The highest number of it that was sent; -1 if it is not followed."""
        if timeline == INBOX:
            return self.sent_seq
        follow = self._follows.get(timeline)
        return -1 if follow is None else follow.sent_seq

    @property
    def shut(self) -> bool:
        """Whether nothing more goes before something is acked."""
        return self._window.room is None

    def acked(self, upto: Mapping[str, int]) -> None:
        """By timeline, up to where the client has stored everything. A lower number than before changes nothing."""
        was_shut = self.shut
        for timeline, seq in upto.items():
            self._window.acked(timeline, seq)
        if was_shut:
            self._look_at_all()
        self.go_on()  # what there is was sent else: no look at the rows for every ack

    def look_for_acks(self) -> None:
        """An ack may have come to another node, which tells nobody here: so who waits for one looks, now and then."""
        if self.shut:
            self._unheard = True
            self.go_on()

    def stalled(self, now_ms: int) -> bool:
        """Asked while it is shut: whether the client reads but has acked nothing for a minute."""
        return self._window.stalled(now_ms)

    async def follow(self, wanted: Wanted) -> tuple[list[str], dict[str, Any]]:
        """Begins to follow shared timelines; gives their names, and the answer. Raises Unauthenticated."""
        added, answer = await self._follows.add(wanted)
        was_shut = self.shut
        for name in added:
            self._window.forget(name)  # what was sent of it before is sent again
        if was_shut:
            self._look_at_all(but=added)  # they are looked at once the client has been answered
        return added, answer

    def unfollow(self, timeline: str) -> None:
        was_shut = self.shut
        self._follows.drop(timeline)
        self._window.forget(timeline)
        if was_shut:
            self._look_at_all()
        self.go_on()

    # --- sending ---

    @property
    def _has_to_say(self) -> bool:
        return bool(self._unheard or self._look or self._fresh or self._withdrawn)

    def _look_at_all(self, *, but: Collection[str] = ()) -> None:
        self._look = True
        self._fresh |= dict.fromkeys(name for name in self._follows.names if name not in but)

    async def _send_what_is_new(self) -> None:
        while self._has_to_say and not self._writer.closed:
            try:
                if self._unheard:
                    self._unheard = False
                    self.acked(await self._shared.acked(self._device))
                elif self._look:
                    self._look = False
                    while await self._send_page():
                        pass
                elif self._withdrawn:
                    ids, self._withdrawn = list(self._withdrawn), {}
                    await self._writer.send({"type": "withdraw", "ids": ids})
                else:
                    del self._fresh[name := next(iter(self._fresh))]
                    if await self._send_timeline(name):
                        self._fresh[name] = None  # after the others
            except Conflict:
                await self._writer.close(Close.REPLACED)
            except Unauthenticated:
                await self._writer.close(Close.UNAUTHENTICATED)
            except Problem as problem:
                if problem.status != 503:
                    raise
                # The store is away. The connection stays; the next ack, heartbeat or ping has us look again.
                self._look_at_all()
                await self._writer.send(DEGRADED)
                return

    async def _send_page(self) -> bool:
        """Sends one page if the window allows and there is one; gives whether there may be more."""
        room = self._window.room
        if room is None:
            return False
        reading = await self._reader.read_after(
            self._device,
            self.sent_seq,
            limit=min(PAGE_MAX, room[0]),
            bytes_max=room[1],
            followed=self._follows.names,
            first=not self._looked,
        )
        snap, batch = reading.snap, reading.batch
        assert batch is not None
        if snap.device.session != self._session:
            await self._writer.close(Close.REPLACED)
            return False
        if snap.epoch8.hex() != self._epoch:
            await self._resync()
            return False
        self.head_seq, self._looked = batch.head_seq, True
        moved = batch.to_seq > self.sent_seq
        if moved or (batch.caught_up and not self._told_caught_up):
            self.sent_seq = batch.to_seq
            self._count(INBOX, batch)
            self._told_caught_up = self._told_caught_up or batch.caught_up
            await self._writer.batch(batch, extra={"caught_up": batch.caught_up})
        if reading.shared is not None and (heads := unheard(reading.shared.ahead, self._told_heads)):
            await self._writer.send({"type": "heads", "shared": heads})
        return moved and batch.more

    async def _send_timeline(self, name: str) -> bool:
        """Sends one page of a followed timeline if the window allows and there is one; gives whether there may be more."""
        follow, room = self._follows.get(name), self._window.room
        if follow is None or room is None:
            return False
        found = await self._follows.page(follow, self._session, limit=min(PAGE_MAX, room[0]), bytes_max=room[1])
        if found is None or self._follows.get(name) is not follow:  # it is followed no more, or from somewhere else
            return False
        if isinstance(found, Batch):
            self._count(name, found)
            await self._writer.batch(found, extra={"caught_up": found.caught_up})
            return found.more
        self._window.forget(name)
        await self._writer.send({"type": "resync_required", "timeline": name, "resync": found})
        return True

    def _count(self, timeline: str, batch: Batch) -> None:
        self._window.sent(timeline, batch.to_seq, entries=batch.entries, size=len(batch.json))
        if self.shut:
            self._full()

    async def _resync(self) -> None:
        data = await self._reader.reset(self._device, reason="epoch")
        await self._writer.send({"type": "resync_required", "resync": data})
        await self._writer.close(Close.RESTART)
