"""Steps in place of reminders (protocol 7.5): when each is due, and what of a message with steps the planner sends."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inbox_rows_made import NOW, device, job
from msgspec.structs import replace
from test_planner import BOTH, HOUR, address, drawn, item, ripened, sent, situation, view

from relay.inbox.escalation import Step, described, due, from_store, next_ms, to_store
from relay.inbox.push_due import Later, Rest
from relay.model import DeviceState
from relay.push.notes import Form
from relay.push.planner import TRIES_PER_ADDRESS, Send, Stop, plan
from relay.push.situation import Item, Situation, Wait

CHAIN = (*BOTH, address("x"))
V, W, X = (("v", b"v"), ("w", b"w"), ("x", b"x"))
FREE = {"v": view(), "w": view(), "x": view()}


# --- deadlines --------------------------------------------------------------------------------------------------------

chains = st.lists(st.integers(10, 100_000), min_size=1, max_size=5, unique=True).map(
    lambda seconds: tuple(Step(one, "webhook" if one % 2 else "next_address") for one in sorted(seconds))
)


@given(chains, st.lists(st.integers(0, 50_000_000), max_size=8))
def test_each_step_is_taken_once_in_order_and_never_before_its_deadline(
    steps: tuple[Step, ...], waits: list[int]
) -> None:
    taken: list[Step] = []
    now_ms = NOW
    for wait_ms in waits:
        now_ms += wait_ms
        some = due(steps, len(taken), NOW, now_ms)
        assert all(NOW + step.after_s * 1000 <= now_ms for step in some)
        taken += some
        following = next_ms(steps, len(taken), NOW)
        assert following is None or following > now_ms, "nothing that is due was left"
        assert (following is None) == (len(taken) == len(steps))
    assert taken == list(steps[: len(taken)])


@given(chains)
def test_steps_come_back_from_the_store_as_they_were(steps: tuple[Step, ...]) -> None:
    assert from_store(to_store(steps)) == steps


def test_the_trace_says_of_each_step_what_became_of_it() -> None:
    steps = (Step(60, "next_address"), Step(300, "webhook"))
    assert [one["state"] for one in described(steps, 1, NOW, over=False)] == ["done", "waiting"]
    assert [one["state"] for one in described(steps, 1, NOW, over=True)] == ["done", "not_needed"]


# --- the planner ------------------------------------------------------------------------------------------------------


def stepping(seq: int, **more: Any) -> Item:
    return item(seq, **({"escalated": 1} | more))


def step(*told: Item, **more: Any) -> Situation:
    """A step is due of what was told."""
    high = max(one.entry.seq for one in told)
    values: dict[str, Any] = {"job": job(escalate_seq=high), "addresses": CHAIN, "accounts": FREE, "told_last": V}
    return situation(**({"told": told, "upto_seq": high} | values | more))


@pytest.mark.parametrize(
    ("told_last", "account", "form"),
    [
        (V, "w", Form.ESCALATE),
        (W, "x", Form.ESCALATE),
        (X, "x", Form.REPEAT),  # there is no next one
        (None, "v", Form.ESCALATE),
        (("v", b"an earlier token"), "v", Form.ESCALATE),  # nobody was told by the chain of today
    ],
)
def test_it_goes_beyond_the_address_that_was_told_last(
    told_last: tuple[str, bytes] | None, account: str, form: str
) -> None:
    found = sent(step(stepping(1), told_last=told_last))
    assert (found.address.account, found.form) == (account, form)
    assert [note.push_id for note in found.notes] == ["m1"]


def test_with_one_address_it_is_a_plain_repeat() -> None:
    found = sent(step(stepping(1), addresses=(address("v"),)))
    assert (found.address.account, found.form) == ("v", Form.REPEAT)


def test_what_there_was_no_time_for_goes_where_the_step_began() -> None:
    going_on = job(escalate_seq=3, escalate_after=1, escalate_on=1)
    found = sent(step(stepping(1), stepping(2), stepping(3), job=going_on, told_last=W))
    assert ([note.push_id for note in found.notes], found.from_seq) == (["m2", "m3"], 2)
    assert (found.address.account, found.form) == ("w", Form.ESCALATE)


def test_one_that_fails_again_and_again_gives_its_turn_to_the_next_one_after_it() -> None:
    tries = [sent(step(stepping(1), job=job(escalate_seq=1, tries=n * TRIES_PER_ADDRESS))) for n in range(3)]
    assert [one.address.account for one in tries] == ["w", "x", "w"]


def test_what_has_steps_is_not_knocked_for() -> None:
    late = {"upto_seq": 2, "job": job(told_ms=NOW - HOUR)}
    assert plan(situation(told=(stepping(1), stepping(2)), **late)) == Stop(reason=Rest.TOLD)
    found = sent(situation(told=(item(1), stepping(2)), **late))
    assert (found.form, found.notes[0].ids) == (Form.KNOCK, ("m1",))


def test_a_step_counts_nothing_as_told_that_was_not() -> None:
    found = sent(step(stepping(3), untold=(item(5, accepted_ms=NOW),), untold_count=1, upto_seq=5))
    assert (found.from_seq, found.upto_seq) == (3, 3)


def test_an_urgent_step_does_not_wait_for_what_must_wait() -> None:
    night = {"untold": (item(5),), "untold_count": 1, "upto_seq": 5, "quiet_until_ms": NOW + HOUR}
    assert sent(step(stepping(3, priority="urgent"), **night)).upto_seq == 3
    assert plan(step(stepping(3), **night)) == Wait(at_ms=NOW + HOUR, reason=Later.QUIET_HOURS)


def test_a_device_that_is_just_here_gets_its_time_to_ack() -> None:
    here = device(online_since_ms=NOW - 4_000)
    assert plan(step(stepping(1), device=here)) == Wait(at_ms=NOW + 6_000, reason=Later.ONLINE)


def test_a_dormant_device_is_told_too() -> None:
    assert sent(step(stepping(1), device=device(state=DeviceState.DORMANT))).form == Form.ESCALATE


def test_a_parked_account_holds_a_step_until_it_is_mended() -> None:
    found = plan(step(item(1), stepping(2), accounts={name: view(parked=True) for name in FREE}))
    assert found == Stop(reason=Rest.ACCOUNT_PARKED)


def drawn_step(seed: int) -> Situation:
    """Any situation, some of whose told items have a step due; the rest of it may be about something newer."""
    s, more = drawn(seed), drawn(seed + 1)
    told = tuple(replace(one, entry=replace(one.entry, escalated=one.entry.seq % 2 or None)) for one in more.told)
    above = max((one.entry.seq for one in told), default=0)
    untold = tuple(replace(one, entry=replace(one.entry, seq=one.entry.seq + above)) for one in s.untold)
    s = replace(
        s,
        told=told,
        untold=untold,
        upto_seq=max((one.entry.seq for one in untold), default=above),
        job=replace(s.job, escalate_seq=seed % (above + 2)),
        device=replace(s.device, acked_high=0),
    )
    return ripened(s) if seed % 3 else s


@settings(max_examples=500)
@given(st.integers(0, 2**32).map(drawn_step))
def test_a_step_tells_of_what_has_one_due_and_of_nothing_else(s: Situation) -> None:
    found = plan(s)
    stepping_ids = {
        one.entry.message_id for one in s.told if one.entry.escalated and one.entry.seq <= s.job.escalate_seq
    }
    if isinstance(found, Send) and found.steps_upto:
        assert {id_ for note in found.notes for id_ in note.ids} <= stepping_ids
        assert found.steps_upto == s.job.escalate_seq
        assert found.upto_seq <= s.job.escalate_seq
        assert s.job.retry_ms is None or s.job.retry_ms <= s.now_ms
        assert s.device.state is not DeviceState.GONE
    if isinstance(found, Send) and found.form == Form.KNOCK:
        with_steps = {one.entry.message_id for one in s.told if one.entry.escalated is not None}
        assert not with_steps & {id_ for note in found.notes for id_ in note.ids}
    if isinstance(found, Wait):
        assert found.at_ms > s.now_ms
