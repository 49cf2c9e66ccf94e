"""The catalogue fits the code as it stands, and a bug that is planted is really noticed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from tests.planted.bug import Bug  # noqa: E402
from tests.planted.catalogue import BUGS  # noqa: E402


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_each_bug_can_be_planted_and_has_tests_that_exist(bug: Bug) -> None:
    for text in bug.texts(PROJECT).values():
        ast.parse(text)
    for test in bug.tests:
        path, _, name = test.partition("::")
        assert (PROJECT / path).exists(), test
        assert not name or f"def {name}(" in (PROJECT / path).read_text(), test


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    assert len({bug.name.split()[0] for bug in BUGS}) == len(BUGS) >= 30


def test_a_planted_bug_is_noticed() -> None:
    """One quick one in every run; all of them with `python -m tests.planted`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.planted", "--only", "P18", "--no-healthy"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 killed" in done.stdout
