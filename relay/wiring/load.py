"""Looks at how much there is to do, all the time, and has what is least important refused when it is too much."""

from collections.abc import Callable

import structlog

from relay.clock import Clock
from relay.shedding import Shed, Shedding, Signals
from relay.store.engine import Engine
from relay.store.postgres import PostgresEngine
from relay.store.sqlite import SqliteEngine
from relay.telemetry.memory import memory_max, memory_used
from relay.telemetry.metrics import Metrics

log = structlog.get_logger("relay.load")


class LoadWatch:
    """`looked` after each pause of the loop's measurement."""

    def __init__(
        self,
        shedding: Shedding,
        clock: Clock,
        metrics: Metrics,
        *,
        queue: Callable[[], float],
        memory: Callable[[], float],
    ) -> None:
        """`queue`: share of the writer's queue that is taken; `memory`: share of the memory there is."""
        self._shedding = shedding
        self._clock = clock
        self._metrics = metrics
        self._queue = queue
        self._memory = memory

    def looked(self, lag_s: float) -> None:
        """The loop came this late."""
        self._metrics.lag(lag_s)
        signals = Signals(queue=self._queue(), lag_ms=lag_s * 1000, memory=self._memory())
        if self._shedding.looked(signals, self._clock.monotonic_ms()):
            level = self._shedding.level
            self._metrics.shedding(level)
            log.warning(
                "load.shedding" if level else "load.well",
                kind=Shed(level).name.lower() if level else "none",
                reason=f"queue {signals.queue:.0%}, memory {signals.memory:.0%}",
                lag_ms=round(signals.lag_ms),
            )


def queue_share(engine: Engine) -> float:
    """How full the writer's queue is."""
    return engine.fill() if isinstance(engine, (SqliteEngine, PostgresEngine)) else 0.0


def memory_share(limit: int) -> Callable[[], float]:
    """The share of `limit` bytes that is in use; 0: of what there is."""
    most = limit or memory_max()
    return lambda: memory_used() / most
