"""A client in this process, and an ear that hears everything it tells."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from relay.client import Backend, Client, news

WITHIN_S = 20
T = TypeVar("T")


async def token_of(backend: Backend, user: str, device: str = "phone") -> str:
    await backend.put_device(user, device)
    return await backend.mint_token(user, device)


class Ear:
    """Hears everything that a client tells."""

    def __init__(self, client: Client) -> None:
        self.heard: list[news.News] = []
        self._events = client.events()
        self._came = asyncio.Condition()
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for one in self._events:
            async with self._came:
                self.heard.append(one)
                self._came.notify_all()

    async def until(self, kind: type[T], which: Callable[[T], bool] = lambda _: True) -> T:
        def found() -> list[T]:
            return [one for one in self.heard if isinstance(one, kind) and which(one)]

        async with asyncio.timeout(WITHIN_S), self._came:
            await self._came.wait_for(found)
        return found()[0]

    def of(self, kind: type[T]) -> list[T]:
        return [one for one in self.heard if isinstance(one, kind)]


@asynccontextmanager
async def a_client(url: str, token: Any, cache: Path, **more: Any) -> AsyncIterator[tuple[Client, Ear]]:
    client = Client(url, token, cache=cache, **{"app_version": "1.0"} | more)
    ear = Ear(client)
    await asyncio.sleep(0)  # noqa: TID251 - lets the ear begin
    async with client:
        yield client, ear
    await ear._task


def body_is(body: Any) -> Callable[[news.MessageArrived], bool]:
    return lambda one: one.message.body == body
