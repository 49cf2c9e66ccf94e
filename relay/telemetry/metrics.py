"""The relay's metrics."""

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from relay.telemetry.answers import SECONDS, Answers

# Else each counter has a second series with the time of the start, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_BATCH: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """All metrics, in a registry of their own. Labels take only words of ours: routes, accounts, verdicts.

    It is also the `Watch` of the engine and of the webhook worker.
    """

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self._answers = Answers()
        self._pushed: dict[tuple[str, str, str], Counter] = {}
        r.register(self._answers)
        self.accepted = Counter("relay_accepted_total", "Messages accepted.", registry=r)
        self.commit_batch_size = Histogram(
            "relay_commit_batch_size", "Pieces of work in one commit.", registry=r, buckets=_BATCH
        )
        self.commit_seconds = Histogram(
            "relay_commit_seconds", "Duration of a commit's transaction.", registry=r, buckets=_COMMIT_SECONDS
        )
        self.store_refused = Counter("relay_store_refused_total", "Work refused as the queue was full.", registry=r)
        self.store_queue = Gauge("relay_store_queue", "Pieces of work that wait for the store.", registry=r)
        self.queue_size = Gauge(
            "relay_queue_size", "What waits, or is under way, where only so much may.", ("queue",), registry=r
        )
        self.queue_bound = Gauge("relay_queue_bound", "How much may.", ("queue",), registry=r)
        self.queue_refused = Counter(
            "relay_queue_refused_total", "What was refused as there was so much already.", ("queue",), registry=r
        )
        self.cache_size = Gauge(
            "relay_cache_size",
            "What is remembered, where the oldest is forgotten when there is too much.",
            ("cache",),
            registry=r,
        )
        self.cache_bound = Gauge("relay_cache_bound", "How much is remembered at most.", ("cache",), registry=r)
        self.sockets = Gauge("relay_sockets", "Open device sockets of this node.", registry=r)
        self.devices_leased = Gauge("relay_devices_leased", "Devices that this node holds to be online.", registry=r)
        self.push_attempts = Counter(
            "relay_push_attempts_total", "Pushes handed to a vendor.", ("account", "provider", "verdict"), registry=r
        )
        self.webhook_attempts = Counter("relay_webhook_attempts_total", "Calls of endpoints.", ("result",), registry=r)
        self.webhook_seconds = Histogram(
            "relay_webhook_seconds", "Duration of a call of an endpoint.", registry=r, buckets=SECONDS
        )
        self.webhooks_in_flight = Gauge("relay_webhooks_in_flight", "Calls of endpoints under way.", registry=r)
        self.webhook_late = Counter("relay_webhook_late_total", "Outcomes of calls whose claim had ended.", registry=r)
        self.circuit_open = Gauge(
            "relay_circuit_open", "1 while the vendor is thought to be away.", ("account",), registry=r
        )
        self.account_parked = Gauge(
            "relay_account_parked", "1 while the account waits for its operator.", ("account",), registry=r
        )
        self.account_impaired = Gauge(
            "relay_account_impaired",
            "1 while the vendor says something of the account that its operator has to mend.",
            ("account",),
            registry=r,
        )
        self.account_rate = Gauge(
            "relay_account_rate", "Calls a second that the account may make at present.", ("account",), registry=r
        )
        self.account_calls = Gauge(
            "relay_account_calls", "Calls of the vendor that are under way.", ("account",), registry=r
        )
        self.account_calls_bound = Gauge("relay_account_calls_bound", "How many may be.", ("account",), registry=r)
        self.credential_expires = Gauge(
            "relay_account_credential_expires_seconds",
            "When the account's credential ends, in seconds since 1970, if it does by itself.",
            ("account",),
            registry=r,
        )
        self.log_dropped = Counter("relay_log_dropped_total", "Log lines that the sink did not take.", registry=r)
        self.sqlite_wal_reset_affected = Gauge(
            "relay_sqlite_wal_reset_affected", "1 if this SQLite has the WAL-reset bug.", registry=r
        )
        self.ledger_imbalance = Gauge(
            "relay_ledger_imbalance", "Users whose bookkeeping does not add up; must be 0.", ("what",), registry=r
        )
        self.loop_lag_seconds = Gauge("relay_loop_lag_seconds", "How late the event loop runs.", registry=r)
        self.shedding_level = Gauge(
            "relay_shedding_level", "Up to which class work is refused for load; 0: none.", registry=r
        )
        self.loop_blocked = Counter(
            "relay_loop_blocked_total", "Times that the event loop stood still for more than a second.", registry=r
        )

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """One answer. `route` is the route's pattern, never the path."""
        self._answers.add(route, method if method in _METHODS else "other", status, seconds)

    def pushed(self, account: str, provider: str, verdict: str) -> None:
        """One answer of a vendor."""
        counter = self._pushed.get((account, provider, verdict))
        if counter is None:  # the library looks for it under a lock, and checks each word
            counter = self._pushed[account, provider, verdict] = self.push_attempts.labels(account, provider, verdict)
        counter.inc()

    def committed(self, size: int, seconds: float) -> None:
        self.commit_batch_size.observe(size)
        self.commit_seconds.observe(seconds)

    def refused(self) -> None:
        self.store_refused.inc()

    def turned_away(self, queue: str) -> None:
        """One refusal, as this queue was full."""
        self.queue_refused.labels(queue).inc()

    def attempted(self, word: str, seconds: float) -> None:
        """One call of an endpoint that ended, in the webhook worker's word."""
        self.webhook_attempts.labels(word).inc()
        self.webhook_seconds.observe(seconds)

    def in_flight(self, count: int) -> None:
        self.webhooks_in_flight.set(count)

    def late(self, count: int) -> None:
        self.webhook_late.inc(count)

    def imbalanced(self, counts: Mapping[str, int]) -> None:
        for what, count in counts.items():
            self.ledger_imbalance.labels(what).set(count)

    def blocked(self) -> None:
        self.loop_blocked.inc()

    def lag(self, seconds: float) -> None:
        self.loop_lag_seconds.set(seconds)

    def shedding(self, level: int) -> None:
        self.shedding_level.set(level)

    def gauges(
        self,
        *,
        sockets: int,
        leased: int,
        queue: int,
        queues: Mapping[str, tuple[int, int]] | None = None,
        caches: Mapping[str, tuple[int, int]] | None = None,
        calls: Mapping[str, tuple[int, int]] | None = None,
        circuits: Mapping[str, bool],
        parked: Mapping[str, bool],
        impaired: Mapping[str, bool] | None = None,
        rates: Mapping[str, float] | None = None,
        expires_s: Mapping[str, float] | None = None,
        wal_reset: bool,
    ) -> None:
        """What others count, as it is now; by account where it is a mapping. `queues`, `caches`, `calls`: size and bound."""
        self.sockets.set(sockets)
        self.devices_leased.set(leased)
        self.store_queue.set(queue)
        for of_accounts in (
            self.account_calls,
            self.account_calls_bound,
            self.circuit_open,
            self.account_parked,
            self.account_impaired,
            self.account_rate,
            self.credential_expires,
        ):
            of_accounts.clear()  # one may have been taken out of the configuration
        for sizes, bounds, bounded in (
            (self.queue_size, self.queue_bound, queues),
            (self.cache_size, self.cache_bound, caches),
            (self.account_calls, self.account_calls_bound, calls),
        ):
            for name, (size, bound) in (bounded or {}).items():
                sizes.labels(name).set(size)
                bounds.labels(name).set(bound)
        self.sqlite_wal_reset_affected.set(wal_reset)
        for gauge, by_account in (
            (self.circuit_open, circuits),
            (self.account_parked, parked),
            (self.account_impaired, impaired or {}),
        ):
            for account, yes in by_account.items():
                gauge.labels(account).set(yes)
        for number, values in ((self.account_rate, rates or {}), (self.credential_expires, expires_s or {})):
            for account, value in values.items():
                number.labels(account).set(value)

    def render(self) -> bytes:
        """In Prometheus's text format (`text/plain; version=0.0.4`)."""
        return generate_latest(self.registry)
