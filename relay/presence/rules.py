"""Leases: how long a device that was heard of counts as online. Pure; time is an argument."""

from dataclasses import dataclass

INTERVAL_MIN_S, INTERVAL_MAX_S = 10, 600


@dataclass(frozen=True, slots=True)
class Beat:
    """How often the device is to be heard, and how long it counts as online after each time."""

    interval_s: int
    lease_s: float


def negotiate(*, min_s: float, max_s: float, prefer_s: float, factor: float, at_least_s: float = 0) -> Beat:
    """The interval for a client that offers these bounds (protocol 6.2): clamp(prefer, max(min, 10), min(max, 600)).

    `at_least_s` raises it under load: the relay asks for fewer heartbeats before it refuses anything.
    """
    low = min(max(min_s, INTERVAL_MIN_S, at_least_s), INTERVAL_MAX_S)
    high = max(low, min(max_s, INTERVAL_MAX_S))
    interval_s = int(min(max(prefer_s, low), high))
    return Beat(interval_s=interval_s, lease_s=interval_s * factor)
