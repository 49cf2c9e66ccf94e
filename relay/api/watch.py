"""Watches what else changes credentials: other nodes, the command line, time. Closes what was let in with them.

The store is asked often enough that nobody gets in, or stays, five seconds after a revocation (safety SEC-2, SEC-4);
whoever revokes here has it asked at once.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from relay.api.auth import Authenticator
from relay.backoff import around
from relay.clock import Clock
from relay.errors import ConfigError, Problem
from relay.realtime.hub import Hub
from relay.store import apps, tokens
from relay.store.engine import Conn, Engine
from relay.store.scope import ALL, within
from relay.waiting import pause

log = structlog.get_logger("relay.auth")

SWEEP_S = 2.5
SKEW_MS = 60_000  # how far the clocks of two nodes may be apart, and a revocation be committed late
USED_MS = 60_000  # how often it is written down which API keys were used


class CredentialWatch:
    """Ends connections and long-polls whose credential has ended. `also`: other things to look up at the same pace."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        rng: random.Random,
        *,
        auth: Authenticator,
        hub: Hub,
        also: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._rng = rng
        self._auth = auth
        self._hub = hub
        self._also = also
        self._since_ms = clock.now_ms()
        self._used_ms = clock.monotonic_ms()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await pause(around(SWEEP_S, share=0.2, rng=self._rng), stop)
            await self.sweep()
            await self._write_used(ending=stop.is_set())

    async def sweep(self) -> None:
        """Looks once. A store that is away is asked again later; what has expired ends in any case."""
        now_ms = self._clock.now_ms()
        revoked: set[str] = set()
        try:
            with within(ALL):  # whoever has it look
                revoked = await self._engine.read(self._revoked)
                self._since_ms = now_ms
                if self._also is not None:
                    await self._also()
        except Problem as problem:
            log.warning("auth.watch_failed", code=problem.code)
        except ConfigError:  # another node sealed with a key that this one lacks: what it has goes on
            log.error("auth.watch_failed", code="keys_differ")  # noqa: TRY400 - no trace
        self._auth.forget(revoked)
        self._hub.end(revoked, now_ms)

    def _revoked(self, conn: Conn, _: int) -> set[str]:
        since_ms = self._since_ms - SKEW_MS
        return tokens.revoked_since(conn, since_ms) | apps.revoked_since(conn, since_ms)

    async def _write_used(self, *, ending: bool) -> None:
        now_ms = self._clock.monotonic_ms()
        if now_ms < self._used_ms + USED_MS and not ending:
            return
        self._used_ms = now_ms
        used = self._auth.used()
        try:
            if used:
                await self._engine.write(lambda conn, _: apps.api_keys_used(conn, used))
        except Problem as problem:
            log.warning("auth.watch_failed", code=problem.code)
