"""Phones that are upgraded compare what they have with the relay as the SDK does, and lack nothing (protocol 10.4)."""

from .run import simulate
from .scenario import drawn

OFTEN = 12  # a seed whose phones are upgraded again and again, and one of which loses rows


def test_upgraded_phones_compare_and_some_have_to_fetch() -> None:
    result = simulate(drawn(OFTEN, minutes=12))

    assert result.error is None
    proofs = [line for line in result.story.lines if " proved " in line]
    assert any(" upgrade ok " in line for line in proofs)
    assert any(" upgrade repaired " in line for line in proofs)
