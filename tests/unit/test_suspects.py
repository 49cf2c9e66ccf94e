"""How carefully pushes are taken that processes died with (safety FLT-23)."""

from hypothesis import given
from hypothesis import strategies as st

from relay.push.suspects import TOGETHER_MAX, may_join

LOST = st.integers(1, 6)


def admitted(waiting: list[int]) -> list[int]:
    """Who is in flight, if all these come one after the other and none ends."""
    beside: list[int] = []
    for lost in waiting:
        if may_join(lost, beside):
            beside.append(lost)
    return beside


@given(st.lists(LOST, max_size=60))
def test_the_longest_under_suspicion_decides_how_many_there_are(waiting: list[int]) -> None:
    beside = admitted(waiting)
    assert len(beside) <= {0: 0, 1: TOGETHER_MAX, 2: 4}.get(max(beside, default=0), 1)


@given(LOST)
def test_when_nobody_is_in_flight_anybody_may_come(lost: int) -> None:
    assert may_join(lost, [])


@given(st.lists(LOST, max_size=20))
def test_from_the_third_time_on_it_is_alone(waiting: list[int]) -> None:
    beside = admitted(waiting)
    assert len(beside) <= 1 or all(lost < 3 for lost in beside)
