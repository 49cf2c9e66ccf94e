"""A vendor's days and hours."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.push.calendar import Hours, day_of, next_day_ms, offset

SHANGHAI = offset("+08:00")
DAY_MS = 86_400_000


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def test_a_day_is_the_vendor_s_own() -> None:
    evening = at("2026-11-26T17:30:00")
    assert day_of(evening, SHANGHAI) == "2026-11-27"
    assert day_of(evening, UTC) == "2026-11-26"
    assert next_day_ms(evening, SHANGHAI) == at("2026-11-27T16:00:00")


@pytest.mark.parametrize(
    ("hours", "now", "opens"),
    [
        ("07:00-23:00", "2026-11-26T02:00:00", "2026-11-26T02:00:00"),  # 10:00 there
        ("07:00-23:00", "2026-11-26T15:00:00", "2026-11-26T23:00:00"),  # 23:00: shut until 07:00
        ("07:00-23:00", "2026-11-25T20:00:00", "2026-11-25T23:00:00"),  # 04:00
        ("22:00-06:00", "2026-11-26T15:00:00", "2026-11-26T15:00:00"),  # 23:00
        ("22:00-06:00", "2026-11-25T22:00:00", "2026-11-26T14:00:00"),  # 06:00
        ("00:00-24:00", "2026-11-26T15:59:59", "2026-11-26T15:59:59"),
    ],
)
def test_hours_open_and_shut_by_the_vendor_s_clock(hours: str, now: str, opens: str) -> None:
    assert Hours.parse(hours).opens_ms(at(now), SHANGHAI) == at(opens)


@pytest.mark.parametrize("text", ["7-23", "07:00-07:00", "24:00-07:00", "07:60-08:00", "07:00-24:30", ""])
def test_no_span_of_a_day_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="07:00-23:00"):
        Hours.parse(text)


@given(
    st.integers(0, 1439), st.integers(0, 1440), st.integers(0, 4_000_000_000_000), st.sampled_from(["-11:30", "+08:00"])
)
def test_it_opens_within_a_day_and_is_open_then(begin: int, end: int, now_ms: int, zone: str) -> None:
    if begin == end:
        return
    hours, there = Hours(begin, end), offset(zone)
    opens_ms = hours.opens_ms(now_ms, there)
    assert now_ms <= opens_ms < now_ms + DAY_MS
    assert hours.opens_ms(opens_ms, there) == opens_ms
    assert now_ms < next_day_ms(now_ms, there) <= now_ms + DAY_MS
