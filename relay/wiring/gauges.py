"""How things stand in this process, for the metrics."""

from typing import Protocol

from relay.api import files
from relay.api.auth import Authenticator
from relay.api.gate import Gate
from relay.clock import Clock
from relay.config import Settings
from relay.presence.service import PresenceService
from relay.push import challenge, withdraw
from relay.push.accounts import Accounts
from relay.push.challenge import Challenger
from relay.push.withdraw import Withdrawer
from relay.push.worker import PushWorker
from relay.realtime.hub import Hub
from relay.realtime.service import DeviceService
from relay.store.engine import Engine, Queues
from relay.store.postgres import PostgresEngine
from relay.store.sqlite import SqliteEngine
from relay.store.sqlite_file import wal_reset_affected
from relay.telemetry.metrics import Metrics
from relay.webhooks.worker import WebhookWorker


class Measured(Protocol):
    """What is looked at."""

    clock: Clock
    metrics: Metrics
    engine: Engine
    presence: PresenceService
    accounts: Accounts
    hub: Hub
    gate: Gate
    settings: Settings
    devices: DeviceService
    push: PushWorker
    challenger: Challenger
    withdrawer: Withdrawer
    webhook_worker: WebhookWorker
    auth: Authenticator


def gauges(relay: Measured) -> None:
    """Brings the gauges up to date."""
    now_ms, monotonic_ms = relay.clock.now_ms(), relay.clock.monotonic_ms()
    relay.metrics.gauges(
        sockets=len(relay.hub),
        leased=len(relay.presence.book),
        queue=relay.engine.depth() if isinstance(relay.engine, (SqliteEngine, PostgresEngine)) else 0,
        queues=_queues(relay),
        caches=_caches(relay),
        calls={one.name: (one.in_flight, one.terms.concurrency) for one in relay.accounts.all()},
        circuits={one.name: one.circuit.open for one in relay.accounts.all()},
        parked={one.name: one.parked for one in relay.accounts.all()},
        impaired={one.name: one.impaired(now_ms) is not None for one in relay.accounts.all()},
        rates={one.name: one.bucket.rate(monotonic_ms) for one in relay.accounts.all()},
        expires_s={
            one.name: ends_ms / 1000
            for one in relay.accounts.all()
            if (ends_ms := one.credential_expires_ms) is not None
        },
        wal_reset=isinstance(relay.engine, SqliteEngine) and wal_reset_affected(),
    )


def _queues(relay: Measured) -> Queues:
    """All of which only so much may wait or be under way (safety OVL-1); but for the log's lines, which their sink counts."""
    limits = relay.settings.limits
    queues = {str(lane): (taken, relay.gate.handlers_max) for lane, taken in relay.gate.taken.items()}
    if isinstance(relay.engine, (SqliteEngine, PostgresEngine)):
        queues |= relay.engine.queues()
    return queues | {
        files.FILES: (files.used(), files.most()),
        "connections": (len(relay.hub), limits.sockets_per_node),
        "long_polls": (relay.hub.waits, limits.waits_per_node),
        "comparisons": relay.devices.comparer.waiting,
        "push_attempts": relay.push.load,
        challenge.QUEUE: relay.challenger.load,
        withdraw.QUEUE: relay.withdrawer.load,
        "webhook_attempts": relay.webhook_worker.load,
    }


def _caches(relay: Measured) -> dict[str, tuple[int, int]]:
    """All that remembers no more than so much, and then forgets its oldest: nobody is refused for that."""
    caches = relay.auth.remembered | {
        "push_challenged": relay.challenger.remembered,
        "push_withdrawn": relay.withdrawer.remembered,
    }
    for account in relay.accounts.all():
        for name, (size, bound) in account.remembered.items():
            before = caches.get(name, (0, 0))
            caches[name] = (before[0] + size, before[1] + bound)
    return caches
