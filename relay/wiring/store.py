"""From the settings to the store: its engine, its key ring, its room on the disk."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from relay.clock import Clock, StoreClock
from relay.config import Settings
from relay.errors import Unavailable
from relay.ids import Rng
from relay.keys import KeyRing
from relay.store.engine import Engine
from relay.store.postgres import PostgresEngine
from relay.store.postgres_session import BYPASSED
from relay.store.room import MIB, Boundless, ReadSpace, Room
from relay.store.sqlite import SqliteEngine
from relay.telemetry.metrics import Metrics

log = structlog.get_logger("relay.app")

STORE_TRIES = 60  # one a second


def open_engine(
    settings: Settings, clock: Clock, rng: Rng, metrics: Metrics, *, release: Callable[[], bool] = lambda: False
) -> Engine:
    """The engine of the configured store. Needs a running loop for PostgreSQL. Raises ConfigError, StoreDamaged."""
    path = settings.sqlite_path()
    if path is not None:
        return SqliteEngine(
            path,
            clock,
            readers=settings.store.readers,
            watch=metrics,
            unsafe_storage=settings.store.unsafe_storage,
            release=release,
        )
    return PostgresEngine(
        settings.store.url.reveal(),
        clock,
        rng,
        workers=settings.store.workers,
        watch=metrics,
        unsafe_storage=settings.store.unsafe_storage,
    )


def clock_of(settings: Settings, own: Clock) -> Clock:
    """The clock by which the store's deadlines go: relays, and commands, that share a store share its clock."""
    return own if settings.sqlite_path() is not None else StoreClock(own)


@asynccontextmanager
async def opened(settings: Settings, clock: Clock, rng: Rng) -> AsyncIterator[Engine]:
    """The store, for one command. `clock` is of `clock_of`. Raises ConfigError, Unavailable, StoreDamaged."""
    engine = open_engine(settings, clock, rng, Metrics())
    try:
        if isinstance(engine, PostgresEngine):
            await engine.connections.begin()
        yield engine
    finally:
        await engine.close()


def open_ring(settings: Settings, rng: Rng, *, store_is_new: bool) -> KeyRing:
    """The key ring; made only together with a new store. Raises ConfigError."""
    path = settings.keys.file
    if store_is_new and not path.exists() and "RELAY_KEYS" not in os.environ:
        return KeyRing.create(path, rng)
    return KeyRing.find(path, os.environ, rng)


def room_of(settings: Settings, read_space: ReadSpace) -> Room | Boundless:
    """What is watched of the disk; a PostgreSQL watches its own."""
    path = settings.sqlite_path()
    if path is None:
        return Boundless()
    return Room(
        path,
        read=read_space,
        free_min_bytes=settings.store.free_min_mib * MIB,
        free_min_share=settings.store.free_min_percent / 100,
    )


async def reach(engine: Engine, clock: Clock) -> None:
    """A PostgreSQL that starts beside us may take a while. Raises ConfigError, Unavailable."""
    left = STORE_TRIES
    while isinstance(engine, PostgresEngine):
        try:
            await engine.connections.begin()
            if engine.connections.bypasses_row_security:
                log.info("store.row_security_bypassed", reason=BYPASSED)
            break
        except Unavailable as problem:
            left -= 1
            if not left:
                raise
            log.warning("store.awaited", code=problem.code)
            await clock.sleep(1)
