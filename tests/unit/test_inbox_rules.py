"""What an inbox decides, table by table: who sees an entry, when a push is due, what a cursor is worth."""

import dataclasses
from functools import partial
from itertools import pairwise
from typing import Any

import inbox_rows_made
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inbox_rows_made import NOW, job
from msgspec.structs import replace

from relay.inbox import visibility
from relay.inbox.judging import Evidence, Reason, Verdict, judge
from relay.inbox.notifying import UserFacts, worth_telling
from relay.inbox.push_due import NOTHING, Later, Outstanding, Rest, rearm, waits_until
from relay.inbox.selective_acks import RANGES_MAX, Acks, above, merged
from relay.inbox.visibility import View, version_key, view
from relay.model import (
    Device,
    DeviceState,
    Entry,
    EntryState,
    Kind,
    NotifyPolicy,
    Policy,
    PushJob,
    Scope,
    Why,
)

POLICY = Policy()
SEC = 1000


device = partial(inbox_rows_made.device, acked_seq=10, acked_high=10, pushed_seq=10)


def online(**more: Any) -> Device:
    return device(**({"online_since_ms": NOW - 3600 * SEC} | more))


def entry(**more: Any) -> Entry:
    return inbox_rows_made.entry(**({"seq": 11} | more))


# --- who sees what ----------------------------------------------------------------------------------------------------

NEEDS_7 = {"min_schema": 7}
VIEWS = [
    ({}, {}, View.FULL),
    ({"only_device": "phone"}, {}, View.FULL),
    ({"only_device": "tablet"}, {}, View.NONE),
    ({"scope": Scope(devices=("phone",))}, {}, View.FULL),
    ({"scope": Scope(devices=("tablet",))}, {}, View.NONE),
    ({"scope": Scope(devices=("phone",))}, {"created_ms": NOW + 1}, View.NONE),  # it did not exist
    ({"scope": Scope(exclude_devices=("phone",))}, {}, View.NONE),
    ({"scope": Scope(platforms=("ios",))}, {"platform": "ios"}, View.FULL),
    ({"scope": Scope(platforms=("ios",))}, {"platform": "android"}, View.NONE),
    ({"scope": Scope(platforms=("ios",))}, {}, View.NONE),
    (NEEDS_7, {"schema": 7}, View.FULL),
    (NEEDS_7, {"schema": 6}, View.HELD),
    (NEEDS_7, {}, View.HELD),
    (NEEDS_7 | {"has_fallback": True}, {"schema": 6}, View.FALLBACK),
    (NEEDS_7 | {"hold": False}, {"schema": 6}, View.NONE),
    (NEEDS_7 | {"hold": False, "has_fallback": True}, {"schema": 6}, View.FALLBACK),
    ({"min_app_version": "5.10"}, {"app_version": "5.9"}, View.HELD),
    ({"min_app_version": "5.10"}, {"app_version": "5.10.1"}, View.FULL),
    ({"min_app_version": "5.10"}, {}, View.HELD),
    ({"kind": Kind.OWN, "origin_device": "phone", "origin_session": 5}, {}, View.OWN),
    ({"kind": Kind.OWN, "origin_device": "phone", "origin_session": 4}, {}, View.FULL),
    ({"kind": Kind.OWN, "origin_device": "tablet", "origin_session": 5}, {}, View.FULL),
]


@pytest.mark.parametrize(("about", "who", "seen"), VIEWS)
def test_how_a_device_sees_an_entry(about: dict[str, Any], who: dict[str, Any], seen: View) -> None:
    assert view(entry(**about), device(**who)) is seen


GAPS = [
    ({}, None),
    ({"state": EntryState.EXPIRED}, Why.EXPIRED),
    ({"state": EntryState.CANCELLED}, Why.CANCELLED),
    ({"state": EntryState.RECALLED}, Why.RECALLED),
    ({"state": EntryState.SUPERSEDED}, Why.SUPERSEDED),
    ({"state": EntryState.FAILED}, Why.QUARANTINED),
    ({"expires_ms": NOW}, Why.EXPIRED),  # the sweep is late; nothing stale is shown
    ({"scope": Scope(devices=("tablet",))}, Why.SCOPE),
    ({"min_schema": 7}, Why.HELD),
    ({"kind": Kind.OWN, "origin_device": "phone", "origin_session": 5}, Why.OWN),
]


@pytest.mark.parametrize(("about", "why"), GAPS)
def test_why_a_page_skips_an_entry(about: dict[str, Any], why: Why | None) -> None:
    one = entry(**about)
    assert visibility.gap_reason(one, visibility.view(one, device()), NOW) is why


def test_every_end_of_an_entry_and_every_lesser_view_has_a_word() -> None:
    assert set(visibility.ENDED_WHY) == set(EntryState) - {EntryState.LIVE}
    assert set(visibility.VIEW_WHY) == set(View) - {View.FULL, View.FALLBACK}


@pytest.mark.parametrize(
    ("lower", "higher"),
    [("5.9", "5.10"), ("5.4", "5.4.1"), ("5.4.beta", "5.4.0"), ("2.0.0", "10"), ("1.2-rc1", "1.2.0"), ("", "0")],
)
def test_versions_are_ordered_by_their_numbers(lower: str, higher: str) -> None:
    assert version_key(lower) < version_key(higher)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_two_versions_can_be_compared(one: str, other: str) -> None:
    assert (version_key(one) < version_key(other)) + (version_key(one) >= version_key(other)) == 1


# --- sets of acked numbers --------------------------------------------------------------------------------------------

seqs = st.lists(st.integers(1, 400), max_size=250)


@given(seqs, st.integers(0, 400))
def test_selective_acks_are_disjoint_ranges_and_at_most_64(what: list[int], passed: int) -> None:
    acks = Acks()
    for seq in what:
        acks = acks.adding([seq])
        assert len(acks.ranges) <= RANGES_MAX
        assert all(a[1] + 1 < b[0] for a, b in pairwise(acks.ranges))
    assert all(acks.reported(seq) for seq in what), "what was reported stays reported"
    assert {seq for seq in range(401) if acks.has(seq)} <= set(what)
    after = acks.passing(passed)
    assert [seq for seq in range(401) if after.has(seq)] == [s for s in range(passed + 1, 401) if acks.has(s)]
    again = acks.rewound(passed)
    assert again.ranges == (), "after a rewind everything is offered once more"
    assert all(again.reported(seq) for seq in what if seq > passed), "but not reported once more"


def test_of_more_than_64_ranges_the_lowest_are_offered_again() -> None:
    acks = Acks().adding(range(2, 2 + 2 * 70, 2))
    assert [acks.has(seq) for seq in (2, 12, 14, 140)] == [False, False, True, True]
    assert acks.reported(2)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)).map(lambda p: (p[0], p[0] + p[1]))), st.integers(0, 70)
)
def test_merging_and_cutting_ranges_keeps_their_numbers(ranges: list[tuple[int, int]], cut: int) -> None:
    numbers = {n for low, high in ranges for n in range(low, high + 1)}
    assert {n for low, high in merged(ranges) for n in range(low, high + 1)} == numbers
    assert {n for low, high in above(merged(ranges), cut) for n in range(low, high + 1)} == {
        n for n in numbers if n > cut
    }


# --- what is worth a notification -------------------------------------------------------------------------------------

TABLET = {"device_id": "tablet"}
IN_C = {"conversation_id": "c"}


def facts(*others: Device, read: int = 0, acks: dict[str, Acks] | None = None) -> UserFacts:
    return UserFacts(devices=(device(), *others), read={"c": read}, acks=acks or {})


LOOKS_AT_C = {"online_since_ms": NOW, "open_conversation": "c"}
WORTH = [
    ({}, {}, facts(), True),
    ({"notifiable": False}, {}, facts(), False),
    ({"state": EntryState.CANCELLED}, {}, facts(), False),
    ({"expires_ms": NOW}, {}, facts(), False),
    ({"min_schema": 7}, {}, facts(), False),
    ({"min_schema": 7, "has_fallback": True}, {}, facts(), True),
    ({"scope": Scope(devices=("tablet",))}, {}, facts(), False),
    (IN_C, LOOKS_AT_C, facts(), False),
    (IN_C, LOOKS_AT_C | {"background": 1}, facts(), True),
    (IN_C, LOOKS_AT_C | {"open_conversation": "d"}, facts(), True),
    (IN_C, {"open_conversation": "c"}, facts(), True),  # offline: nobody looks
    (IN_C, {}, facts(read=10), True),
    (IN_C, {}, facts(read=11), False),
    (IN_C | {"notify_policy": NotifyPolicy.EACH_DEVICE}, {}, facts(read=11), True),
    ({"notify_policy": NotifyPolicy.FIRST_DEVICE}, {}, facts(online(**TABLET, acked_high=10)), True),
    ({"notify_policy": NotifyPolicy.FIRST_DEVICE}, {}, facts(online(**TABLET, acked_high=11)), False),
    ({"notify_policy": NotifyPolicy.FIRST_DEVICE}, {}, facts(device(**TABLET, acked_high=11)), True),
    ({"notify_policy": NotifyPolicy.FIRST_DEVICE}, {}, facts(device(**TABLET, acked_high=11, seen_seq=10)), True),
    ({"notify_policy": NotifyPolicy.FIRST_DEVICE}, {}, facts(device(**TABLET, acked_high=11, seen_seq=11)), False),
    (
        {"notify_policy": NotifyPolicy.FIRST_DEVICE},
        {},
        facts(online(**TABLET), acks={"tablet": Acks(ranges=((11, 11),))}),
        False,
    ),
]


@pytest.mark.parametrize(("about", "who", "known", "worth"), WORTH)
def test_what_is_worth_telling(about: dict[str, Any], who: dict[str, Any], known: UserFacts, worth: bool) -> None:
    assert worth_telling(entry(**about), device(**who), known, POLICY, NOW) == worth


# --- until when a push waits (protocol 6.1) ---------------------------------------------------------------------------

LONG_AGO = NOW - 3600 * SEC
WAITS = [
    # device, (accepted, elsewhere, gateway), waits until, why
    (online(), {}, NOW + 10 * SEC, Later.ONLINE),
    (online(online_since_ms=NOW + 2 * SEC), {}, NOW + 12 * SEC, Later.ONLINE),
    (online(progress_ms=NOW + 5 * SEC), {}, NOW + 15 * SEC, Later.ONLINE),
    (
        online(progress_ms=NOW + 55 * SEC),
        {},
        NOW + 60 * SEC,
        Later.ONLINE,
    ),  # acks one by one do not put it off for ever
    (online(background=1), {}, NOW + 3 * SEC, Later.ONLINE),
    (online(), {"elsewhere": True}, NOW + 20 * SEC, Later.ONLINE),
    (online(progress_ms=NOW + 45 * SEC), {"elsewhere": True}, NOW + 60 * SEC, Later.ONLINE),
    (online(), {"gateway": True}, NOW + 10 * SEC, Later.ONLINE),
    (device(offline_since_ms=LONG_AGO), {}, NOW + 500, Later.DEBOUNCE),
    (device(), {}, NOW + 500, Later.DEBOUNCE),
    (device(), {"elsewhere": True}, NOW + 10_500, Later.ELSEWHERE),
    (device(state=DeviceState.DORMANT), {}, NOW + 500, Later.DEBOUNCE),
    (device(offline_since_ms=NOW, linger_until_ms=NOW + 5 * SEC), {}, NOW + 5 * SEC, Later.LINGER),
    (device(offline_since_ms=NOW, linger_until_ms=NOW + 100), {}, NOW + 500, Later.DEBOUNCE),
    (device(offline_since_ms=LONG_AGO, linger_until_ms=LONG_AGO + 5), {}, NOW + 500, Later.DEBOUNCE),
]


@pytest.mark.parametrize(("who", "how", "until_ms", "why"), WAITS)
def test_until_when_a_push_waits(who: Device, how: dict[str, Any], until_ms: int, why: Later) -> None:
    assert waits_until(who, accepted_ms=NOW, policy=POLICY, now_ms=NOW, **how) == (until_ms, why)


def test_an_app_that_trusts_its_gateway_is_told_by_it() -> None:
    trusting = dataclasses.replace(POLICY, trust_presence=True)
    until_ms, _ = waits_until(online(), accepted_ms=NOW, policy=trusting, now_ms=NOW, gateway=True)
    assert until_ms >= NOW + 86_400 * SEC
    assert waits_until(online(), accepted_ms=NOW, policy=trusting, now_ms=NOW) == (NOW + 10 * SEC, Later.ONLINE)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200), st.booleans(), st.booleans())
def test_nobody_online_is_waited_for_longer_than_the_cap(
    accepted: int, since: int, progress: int, elsewhere: bool, background: bool
) -> None:
    one = online(online_since_ms=NOW + since * SEC, progress_ms=NOW + progress * SEC, background=int(background))
    until_ms, _ = waits_until(one, accepted_ms=NOW + accepted * SEC, policy=POLICY, now_ms=NOW, elsewhere=elsewhere)
    assert until_ms <= NOW + max(accepted, since) * SEC + POLICY.ack_wait_max_ms


# --- rearm (protocol 6.4) ---------------------------------------------------------------------------------------------

UNTOLD = Outstanding(untold_ms=NOW, told=False)
TOLD = Outstanding(untold_ms=None, told=True)
HOUR = 3600 * SEC
GONE = DeviceState.GONE
REARMS = [
    # device, job, outstanding -> due, reason
    (device(state=GONE), job(due_ms=NOW), UNTOLD, None, Rest.GONE),
    (device(), job(due_ms=NOW), NOTHING, None, Rest.NOTHING_OWED),
    (device(has_address=0), job(), UNTOLD, None, Rest.NO_ADDRESS),
    (device(has_address=0), job(), TOLD, None, Rest.NO_ADDRESS),
    (device(), job(), UNTOLD, NOW + 500, Later.DEBOUNCE),
    (device(), job(retry_ms=NOW + 9000), UNTOLD, NOW + 9000, Later.BACKOFF),
    (device(), job(retry_ms=NOW + 100), UNTOLD, NOW + 500, Later.DEBOUNCE),
    (device(), job(told_ms=NOW), TOLD, NOW + HOUR, Later.KNOCK),
    (device(), job(told_ms=NOW, knock=1), TOLD, NOW + 6 * HOUR, Later.KNOCK),
    (device(), job(told_ms=NOW, knock=2), TOLD, NOW + 24 * HOUR, Later.KNOCK),
    (device(), job(told_ms=NOW, knock=3), TOLD, None, Rest.TOLD),
    (device(), job(), TOLD, NOW + HOUR, Later.KNOCK),  # counts from now, if nothing was said
    (device(), job(told_ms=NOW - 2 * HOUR, retry_ms=NOW + 5), TOLD, NOW + 5, Later.BACKOFF),
    (device(state=DeviceState.DORMANT), job(told_ms=NOW), TOLD, None, Rest.TOLD),
    (device(state=DeviceState.DORMANT), job(), UNTOLD, NOW + 500, Later.DEBOUNCE),
    (device(), job(knock=3, told_ms=NOW), replace(TOLD, untold_ms=NOW), NOW + 500, Later.DEBOUNCE),
]


@pytest.mark.parametrize(("who", "has", "owes", "due_ms", "reason"), REARMS)
def test_when_a_job_is_due(
    who: Device, has: PushJob, owes: Outstanding, due_ms: int | None, reason: str | None
) -> None:
    after = rearm(who, has, owes, policy=POLICY, now_ms=NOW, elsewhere=False, gateway=False)
    assert (after.due_ms, after.reason) == (due_ms, reason)


@given(
    st.sampled_from([device(), online(), device(has_address=0), device(state=DeviceState.DORMANT)]),
    st.none() | st.integers(NOW - HOUR, NOW),
    st.booleans(),
    st.integers(0, 3),
    st.none() | st.integers(NOW, NOW + HOUR),
)
def test_a_job_is_due_or_rests_for_a_reason_that_an_event_ends(
    who: Device, untold_ms: int | None, told: bool, knock: int, retry_ms: int | None
) -> None:
    has = job(knock=knock, retry_ms=retry_ms, told_ms=NOW - HOUR)
    owes = Outstanding(untold_ms=untold_ms, told=told)
    after = rearm(who, has, owes, policy=POLICY, now_ms=NOW, elsewhere=False, gateway=False)
    if after.due_ms is None:
        assert after.reason in set(Rest)
        assert untold_ms is None or not who.has_address, "(P)"
    again = replace(has, due_ms=after.due_ms, reason=after.reason, told_ms=after.told_ms)
    assert rearm(who, again, owes, policy=POLICY, now_ms=NOW, elsewhere=False, gateway=False) == after


# --- the verdict of a handshake (protocol 10.2) -----------------------------------------------------------------------

HEAD, FLOOR = 20, 8
# Evidence that fits in every respect: the device at acked_seq 10, session 5, confirmed session 3.
FITS = {"given": True, "readable": True, "epoch_same": True, "store_same": True, "seq": 12, "session": 4}
NOTHING_FITS = {
    "readable": False,
    "epoch_same": False,
    "store_same": False,
    "tail_same": False,
    "session": 2,
    "seq": 5,
}
ROWS = [
    (1, {"given": False}, Reason.NO_CURSOR),
    (2, {"readable": False}, Reason.BAD_CURSOR),
    (3, {"epoch_same": False}, Reason.EPOCH),
    (4, {"store_same": False}, Reason.STORE_CHANGED),
    (5, {"seq": HEAD + 1}, Reason.FORKED),
    (5, {"session": 6}, Reason.FORKED),
    (5, {"tail_same": False}, Reason.FORKED),
    (6, {"session": 2}, Reason.STORE_ROLLED_BACK),
    (7, {"seq": 7}, Reason.TOO_OLD),
]


@pytest.mark.parametrize(("row", "wrong", "reason"), ROWS)
def test_each_row_of_the_verdict_table_makes_the_device_begin_again(
    row: int, wrong: dict[str, Any], reason: Reason
) -> None:
    judged = judge(Evidence(**(FITS | wrong)), device(), HEAD, FLOOR)
    assert (judged.verdict, judged.reason, judged.rebase) == (Verdict.RESYNC, reason, True)
    assert judged.acked_seq == FLOOR
    assert judged.new_epoch == (row == 5)


@pytest.mark.parametrize(("row", "wrong", "reason"), ROWS)
def test_the_first_row_that_fits_decides(row: int, wrong: dict[str, Any], reason: Reason) -> None:
    """Whatever later rows would say as well."""
    later = {field for at, fields, _ in ROWS if at > row for field in fields} - set(wrong)
    worse = {field: value for field, value in NOTHING_FITS.items() if field in later}
    assert judge(Evidence(**(FITS | worse | wrong)), device(), HEAD, FLOOR).reason is reason


def test_a_cursor_below_what_was_acked_is_a_rewind_without_a_reason() -> None:
    judged = judge(Evidence(**(FITS | {"seq": 9})), device(), HEAD, FLOOR)
    assert (judged.verdict, judged.reason, judged.acked_seq, judged.rebase) == (Verdict.DELTA, None, 9, True)


@pytest.mark.parametrize(("seq", "verdict"), [(10, Verdict.DELTA), (19, Verdict.DELTA), (HEAD, Verdict.RESUME)])
def test_a_cursor_at_or_above_what_was_acked_is_an_implied_ack(seq: int, verdict: Verdict) -> None:
    judged = judge(Evidence(**(FITS | {"seq": seq})), device(), HEAD, FLOOR)
    assert (judged.verdict, judged.reason, judged.acked_seq, judged.rebase) == (verdict, None, seq, False)


@pytest.mark.parametrize(
    ("who", "seq", "reason"),
    [
        (device(acked_seq=2, acked_high=2), 5, None),  # all of it has ended; it is told so
        (device(acked_seq=6, acked_high=6), 5, Reason.TOO_OLD),
        (device(acked_seq=2, acked_high=2, state=DeviceState.DORMANT), 5, Reason.TOO_OLD),
        (device(acked_seq=2, acked_high=2, state=DeviceState.DORMANT), FLOOR, None),
    ],
)
def test_below_the_floor_is_too_old_only_if_something_may_be_missing(
    who: Device, seq: int, reason: Reason | None
) -> None:
    assert judge(Evidence(**(FITS | {"seq": seq})), who, HEAD, FLOOR).reason is reason


def test_a_resync_begins_no_earlier_than_the_device_itself() -> None:
    assert judge(Evidence(given=False), device(start_seq=15, acked_seq=15), HEAD, FLOOR).acked_seq == 15


@given(
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 30),
    st.integers(0, 8),
    st.integers(0, 20),
)
def test_a_verdict_never_leaves_the_numbering(
    given_: bool, epoch_same: bool, store_same: bool, tail_same: bool, seq: int, session: int, acked: int
) -> None:
    evidence = Evidence(
        given=given_,
        readable=True,
        epoch_same=epoch_same,
        store_same=store_same,
        tail_same=tail_same,
        seq=seq,
        session=session,
    )
    judged = judge(evidence, device(acked_seq=acked, acked_high=acked), HEAD, FLOOR)
    assert 0 <= judged.acked_seq <= HEAD
    assert judged.rebase or judged.acked_seq >= acked, "only a rebase takes back what was believed"
    assert (judged.verdict is Verdict.RESYNC) == (judged.reason is not None)
