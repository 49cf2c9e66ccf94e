"""When the event loop counts as standing still, and what is told of it (safety FLT-30)."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from relay.telemetry.watchdog import Heart, stack

BEAT_MS = 250


def looks(heart: Heart, *, begin_ms: int, end_ms: int) -> list[int]:
    """What the watching thread tells, that looks four times a second."""
    return [told for now_ms in range(begin_ms, end_ms, BEAT_MS) if (told := heart.look(now_ms))]


def test_a_standstill_is_told_after_one_second_five_and_thirty() -> None:
    assert looks(Heart(0), begin_ms=BEAT_MS, end_ms=120_000) == [1_000, 5_000, 30_000]


def test_a_second_standstill_is_told_like_the_first() -> None:
    heart = Heart(0)
    assert looks(heart, begin_ms=BEAT_MS, end_ms=1_500) == [1_000]
    assert heart.beat(1_500) == 1_500
    assert looks(heart, begin_ms=1_500, end_ms=3_500) == [1_000]


def test_a_process_that_was_stopped_as_a_whole_has_not_blocked_its_loop() -> None:
    """SIGSTOP, or a machine that was paused: the thread slept as well."""
    heart = Heart(0)
    assert heart.look(60_000) == 0
    assert heart.beat(60_001) == 60_001, "it stood still all the same"


def test_after_five_seconds_it_is_not_well_and_for_five_more_when_it_turns_again() -> None:
    heart = Heart(0)
    assert heart.well(4_999)
    assert not heart.well(5_000)
    heart.beat(8_000)
    for now_ms in range(8_000, 13_000, BEAT_MS):
        heart.beat(now_ms)
        assert not heart.well(now_ms)
    heart.beat(13_000)
    assert heart.well(13_000)


@given(st.lists(st.integers(1, 999), min_size=1))
def test_turns_within_a_second_are_no_standstill(pauses_ms: list[int]) -> None:
    heart, now_ms = Heart(0), 0
    for pause_ms in pauses_ms:
        now_ms += pause_ms
        assert heart.look(now_ms) == 0
        assert heart.beat(now_ms) == 0
        assert heart.well(now_ms)


def test_the_stack_names_places_and_no_values() -> None:
    secret = "the body of a message"
    places = stack(sys._getframe())
    first, second = places.split(" < ")[:2]
    assert first.startswith("test_watchdog.py:")
    assert first.endswith(" test_the_stack_names_places_and_no_values")
    assert second.startswith("python.py:")
    assert secret not in places
