"""The client's token: the one that the app gave, and those that have followed it."""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

import msgspec

from relay.client.cache import Cache
from relay.client.http import AnotherUser, Answer, Problem, Unreachable
from relay.client.repair import OnDisk
from relay.client.transports import Gone, Token
from relay.clock import Clock

MINUTE_S, HOUR_S = 60.0, 3600.0
TokenSource = Callable[[], Awaitable[str]]
Later = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
log = logging.getLogger("relay.client")


class Successor(msgspec.Struct, frozen=True):
    """What the relay says of the token that follows ours: it, or when there will be one."""

    token: str | None = None
    renew_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


_successor = msgspec.json.Decoder(Successor)


class TokenKeeper:
    """`current` is what calls are made with; a successor is stored before it is used. `proved` is the one that is known to be of
    the user whose messages the cache holds: the relay has taken it with that user's name."""

    def __init__(
        self,
        source: str | TokenSource,
        cache: Cache,
        on_disk: OnDisk,
        call: Callable[[str, str], Awaitable[Answer]],
        later: Later,
        clock: Clock,
    ) -> None:
        self.current = ""
        self.proved = ""
        self._source = source
        self._cache = cache
        self._on_disk = on_disk
        self._call = call
        self._later = later
        self._clock = clock
        self._given = ""
        self._tried = ""  # what the last connection began with; its successor may have come since
        self._renewal: asyncio.Task[None] | None = None

    async def take(self, *, renew: bool) -> None:
        """Before a connection: the newest token. `renew`: the app is asked for another one. Raises Gone."""
        if isinstance(self._source, str):
            given = self._source
        elif renew or not self._given:
            try:
                given = await self._source()
            except Exception as error:  # the app's function asks with a library of its own, which fails in its own way
                log.warning("No token could be had: %s", type(error).__name__)
                raise Gone from error
        else:
            given = self._given
        self._given = given
        refused = self._tried if renew else None
        try:
            self.current = await self._on_disk(lambda: self._cache.token_after(given))
        except sqlite3.Error as error:
            raise Gone from error
        if self.current == refused and isinstance(self._source, str):
            log.warning(
                "The relay refuses the token, and there is no other: `token` may be a function that asks your backend."
            )
        self._tried = self.current

    def newest(self) -> Token:
        """What a connection that is made now asks for its token: the newest that follows this one, and never one that the app
        brings later, for that may be another user's."""
        given, token = self._given, self.current

        def newest() -> str:
            nonlocal token
            if self._given == given:
                token = self.current
            return token

        return newest

    async def keep(self, answer: object) -> None:
        """The token that follows ours is stored before it is used: its first use ends the one before. `answer` is what the
        welcome says of it, on the connection that was begun last."""
        try:
            successor = msgspec.convert(answer, Successor)
        except msgspec.ValidationError:
            successor = Successor()
        await self._keep(successor, after=self._tried)

    async def _keep(self, successor: Successor, *, after: str) -> None:
        """`after`: what it was asked with. Of two successors of one token, the second would end both some minutes after the
        first was used: it is dropped."""
        self.proved = self.current
        following = successor.token
        if following is not None:
            given = self._given
            with suppress(sqlite3.Error):
                newest = await self._on_disk(lambda: self._cache.put_token(given, following, after=after))
                if self._given == given:  # else the app has brought another one meanwhile
                    self.current = self.proved = newest
        elif successor.renew_at is not None:
            if self._renewal is not None:
                self._renewal.cancel()
            in_s = successor.renew_at.timestamp() - self._clock.now_ms() / 1000
            self._renewal = self._later(self._renew(max(MINUTE_S, in_s)))

    async def _renew(self, after_s: float) -> None:
        """A connection may outlive its token: the next one is asked for in time."""
        await self._clock.sleep(after_s)
        given, token = self._given, self.current
        try:
            successor = (await self._call("POST", "/v1/device/token")).read(_successor.decode)
            if successor == Successor():
                raise Unreachable("the answer is not the relay's")
        except AnotherUser:
            return
        except (Problem, Unreachable) as error:
            log.warning("The token was not renewed: %s", type(error).__name__)
            self._renewal = self._later(self._renew(HOUR_S))
            return
        if self._given == given:  # else the app has brought another one meanwhile, perhaps another user's
            await self._keep(successor, after=token)
