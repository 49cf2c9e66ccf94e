from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from webhook_bench import Bench

from relay.clock import SystemClock
from relay.store.sqlite import SqliteEngine


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """On a real SQLite, in real time."""
    engine = SqliteEngine(tmp_path / "relay.db", SystemClock())
    yield await Bench(engine).begin()
    await engine.close()
