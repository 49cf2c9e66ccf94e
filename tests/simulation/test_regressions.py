"""Scenarios that failed once, each made small and kept (safety SIM-12): they hold, and go on holding.

After a failure: `python -m tests.simulation` has made it smaller and written the scenario; mend the relay; move the file into
`regressions`, under the name of what was wrong.
"""

from pathlib import Path

import pytest

from .run import simulate
from .scenario import read

PATHS = sorted(Path(__file__).with_name("regressions").glob("*.json"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_failed_once_holds(path: Path) -> None:
    result = simulate(read(path), keep=False)

    assert result.error is None, f"{result.error} (python -m tests.simulation --replay {path})"
    assert result.story.counts["accepted"] > 0


def test_some_are_kept() -> None:
    assert PATHS
