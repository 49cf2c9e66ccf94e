"""The outbox's worker: when it sends."""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from relay.client import Cache
from relay.client.http import Unreachable
from relay.client.sending import Sender
from relay.clock import SystemClock

T = TypeVar("T")
TURNS = 50  # of the loop, in which it would have sent


class Impatient(SystemClock):
    """Every pause is over at once."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)  # noqa: TID251


async def test_nothing_goes_out_between_a_refused_token_and_the_next_connection(tmp_path: Path) -> None:
    """The next token may be another user's, in whose name it would go."""
    tries, tried = 0, asyncio.Event()

    async def post(_: str, __: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal tries
        tries += 1
        tried.set()
        raise Unreachable

    async def at_once(what: Callable[[], T]) -> T:
        return what()

    async def nothing(_: object) -> None: ...

    with closing(Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=0)) as cache:
        cache.outbox.put("k", {"to": {"users": ["bob"]}, "body": 1}, now_ms=0)
        sender = Sender(cache, at_once, post, lambda _: None, nothing, Impatient(), random.Random(1))
        running = asyncio.create_task(sender.run())
        sender.reached()
        await tried.wait()
        sender.hold()
        before = tries
        tried.clear()
        for _ in range(TURNS):
            sender.nudge()
            await asyncio.sleep(0)  # noqa: TID251
        assert tries == before
        sender.reached()
        await tried.wait()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
