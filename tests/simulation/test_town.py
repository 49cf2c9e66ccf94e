"""Whatever a seed brings upon the relay, an ultra group loses nothing, shows nobody what is not its, and wakes who sleeps."""

import os

import pytest
from msgspec.structs import replace

from .faults import KINDS
from .run import simulate
from .scenario import NOT_IN_TOWN, Scenario, drawn

SEEDS = range(int(os.environ.get("RELAY_SEEDS", "12")) // 2)
MINUTES = 10


@pytest.mark.parametrize("seed", SEEDS)
def test_an_ultra_group_loses_nothing_whatever_the_seed_brings(seed: int) -> None:
    result = simulate(
        replace(drawn(seed, minutes=MINUTES), devices=6, users=3, town=True, without=NOT_IN_TOWN), keep=False
    )

    assert result.error is None, result.error


def test_without_faults_it_needs_no_second_try() -> None:
    result = simulate(Scenario(seed=1, minutes=10, send_s=5, town=True, without=KINDS, shuffle=False))

    assert result.error is None
