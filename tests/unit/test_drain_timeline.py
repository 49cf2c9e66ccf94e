"""The stages of a planned stop share the operator's time as the page does (safety OPS-1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.wiring.departure import timeline

seconds = st.floats(0, 600)


def test_with_the_page_s_numbers_it_is_the_page_s_timeline() -> None:
    stages = timeline(drain_s=28, quiet_s=5)
    assert (stages.quiet_s, stages.close_s, stages.reconnect_s) == (5, 10, 15)
    assert stages.quiet_s + stages.finish_s == 20
    assert stages.last_s == 8


@given(seconds, seconds)
def test_all_stages_together_take_exactly_the_time_that_was_given(drain_s: float, quiet_s: float) -> None:
    stages = timeline(drain_s=drain_s, quiet_s=quiet_s)
    assert stages.quiet_s + stages.finish_s + stages.last_s == pytest.approx(drain_s)
    assert 0 <= stages.close_s <= stages.finish_s
    assert min(stages.quiet_s, stages.reconnect_s, stages.last_s) >= 0


def test_who_has_no_time_leaves_at_once() -> None:
    stages = timeline(drain_s=0, quiet_s=5)
    assert stages.quiet_s == stages.close_s == stages.finish_s == stages.last_s == 0
