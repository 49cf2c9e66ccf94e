"""A relay of a test's own, in its event loop, with a clock that the test moves and two accounts, `first` and `second`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from running_relay import UNHURRIED, Running

from relay.app import Relay
from relay.clock import SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.telemetry.metrics import Metrics

ACCOUNTS = {"RELAY_ACCOUNTS__FIRST__PROVIDER": "log", "RELAY_ACCOUNTS__SECOND__PROVIDER": "log"}


class Ahead(SystemClock):
    """The machine's clock, as far ahead as a test wants."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


@asynccontextmanager
async def process(folder: Path, clock: Ahead, *, key: str = "") -> AsyncIterator[Running]:
    """A relay on the store of this folder. `key`: that of its first start."""
    files = {"RELAY_STORE__URL": f"sqlite:///{folder / 'relay.db'}", "RELAY_KEYS__FILE": str(folder / "relay.keys")}
    relay = Relay(load(None, UNHURRIED | files | ACCOUNTS), clock, system_rng(), Metrics())
    first = await relay.open()
    try:
        async with relay.running():
            yield Running(relay.port, key or first.api_key or "", "", relay, asyncio.get_running_loop())
    finally:
        await relay.close()
