"""A series in which hardly anything happened proves nothing, and says so (safety SIM-9)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .faults import KINDS
from .goals import TIMES_MIN, missed

ROOT = Path(__file__).parents[2]
SHORT = ("--seed", "0", "--hours", "0.01")


def test_every_kind_of_fault_must_have_struck_a_hundred_times() -> None:
    enough = dict.fromkeys(KINDS, TIMES_MIN)
    assert missed(enough) == []
    assert missed(enough | {"storm": TIMES_MIN - 1}) == ["storm (99)"]
    del enough["node_crash"]
    assert missed(enough) == ["node_crash (0)"]


@pytest.mark.parametrize(("words", "code"), [((), 0), (("--strict",), 1)])
def test_a_quiet_series_fails_if_it_was_to_be_a_proof(words: tuple[str, ...], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *SHORT, *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "1 runs hold" in done.stderr
    assert "never or hardly seen: " in done.stderr
