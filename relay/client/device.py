"""The device's client: keeps a cache up to date over whichever way works, and tells the app what is new."""

import asyncio
import functools
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
from relay.client.driver import Driver
from relay.client.fingerprints import Span
from relay.client.http import AnotherUser, Problem, Unreachable
from relay.client.outbox import Unsent
from relay.client.repair import Repair
from relay.client.rules import ANOTHER_USER, UNAUTHENTICATED
from relay.client.sending import Sender
from relay.client.tokens import TokenKeeper, TokenSource
from relay.client.transports import WAYS, Gone, Ladder, Transport, Way
from relay.client.ways import open_way
from relay.clock import Clock, SystemClock, rfc3339
from relay.ids import TAG_BITS, Rng, message_id, system_rng

SDK = "relay-py/1.0"
STOP_S = 3.0
SENT = frozenset({"id", "seq", "h", "epoch", "accepted_at", "expires_at", "sender"})  # in every answer to a message
T = TypeVar("T")


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
        can't use, or whatever it trips over: such a message is kept, and comes again after an upgrade. `migrations` are
        for tables of the app's own in the same file. `facts` are further fields of the handshake: platform, locale, tz,
        addresses, heartbeat, … `repair` compares the whole cache after the first catch-up. Raises sqlite3.Error for a file
        that can't be opened, ValueError for what is no URL.
        """
        self._url = http.base_of(url)
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
        core = Core(
            store_id=self.cache.store_id,
            rng=rng,
            facts={"sdk": SDK}
            | {name: value for name, value in known.items() if value is not None}
            | dict(facts or {}),
            foreground=foreground,
            repair=repair,
        )
        self._news: list[asyncio.Queue[news.News | None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="relay-cache")
        self._session: aiohttp.ClientSession | None = None
        self._main: asyncio.Task[None] | None = None
        self._rng = rng
        self._tokens = TokenKeeper(token, self.cache, self._on_disk, self._call, self._later, self._clock)
        self._sender = Sender(self.cache, self._on_disk, self._post, self._tell, self._fill, self._clock, rng)
        self._driver = Driver(
            core,
            self.cache,
            Ladder(tuple(ways)),
            self._tokens,
            self._clock,
            on_disk=self._on_disk,
            open_way=self._open,
            later=self._later,
            tell=self._tell,
            compare=self._compare,
        )
        self._caught_up = asyncio.Event()
        self._failed: AnotherUser | None = None

    # --- life ---

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        if self.cache.set_aside is not None:
            path, why = self.cache.set_aside
            self._tell(news.CacheSetAside(str(path), why))
        self._driver.post(
            steps.Started(self.cache.position, self.cache.words(), self.cache.shared.follows(), self.cache.user)
        )
        self._main = asyncio.create_task(self._driver.run(), name="relay-client")
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
        self._driver.post(steps.Stopped())
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._main
        await self._abandon()

    async def _abandon(self) -> None:
        main, self._main = self._main, None
        tasks = [*self._driver.tasks, *self._tasks, *([main] if main else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._driver.hang_up()
        if self._session is not None:
            await self._session.close()
        self._disk.shutdown(wait=True)
        self.cache.close()
        for queue in self._news:
            queue.put_nowait(None)

    # --- what the app asks ---

    def events(self) -> AsyncGenerator[news.News, None]:
        """Everything that happens from now on (relay.client.news); ends with the client. Raises AnotherUser."""
        queue: asyncio.Queue[news.News | None] = asyncio.Queue()
        if self._failed is None and (self._main is not None or self._session is None):
            self._news.append(queue)
        else:
            queue.put_nowait(None)
        return self._listen(queue)

    async def _listen(self, queue: "asyncio.Queue[news.News | None]") -> AsyncGenerator[news.News, None]:
        try:
            while (one := await queue.get()) is not None:
                yield one
            if self._failed is not None:
                raise self._failed
        finally:
            with suppress(ValueError):
                self._news.remove(queue)

    async def messages(self, *, after: int = 0) -> AsyncIterator[news.Message]:
        """Messages, each once: first what the cache holds after the `place` of the last one shown, then what arrives. What
        another process of the app has stored meanwhile comes with the next one that arrives here, or the next connection.

        Raises AnotherUser.
        """
        arriving = self.events()
        try:
            while page := await self.history(after=after):
                for one in page:
                    yield one
                    after = one.place
            async for news_ in arriving:
                here = news_.message if isinstance(news_, news.MessageArrived) else None
                between = isinstance(news_, news.Connected) or (here is not None and here.place > after + 1)
                while between and self._main is not None:  # else the cache is closed already
                    page = await self.history(after=after)
                    between = bool(page)
                    for one in page:
                        yield one
                        after = one.place
                if here is not None and here.place > after:
                    yield here
                    after = here.place
        finally:
            await arriving.aclose()

    async def history(self, *, conversation: str | None = None, after: int = 0, limit: int = 200) -> list[news.Message]:
        """What the cache has, in the order in which it came; `after` is the `place` of the last one shown."""
        now_ms = self._clock.now_ms()
        return await self._on_disk(
            lambda: self.cache.messages(conversation=conversation, after=after, limit=limit, now_ms=now_ms)
        )

    async def caught_up(self, timeout_s: float | None = None) -> None:
        """Waits until everything up to the relay's head is in the cache. Raises TimeoutError, AnotherUser."""
        async with asyncio.timeout(timeout_s):
            await self._caught_up.wait()
        if self._failed is not None:
            raise self._failed

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

        After a long absence the last ones come, and a hole is left, which `fill_hole` fills. Raises sqlite3.Error, ValueError
        where 50 are followed already, and for what is no conversation's name.
        """
        position = await self._on_disk(lambda: self.cache.shared.follow(conversation))
        self._driver.post(steps.Followed(conversation, position))

    async def unfollow(self, conversation: str) -> None:
        """They come no more; what is in the cache stays."""
        await self._on_disk(lambda: self.cache.shared.unfollow(conversation))
        self._driver.post(steps.Unfollowed(conversation))

    async def holes(self, conversation: str) -> list[Span]:
        """Numbers of an ultra group that were skipped, and can be asked for as long as the relay keeps them."""
        return await self._on_disk(lambda: self.cache.shared.holes(conversation))

    async def fill_hole(self, conversation: str, span: Span) -> int:
        """Fetches what was skipped; gives how many messages came. Raises Problem, Unreachable, AnotherUser, sqlite3.Error."""
        came, low = 0, span.low
        while low < span.high:
            params = {"timeline": conversation, "range": f"{low}-{span.high}"}
            page = (await self._call("GET", "/v1/device/sync", params=params)).read(wire.ranged)
            outcome, new = await self._on_disk(functools.partial(self.cache.shared.fill, page))
            came += new
            for one in outcome.told:
                self._tell(one)
            if page.to_seq <= low:
                break
            low = page.to_seq
        return came

    async def read(self, conversation: str, read_seq: int) -> None:
        """The user has read a conversation up to this number; her other devices will know. Less than before changes nothing.

        Where the numbering begins anew before the relay has heard it, it is forgotten: the number is another message's then.
        """
        await self._speak(dict([said.read(conversation, read_seq)]))

    async def shown(self, *ids: str) -> None:
        """These messages' notifications were shown here."""
        await self._report(ids, "shown")

    async def opened(self, *ids: str) -> None:
        """The user opened these messages."""
        await self._report(ids, "opened")

    async def fetch(self, *ids: str) -> list[news.Message]:
        """Brings these messages, which a push has named, before all that comes before them. Gives those that are here now.

        Raises Problem, Unreachable, AnotherUser, sqlite3.Error.
        """
        words = await fetching.fetch(self.cache, self._on_disk, self._call, self._tell, ids)
        if words:
            self._driver.post(steps.Spoke(words))
        found = [await self._on_disk(functools.partial(self.cache.message, id_)) for id_ in ids]
        return [one for one in found if one is not None]

    async def delete(self, *ids: str) -> None:
        """Takes messages off this device."""
        await self._on_disk(lambda: self.cache.delete(ids))

    async def _report(self, ids: Sequence[str], what: str) -> None:
        at = rfc3339(self._clock.now_ms())
        await self._speak(dict(said.receipt(id_, what, at) for id_ in ids))

    async def _speak(self, words: Mapping[str, Mapping[str, Any]]) -> None:
        spoke = await self._on_disk(lambda: steps.Spoke(self.cache.put_words(words), self.cache.position))
        self._driver.post(spoke)

    def turn(self, *, foreground: bool) -> None:
        """The app came to the foreground, or left it."""
        self._driver.post(steps.Turned(foreground))

    def poke(self) -> None:
        """There may be news: a push has come, or the network is back."""
        self._driver.post(steps.Poked())

    async def pushed(self, relay: Mapping[str, Any]) -> None:
        """A push has come; `relay` is its member of that name. Proves the address that it asks about, and looks for news.

        Raises Problem (what it says is of no address of this device's), Unreachable, AnotherUser.
        """
        self.poke()
        asked = relay.get("prove")
        if isinstance(asked, Mapping):
            proof = {"account": asked.get("account"), "value": asked.get("value")}
            (await self._call("POST", "/v1/device/addresses/proof", body=proof)).having("addresses")

    async def verify(self) -> news.Verified:
        """Compares the cache with the relay and fetches what differs. Raises Problem, Unreachable, AnotherUser."""
        return await self._compare("cache", None)

    # --- what its parts call ---

    async def _on_disk(self, what: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, what)

    def _later(self, what: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _tell(self, what: news.News) -> None:
        if isinstance(what, news.Connected):
            self._sender.reached()
        elif isinstance(what, news.Disconnected) and what.code in UNAUTHENTICATED:
            self._sender.hold()
        elif isinstance(what, news.CaughtUp):
            self._caught_up.set()
        elif isinstance(what, news.Refused) and what.code == ANOTHER_USER:
            self._failed = AnotherUser(what.detail)
            self._caught_up.set()
        for queue in self._news:
            queue.put_nowait(what)
            if self._failed is not None:
                queue.put_nowait(None)

    async def _compare(self, purpose: str, upgrade: str | None) -> news.Verified:
        repair = Repair(self.cache, self._on_disk, self._call, self._tell, self._clock)
        verified = await repair.run(purpose, upgrade)
        if repair.words:
            self._driver.post(steps.Spoke(repair.words))
        return verified

    async def _fill(self, span: Span) -> None:
        await Repair(self.cache, self._on_disk, self._call, self._tell, self._clock).fetch(span)

    async def _open(self, way: Way) -> Transport:
        assert self._session is not None
        return await open_way(way, self._session, self._url, self._tokens.newest(), self._clock)

    async def _post(self, key: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a message over the socket, where one is open, or by a call: under one key it is one message."""
        sent = await self._driver.send(key, message)
        if sent is None:
            headers = {"Idempotency-Key": key}
            sent = (await self._call("POST", "/v1/device/messages", body=message, headers=headers)).having(*SENT)
        return sent

    async def _call(self, method: str, path: str, **more: Any) -> http.Answer:
        assert self._session is not None
        if self._failed is not None:
            raise self._failed
        if not self._tokens.current:  # nothing was connected yet
            try:
                await self._tokens.take(renew=False)
            except Gone as gone:
                raise Unreachable("No token could be had.") from gone
        token = self._tokens.current
        if token != self._tokens.proved:
            await self._prove(token)
        return await http.call(self._session, method, self._url + path, credential=token, **more)

    async def _prove(self, token: str) -> None:
        """Before its handshake nobody knows whose it is: an ack of nothing asks. Raises AnotherUser, Problem, Unreachable."""
        assert self._session is not None
        store = await self._on_disk(lambda: {"id": self.cache.store_id, "user": self.cache.user})
        if store["user"] is None:
            return  # there is nothing of anybody's
        try:
            answer = await http.call(
                self._session, "POST", f"{self._url}/v1/device/ack", credential=token, body={"store": store}
            )
        except Problem as problem:
            if problem.code == ANOTHER_USER:
                raise AnotherUser(problem.detail) from problem
            raise
        answer.having("acked")
        self._tokens.proved = token
