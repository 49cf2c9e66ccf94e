"""A whole relay on a port of its own, in a thread of this process, and a client for it: for tests from outside."""

import asyncio
import itertools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relay.app import Relay
from relay.clock import Clock, SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.telemetry import Metrics

STARTS_WITHIN_S = 30
# Requests are not to be slowed down here, except where a test is about that.
UNHURRIED = {
    "RELAY_SERVER__PORT": "0",
    "RELAY_LIMITS__SEND_RATE_PER_S": "100000",
    "RELAY_LIMITS__SEND_BURST": "100000",
    "RELAY_LIMITS__ANONYMOUS_PER_S": "10000",
    "RELAY_LIMITS__ANONYMOUS_BURST": "10000",
}


@dataclass
class Running:
    """Where a running relay is, and the key of its backend, which may do everything."""

    url: str
    port: int
    key: str
    relay: Relay
    loop: asyncio.AbstractEventLoop
    names: Iterator[int] = field(default_factory=itertools.count)


@contextmanager
def running(
    folder: Path, settings: Mapping[str, str] | None = None, *, clock: Clock | None = None
) -> Iterator[Running]:
    """Serves from `folder` for as long as the block lasts, then drains without waiting."""
    files = {"RELAY_STORE__URL": f"sqlite:///{folder / 'relay.db'}", "RELAY_KEYS__FILE": str(folder / "relay.keys")}
    up, stop = threading.Event(), asyncio.Event()
    box: list[Running] = []
    failed: list[BaseException] = []

    async def serve() -> None:
        relay = Relay(
            load(None, UNHURRIED | files | dict(settings or {})), clock or SystemClock(), system_rng(), Metrics()
        )
        first = await relay.open()
        assert first.api_key is not None
        try:
            async with relay.running():
                loop = asyncio.get_running_loop()
                box.append(Running(f"http://127.0.0.1:{relay.port}", relay.port, first.api_key, relay, loop))
                up.set()
                await stop.wait()
        finally:
            await relay.close()

    def main() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
            raise
        finally:
            up.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("relay.app.QUIET_S", 0)
        thread = threading.Thread(target=main, name="relay")
        thread.start()
        assert up.wait(STARTS_WITHIN_S)
        if failed:
            raise failed[0]
        try:
            yield box[0]
        finally:
            box[0].loop.call_soon_threadsafe(stop.set)
            thread.join(STARTS_WITHIN_S)
            assert not thread.is_alive()
