"""How long to wait before the next try."""

import random


def backoff_ms(attempt: int, *, first_ms: int, limit_ms: int, rng: random.Random) -> int:
    """Random between half and all of first · 2^(attempt-1), never above the limit. Attempts count from 1."""
    assert attempt >= 1
    ceiling_ms = min(limit_ms, first_ms << min(attempt - 1, 32))
    return rng.randint(ceiling_ms // 2, ceiling_ms)


def around(value: float, *, share: float, rng: random.Random) -> float:
    """`value` ± `share` of it, evenly: for periods that many nodes or clients must not keep in step."""
    return value * rng.uniform(1 - share, 1 + share)
