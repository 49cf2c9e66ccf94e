"""Drives the sync core: carries out its commands with a transport, the cache and timers, and tells it what came of them."""

import asyncio
import functools
import logging
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from relay.client import news, steps, wire
from relay.client.cache import Cache
from relay.client.core import Core
from relay.client.http import ClientError
from relay.client.outcome import Moved, Outcome
from relay.client.repair import OnDisk
from relay.client.steps import Reading, Timer
from relay.client.tokens import Later, TokenKeeper
from relay.client.transports import Gone, Ladder, Transport, Way
from relay.clock import Clock

LONG_POLL_S = 50.0
log = logging.getLogger("relay.client")


class Driver:
    """One client's. It takes one event at a time: those that are posted, and first what came of a command."""

    def __init__(
        self,
        core: Core,
        cache: Cache,
        ladder: Ladder,
        tokens: TokenKeeper,
        clock: Clock,
        *,
        on_disk: OnDisk,
        open_way: Callable[[Way], Awaitable[Transport]],
        later: Later,
        tell: Callable[[news.News], None],
        compare: Callable[[str, str | None], Awaitable[news.Verified]],
    ) -> None:
        """`open_way` raises Gone; `compare` compares the cache with the relay, for a purpose and an upgrade's id."""
        self._core = core
        self._cache = cache
        self._ladder = ladder
        self._tokens = tokens
        self._clock = clock
        self._on_disk = on_disk
        self._open = open_way
        self._later = later
        self._tell = tell
        self._compare = compare
        self._events: asyncio.Queue[steps.Event] = asyncio.Queue()
        self._timers: dict[Timer, asyncio.Task[None]] = {}
        self._transport: Transport | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._welcomed = False

    def post(self, event: steps.Event) -> None:
        """Something happened."""
        self._events.put_nowait(event)

    async def run(self) -> None:
        """Until the core is told to stop."""
        while True:
            event = await self._events.get()
            await self._carry_out(self._core.handle(event))
            if isinstance(event, steps.Stopped):
                return

    @property
    def tasks(self) -> "list[asyncio.Task[None]]":
        """Its timers and who listens: whoever ends the driver cancels them, and hangs up then."""
        return [*self._timers.values(), *([self._receiver] if self._receiver is not None else [])]

    async def hang_up(self) -> None:
        """Closes the connection, whatever was going on over it."""
        self._timers.clear()
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    async def send(self, key: str, message: Mapping[str, Any]) -> dict[str, Any] | None:
        """Sends over the connection, if it takes messages; None: they go by a call. Raises Problem, Unreachable."""
        if self._transport is None or not self._welcomed:
            return None
        return await self._transport.send(key, message)

    # --- commands ---

    async def _carry_out(self, commands: Sequence[steps.Command]) -> None:
        waiting = deque(commands)
        while waiting:
            event = await self._do(waiting.popleft())
            if event is not None:  # what came of it comes before whatever else is in the queue
                waiting.extendleft(reversed(self._core.handle(event)))

    async def _do(self, command: steps.Command) -> steps.Event | None:
        match command:
            case steps.Connect(renew):
                self._later(self._connect(renew=renew))
            case steps.Say(frame, aside):
                if self._transport is not None:
                    await self._transport.say(frame, aside=aside)
            case steps.Fetch():
                if self._transport is not None:
                    await self._transport.fetch(command)
            case steps.Keep(at, page):
                return await self._write(lambda: self._cache.keep(at, page))
            case steps.Adopt(position, session, reason, floor, user, complete):
                adopt = functools.partial(
                    self._cache.adopt,
                    position,
                    session=session,
                    reason=reason,
                    floor=floor,
                    user=user,
                    complete=complete,
                )
                return await self._write(adopt)
            case steps.KeepShared(at, page):
                return await self._write(lambda: self._cache.shared.keep(at, page), timeline=page.timeline)
            case steps.AdoptShared(name, position):
                return await self._write(lambda: self._cache.shared.adopt(name, position), timeline=name)
            case steps.Drop(words):
                with suppress(sqlite3.Error):  # said once more, then
                    await self._on_disk(lambda: self._cache.drop_words(words))
            case steps.SetTimer(timer, after_s):
                self._set_timer(timer, after_s)
            case steps.StopTimer(timer):
                if (running := self._timers.pop(timer, None)) is not None:
                    running.cancel()
            case steps.Close(why):
                return await self._close(why)
            case steps.Compare(purpose, upgrade):
                self._later(self._compared(purpose, upgrade))
            case steps.Tell(what):
                if isinstance(what, news.Connected):
                    self._welcomed = True
                    if self._transport is not None and self._transport.proved:
                        self._ladder.worked()
                self._tell(what)
        return None

    async def _write(self, what: Callable[[], Outcome], *, timeline: str | None = None) -> steps.Event:
        """Writes to the cache: of the inbox, or of this shared timeline."""
        try:
            outcome = await self._on_disk(what)
        except Moved as moved:
            if timeline is not None:
                return steps.KeptShared(timeline, moved.position)
            return steps.NotKept(moved.position, moved=True)
        except sqlite3.Error as error:
            self._tell(news.StorageFailed(str(error)))
            return steps.NotKept(self._core.position, moved=False)
        for one in outcome.told:
            self._tell(one)
        if timeline is not None:
            return steps.KeptShared(timeline, outcome.position)
        return steps.Kept(outcome.position, outcome.words)

    def _set_timer(self, timer: Timer, after_s: float) -> None:
        if (running := self._timers.pop(timer, None)) is not None:
            running.cancel()
        self._timers[timer] = asyncio.create_task(self._ring(timer, after_s))

    async def _ring(self, timer: Timer, after_s: float) -> None:
        await self._clock.sleep(after_s)
        self.post(steps.Rang(timer))

    async def _compared(self, purpose: str, upgrade: str | None) -> None:
        done = False
        try:
            self._tell(await self._compare(purpose, upgrade))
            done = True
        except (ClientError, sqlite3.Error) as error:
            self._tell(
                news.Refused(getattr(error, "code", "unreachable"), f"The comparison could not be made: {error}")
            )
        finally:
            self.post(steps.Compared(upgrade, done))

    # --- connections ---

    async def _connect(self, *, renew: bool) -> None:
        now_ms = self._clock.monotonic_ms()
        way = self._ladder.way(now_ms)
        self._core.wait_s = 0 if way is Way.POLL else LONG_POLL_S
        self._welcomed = False
        try:
            await self._tokens.take(renew=renew)
            transport = await self._open(way)
        except Gone as gone:
            if gone.unfit:
                self._ladder.failed(now_ms)
            self.post(steps.Closed(gone.code, gone.retry_after_s))
            return
        opened = steps.Opened(transport.reading)
        with suppress(sqlite3.Error):
            opened = await self._on_disk(
                lambda: steps.Opened(transport.reading, self._cache.words(), self._cache.position)
            )
        self._transport = transport
        self.post(opened)
        self._receiver = asyncio.create_task(self._receive(transport))

    async def _receive(self, transport: Transport) -> None:
        while True:
            try:
                frame = await transport.receive()
            except Gone as gone:
                if self._welcomed and transport.proved:
                    self._ladder.worked()
                if gone.unfit and (not self._welcomed or transport.reading is Reading.STREAMED):
                    self._ladder.failed(self._clock.monotonic_ms())
                self._transport = None
                self._later(transport.close())
                self.post(steps.Closed(gone.code, gone.retry_after_s))
                return
            if not isinstance(frame, wire.Page) and frame.get("type") == "welcome":
                await self._tokens.keep(frame.get("token"))
            self.post(steps.Came(frame))

    async def _close(self, why: str) -> steps.Event | None:
        transport, self._transport = self._transport, None
        if transport is None:
            return None  # its end is in the queue already
        if self._receiver is not None:
            self._receiver.cancel()
        if not self._welcomed:
            self._ladder.failed(self._clock.monotonic_ms())
        log.debug("Closing: %s", why)
        await transport.close()
        return steps.Closed()
