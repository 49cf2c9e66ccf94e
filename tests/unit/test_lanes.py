"""Who is served first by a writer that has more to do than it can, and who is refused (safety OVL-4)."""

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Unavailable
from relay.store.engine import GROUP_MAX, Job
from relay.store.lanes import OTHERS_MAX, SENDS_MAX, Lanes

NOBODY = cast(Any, None)


def job(name: object, *, is_send: bool) -> Job:
    return Job(None, name, batched=True, future=NOBODY, is_send=is_send)


def filled(sends: int, others: int) -> Lanes:
    lanes = Lanes()
    for number in range(sends):
        lanes.put(job(number, is_send=True))
    for number in range(others):
        lanes.put(job(number, is_send=False))
    return lanes


@given(st.integers(0, 600), st.integers(0, 600))
def test_each_lane_comes_in_its_order_and_nothing_is_left_out(sends: int, others: int) -> None:
    lanes, taken = filled(sends, others), list[Job]()
    while jobs := lanes.take():
        assert len(jobs) <= GROUP_MAX
        taken += jobs
    assert [one.item for one in taken if one.is_send] == list(range(sends))
    assert [one.item for one in taken if not one.is_send] == list(range(others))
    assert len(lanes) == 0


@given(st.integers(1, 600), st.integers(1, 600))
def test_what_is_no_send_goes_first_and_sends_have_a_share_all_the_same(sends: int, others: int) -> None:
    jobs = filled(sends, others).take()
    kinds = [one.is_send for one in jobs]
    assert kinds == sorted(kinds)
    assert kinds.count(False) == others or kinds.count(False) >= GROUP_MAX * 3 // 4
    assert kinds.count(True) >= min(sends, GROUP_MAX // 4)
    assert len(jobs) == min(GROUP_MAX, sends + others)


def test_a_flood_of_sends_is_refused_and_acks_have_room() -> None:
    lanes = filled(SENDS_MAX, 0)
    with pytest.raises(Unavailable) as refused:
        lanes.put(job("one more", is_send=True))
    assert refused.value.code == "overloaded"
    lanes.put(job("an ack", is_send=False))
    assert lanes.take()[0].item == "an ack"


def test_the_other_lane_has_its_bound_too() -> None:
    lanes = filled(0, OTHERS_MAX)
    with pytest.raises(Unavailable):
        lanes.put(job("one more", is_send=False))


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_worker_that_takes_one_at_a_time_serves_both(sends: int, others: int) -> None:
    """PostgreSQL's: of four turns one is a send's."""
    lanes, taken = filled(sends, others), list[bool]()
    while len(lanes):
        taken.append(lanes.turn().popleft().is_send)
    both = min(sends * 4, others * 4 // 3)  # so long both lanes wait
    assert taken[:both].count(True) == both // 4
    assert len(taken) == sends + others
