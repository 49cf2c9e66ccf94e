"""Who is connected to this node, and who waits: hints in, looks at the inbox out.

A hint may be lost, so the heads of all users with somebody here are polled as well; one query for all of them.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from relay.backoff import around
from relay.clock import Clock
from relay.errors import Problem
from relay.model import DeviceKey, TimelineKey, UserKey
from relay.waiting import pause

log = structlog.get_logger("relay.realtime")

POLL_S = 5.0
WINDOWS_S = 1.0  # between looks at connections that can be sent no more before they ack
CLOSES_PER_S = 100.0  # at a stop, if there is time enough
CLOSES_IN_S_MIN = 1.0  # for a device to finish what it is saying
WAITS_MAX = 3  # long-polls of one device at once; of more, the oldest returns empty


@dataclass(frozen=True, slots=True)
class Credential:
    """What somebody was let in with: it ends what it opened."""

    id: str
    expires_ms: int | None = None

    def over(self, revoked: Collection[str], now_ms: int) -> bool:
        return self.id in revoked or (self.expires_ms is not None and self.expires_ms <= now_ms)


class Connection(Protocol):
    """A live connection, as the hub sees it."""

    device: DeviceKey
    session: int
    credential: Credential

    def look(self, head_seq: int | None = None) -> None:
        """There may be something new in the inbox; none if it was sent everything up to `head_seq`, where that is known."""
        ...

    def look_at(self, timeline: str) -> None:
        """There may be something new in a shared timeline that it follows."""
        ...

    def withdrawn(self, message_ids: Sequence[str]) -> None:
        """The device need not show these messages any more."""
        ...

    def acked(self, upto: Mapping[str, int]) -> None:
        """The device has said beside this connection up to where it has everything, by timeline."""
        ...

    def replaced(self) -> None:
        """A newer session has taken over."""
        ...

    def expelled(self) -> None:
        """The credential that it was opened with counts no more."""
        ...

    def still_shut(self) -> bool:
        """Whether it can be sent no more before it acks. Closes, and says no, if it has acked nothing for a minute of that."""
        ...

    def ping(self) -> None: ...

    def degraded(self) -> None:
        """The store is away; the connection stays."""
        ...

    def drain(self, reconnect_ms: int) -> None:
        """The relay is about to stop."""
        ...

    def restart(self) -> None:
        """The relay stops: close."""
        ...


class Wait:
    """One long-poll. `changed` is set by a hint, the poll of heads, or when its time is up."""

    def __init__(self, credential: Credential) -> None:
        self.credential = credential
        self.changed = asyncio.Event()
        self.dismissed = False
        self.expelled = False  # its credential counts no more

    def look_at(self, timeline: str) -> None:
        self.changed.set()

    def dismiss(self, *, expelled: bool = False) -> None:
        """It is to return now."""
        self.dismissed, self.expelled = True, expelled
        self.changed.set()


class Reader(Protocol):
    """Who follows shared timelines: a connection, or a wait."""

    def look_at(self, timeline: str) -> None: ...


async def _no_heads(_: Iterable[TimelineKey]) -> dict[TimelineKey, int]:
    return {}


class Hub:
    """Connections and waits of this node."""

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        heads: Callable[[Iterable[UserKey]], Awaitable[dict[UserKey, int]]],
        *,
        timeline_heads: Callable[[Iterable[TimelineKey]], Awaitable[dict[TimelineKey, int]]] = _no_heads,
        poll_s: float = POLL_S,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._heads = heads
        self._poll_s = poll_s
        self._connections: defaultdict[UserKey, dict[Connection, None]] = defaultdict(dict)  # in the order they came
        self._waits: defaultdict[UserKey, dict[DeviceKey, list[Wait]]] = defaultdict(dict)
        self._shut: dict[Connection, None] = {}
        self._known: dict[UserKey, int] = {}
        self._timeline_heads = timeline_heads
        self._readers: defaultdict[TimelineKey, dict[Reader, None]] = defaultdict(dict)
        self._known_heads: dict[TimelineKey, int] = {}
        self.waits = 0  # how many long-polls wait here
        self.draining = False

    def __len__(self) -> int:
        return sum(map(len, self._connections.values()))

    def all(self) -> list[Connection]:
        return [connection for some in self._connections.values() for connection in some]

    def of_device(self, device: DeviceKey) -> int:
        """How many connections this device has here."""
        return sum(one.device == device for one in self._connections.get(device.user, ()))

    def acked(self, device: DeviceKey, upto: Mapping[str, int]) -> None:
        """An ack that came by a call of its own opens the windows of the device's connections here."""
        for one in list(self._connections.get(device.user, ())):
            if one.device == device:
                one.acked(upto)

    @contextmanager
    def connected(self, connection: Connection) -> Iterator[None]:
        user = connection.device.user
        self._connections[user][connection] = None
        try:
            yield
        finally:
            self._shut.pop(connection, None)
            self._connections[user].pop(connection, None)
            if not self._connections[user]:
                del self._connections[user]

    @contextmanager
    def waiting(self, device: DeviceKey, credential: Credential) -> Iterator[Wait]:
        """Register first, then read, then wait: a message in between is not missed."""
        waits = self._waits[device.user].setdefault(device, [])
        wait = Wait(credential)
        waits.append(wait)
        if len(waits) > WAITS_MAX:
            waits.pop(0).dismiss()
        self.waits += 1
        try:
            yield wait
        finally:
            self.waits -= 1
            if wait in waits:
                waits.remove(wait)
            if not waits:
                self._waits.get(device.user, {}).pop(device, None)
            if not self._waits.get(device.user):
                self._waits.pop(device.user, None)

    @contextmanager
    def following(self, reader: Reader) -> Iterator[Callable[[TimelineKey], None]]:
        """Gives what has the reader follow a timeline, until the end of the block."""
        keys: set[TimelineKey] = set()

        def follow(key: TimelineKey) -> None:
            self._readers[key][reader] = None
            keys.add(key)

        try:
            yield follow
        finally:
            for key in keys:
                self.unfollow(reader, key)

    def unfollow(self, reader: Reader, key: TimelineKey) -> None:
        self._readers[key].pop(reader, None)
        if not self._readers[key]:
            del self._readers[key]

    # --- hints ---

    def posted(self, key: TimelineKey) -> None:
        for reader in list(self._readers.get(key, ())):
            reader.look_at(key.conversation_id)

    def wake(self, user: UserKey, head_seq: int | None = None) -> None:
        """There may be something new in the inbox, which stands at `head_seq`, if that is known."""
        for connection in self._connections.get(user, ()):
            connection.look(head_seq)
        for waits in self._waits.get(user, {}).values():
            for wait in waits:
                wait.changed.set()

    def withdrawn(self, user: UserKey, message_ids: Sequence[str], but: DeviceKey | None) -> None:
        for connection in self._connections.get(user, ()):
            if connection.device != but:
                connection.withdrawn(message_ids)

    def close(self, device: DeviceKey, newer_than: int) -> None:
        """Sessions older than `newer_than` are over."""
        for connection in list(self._connections.get(device.user, ())):
            if connection.device == device and connection.session < newer_than:
                connection.replaced()

    def end(self, revoked: Collection[str], now_ms: int) -> None:
        """Credentials with these ids were revoked; whoever came with one of them, or with one that has expired, leaves."""
        for connection in self.all():
            if connection.credential.over(revoked, now_ms):
                connection.expelled()
        for wait in self._all_waits():
            if wait.credential.over(revoked, now_ms):
                wait.dismiss(expelled=True)

    def _all_waits(self) -> list[Wait]:
        return [wait for waits in self._waits.values() for some in waits.values() for wait in some]

    # --- the poll that heals lost hints ---

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await pause(around(self._poll_s, share=0.2, rng=self._rng), stop)
            try:
                await self.poll()
            except Problem as problem:
                log.warning("realtime.poll_failed", code=problem.code)

    async def poll(self) -> None:
        users = dict.fromkeys((*self._connections, *self._waits))
        heads = await self._heads(users) if users else {}
        for user, head in heads.items():
            if self._known.get(user) != head:
                self.wake(user, head)
        self._known = heads
        timelines = await self._timeline_heads(list(self._readers)) if self._readers else {}
        for key, head in timelines.items():
            if self._known_heads.get(key) != head:
                self.posted(key)
        self._known_heads = timelines

    # --- those that read but do not ack ---

    def shut(self, connection: Connection) -> None:
        """It was sent all that it may be before it acks: from now on it is looked at."""
        if connection.still_shut():
            self._shut[connection] = None

    async def run_windows(self, stop: asyncio.Event) -> None:
        while not await pause(WINDOWS_S, stop):
            self.look_at_windows()

    def look_at_windows(self) -> None:
        """Only those that are full: the others cost nothing, however many they are."""
        for connection in list(self._shut):
            if not connection.still_shut():
                self._shut.pop(connection, None)

    # --- signs of life ---

    async def run_pings(self, stop: asyncio.Event, *, every_s: float) -> None:
        """Pings every connection about every `every_s`, spread over the time: one task for all of them."""
        while not stop.is_set():
            connections = self.all()
            pause_s = around(every_s, share=0.2, rng=self._rng) / max(1, min(len(connections), 100))
            per_step = max(1, len(connections) // 100)
            for start in range(0, max(1, len(connections)), per_step):
                for connection in connections[start : start + per_step]:
                    connection.ping()
                if await pause(pause_s, stop):
                    return

    # --- the store is away ---

    def store_away(self) -> None:
        for connection in self.all():
            connection.degraded()

    def store_back(self) -> None:
        """Whatever there was to tell meanwhile is told now."""
        for user in dict.fromkeys((*self._connections, *self._waits)):
            self.wake(user)
        for key in list(self._readers):
            self.posted(key)

    # --- the end ---

    def drain(self, *, reconnect_s_max: float) -> None:
        """Tells everybody to come back a little later, each at another time, and lets the waits go. Closes nothing."""
        self.draining = True
        for connection in self.all():
            connection.drain(self._rng.randint(0, int(reconnect_s_max * 1000)))
        for wait in self._all_waits():
            wait.dismiss()

    async def restart(self, *, within_s: float) -> None:
        """Closes every connection, one after the other in no order, over at most `within_s`; a few are done sooner."""
        connections = self.all()
        self._rng.shuffle(connections)
        over_s = min(within_s, CLOSES_IN_S_MIN + len(connections) / CLOSES_PER_S)
        steps = 100
        for step in reversed(range(steps)):  # of a few, all are closed towards the end
            if not self._connections:
                return
            await self._clock.sleep(over_s / steps)
            for connection in connections[step::steps]:
                connection.restart()
        for connection in self.all():  # came in while the others went
            connection.restart()
