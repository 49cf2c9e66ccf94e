"""After a planned restart, the time to come back fits what the door tells those whom it turns away (protocol 6.6, F35): a model
of the herd, in which door, hints and clients are the real ones."""

import heapq
import random

import pytest

from relay.api.door import Door
from relay.client.redial import Redial
from relay.clock import SystemClock
from relay.errors import Problem
from relay.presence.rules import herd_ms
from relay.presence.service import Rhythm
from relay.push.limits import Bucket
from relay.realtime.hub import Hub
from relay.wiring.departure import timeline

STAGES = timeline(drain_s=28, quiet_s=5)
AWAY_S = 20.0  # from the drain to the start of the next process


class ModelClock(SystemClock):
    ms = 0

    def monotonic_ms(self) -> int:
        return self.ms


async def _no_heads(_: object) -> dict[object, int]:
    return {}


def last_back_s(devices: int, per_s: int, rng: random.Random) -> float:
    """When the last of the herd has shaken hands, in seconds after the start of the new process."""
    clock = ModelClock()
    door = Door(hub=Hub(clock, rng, _no_heads), clock=clock, handshakes=Bucket(per_s, per_s))  # type: ignore[arg-type]
    clients = [Redial(restarts=True, asked_s=rng.uniform(0, STAGES.reconnect_s)) for _ in range(devices)]
    tries = [(client.delay_s(rng, None) - AWAY_S, n) for n, client in enumerate(clients)]
    heapq.heapify(tries)
    at_s = 0.0
    while tries:
        at_s, n = heapq.heappop(tries)
        told_s = None
        if at_s >= 0:
            clock.ms = int(at_s * 1000)
            try:
                door.check_handshakes()
            except Problem as problem:
                told_s = problem.drawn_s(rng)
            else:
                continue
        heapq.heappush(tries, (at_s + clients[n].delay_s(rng, told_s), n))
    return at_s


@pytest.mark.parametrize(
    ("devices", "per_s"), [(300, 500), (300, 200), (300, 10), (1000, 5), (2000, 100), (10_000, 500), (10_000, 200)]
)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_last_of_a_herd_is_back_before_it_is_told_offline(devices: int, per_s: int, seed: int) -> None:
    allowed_ms = Rhythm().linger_restart_ms + herd_ms(devices, per_s=per_s)
    assert last_back_s(devices, per_s, random.Random(seed)) * 1000 < allowed_ms


def test_a_herd_that_fits_through_the_door_at_once_has_no_more_time_than_one_device() -> None:
    assert herd_ms(1, per_s=500) == herd_ms(500, per_s=500) == 0
    assert herd_ms(10_000, per_s=200) == 80_000
