"""A relay's webhooks without the rest: a store, a key ring, time that can be virtual."""

import asyncio
import hashlib
import random
import selectors
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from sqlalchemy import select

from relay.store import endpoints
from relay.store.apps import create_app
from relay.store.endpoints import EndpointKey
from relay.store.engine import Engine
from relay.store.events import NewEvent, emit
from relay.store.inline import InlineEngine
from relay.store.schema import metadata
from relay.store.schema.webhooks import delivery
from relay.webhooks.sealed import seal_secret

SECRET = "whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
VIRTUAL_MS = 1_764_000_000_000


class ToySeals:
    """Opens only what it sealed, for the same place. Seals nothing, really."""

    def seal(self, plaintext: bytes, aad: tuple[str, ...]) -> bytes:
        return hashlib.sha256("\0".join(aad).encode()).digest() + plaintext[::-1]

    def open(self, sealed: bytes, aad: tuple[str, ...]) -> bytes:
        if sealed[:32] != hashlib.sha256("\0".join(aad).encode()).digest():
            raise ValueError("No key opens this.")
        return sealed[:31:-1]


class _Jump(selectors.DefaultSelector):  # type: ignore[valid-type,misc]
    """Waits for nothing: when no socket has news, the time is the next timer's."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise AssertionError("everybody waits, and nobody for a time")
            self.loop.now_s += max(timeout, 0)
        return ready  # type: ignore[no-any-return]


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        selector = _Jump()
        selector.loop = self
        self.now_s = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s


class VirtualClock:
    """The time of the running VirtualLoop."""

    def now_ms(self) -> int:
        return VIRTUAL_MS + self.monotonic_ms()

    def monotonic_ms(self) -> int:
        return round(asyncio.get_running_loop().time() * 1000)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # noqa: TID251 - virtual


def virtually(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a test in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(test())


class Bench:
    """A store with an app, and short words for what it holds."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.seals = ToySeals()
        self.rng = random.Random(11)
        self.told = 0

    async def begin(self) -> "Bench":
        await self.engine.write(lambda conn, _: metadata.create_all(conn))
        await self.engine.write(lambda conn, now_ms: create_app(conn, now_ms, app_id="a", id_secret=b"s"))
        return self

    async def endpoint(
        self, name: str, url: str = "", *, types: Iterable[str] = ("*",), secret: str = SECRET
    ) -> EndpointKey:
        key = EndpointKey("a", name)
        await self.engine.write(
            lambda conn, now_ms: endpoints.create_endpoint(
                conn,
                now_ms,
                key,
                url=url or f"https://{name}.example/",
                description=None,
                types=list(types),
                secret_sealed=seal_secret(self.seals, key, secret),
                headers_sealed=None,
            )
        )
        return key

    async def tell(self, count: int = 1, *, type_: str = "delivery.acked") -> list[str]:
        ids = [f"evt_{self.told + n:06}" for n in range(count)]
        self.told += count
        new = [NewEvent(app_id="a", event_id=i, type=type_, data={"note": "café ✓", "id": i}) for i in ids]
        await self.engine.write(lambda conn, now_ms: emit(conn, now_ms, new))
        return ids

    async def deliveries(self) -> list[Any]:
        statement = select(delivery).order_by(delivery.c.endpoint_id, delivery.c.event_id)
        return list(await self.engine.read(lambda conn, _: conn.execute(statement).all()))

    async def health(self, key: EndpointKey) -> str:
        return (await self.engine.read(lambda conn, _: endpoints.health_of(conn, [key])))[key][0]


async def virtual_bench() -> Bench:
    return await Bench(InlineEngine(VirtualClock())).begin()
