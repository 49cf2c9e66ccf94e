"""What does not add up in the rows that a relay has left (CR-2: L9 and L10, safety DUR-17)."""

from collections.abc import Iterable, Mapping

from relay.clock import SystemClock
from relay.config import load
from relay.ids import system_rng
from relay.model import UserKey
from relay.store import audit
from relay.telemetry.metrics import Metrics
from relay.wiring.store import open_engine

STUCK = "SELECT user_id FROM push_job WHERE due_ms IS NOT NULL AND claim IS NOT NULL AND claim_until_ms < {} - 30000"


async def wrong_in_the_store(settings: Mapping[str, str], users: Iterable[str]) -> list[str]:
    """Of these users of the default app; the relay must have ended."""
    engine = open_engine(load(None, settings), SystemClock(), system_rng(), Metrics())
    keys = [UserKey("default", user) for user in users]
    try:
        wrong = await engine.read(lambda conn, now_ms: audit.imbalances(conn, now_ms, keys))
        held = await engine.read(lambda conn, now_ms: conn.exec_driver_sql(STUCK.format(now_ms)).all())
    finally:
        await engine.close()
    return [*(f"{what}: {who}" for what, who in wrong.items()), *(f"still claimed: {row}" for row in held)]
