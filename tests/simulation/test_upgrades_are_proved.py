"""Phones that are upgraded compare what they have with the relay as the SDK does, and lack nothing (protocol 10.4)."""

import pytest

from . import faults
from .faults import KINDS
from .run import Result, simulate
from .scenario import Scenario


def test_upgraded_phones_compare_and_some_have_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phones that are upgraded again and again, and lose rows even more often."""
    monkeypatch.setattr(faults, "SHARE_ON", 1.0)
    monkeypatch.setitem(faults.EVENTS, "upgrade", (40, 40))  # an hour
    monkeypatch.setitem(faults.EVENTS, "rotten", (60, 60))
    without = tuple(kind for kind in KINDS if kind not in {"upgrade", "rotten"})
    result = simulate(Scenario(seed=5, minutes=12, users=3, devices=6, send_s=5, away_s=60, without=without))

    assert result.error is None
    proofs = [line for line in result.story.lines if " proved " in line]
    assert any(" upgrade ok " in line for line in proofs)
    assert any(" upgrade repaired " in line for line in proofs)


def test_what_was_sent_in_a_phones_name_is_fetched_before_it_compares_and_is_no_loss() -> None:
    """8.7, 12.3: nothing here loses a row, so each upgrade is `ok`."""
    without = tuple(kind for kind in KINDS if kind not in {"upgrade", "answer_lost"})
    result = simulate(Scenario(seed=28, minutes=12, users=3, devices=3, send_s=5, away_s=60, without=without))

    assert result.error is None
    fetched = {line.split()[1] for line in _told(result, "own") if len(line.split()) > 2}
    proved = {line.split()[1]: line.split()[3] for line in _told(result, "proved")}
    assert fetched & set(proved)
    assert set(proved.values()) == {"ok"}


def _told(result: Result, what: str) -> list[str]:
    return [line[line.index(f"{what} ") :] for line in result.story.lines if f" {what} " in line]
