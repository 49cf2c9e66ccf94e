"""Small questions that come together, answered from one reading: a turn of a reader's thread costs far more than a row."""

import asyncio
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Generic, Protocol, TypeVar

from relay.store.engine import Conn, T, Work, settle_futures
from relay.store.scope import Scope, current, union, within

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

TOGETHER_MAX = 256  # keys of one reading


class Reads(Protocol):
    """What it needs of an engine."""

    async def read(self, work: Work[T]) -> T: ...


class Gathered(Generic[K, V]):
    """Looks up what keys stand for. Every look-up begins after its key was asked for, so it sees what was committed before.

    While one reading is under way, keys that are asked for wait for the next. `look` gives a value or an exception for
    each key, and leaves out what stands for nothing.
    """

    def __init__(
        self,
        engine: Reads,
        look: Callable[[Conn, int, Collection[K]], Mapping[K, V | Exception]],
        *,
        patience_s: float = 0.0,
    ) -> None:
        """`patience_s`: for so long at most, while each turn of the loop brings more keys, a reading waits for them as well."""
        self._engine = engine
        self._look = look
        self._patience_s = patience_s
        self._asked: list[tuple[K, Scope, asyncio.Future[V | None]]] = []
        self._looking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self, key: K) -> "asyncio.Future[V | None]":
        """What the key stands for, None if nothing. Raises its exception, and what a reading of the store raises."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()  # once: until Python 3.12 it asks the kernel each time
        future: asyncio.Future[V | None] = self._loop.create_future()
        self._asked.append((key, current(), future))
        if self._looking is None:
            self._looking = self._loop.create_task(self._answer_all())
        return future

    async def _answer_all(self) -> None:
        try:
            while self._asked:
                if self._patience_s:
                    await self._more_come(asyncio.get_running_loop())
                asked, self._asked = self._asked[:TOGETHER_MAX], self._asked[TOGETHER_MAX:]
                await self._answer(asked)
        finally:
            self._looking = None

    async def _more_come(self, loop: asyncio.AbstractEventLoop) -> None:
        until_s, seen = loop.time() + self._patience_s, 0
        while seen < len(self._asked) < TOGETHER_MAX and loop.time() < until_s:
            seen = len(self._asked)
            await asyncio.sleep(0)  # noqa: TID251 - no time passes: what is ready goes first, once

    async def _answer(self, asked: "list[tuple[K, Scope, asyncio.Future[V | None]]]") -> None:
        keys = dict.fromkeys(key for key, _, _ in asked)  # in the order they came
        try:
            with within(union({scope for _, scope, _ in asked})):  # not that of whoever came first
                found = await self._engine.read(lambda conn, now_ms: self._look(conn, now_ms, keys))
        except Exception as error:  # noqa: BLE001 - it is the answer of everyone who asked
            settle_futures([(future, error) for _, _, future in asked])
            return
        settle_futures([(future, found.get(key)) for key, _, future in asked])
