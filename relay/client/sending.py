"""Sends what is in the outbox: in order, each until it is decided, and again as soon as the relay can be reached."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from relay.client import news
from relay.client.cache import Cache
from relay.client.fingerprints import Span
from relay.client.http import ClientError, Problem, Unreachable
from relay.client.outbox import Unsent
from relay.client.redial import Redial
from relay.client.repair import OnDisk
from relay.clock import Clock
from relay.ids import Rng

UNDECIDED = frozenset({401, 408, 425, 429})  # of the 4xx: it may be taken later
FULL = "recipient_queue_full"  # says nothing of messages to others


class Sender:
    """The outbox's worker. `post` sends a message under its key and gives the answer; it raises Problem, Unreachable.

    `fetch` brings a range of the inbox into the cache.
    """

    def __init__(
        self,
        cache: Cache,
        on_disk: OnDisk,
        post: Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]],
        tell: Callable[[news.News], None],
        fetch: Callable[[Span], Awaitable[object]],
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._cache = cache
        self._on_disk = on_disk
        self._post = post
        self._tell = tell
        self._fetch = fetch
        self._clock = clock
        self._rng = rng
        self._redial = Redial()
        self._due = asyncio.Event()  # there may be something to send
        self._reached = asyncio.Event()  # the relay has just answered somebody: no more waiting
        self._known = asyncio.Event()  # it has shaken hands for the token that there is: it is the cache's user's

    def nudge(self) -> None:
        """Something was put into the outbox."""
        self._due.set()

    def reached(self) -> None:
        """A connection stands."""
        self._redial.calm()
        self._known.set()
        self._reached.set()
        self._due.set()

    def hold(self) -> None:
        """Another token follows, perhaps another user's: nothing goes out before a connection stands."""
        self._known.clear()

    async def run(self) -> None:
        while True:
            await self._known.wait()
            await self._due.wait()
            if not self._known.is_set():
                continue
            self._due.clear()
            self._reached.clear()
            pause_s = await self._send_all()
            if pause_s is not None:
                self._due.set()
                await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> None:
        """Waits, at most until the relay is reached again."""
        waiting = asyncio.create_task(self._clock.sleep(pause_s))
        reached = asyncio.create_task(self._reached.wait())
        try:
            await asyncio.wait((waiting, reached), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (waiting, reached):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _send_all(self) -> float | None:
        """One try of everything; gives the pause before the next, None when nothing is left."""
        full: set[str] = set()
        after_s: float | None = None
        try:
            for one in await self._on_disk(self._cache.outbox.all):
                if one.refused is not None or one.receivers in full:
                    continue
                if not self._known.is_set():
                    return None
                try:
                    await self._send(one)
                except Problem as problem:
                    if problem.code != FULL:
                        raise
                    full.add(one.receivers)
                    after_s = max(after_s or 0, problem.retry_after_s or 0)
        except (Problem, Unreachable) as error:
            return self._redial.delay_s(self._rng, getattr(error, "retry_after_s", None))
        except sqlite3.Error as error:
            self._tell(news.StorageFailed(str(error)))
            return self._redial.delay_s(self._rng, None)
        if full:
            return self._redial.delay_s(self._rng, after_s)
        self._redial.calm()
        return None

    async def _send(self, one: Unsent) -> None:
        """One try. Raises Problem, Unreachable where nothing is decided; sqlite3.Error."""
        try:
            sent = await self._post(one.key, one.message)
        except Problem as problem:
            if problem.status >= 500 or problem.status in UNDECIDED or not problem.of_the_relay:
                raise
            said = {"code": problem.code, "detail": problem.detail, "errors": problem.errors}
            await self._on_disk(partial(self._cache.outbox.refuse, one.key, said))
            self._tell(news.SendRefused(one.key, problem.code, problem.detail, tuple(problem.errors)))
            return
        outcome, whole = await self._on_disk(partial(self._cache.sent, one.key, sent))
        for told in outcome.told:
            self._tell(told)
        if not whole and sent["seq"] is not None:
            with suppress(ClientError):  # a comparison will find it
                await self._fetch(Span(sent["seq"] - 1, sent["seq"]))
