"""Whatever a seed brings upon the relay, no message is lost and every delivery has one end (protocol §17, safety §3).

A sample that fits into a normal test run; RELAY_SEEDS is its size. Long series: `python -m tests.simulation --seeds 1000
--hours 1`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .faults import EVENTS, KINDS, SITES
from .run import simulate
from .scenario import Scenario, calm, drawn

SEEDS = range(int(os.environ.get("RELAY_SEEDS", "12")))
MINUTES = 10
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_whatever_the_seed_brings(seed: int) -> None:
    """F100: everything at once; `python -m tests.simulation` runs as many hours as one likes."""
    result = simulate(drawn(seed, minutes=MINUTES), keep=False)

    assert result.error is None, f"{result.error} (python -m tests.simulation --seed {seed} --hours {MINUTES / 60})"
    assert result.story.counts["accepted"] > 0


def test_a_quiet_afternoon_holds() -> None:
    result = simulate(calm(1, minutes=120), keep=False)

    assert result.error is None, f"{result.error} (python -m tests.simulation --calm --seed 1 --hours 2)"
    assert result.story.counts["accepted"] > 0


def test_a_world_without_faults_needs_no_second_try() -> None:
    result = simulate(Scenario(seed=1, minutes=10, without=KINDS, shuffle=False))

    assert result.error is None
    assert not result.fired


@pytest.mark.parametrize(
    ("first", "rates"),
    [(0, {}), (1, {kind: (low + high) / 2 for kind, (low, high) in (SITES | EVENTS).items()})],
    ids=["as drawn", "every kind of fault"],
)
def test_the_same_seed_gives_the_same_history_in_any_process(first: int, rates: dict[str, float]) -> None:
    """No set, no hash and no address may decide what happens next (SIM-11)."""
    command = [sys.executable, "-m", "tests.simulation", "--first", str(first), "--seeds", "2", "--hours", "0.1"]
    command += ["--hash-only", *(word for kind, rate in rates.items() for word in ("--rate", kind, str(rate)))]
    told = [
        subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]

    assert told[0] == told[1]
    assert len(set(told[0].split())) == 4
