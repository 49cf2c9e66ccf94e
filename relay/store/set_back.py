"""Whether the store was set back: then it must not be trusted with its numbers any more (protocol §4)."""

from pathlib import Path
from typing import Any

import structlog

from relay.ids import Rng
from relay.store import meta, rollback
from relay.store.engine import Engine
from relay.store.postgres import PostgresEngine
from relay.store.postgres_session import Server

log = structlog.get_logger("relay.store")


class SetBack:
    """Compares the store with the witness beside `path`, and with what its server says of itself."""

    def __init__(self, engine: Engine, rng: Rng, path: Path) -> None:
        self.witness = meta.WitnessFile.beside(path)
        self._engine = engine
        self._rng = rng

    async def look(self) -> None:
        """At a start, and from then on whenever a server is met."""
        seen = self.witness.read()
        if await self._engine.write(lambda conn, now_ms: self.check(conn, now_ms, seen)):
            log.warning("store.rolled_back")
        if isinstance(self._engine, PostgresEngine):
            await self._engine.connections.watch_server(self._met)

    def check(self, conn: Any, now_ms: int, seen: meta.Witness | None) -> bool:
        """Begins a new epoch if the store is behind its witness."""
        return rollback.check_witness(conn, now_ms, self._rng, seen)

    def _met(self, conn: Any, now_ms: int, server: Server) -> None:
        if rollback.check_server(conn, now_ms, self._rng, mark=server.mark, durability=server.durability):
            log.warning("store.rolled_back")
