"""Leases: how long a device that was heard of counts as online. Pure; time is an argument."""

from dataclasses import dataclass

from relay.errors import CROWD_S

INTERVAL_MIN_S, INTERVAL_MAX_S = 10, 600
LATE_S = 0.5  # how late a look that is due each second comes on a machine that is overloaded
CALM_S = 0.05  # and on one at ease
CALM_LOOKS = 10

Offer = tuple[float, float, float]  # (min, max, prefer) seconds


@dataclass(frozen=True, slots=True)
class Beat:
    """How often the device is to be heard, and how long it counts as online after each time."""

    interval_s: int
    lease_s: float


class Pace:
    """What the relay asks of all devices under load: a longer interval, doubled while it does not keep up, and then halved.

    Each sweep, which is due once a second, says how late it came: that is how far everything here lags behind.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._calm = 0
        self.at_least_s = 0.0

    def looked(self, late_s: float) -> None:
        self._calm = self._calm + 1 if late_s <= CALM_S else 0
        if late_s >= LATE_S:
            self.at_least_s = min(INTERVAL_MAX_S, 2 * max(self.at_least_s, self._interval_s))
        elif self._calm >= CALM_LOOKS and self.at_least_s:
            self._calm = 0
            half_s = self.at_least_s / 2
            self.at_least_s = half_s if half_s > self._interval_s else 0.0


def herd_ms(devices: int, *, per_s: float) -> int:
    """How much longer one of so many devices may take to come back, because the door lets in `per_s` a second (protocol 6.6):
    until it is the last one's turn, and for as long as a device may be told to wait when it is turned away."""
    return int((devices / per_s + CROWD_S[1]) * 1000) if devices > per_s else 0


def negotiate(*, min_s: float, max_s: float, prefer_s: float, factor: float, at_least_s: float = 0) -> Beat:
    """The interval for a client that offers these bounds (protocol 6.2): clamp(prefer, max(min, 10), min(max, 600)).

    `at_least_s` raises it under load: the relay asks for fewer heartbeats before it refuses anything.
    """
    low = min(max(min_s, INTERVAL_MIN_S, at_least_s), INTERVAL_MAX_S)
    high = max(low, min(max_s, INTERVAL_MAX_S))
    interval_s = int(min(max(prefer_s, low), high))
    return Beat(interval_s=interval_s, lease_s=interval_s * factor)
