"""The device's client: keeps a cache up to date over whichever way works, and tells the app what is new.

It drives the sync core: carries out its commands with a transport, the cache and timers, and reports what came of them.
"""

import asyncio
import functools
import logging
import sqlite3
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp

from relay.client import fetching, http, news, said, steps, wire
from relay.client.cache import Cache, Check
from relay.client.cache_file import Migration
from relay.client.core import Core
from relay.client.fingerprints import Span
from relay.client.http import Problem, Unreachable
from relay.client.outbox import Unsent
from relay.client.outcome import Moved, Outcome
from relay.client.repair import Repair
from relay.client.sending import Sender
from relay.client.steps import Reading, Timer
from relay.client.tokens import TokenKeeper, TokenSource
from relay.client.transports import WAYS, Gone, Ladder, Transport, Way, open_way
from relay.clock import Clock, SystemClock, rfc3339
from relay.ids import TAG_BITS, Rng, message_id, system_rng

SDK = "relay-py/1.0"
STOP_S = 3.0
LONG_POLL_S = 50.0
T = TypeVar("T")
log = logging.getLogger("relay.client")


class Client:
    """A device's inbox, kept in a file: `async with Client(url, token, cache="inbox.db") as client: …`.

    What `messages()` and `events()` give is already stored and, in a moment, acked. The file is the truth: after a
    restart the app shows what `history()` gives, and only what is new comes as news.
    """

    def __init__(
        self,
        url: str,
        token: str | TokenSource,
        *,
        cache: str | Path,
        app_version: str | None = None,
        schema: int | None = None,
        types: Sequence[str] | None = None,
        check: Check | None = None,
        migrations: Sequence[Migration] = (),
        facts: Mapping[str, Any] | None = None,
        ways: Sequence[Way] = WAYS,
        foreground: bool = True,
        repair: bool = False,
        clock: Clock | None = None,
        rng: Rng | None = None,
    ) -> None:
        """`token` is a device token, or a function that asks your backend for one; `cache` the file of this device alone.

        `schema` and `types` say what this version of the app can show. `check` raises ValueError for a message that it
        can't use: such a message is kept, and comes again after an upgrade. `migrations` are for tables of the app's own
        in the same file. `facts` are further fields of the handshake: platform, locale, tz, addresses, heartbeat, …
        `repair` compares the whole cache after the first catch-up. Raises sqlite3.Error for a file that can't be opened.
        """
        self._url = url.rstrip("/")
        self._clock: Clock = clock or SystemClock()
        rng = rng or system_rng()
        self.cache = Cache(cache, rng=rng, now_ms=self._clock.now_ms(), migrations=migrations, types=types, check=check)
        before = self.cache.note_version(app_version)
        known: dict[str, Any] = {
            "app_version": app_version,
            "schema": schema,
            "types": None if types is None else list(types),
        }
        if before is not None and before != app_version:
            known["previous_app_version"] = before
        self.core = Core(
            store_id=self.cache.store_id,
            rng=rng,
            facts={"sdk": SDK}
            | {name: value for name, value in known.items() if value is not None}
            | dict(facts or {}),
            foreground=foreground,
            repair=repair,
        )
        self._ladder = Ladder(tuple(ways))
        self._news: list[asyncio.Queue[news.News | None]] = []
        self._events: asyncio.Queue[steps.Event] = asyncio.Queue()
        self._timers: dict[Timer, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="relay-cache")
        self._transport: Transport | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._welcomed = False
        self._main: asyncio.Task[None] | None = None
        self._rng = rng
        self._tokens = TokenKeeper(token, self.cache, self._on_disk, self._call, self._later, self._clock)
        self._sender = Sender(self.cache, self._on_disk, self._call, self._tell, self._fill, self._clock, rng)
        self._caught_up = asyncio.Event()

    # --- life ---

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        if self.cache.set_aside is not None:
            path, why = self.cache.set_aside
            self._tell(news.CacheSetAside(str(path), why))
        self._events.put_nowait(steps.Started(self.cache.position, self.cache.words(), self.cache.shared.follows()))
        self._main = asyncio.create_task(self._run(), name="relay-client")
        self._later(self._sender.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Acks what is stored, says goodbye, and closes everything."""
        if self._main is None:
            return
        self._events.put_nowait(steps.Stopped())
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._main
        await self._abandon()

    async def _abandon(self) -> None:
        main, self._main = self._main, None
        tasks = [
            *self._timers.values(),
            *self._tasks,
            *([main] if main else []),
            *([self._receiver] if self._receiver else []),
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._timers.clear()
        if self._transport is not None:
            await self._transport.close()
            self._transport = None
        if self._session is not None:
            await self._session.close()
        self._disk.shutdown(wait=True)
        self.cache.close()
        for queue in self._news:
            queue.put_nowait(None)

    # --- what the app asks ---

    def events(self) -> AsyncGenerator[news.News, None]:
        """Everything that happens from now on (relay.client.news); ends with the client."""
        queue: asyncio.Queue[news.News | None] = asyncio.Queue()
        if self._main is not None or self._session is None:
            self._news.append(queue)
        else:
            queue.put_nowait(None)
        return self._listen(queue)

    async def _listen(self, queue: "asyncio.Queue[news.News | None]") -> AsyncGenerator[news.News, None]:
        try:
            while (one := await queue.get()) is not None:
                yield one
        finally:
            with suppress(ValueError):
                self._news.remove(queue)

    async def messages(self, *, after: int = 0) -> AsyncIterator[news.Message]:
        """Messages, each once: first what the cache holds after the `place` of the last one shown, then what arrives."""
        arriving = self.events()
        try:
            while page := await self.history(after=after):
                for one in page:
                    yield one
                    after = one.place
            async for news_ in arriving:
                if isinstance(news_, news.MessageArrived) and news_.message.place > after:
                    yield news_.message
        finally:
            await arriving.aclose()

    async def history(self, *, conversation: str | None = None, after: int = 0, limit: int = 200) -> list[news.Message]:
        """What the cache has, in the order in which it came; `after` is the `place` of the last one shown."""
        now_ms = self._clock.now_ms()
        return await self._on_disk(
            lambda: self.cache.messages(conversation=conversation, after=after, limit=limit, now_ms=now_ms)
        )

    async def caught_up(self, timeout_s: float | None = None) -> None:
        """Waits until everything up to the relay's head is in the cache. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            await self._caught_up.wait()

    async def send(
        self, body: Any, *, to: str | Sequence[str] | None = None, group: str | None = None, **more: Any
    ) -> str:
        """Sends to users, or to a group; gives the message's key. When this returns, the message is on disk.

        It goes out as soon as the relay can be reached, also by a later process: news.Sent or news.SendRefused says that
        it has been decided. `more` are further fields of the message (type, conversation, push, ttl_s, priority, …), and
        `key`, if yours is to be used. Raises sqlite3.Error.
        """
        key = more.pop("key", None) or message_id(self._clock.now_ms(), self._rng.getrandbits(TAG_BITS))
        users = [to] if isinstance(to, str) else to
        receivers = {"group": group} if users is None else {"users": list(users)}
        message = {"to": receivers, "body": body, "client_ref": key} | more
        await self._on_disk(lambda: self.cache.outbox.put(key, message, now_ms=self._clock.now_ms()))
        self._sender.nudge()
        return str(key)

    async def unsent(self) -> list[Unsent]:
        """What the relay has not taken, in order: what still waits, and what it refused."""
        return await self._on_disk(self.cache.outbox.all)

    async def drop_unsent(self, *keys: str) -> None:
        """Takes messages out of the outbox. One that is just on its way may have been taken all the same."""
        await self._on_disk(lambda: self.cache.outbox.drop(*keys))

    async def follow(self, conversation: str) -> None:
        """Has the messages of an ultra group come into the cache, from now on and after each start.

        After a long absence the last ones come, and a hole is left, which `fill_hole` fills. Raises sqlite3.Error.
        """
        position = await self._on_disk(lambda: self.cache.shared.follow(conversation))
        self._events.put_nowait(steps.Followed(conversation, position))

    async def unfollow(self, conversation: str) -> None:
        """They come no more; what is in the cache stays."""
        await self._on_disk(lambda: self.cache.shared.unfollow(conversation))
        self._events.put_nowait(steps.Unfollowed(conversation))

    async def holes(self, conversation: str) -> list[Span]:
        """Numbers of an ultra group that were skipped, and can be asked for as long as the relay keeps them."""
        return await self._on_disk(lambda: self.cache.shared.holes(conversation))

    async def fill_hole(self, conversation: str, span: Span) -> int:
        """Fetches what was skipped; gives how many messages came. Raises Problem, Unreachable, sqlite3.Error."""
        came, low = 0, span.low
        while low < span.high:
            params = {"timeline": conversation, "range": f"{low}-{span.high}"}
            page = wire.pages((await self._call("GET", "/v1/device/sync", params=params)).body)[0][0]
            outcome, new = await self._on_disk(functools.partial(self.cache.shared.fill, page))
            came += new
            for one in outcome.told:
                self._tell(one)
            if page.to_seq <= low:
                break
            low = page.to_seq
        return came

    async def read(self, conversation: str, read_seq: int) -> None:
        """The user has read a conversation up to this number; her other devices will know."""
        await self._speak(dict([said.read(conversation, read_seq)]))

    async def shown(self, *ids: str) -> None:
        """These messages' notifications were shown here."""
        await self._report(ids, "shown")

    async def opened(self, *ids: str) -> None:
        """The user opened these messages."""
        await self._report(ids, "opened")

    async def fetch(self, *ids: str) -> list[news.Message]:
        """Brings these messages, which a push has named, before all that comes before them. Gives those that are here now.

        Raises Problem, Unreachable, sqlite3.Error.
        """
        words = await fetching.fetch(self.cache, self._on_disk, self._call, self._tell, ids)
        if words:
            self._events.put_nowait(steps.Spoke(words))
        found = [await self._on_disk(functools.partial(self.cache.message, id_)) for id_ in ids]
        return [one for one in found if one is not None]

    async def delete(self, *ids: str) -> None:
        """Takes messages off this device."""
        await self._on_disk(lambda: self.cache.delete(ids))

    async def _report(self, ids: Sequence[str], what: str) -> None:
        at = rfc3339(self._clock.now_ms())
        await self._speak(dict(said.receipt(id_, what, at) for id_ in ids))

    async def _speak(self, words: Mapping[str, Mapping[str, Any]]) -> None:
        await self._on_disk(lambda: self.cache.put_words(words))
        self._events.put_nowait(steps.Spoke(words))

    def turn(self, *, foreground: bool) -> None:
        """The app came to the foreground, or left it."""
        self._events.put_nowait(steps.Turned(foreground))

    def poke(self) -> None:
        """There may be news: a push has come, or the network is back."""
        self._events.put_nowait(steps.Poked())

    async def verify(self) -> news.Verified:
        """Compares the cache with the relay and fetches what differs. Raises Problem, Unreachable."""
        return await self._compare("cache", None)

    # --- the loop ---

    async def _run(self) -> None:
        while True:
            event = await self._events.get()
            await self._carry_out(self.core.handle(event))
            if isinstance(event, steps.Stopped):
                return

    async def _carry_out(self, commands: Sequence[steps.Command]) -> None:
        waiting = deque(commands)
        while waiting:
            event = await self._do(waiting.popleft())
            if event is not None:  # what came of it comes before whatever else is in the queue
                waiting.extendleft(reversed(self.core.handle(event)))

    async def _do(self, command: steps.Command) -> steps.Event | None:
        match command:
            case steps.Connect(renew):
                self._later(self._connect(renew=renew))
            case steps.Say(frame, aside):
                if self._transport is not None:
                    await self._transport.say(frame, aside=aside)
            case steps.Fetch(cursor, wait_s, shared, opened):
                if self._transport is not None:
                    await self._transport.fetch(cursor, wait_s, shared, opened)
            case steps.Keep(at, page):
                return await self._write(lambda: self.cache.keep(at, page))
            case steps.Adopt(position, session, reason, floor):
                adopt = functools.partial(self.cache.adopt, position, session=session, reason=reason, floor=floor)
                return await self._write(adopt)
            case steps.KeepShared(at, page):
                return await self._write_shared(page.timeline, lambda: self.cache.shared.keep(at, page))
            case steps.AdoptShared(name, position):
                return await self._write_shared(name, lambda: self.cache.shared.adopt(name, position))
            case steps.Drop(keys):
                with suppress(sqlite3.Error):  # said once more, then
                    await self._on_disk(lambda: self.cache.drop_words(keys))
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
                self._tell(what)
        return None

    async def _write(self, what: Callable[[], Outcome]) -> steps.Event:
        try:
            outcome = await self._on_disk(what)
        except Moved as moved:
            return steps.NotKept(moved.position, moved=True)
        except sqlite3.Error as error:
            self._tell(news.StorageFailed(str(error)))
            return steps.NotKept(self.core.position, moved=False)
        for one in outcome.told:
            self._tell(one)
        return steps.Kept(outcome.position, outcome.words)

    async def _write_shared(self, name: str, what: Callable[[], Outcome]) -> steps.Event:
        try:
            outcome = await self._on_disk(what)
        except Moved as moved:
            return steps.KeptShared(name, moved.position)
        except sqlite3.Error as error:
            self._tell(news.StorageFailed(str(error)))
            return steps.NotKept(self.core.position, moved=False)
        for one in outcome.told:
            self._tell(one)
        return steps.KeptShared(name, outcome.position)

    async def _on_disk(self, what: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, what)

    def _later(self, what: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _set_timer(self, timer: Timer, after_s: float) -> None:
        if (running := self._timers.pop(timer, None)) is not None:
            running.cancel()
        self._timers[timer] = asyncio.create_task(self._ring(timer, after_s))

    async def _ring(self, timer: Timer, after_s: float) -> None:
        await self._clock.sleep(after_s)
        self._events.put_nowait(steps.Rang(timer))

    def _tell(self, what: news.News) -> None:
        if isinstance(what, news.Connected):
            self._welcomed = True
            self._ladder.worked()
            self._sender.reached()
        elif isinstance(what, news.CaughtUp):
            self._caught_up.set()
        for queue in self._news:
            queue.put_nowait(what)

    # --- connections ---

    async def _connect(self, *, renew: bool) -> None:
        assert self._session is not None
        now_ms = self._clock.monotonic_ms()
        way = self._ladder.way(now_ms)
        self.core.wait_s = 0 if way is Way.POLL else LONG_POLL_S
        self._welcomed = False
        try:
            await self._tokens.take(renew=renew)
            transport = await open_way(way, self._session, self._url, lambda: self._tokens.current, self._clock)
        except Gone as gone:
            if gone.unfit:
                self._ladder.failed(now_ms)
            self._events.put_nowait(steps.Closed(gone.code, gone.retry_after_s))
            return
        self._transport = transport
        self._events.put_nowait(steps.Opened(transport.reading))
        self._receiver = asyncio.create_task(self._receive(transport))

    async def _receive(self, transport: Transport) -> None:
        while True:
            try:
                frame = await transport.receive()
            except Gone as gone:
                if gone.unfit and (not self._welcomed or transport.reading is Reading.STREAMED):
                    self._ladder.failed(self._clock.monotonic_ms())
                self._transport = None
                self._later(transport.close())
                self._events.put_nowait(steps.Closed(gone.code, gone.retry_after_s))
                return
            if not isinstance(frame, wire.Page) and frame.get("type") == "welcome":
                await self._tokens.keep(frame.get("token") or {})
            self._events.put_nowait(steps.Came(frame))

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

    # --- comparing ---

    async def _compared(self, purpose: str, upgrade: str | None) -> None:
        try:
            self._tell(await self._compare(purpose, upgrade))
        except (Problem, Unreachable, sqlite3.Error) as error:
            self._tell(
                news.Refused(getattr(error, "code", "unreachable"), f"The comparison could not be made: {error}")
            )

    async def _compare(self, purpose: str, upgrade: str | None) -> news.Verified:
        repair = Repair(self.cache, self._on_disk, self._call, self._tell, self._clock)
        verified = await repair.run(purpose, upgrade)
        if repair.words:
            self._events.put_nowait(steps.Spoke(repair.words))
        return verified

    async def _fill(self, span: Span) -> None:
        await Repair(self.cache, self._on_disk, self._call, self._tell, self._clock).fetch(span)

    async def _call(self, method: str, path: str, **more: Any) -> http.Answer:
        assert self._session is not None
        if not self._tokens.current:  # nothing was connected yet
            try:
                await self._tokens.take(renew=False)
            except Gone as gone:
                raise Unreachable("No token could be had.") from gone
        return await http.call(self._session, method, self._url + path, credential=self._tokens.current, **more)
