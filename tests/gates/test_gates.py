"""The gates of a release are those that safety §0 asks for, and not the short ones of a change."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def shown(size: str) -> dict[str, str]:
    """The commands of a size, by their names."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.gates", size, "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split(": ", 1) for line in done.stderr.splitlines())


@pytest.mark.parametrize("size", ["nightly", "release"])
def test_at_length_nothing_is_only_sampled(size: str) -> None:
    gates = shown(size)
    assert gates["simulation"].endswith(" --strict")
    assert "RELAY_OVERLOAD_SHARE=0.8 " in gates["overload"]
    assert "RELAY_EVERY=1 " in gates["io-errors"]
    assert "RELAY_ROUNDS=1 " not in gates["kill-points"]


def test_a_change_waits_for_the_shape_of_it() -> None:
    gates = shown("change")
    assert not gates["simulation"].endswith(" --strict")
    assert "RELAY_OVERLOAD_S=2 RELAY_OVERLOAD_SHARE=0.3 " in gates["overload"]
    assert "RELAY_KILLS=30 " in gates["kill"]
    assert "--images 2000" in gates["power-cut"]
