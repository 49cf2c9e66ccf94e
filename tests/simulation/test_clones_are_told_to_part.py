"""Two phones of one backup, both in use: they take each other's place, lose nothing, and are told to part (F51)."""

import pytest

from .faults import KINDS
from .run import Result, simulate
from .scenario import Scenario


def cloned() -> Result:
    """A run in which a phone is cloned, and both are looked at again and again."""
    without = tuple(kind for kind in KINDS if kind != "cloned")
    return simulate(Scenario(seed=46, minutes=12, users=2, devices=2, send_s=10, away_s=20, stay_s=10, without=without))


def test_f51_clones_that_take_turns_are_told_to_part_and_complete_all_the_same() -> None:
    result = cloned()
    assert result.error is None
    assert result.story.counts["reidentify"]


def test_f51_a_relay_that_tells_no_clone_to_part_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.inbox.clones.are_two", lambda *_: False)
    assert "F51" in str(cloned().error)
