"""When a client connects again. Pure."""

from dataclasses import dataclass

from relay.ids import Rng

BACKOFF_FIRST_S, BACKOFF_MAX_S = 1.0, 60.0
RESTART_DOUBLINGS, RESTART_TRIES = 4, 12  # pauses of at most 16 s: who is back within half a minute was never offline


@dataclass(slots=True)
class Redial:
    """Failures in a row, and what was asked for the next connection alone."""

    soon: bool = False  # it may come at once
    asked_s: float | None = None  # the relay asked for so long a pause
    restarts: bool = False  # it said that it goes to come back: it is asked more often for a while
    _failures: int = 0

    def calm(self) -> None:
        """The connection has lasted: earlier failures are forgotten."""
        self._failures, self.restarts = 0, False

    def forget(self) -> None:
        """What was asked for the next connection no longer counts: none is made by itself."""
        self.soon, self.asked_s = False, None

    def delay_s(self, rng: Rng, retry_after_s: float | None) -> float:
        """Seconds until the next try: full jitter over the failures in a row, never less than what was asked for."""
        delay_s = 0.0
        if not self.soon or self._failures > 1:
            most = RESTART_DOUBLINGS if self.restarts and self._failures < RESTART_TRIES else 6
            delay_s = rng.uniform(0, min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._failures, most)))
        delay_s = max(delay_s, retry_after_s or 0, self.asked_s or 0)
        self._failures += 1
        self.forget()
        return delay_s
