"""The heartbeat that a client and the relay agree on (protocol 6.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.presence.rules import CALM_LOOKS, INTERVAL_MAX_S, INTERVAL_MIN_S, LATE_S, Pace, negotiate

offers = st.floats(0, 100_000)


@pytest.mark.parametrize(
    ("min_s", "max_s", "prefer_s", "interval_s"),
    [
        (15, 300, 30, 30),
        (15, 300, 5, 15),
        (15, 300, 900, 300),
        (1, 300, 1, 10),
        (15, 9000, 9000, 600),
        (60, 30, 30, 60),  # bounds that cross: the longer one
        (4000, 5000, 5000, 600),  # never beyond what the relay can promise
    ],
)
def test_the_interval_is_what_the_client_prefers_within_both_sides_bounds(
    min_s: float, max_s: float, prefer_s: float, interval_s: int
) -> None:
    beat = negotiate(min_s=min_s, max_s=max_s, prefer_s=prefer_s, factor=2.5)
    assert (beat.interval_s, beat.lease_s) == (interval_s, interval_s * 2.5)


@given(offers, offers, offers, st.floats(2, 4))
def test_no_offer_leaves_the_relays_bounds(min_s: float, max_s: float, prefer_s: float, factor: float) -> None:
    beat = negotiate(min_s=min_s, max_s=max_s, prefer_s=prefer_s, factor=factor)
    assert INTERVAL_MIN_S <= beat.interval_s <= INTERVAL_MAX_S
    assert beat.lease_s == beat.interval_s * factor


@given(st.floats(10, 600), st.floats(10, 600), st.floats(10, 600))
def test_under_load_the_interval_is_never_shorter_than_asked(prefer_s: float, max_s: float, at_least_s: float) -> None:
    beat = negotiate(min_s=10, max_s=max_s, prefer_s=prefer_s, factor=2.5, at_least_s=at_least_s)
    assert beat.interval_s >= int(at_least_s)


def test_a_relay_that_does_not_keep_up_asks_for_fewer_heartbeats_until_it_does() -> None:
    pace = Pace(30)
    asked = []
    for late_s in [0, LATE_S, LATE_S, 10, 10, 10, 10]:
        pace.looked(late_s)
        asked.append(pace.at_least_s)
    assert asked == [0, 60, 120, 240, 480, 600, 600]
    for _ in range(CALM_LOOKS - 1):
        pace.looked(0)
    assert pace.at_least_s == 600, "a moment of calm proves nothing"
    pace.looked(0)
    assert pace.at_least_s == 300
    for _ in range(3 * CALM_LOOKS + 1):
        pace.looked(0)
    assert pace.at_least_s == 37.5
    for _ in range(CALM_LOOKS):
        pace.looked(0)
    assert pace.at_least_s == 0


def test_somewhere_in_between_it_asks_for_what_it_asked() -> None:
    pace = Pace(30)
    pace.looked(LATE_S)
    for _ in range(100):
        pace.looked(LATE_S / 2)
    assert pace.at_least_s == 60
