"""How things stand in this process, for the metrics."""

from typing import Protocol

from relay.api import files
from relay.api.gate import Gate
from relay.clock import Clock
from relay.presence.service import PresenceService
from relay.push.accounts import Accounts
from relay.realtime.hub import Hub
from relay.store.engine import READS, READS_MAX, Engine
from relay.store.postgres import PostgresEngine
from relay.store.sqlite import SqliteEngine
from relay.store.sqlite_file import wal_reset_affected
from relay.telemetry.metrics import Metrics


class Measured(Protocol):
    """What is looked at."""

    clock: Clock
    metrics: Metrics
    engine: Engine
    presence: PresenceService
    accounts: Accounts
    hub: Hub
    gate: Gate


def gauges(relay: Measured) -> None:
    """Brings the gauges up to date."""
    now_ms = relay.clock.now_ms()
    queues = {str(lane): (taken, relay.gate.handlers_max) for lane, taken in relay.gate.taken.items()}
    queues[files.FILES] = (files.used(), files.most())
    if isinstance(relay.engine, (SqliteEngine, PostgresEngine)):
        queues[READS] = (relay.engine.reads(), READS_MAX)
    relay.metrics.gauges(
        sockets=len(relay.hub),
        leased=len(relay.presence.book),
        queue=relay.engine.depth() if isinstance(relay.engine, (SqliteEngine, PostgresEngine)) else 0,
        queues=queues,
        circuits={one.name: one.circuit.open for one in relay.accounts.all()},
        parked={one.name: one.parked for one in relay.accounts.all()},
        impaired={one.name: one.impaired(now_ms) is not None for one in relay.accounts.all()},
        rates={one.name: one.bucket.rate for one in relay.accounts.all()},
        expires_s={
            one.name: ends_ms / 1000
            for one in relay.accounts.all()
            if (ends_ms := one.credential_expires_ms) is not None
        },
        wal_reset=isinstance(relay.engine, SqliteEngine) and wal_reset_affected(),
    )
