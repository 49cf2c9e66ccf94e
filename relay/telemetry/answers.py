"""Counts of answers over HTTP. Plain numbers of the one thread that counts, made into metrics when somebody looks:
Prometheus's own counters take a lock and a chain of calls each, three of them for every answer."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_BOUNDS: Final = (*map(str, SECONDS), "+Inf")


class Durations:
    """A histogram: how many took at most so long, and no less."""

    __slots__ = ("buckets", "total_s")

    def __init__(self) -> None:
        self.buckets = [0] * len(_BOUNDS)
        self.total_s = 0.0


class Answers(Collector):
    """By route, method and status; how long they took, by route."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], int] = {}
        self._durations: dict[str, Durations] = {}

    def add(self, route: str, method: str, status: int, seconds: float) -> None:
        key = route, method, status
        self._counts[key] = self._counts.get(key, 0) + 1
        durations = self._durations.get(route)
        if durations is None:
            durations = self._durations[route] = Durations()
        durations.buckets[bisect_left(SECONDS, seconds)] += 1
        durations.total_s += seconds

    def collect(self) -> Iterator[Metric]:
        counts = CounterMetricFamily("relay_http_requests", "Answers given.", labels=("route", "method", "status"))
        for (route, method, status), count in list(self._counts.items()):
            counts.add_metric((route, method, str(status)), count)
        yield counts
        seconds = HistogramMetricFamily("relay_http_seconds", "From a request's head to its answer.", labels=("route",))
        for route, durations in list(self._durations.items()):
            upto = zip(_BOUNDS, accumulate(durations.buckets), strict=True)
            seconds.add_metric((route,), list(upto), sum_value=durations.total_s)
        yield seconds
