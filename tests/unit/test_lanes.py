"""Who is served first by a writer that has more to do than it can, and who is refused (safety DUR-7, OVL-4)."""

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Unavailable
from relay.store.engine import GROUP_BYTES, GROUP_MAX, Job
from relay.store.lanes import LANE_BYTES, OTHERS_MAX, SENDS_MAX, Lanes

NOBODY = cast(Any, None)


def job(name: object, *, is_send: bool, work: object = None, batched: bool = True, size: int = 0) -> Job:
    return Job(work, name, batched=batched, future=NOBODY, is_send=is_send, size=size)


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
    lanes, taken = Lanes(), list[bool]()
    for number in range(sends + others):
        lanes.put(job(number, is_send=number < sends, batched=False))
    while len(lanes):
        taken += [one.is_send for one in lanes.take_alike()]
    both = min(sends * 4, others * 4 // 3)  # so long both lanes wait
    assert taken[:both].count(True) == both // 4
    assert len(taken) == sends + others


MIB = 1024 * 1024


@pytest.mark.parametrize("takes", [Lanes.take, Lanes.take_alike])
@given(sizes=st.lists(st.integers(0, 5 * MIB), max_size=30))
def test_a_commit_ends_before_four_mib_and_what_is_larger_goes_alone(takes: Any, sizes: list[int]) -> None:
    lanes, taken = Lanes(), list[int]()
    for number, size in enumerate(sizes):
        if sum(sizes[: number + 1]) > LANE_BYTES:
            break
        lanes.put(job(number, is_send=True, size=size))
    waiting = len(lanes)
    while len(lanes):
        group = takes(lanes)
        assert len(group) == 1 or sum(one.size for one in group) <= GROUP_BYTES
        taken += [one.item for one in group]
    assert taken == list(range(waiting))


def test_others_of_a_commit_leave_less_room_for_sends_in_bytes_too() -> None:
    lanes = Lanes()
    lanes.put(job("a send", is_send=True, size=2 * MIB))
    lanes.put(job("another", is_send=False, size=3 * MIB))
    assert [one.item for one in lanes.take()] == ["another"]
    assert [one.item for one in lanes.take()] == ["a send"]


@pytest.mark.parametrize("takes", [Lanes.take, Lanes.take_alike])
def test_sends_of_more_than_64_mib_are_refused_until_some_are_taken(takes: Any) -> None:
    lanes = Lanes()
    for number in range(16):
        lanes.put(job(number, is_send=True, size=4 * MIB))
    assert lanes.fill() == 1
    assert lanes.queues()["store_sends_bytes"] == (64 * MIB, 64 * MIB)
    assert lanes.queues()["store_sends"] == (16, 4096)
    with pytest.raises(Unavailable) as refused:
        lanes.put(job("one more", is_send=True, size=1))
    assert refused.value.code == "overloaded"
    lanes.put(job("an ack", is_send=False))
    while not any(one.is_send for one in takes(lanes)):
        pass
    lanes.put(job("one more", is_send=True, size=4 * MIB))


def test_a_worker_takes_together_what_is_for_the_same_work_and_leaves_the_rest_in_order() -> None:
    lanes = Lanes()
    for number, work in enumerate("abacba"):
        lanes.put(job(number, is_send=False, work=work, batched=work != "c"))
    assert [[one.item for one in lanes.take_alike()] for _ in range(3)] == [[0, 2, 5], [1, 4], [3]]
