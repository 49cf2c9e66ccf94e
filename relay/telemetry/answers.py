"""Counts of answers over HTTP. Plain numbers of the one thread that counts, made into metrics when somebody looks:
Prometheus's own counters take a lock and a chain of calls each, three of them for every answer."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from operator import add
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
        self._durations: dict[tuple[str, str, int], Durations] = {}

    def add(self, route: str, method: str, status: int, seconds: float) -> None:
        key = route, method, status
        durations = self._durations.get(key)
        if durations is None:
            durations = self._durations[key] = Durations()
        durations.buckets[bisect_left(SECONDS, seconds)] += 1
        durations.total_s += seconds

    def collect(self) -> Iterator[Metric]:
        counts = CounterMetricFamily("relay_http_requests", "Answers given.", labels=("route", "method", "status"))
        of_route: dict[str, Durations] = {}
        for (route, method, status), durations in list(self._durations.items()):
            counts.add_metric((route, method, str(status)), sum(durations.buckets))
            whole = of_route.setdefault(route, Durations())
            whole.buckets = list(map(add, whole.buckets, durations.buckets))
            whole.total_s += durations.total_s
        yield counts
        seconds = HistogramMetricFamily("relay_http_seconds", "From a request's head to its answer.", labels=("route",))
        for route, whole in of_route.items():
            upto = zip(_BOUNDS, accumulate(whole.buckets), strict=True)
            seconds.add_metric((route,), list(upto), sum_value=whole.total_s)
        yield seconds
