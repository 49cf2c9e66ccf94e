"""What is refused first when the relay cannot keep up (safety OVL-4). Pure; time is an argument.

Whoever is refused comes again a little later; what must always be heard is in no class here: acks, cancels, ends and
reports, heartbeats, health. Sends are bounded by the writer's queue and the requests in handlers as well, which let through
what there is room for; so only what those do not see, memory and a loop that hardly turns, sheds sends as a class.
"""

from collections import deque
from dataclasses import dataclass
from enum import IntEnum

from relay.errors import Unavailable

HOLD_MS = 5_000  # for how long a class is refused after it last had to be
RETRY_S = 5.0
LAG_MS = 100  # from then on the loop is late
LAGS = 3  # looks of which the middle one counts: a single pause is no load


class Shed(IntEnum):
    """Classes of work, the first to be refused first."""

    SEARCHES = 1  # and exports
    READS = 2  # of operators
    STATISTICS = 3  # and comparisons of caches
    WAITS = 4  # new long polls
    CONNECTIONS = 5  # new sockets and streams
    RESYNCS = 6  # pages from the beginning
    BULK = 7  # sends of low priority
    SENDS = 8
    URGENT = 9  # sends of high priority


PRIORITIES = {"low": Shed.BULK, "normal": Shed.SENDS, "high": Shed.URGENT, "urgent": Shed.URGENT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """How things stand. `queue`: share of the writer's queue that is taken; `memory`: of the memory there is."""

    queue: float = 0.0
    lag_ms: float = 0.0
    memory: float = 0.0


def up_to(signals: Signals, *, lag_ms: float) -> int:
    """The class up to which work may have to be refused; 0: none."""
    late = signals.lag_ms / lag_ms
    steps = (
        (signals.memory > 0.95, Shed.URGENT),
        (signals.memory > 0.90 or late > 20, Shed.SENDS),
        (signals.memory > 0.80 or late > 5 or signals.queue > 0.5, Shed.BULK),
        (late > 1, Shed.RESYNCS),
    )
    return next((int(shed) for yes, shed in steps if yes), 0)


class Shedding:
    """How much is refused at present: one class more at each look that finds it necessary, and none of them for longer than
    5 s after it was."""

    def __init__(self, *, lag_ms: float = LAG_MS) -> None:
        self.level = 0  # every class up to this one is refused
        self._lag_ms = lag_ms
        self._lags: deque[float] = deque([0.0] * LAGS, maxlen=LAGS)
        self._needed_ms = 0

    def looked(self, signals: Signals, now_ms: int) -> bool:
        """Takes the signals of a look; gives whether the level has changed. `now_ms` is of a clock that only goes on."""
        self._lags.append(signals.lag_ms)
        lag_ms = sorted(self._lags)[LAGS // 2]
        needed = up_to(Signals(queue=signals.queue, lag_ms=lag_ms, memory=signals.memory), lag_ms=self._lag_ms)
        before = self.level
        if needed >= self.level:
            self._needed_ms = now_ms
            self.level = min(needed, self.level + 1)
        elif now_ms - self._needed_ms >= HOLD_MS:
            self._needed_ms = now_ms
            self.level = needed
        return self.level != before

    def admit(self, what: Shed) -> None:
        """Raises Unavailable (overloaded) if this class is refused at present."""
        if self.level >= what:
            raise Unavailable("The relay has more to do than it can; try again later.", retry_after_s=RETRY_S)
