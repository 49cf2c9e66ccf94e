"""The planner (protocol 7.2): rest, wait or send, from what is outstanding alone."""

import dataclasses
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inbox_rows_made import NOW, device, entry, job
from msgspec.structs import replace

from providers.contract import Capabilities
from providers.fcm import FcmProvider
from relay.inbox import push_due
from relay.inbox.push_due import Later, Rest
from relay.model import (
    Address,
    DeviceState,
    Notification,
    Policy,
)
from relay.push.notes import IDS_MAX, Form, summary_id
from relay.push.planner import EXPIRING_MS, Send, Stop, plan, spared
from relay.push.situation import AccountView, Item, Privacy, Quota, SharedNews, Situation, Wait

HOUR = 3_600_000
POLICY = Policy()
CAPABILITIES = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400)


def item(seq: int, *, key: str | None = None, priority: str = "normal", **more: Any) -> Item:
    made = entry(seq, **({"accepted_ms": NOW - 60_000, "expires_ms": NOW + HOUR} | more))
    shown = Notification(title=f"t{seq}", body=f"b{seq}")
    return Item(entry=made, push=shown, priority=priority, collapse_key=key)


def address(account: str, *, state: str = "active") -> Address:
    return Address(
        preference=0,
        account=account,
        kind="token",
        token_sealed=b"s",
        token_hash=account.encode(),
        registered_ms=0,
        state=state,
        shared=0,
    )


def view(**more: Any) -> AccountView:
    return AccountView(**({"capabilities": CAPABILITIES} | more))


def situation(*untold: Item, **more: Any) -> Situation:
    values: dict[str, Any] = {
        "now_ms": NOW,
        "device": device(),
        "job": job(),
        "untold": untold,
        "untold_count": len(untold),
        "told": (),
        "upto_seq": max((one.entry.seq for one in untold), default=0),
        "addresses": (address("v"),),
        "accounts": {"v": view(), "w": view()},
        "policy": POLICY,
    }
    return Situation(**(values | more))


def sent(s: Situation) -> Send:
    found = plan(s)
    assert isinstance(found, Send)
    return found


ONLINE = device(online_since_ms=NOW - HOUR)
TOLD = {"told": (item(1),), "upto_seq": 1}
PARKED = {"v": view(parked=True)}
PLANS = [
    (situation(), Stop(reason=Rest.NOTHING_OWED)),
    (situation(item(1), device=device(state=DeviceState.GONE)), Stop(reason=Rest.GONE)),
    (situation(item(1), addresses=()), Stop(reason=Rest.NO_ADDRESS)),
    (situation(item(1), addresses=(address("v", state="dead"),)), Stop(reason=Rest.NO_ADDRESS)),
    (situation(item(1), accounts=PARKED), Stop(reason=Rest.ACCOUNT_PARKED)),
    (situation(item(1), accounts={}), Stop(reason=Rest.ACCOUNT_PARKED)),
    (
        situation(item(1), accounts={"v": view(closed_for_ms=700)}),
        Wait(at_ms=NOW + 700, reason=Later.CIRCUIT, account="v"),
    ),
    (
        situation(item(1), accounts={"v": view(free=0, wait_ms=70)}),
        Wait(at_ms=NOW + 70, reason=Later.RATE, account="v"),
    ),
    (situation(item(1, accepted_ms=NOW)), Wait(at_ms=NOW + 500, reason=Later.DEBOUNCE)),
    (situation(item(1, accepted_ms=NOW - 5000), device=ONLINE), Wait(at_ms=NOW + 5000, reason=Later.ONLINE)),
    (situation(item(1), job=job(retry_ms=NOW + 9)), Wait(at_ms=NOW + 9, reason=Later.BACKOFF)),
    (situation(item(1), device=ONLINE, grace_until_ms=NOW + 9), Wait(at_ms=NOW + 9, reason=Later.GRACE)),
    (situation(item(1, expires_ms=NOW + EXPIRING_MS)), Stop(reason=Rest.NOTHING_OWED)),
    (situation(**TOLD, job=job(told_ms=NOW)), Wait(at_ms=NOW + HOUR, reason=Later.KNOCK)),
    (situation(**TOLD, job=job(told_ms=NOW - HOUR, knock=1)), Wait(at_ms=NOW + 5 * HOUR, reason=Later.KNOCK)),
    (situation(**TOLD, job=job(told_ms=NOW - HOUR, knock=3)), Stop(reason=Rest.TOLD)),
    (situation(**TOLD, device=device(state=DeviceState.DORMANT)), Stop(reason=Rest.TOLD)),
    (situation(**TOLD, job=job(told_ms=NOW - HOUR, retry_ms=NOW + 9)), Wait(at_ms=NOW + 9, reason=Later.BACKOFF)),
]


@pytest.mark.parametrize(("s", "planned"), PLANS)
def test_when_nothing_is_sent_it_says_why_and_until_when(s: Situation, planned: Stop | Wait) -> None:
    assert plan(s) == planned


MINUTE = 60_000
BOTH = (address("v"), address("w"))
AWAY = [
    # account v of the chain v, w -> who gets the push, or until when it waits
    (view(), "v"),
    (view(closed_for_ms=5_000), (NOW + 5_000, Later.CIRCUIT)),  # soon probed: order is kept
    (view(closed_for_ms=5_000, ill_for_ms=MINUTE + 1), "w"),  # away for long
    (view(ill_for_ms=MINUTE + 1), "v"),  # ... but this one is the probe
    (view(closed_for_ms=MINUTE + 1), "w"),  # a pause that the vendor asked for
    (view(shut_until_ms=NOW + HOUR, shut_why=Later.HOURS), "w"),
    (view(shut_until_ms=NOW + HOUR, shut_why=Later.HOURS, falls_back_ms=None), (NOW + HOUR, Later.HOURS)),
    (view(free=0, wait_ms=70), (NOW + 70, Later.RATE)),
    (view(parked=True), "w"),
]


@pytest.mark.parametrize(("first", "expected"), AWAY, ids=str)
def test_a_push_moves_to_the_next_address_when_the_first_one_is_out_for_long(
    first: AccountView, expected: str | tuple[int, Later]
) -> None:
    found = plan(situation(item(1), addresses=BOTH, accounts={"v": first, "w": view()}))
    if isinstance(expected, str):
        assert isinstance(found, Send)
        assert found.address.account == expected
    else:
        assert found == Wait(at_ms=expected[0], reason=expected[1], account="v")


def test_what_is_urgent_has_a_line_of_its_own() -> None:
    busy, away = {"v": view(free=0, wait_ms=70)}, {"v": view(closed_for_ms=700)}
    call = (item(1), item(2, priority="urgent"))
    assert plan(situation(*call, accounts=busy)) == Wait(at_ms=NOW + 70, reason=Later.RATE, account="v", urgent=True)
    found = plan(situation(*call, accounts=away))
    assert found == Wait(at_ms=NOW + 700, reason=Later.CIRCUIT, account="v", urgent=True)


def test_if_all_of_the_chain_is_out_it_waits_for_whoever_is_back_first() -> None:
    accounts = {"v": view(shut_until_ms=NOW + 2 * HOUR), "w": view(shut_until_ms=NOW + HOUR)}
    found = plan(situation(item(1), addresses=BOTH, accounts=accounts))
    assert found == Wait(at_ms=NOW + HOUR, reason=Later.QUOTA, account="w")


def test_an_address_that_fails_again_and_again_gives_its_turn_to_the_next() -> None:
    turns = [sent(situation(item(1), addresses=BOTH, job=job(tries=n))).address.account for n in range(0, 16, 5)]
    assert turns == ["v", "w", "v", "w"]


def test_a_quota_bounds_what_goes_today_and_then_waits_for_the_vendor_s_midnight() -> None:
    limited = view(quota=Quota(limit=10, day="2026-11-26", ends_ms=NOW + HOUR))
    assert limited.counted(8).free == 2
    assert limited.counted(8).used(1).free == 1
    for spent in (limited.counted(10), limited.counted(8).used(2)):
        found = plan(situation(item(1), accounts={"v": spent}))
        assert found == Wait(at_ms=NOW + HOUR, reason=Later.QUOTA, account="v")


# --- sorts of push that a vendor takes later --------------------------------------------------------------------------

MORNING = Wait(at_ms=NOW + HOUR, reason=Later.HOURS, account="v")


def news(seq: int, **more: Any) -> Item:
    return replace(item(seq, **more), push=Notification(title=f"t{seq}", body="b", channel="news"))


def held(*sorts: tuple[bytes | None, str | None], **more: Any) -> dict[str, AccountView]:
    return {"v": view(held=dict.fromkeys(sorts, MORNING), **more), "w": view()}


NEWS_HELD = held((None, "news"))


def test_what_the_vendor_takes_later_waits_and_holds_nothing_else_back() -> None:
    assert plan(situation(news(1), accounts=NEWS_HELD)) == MORNING
    found = sent(situation(news(1), item(2), accounts=NEWS_HELD))
    assert [note.ids for note in found.notes] == [("m2",)]
    assert found.upto_seq == 2, "the app, once it comes, gets all"
    later = situation(news(1, expires_ms=NOW + 2 * HOUR), accounts=NEWS_HELD, now_ms=MORNING.at_ms)
    assert [note.ids for note in sent(later).notes] == [("m1",)]


def test_it_is_told_for_itself_if_nothing_newer_is() -> None:
    found = sent(situation(item(1), news(2), accounts=NEWS_HELD))
    assert ([note.ids for note in found.notes], found.upto_seq) == ([("m1",)], 1)


def test_of_one_device_alone() -> None:
    mine, other = (situation(news(1), accounts=held((token, "news"))) for token in (b"v", b"another"))
    assert plan(mine) == MORNING
    assert isinstance(plan(other), Send)


@pytest.mark.parametrize(("falls_back_ms", "goes"), [(60_000, True), (None, False), (2 * HOUR, False)])
def test_the_next_address_has_it_if_the_wait_is_long(falls_back_ms: int | None, *, goes: bool) -> None:
    accounts = held((None, "news"), falls_back_ms=falls_back_ms)
    found = plan(situation(news(1), addresses=BOTH, accounts=accounts))
    assert (isinstance(found, Send) and found.address.account == "w") if goes else found == MORNING


@pytest.mark.parametrize("more", [{"accounts": held((None, None), privacy=Privacy.NONE)}, {"job": job(bare_seq=1)}])
def test_a_wake_up_is_of_the_sort_without_a_channel(more: dict[str, Any]) -> None:
    assert plan(situation(news(1), **({"accounts": held((None, None))} | more))) == MORNING
    assert isinstance(plan(situation(news(1), **(more | {"accounts": held((None, "other"))}))), Send)


def test_a_vendor_with_few_collapse_keys_gets_a_summary_before_it_would_have_to_evict_one() -> None:
    few = {"v": view(capabilities=dataclasses.replace(CAPABILITIES, collapse_keys_max=4))}
    alone = sent(situation(item(4), told_count=2, accounts=few))
    assert [note.collapse_key for note in alone.notes] == ["m4"]
    for told in (3, 4):
        crowded = sent(situation(item(4, conversation_id="c"), told_count=told, accounts=few))
        assert [note.collapse_key for note in crowded.notes] == [summary_id("phone", None)], (
            "always the same, fourth key"
        )
    (note,) = sent(situation(*(item(n, conversation_id=f"c{n}") for n in (1, 2, 3, 4)), accounts=few)).notes
    assert note.collapse_key == summary_id("phone", None)


def test_a_silent_push_waits_so_long_that_the_vendor_lets_it_through() -> None:
    account = view(privacy=Privacy.NONE, capabilities=dataclasses.replace(CAPABILITIES, silent_gap_s=1200))
    silent = sent(situation(item(1), accounts={"v": account}))
    assert spared(silent, account, now_ms=NOW, woken_ms=None) is None
    assert spared(silent, account, now_ms=NOW, woken_ms=NOW - 1_200_000) is None
    soon = spared(silent, account, now_ms=NOW, woken_ms=NOW - 1_000_000)
    assert soon == Wait(at_ms=NOW + 200_000, reason=Later.RATE)
    shown = sent(situation(item(1), accounts={"v": view()}))
    assert spared(shown, account, now_ms=NOW, woken_ms=NOW) is None


def test_title_only_hides_the_rest_of_the_message() -> None:
    shown = Notification(title="Ann", body="secret", image="https://x/y", data={"k": "secret"}, click="secret", badge=3)
    private = {"v": view(privacy=Privacy.TITLE)}
    (note,) = sent(situation(replace(item(1), push=shown), accounts=private)).notes
    assert note.shows == Notification(title="Ann", badge=3)
    bodies = replace(item(1), push=Notification(body="secret"))
    (note,) = sent(situation(bodies, accounts=private)).notes
    assert note.shows is None, "without a title there is nothing that may be shown"


def test_each_message_is_a_notification_of_its_own_as_long_as_they_are_few() -> None:
    found = sent(situation(item(1), item(2), item(3)))
    assert (found.form, found.from_seq, found.upto_seq) == (Form.EACH, 1, 3)
    assert [(note.push_id, note.ids, note.count) for note in found.notes] == [
        (f"m{n}", (f"m{n}",), 1) for n in (1, 2, 3)
    ]


def test_of_one_collapse_key_only_the_newest_is_shown() -> None:
    found = sent(situation(item(1, key="k"), item(2), item(3, key="k")))
    assert [note.push_id for note in found.notes] == ["m2", "m3"]
    assert found.from_seq == 1


def test_many_are_one_summary_a_conversation_or_one_for_all() -> None:
    few = [item(n, conversation_id="ab"[n % 2]) for n in range(1, 7)]
    found = sent(situation(*few))
    assert found.form == Form.SUMMARY
    assert [(note.push_id, note.count) for note in found.notes] == [
        (summary_id("phone", "b"), 3),
        (summary_id("phone", "a"), 3),
    ]
    many = [item(n, conversation_id=f"c{n}") for n in range(1, 7)]
    (note,) = sent(situation(*many)).notes
    assert (note.push_id, note.count) == (summary_id("phone", None), 6)


def test_a_summary_counts_also_what_was_not_looked_at() -> None:
    (note,) = sent(situation(*(item(n) for n in range(801, 1001)), untold_count=1000)).notes
    assert note.count == 1000
    assert note.ids == tuple(f"m{n}" for n in range(1001 - IDS_MAX, 1001))
    assert note.shows is not None
    assert note.shows.body == "1000 new messages"


def test_what_is_about_to_expire_is_left_out_and_does_not_make_a_summary_of_the_rest() -> None:
    found = sent(situation(item(1, expires_ms=NOW + 1000), item(2)))
    assert (found.form, [note.push_id for note in found.notes]) == (Form.EACH, ["m2"])


@pytest.mark.parametrize(
    ("s", "form"),
    [
        (situation(item(1), accounts={"v": view(privacy=Privacy.NONE)}), Form.WAKE),
        (situation(item(1), item(2), job=job(bare_seq=1)), Form.WAKE),
        (situation(item(2), job=job(bare_seq=1)), Form.EACH),
    ],
)
def test_what_must_not_or_cannot_show_content_is_a_bare_wake_up(s: Situation, form: str) -> None:
    found = sent(s)
    assert found.form == form
    assert (found.notes[0].shows is None) == (form == Form.WAKE)


def test_a_knock_is_one_quiet_summary_and_silent_for_what_was_acked_before() -> None:
    knocks = {"told": (item(1), item(2)), "upto_seq": 2, "job": job(told_ms=NOW - HOUR)}
    found = sent(situation(**knocks))
    assert (found.form, len(found.notes), found.notes[0].urgent) == (Form.KNOCK, 1, False)
    assert found.notes[0].shows is not None
    rewound = sent(situation(**knocks, device=device(acked_high=2)))
    assert rewound.notes[0].shows is None


@pytest.mark.parametrize(("before", "account"), [("v", "w"), ("w", "v"), ("gone", "v")])
def test_a_knock_goes_to_the_address_after_the_one_that_was_told_last(before: str, account: str) -> None:
    chain = (address("v"), address("w"))
    last = address(before)
    s = situation(
        addresses=chain,
        told=(item(1),),
        told_last=(last.account, last.token_hash),
        upto_seq=1,
        job=job(told_ms=NOW - 6 * HOUR),
    )
    assert sent(s).address.account == account


def test_a_parked_account_is_passed_over() -> None:
    chain = (address("v"), address("w"))
    found = sent(situation(item(1), addresses=chain, accounts={"v": view(parked=True), "w": view()}))
    assert found.address.account == "w"


def test_nothing_is_shown_for_longer_than_it_lives_or_the_vendor_allows() -> None:
    assert sent(situation(item(1, expires_ms=NOW + 90_500))).notes[0].ttl_s == 90
    assert sent(situation(item(1, expires_ms=NOW + 30 * 24 * HOUR))).notes[0].ttl_s == 86_400


def test_an_urgent_message_does_not_wait_for_the_grace_after_a_restart() -> None:
    s = situation(item(1, priority="urgent"), device=ONLINE, grace_until_ms=NOW + 9)
    assert isinstance(plan(s), Send)


# --- whatever the situation -------------------------------------------------------------------------------------------


def drawn(seed: int) -> Situation:
    """A situation drawn from a seed: evenly spread, which says more here than small counterexamples would."""
    rng = random.Random(seed)
    seldom = [False, False, False, True]
    count, seq, items = rng.choice([0, 1, 2, 2, 3, 3, 5, 9]), 0, []
    for _ in range(count):
        seq += rng.randint(1, 3)
        items.append(
            item(
                seq,
                key=rng.choice([None, None, "k", "l"]),
                priority=rng.choice(["low", "normal", "urgent"]),
                conversation_id=rng.choice([None, "c", "d", "e", "f"]),
                accepted_ms=NOW - rng.choice([0, 5_000, 90_000, 90_000]),
                expires_ms=NOW + rng.choice([1_000, HOUR, HOUR, HOUR]),
            )
        )
    is_told = rng.choice(seldom)
    names = rng.choice(["vw", "wv", "v", "w", ""])
    s = situation(
        *(() if is_told else items),
        untold_count=0 if is_told else count + rng.choice([0, 0, 0, 500]) * bool(items),
        told=tuple(items) if is_told else (),
        upto_seq=seq + rng.randint(0, 3),
        device=device(
            state=rng.choice([*[DeviceState.ACTIVE] * 6, DeviceState.DORMANT, DeviceState.GONE]),
            online_since_ms=rng.choice([None, None, NOW, NOW - 90_000]),
            offline_since_ms=rng.choice([None, NOW - 5000]),
            linger_until_ms=rng.choice([None, None, NOW - 5000, NOW + 5000]),
            acked_high=rng.randint(0, 20),
        ),
        job=job(
            knock=rng.randint(0, 3),
            told_ms=rng.choice([None, NOW - 30 * HOUR, NOW - HOUR]),
            retry_ms=rng.choice([None, None, NOW - 5000, NOW + 5000]),
            bare_seq=rng.choice([0, 0, 0, 5]),
        ),
        addresses=tuple(address(name, state=rng.choice(["active", "active", "active", "dead"])) for name in names),
        accounts={
            name: view(
                parked=rng.choice(seldom),
                privacy=Privacy.NONE if rng.choice(seldom) else Privacy.FULL,
                free=rng.randint(0, 4),
                closed_for_ms=rng.choice([0, 0, 0, 700]),
            )
            for name in rng.choice(["vw", "vw", "v", ""])
        },
        elsewhere=rng.choice(seldom),
        grace_until_ms=rng.choice([0, NOW + 5000]),
    )
    return ripened(s) if rng.choice([True, False]) else s


def ripened(s: Situation) -> Situation:
    """The same with nothing left to wait for, except that the account may have no room."""
    return replace(
        s,
        device=replace(s.device, state=DeviceState.ACTIVE, online_since_ms=None, linger_until_ms=None),
        job=replace(s.job, retry_ms=None, told_ms=NOW - 30 * HOUR, knock=0),
        untold=tuple(replace(one, entry=replace(one.entry, accepted_ms=NOW - HOUR)) for one in s.untold),
        elsewhere=False,
    )


def whatever(test: Any) -> Any:
    return settings(max_examples=500)(given(st.integers(0, 2**32).map(drawn))(test))


@whatever
def test_it_never_sends_while_a_rule_says_wait(s: Situation) -> None:
    if not isinstance(plan(s), Send):
        return
    assert s.device.state is not DeviceState.GONE
    assert s.job.retry_ms is None or s.job.retry_ms <= s.now_ms
    if s.untold:
        until_ms, _ = push_due.waits_until(
            s.device,
            accepted_ms=s.untold[0].entry.accepted_ms,
            policy=s.policy,
            now_ms=s.now_ms,
            elsewhere=s.elsewhere,
        )
        assert until_ms <= s.now_ms
    else:
        assert s.job.knock < len(s.policy.knocks_ms)
        assert s.device.state is not DeviceState.DORMANT


@whatever
def test_it_sends_only_where_the_account_has_room(s: Situation) -> None:
    found = plan(s)
    if isinstance(found, Send):
        account = s.accounts[found.address.account]
        assert found.address in s.addresses
        assert found.address.state == "active"
        assert not account.parked
        assert account.closed_for_ms == 0
        assert 1 <= len(found.notes) <= min(s.policy.separate_max, account.free)
        assert account.privacy is not Privacy.NONE or all(note.shows is None for note in found.notes)


@whatever
def test_everything_it_looked_at_is_in_some_notification(s: Situation) -> None:
    """`upto_seq` will count as told: nothing below it may have been left out for want of room."""
    found = plan(s)
    if not isinstance(found, Send):
        return
    items = s.untold or s.told
    fresh = [one for one in items if one.entry.expires_ms - s.now_ms > EXPIRING_MS]
    newest = {one.collapse_key: one.entry.seq for one in fresh if one.collapse_key is not None}
    assert found.from_seq == items[0].entry.seq
    assert found.upto_seq >= items[-1].entry.seq >= found.from_seq
    assert len({note.push_id for note in found.notes}) == len(found.notes)
    if found.form == Form.EACH:
        shown = {id_ for note in found.notes for id_ in note.ids}
        assert shown == {
            one.entry.message_id
            for one in fresh
            if one.collapse_key is None or newest[one.collapse_key] == one.entry.seq
        }
    else:
        assert sum(note.count for note in found.notes) >= len(fresh)
    lives = {one.entry.message_id for one in fresh}
    assert all(set(note.ids) <= lives and note.ttl_s >= 1 for note in found.notes)


@whatever
def test_a_wait_lies_ahead_and_a_rest_has_a_reason_that_an_event_ends(s: Situation) -> None:
    match plan(s):
        case Wait(at_ms=at_ms):
            assert at_ms > s.now_ms
        case Stop(reason=reason):
            assert reason in set(Rest)


@whatever
def test_the_same_situation_has_the_same_plan(s: Situation) -> None:
    assert plan(s) == plan(replace(s))


# --- what a vendor cannot express -------------------------------------------------------------------------------------


def test_a_note_says_what_the_vendor_cannot_express_of_it() -> None:
    shown = Notification(title="Ann", body="hi", title_loc_key="FROM", title_loc_args=("Ann",), badge=3)
    rich = dataclasses.replace(CAPABILITIES, localised=True, badge=True)
    for capabilities, missing in ((CAPABILITIES, ("badge", "title_loc_key")), (rich, ())):
        found = plan(situation(replace(item(1), push=shown), accounts={"v": view(capabilities=capabilities)}))
        assert isinstance(found, Send)
        assert found.notes[0].left_out == missing


@pytest.mark.parametrize(("able", "missing"), [(True, ()), (False, ("collapse_key",))])
def test_a_note_says_that_nothing_takes_its_place_at_this_vendor(able: bool, missing: tuple[str, ...]) -> None:
    capabilities = dataclasses.replace(CAPABILITIES, collapse=able)
    for key, said in (("score", missing), (None, ())):
        found = plan(situation(replace(item(1), collapse_key=key), accounts={"v": view(capabilities=capabilities)}))
        assert isinstance(found, Send)
        assert found.notes[0].left_out == said


@pytest.mark.parametrize("shown", [Notification(data={"n": "1"}), Notification(title="Ann", data={"n": "1"})])
@pytest.mark.parametrize("able", [True, False])
def test_a_note_says_that_a_silent_push_is_seen_at_this_vendor(shown: Notification, able: bool) -> None:
    capabilities = dataclasses.replace(CAPABILITIES, silent=able)
    found = plan(situation(replace(item(1), push=shown), accounts={"v": view(capabilities=capabilities)}))
    assert isinstance(found, Send)
    assert ("silent" in found.notes[0].left_out) == (shown.title is None and not able)


@pytest.mark.parametrize("keys_max", [None, 4])
def test_of_many_that_show_nothing_the_user_sees_nothing(keys_max: int | None) -> None:
    """A sender who asked for silence five times has not asked for "5 new messages"."""
    able = view(capabilities=dataclasses.replace(CAPABILITIES, collapse_keys_max=keys_max))
    silent = [replace(item(n), push=Notification(data={"n": str(n)})) for n in range(1, 6)]
    found = plan(situation(*silent, accounts={"v": able}))
    assert isinstance(found, Send)
    assert (found.form, [note.unseen for note in found.notes]) == ("wake", [True])
    found = plan(situation(*silent, item(6), accounts={"v": able}))
    assert isinstance(found, Send)
    assert found.form == "summary"
    assert found.notes[0].shows is not None
    assert found.notes[0].shows.body == "6 new messages", "one of them has words"
    badges = [replace(one, push=Notification(badge=one.entry.seq)) for one in silent]
    found = plan(situation(*badges, accounts={"v": able}))
    assert isinstance(found, Send)
    assert found.notes[0].shows == Notification(badge=5)


def test_a_summary_of_many_keeps_the_title_s_name_and_drops_the_body_s() -> None:
    shown = Notification(title="Ann", body="hi", title_loc_key="FROM", body_loc_key="SAID", body_loc_args=("hi",))
    items = tuple(replace(item(n), push=shown) for n in range(1, 9))
    found = plan(situation(*items))
    assert isinstance(found, Send)
    assert found.form == Form.SUMMARY
    text = found.notes[0].shows
    assert text is not None
    assert (text.title_loc_key, text.body_loc_key, text.body_loc_args) == ("FROM", None, ())


ONE_KEPT = {"v": view(capabilities=dataclasses.replace(CAPABILITIES, collapse_keys_max=1))}


@pytest.mark.parametrize(
    ("knock", "told", "kind", "body"),
    [
        (0, 2, "token", "b3"),  # for all that is known, it is on and has shown them
        (1, 0, "token", "b3"),
        (1, 2, "token", "3 new messages"),
        (3, 700, "token_sandbox", "701 new messages"),
        (1, 2, "voip", "b3"),  # a call is never summed up
        (1, 2, "liveactivity", "b3"),
    ],
)
def test_a_phone_that_let_a_reminder_go_by_has_one_summary_of_a_vendor_that_keeps_one(
    knock: int, told: int, kind: str, body: str
) -> None:
    there = (replace(address("v"), kind=kind),)
    found = sent(situation(item(3), told_count=told, job=job(knock=knock), addresses=there, accounts=ONE_KEPT))
    (note,) = found.notes
    assert note.shows is not None
    assert (note.shows.body, note.collapse_key) == (body, "m3" if body == "b3" else summary_id("phone", None))


@pytest.mark.parametrize(
    ("platform", "knock", "body"),
    [
        ("android", 0, "4 new messages"),  # fcm §3.2: four keys of `android.collapse_key`
        (None, 0, "4 new messages"),
        ("ios", 0, "b4"),
        ("ios", 1, "4 new messages"),  # apns §8: of several that wait Apple keeps one
        ("iOS", 1, "4 new messages"),
        ("web", 1, "b4"),
    ],
)
def test_what_is_kept_for_a_device_of_fcm_s_depends_on_what_it_is(platform: str | None, knock: int, body: str) -> None:
    it = device(platform=platform)
    accounts = {"v": view(capabilities=FcmProvider.capabilities)}
    (note,) = sent(situation(item(4), device=it, told_count=3, job=job(knock=knock), accounts=accounts)).notes
    assert note.shows is not None
    assert note.shows.body == body


def test_a_retry_waits_for_its_account_s_budget_and_a_first_attempt_does_not() -> None:
    spent = {"v": view(retries=0)}
    failed = job(tries=1, retry_ms=NOW - 1)
    found = plan(situation(item(1), job=failed, accounts=spent))
    assert found == Wait(at_ms=NOW + 10_000, reason=Later.RATE, account="v")
    for first in (job(), job(tries=5, retry_ms=None)):  # the latter: another address has its turn
        assert isinstance(plan(situation(item(1), job=first, accounts=spent)), Send)
    assert isinstance(plan(situation(item(1), job=failed, accounts={"v": view(retries=1)})), Send)


def test_of_what_is_planned_together_only_retries_use_the_budget_up() -> None:
    account = view(retries=3).used(2)
    assert account.used(2, retry=True).waits(NOW, retry=True) is None
    assert account.used(3, retry=True).waits(NOW, retry=True) is not None
    assert account.used(3, retry=True).waits(NOW) is None


def of_group(name: str, seq: int, *, count: int = 1) -> SharedNews:
    made = item(seq, conversation_id=name)
    return SharedNews(conversation_id=name, items=(made,), count=count, since_ms=made.entry.accepted_ms, upto_seq=seq)


FEW_KEPT = {"v": view(capabilities=dataclasses.replace(CAPABILITIES, collapse_keys_max=4))}


def test_of_few_groups_each_has_a_notification_of_its_own_where_the_vendor_keeps_four() -> None:
    found = sent(situation(item(4), shared=(of_group("g", 1), of_group("h", 2)), shared_keys=2, accounts=FEW_KEPT))
    assert [note.collapse_key for note in found.notes] == ["m4", summary_id("phone", "g"), summary_id("phone", "h")]


@pytest.mark.parametrize(
    ("untold", "told", "waiting", "count"),
    [
        pytest.param((), 0, 4, 5, id="many groups"),
        pytest.param((item(8),), 1, 2, 7, id="a message, one that waits, and two groups"),
        pytest.param((item(7), item(8)), 1, 2, 8, id="more would be five"),
    ],
)
def test_what_would_drive_others_out_at_the_vendor_is_one_notification_of_all(
    untold: tuple[Item, ...], told: int, waiting: int, count: int
) -> None:
    groups = (of_group("g", 1, count=2), of_group("h", 2, count=3))
    found = sent(situation(*untold, shared=groups, shared_keys=waiting, told_count=told, accounts=FEW_KEPT, upto_seq=8))
    (note,) = found.notes
    assert note.collapse_key == summary_id("phone", None)
    assert note.shows is not None
    assert (note.count, note.shows.body) == (count, f"{count} new messages")
    assert found.shared == (("g", 1), ("h", 2))
    assert {"m1", "m2", *(one.entry.message_id for one in untold)} == set(note.ids)


def test_groups_that_wait_at_the_vendor_leave_the_inbox_less_room() -> None:
    assert [note.collapse_key for note in sent(situation(item(4), shared_keys=2, accounts=FEW_KEPT)).notes] == ["m4"]
    (note,) = sent(situation(item(4), shared_keys=3, accounts=FEW_KEPT)).notes
    assert note.collapse_key == summary_id("phone", None)


def test_where_nothing_may_be_shown_all_groups_share_one_wake_up() -> None:
    silent = {"v": view(privacy=Privacy.NONE, capabilities=FEW_KEPT["v"].capabilities)}
    for untold in ((), (item(4),)):
        groups = (of_group("g", 1), of_group("h", 2))
        found = sent(situation(*untold, shared=groups, shared_keys=4, accounts=silent))
        assert ([note.shows for note in found.notes], found.form) == ([None], Form.WAKE)
        assert found.shared == (("g", 1), ("h", 2))


def test_groups_are_told_of_also_where_no_message_is_to_have_a_notification_of_its_own() -> None:
    none = dataclasses.replace(POLICY, separate_max=0)
    groups = (of_group("g", 1), of_group("h", 2))
    assert sent(situation(item(4), shared=groups, policy=none)).shared == (), "the inbox comes first"
    assert sent(situation(shared=groups, policy=none)).shared == (("g", 1),)
    assert sent(situation(shared=groups[1:], policy=none)).shared == (("h", 2),)


@pytest.mark.parametrize("waiting", [1, 4])
def test_what_shows_nothing_of_a_group_is_a_wake_up_too_from_which_the_next_one_keeps_its_distance(
    waiting: int,
) -> None:
    silent = Notification(data={"n": "1"})
    groups = [of_group("g", 1), of_group("h", 2)]
    quiet = tuple(replace(one, items=tuple(replace(item, push=silent) for item in one.items)) for one in groups)
    found = sent(situation(shared=quiet, shared_keys=waiting, accounts=FEW_KEPT))
    assert (found.form, {note.unseen for note in found.notes}) == (Form.WAKE, {True})
    found = sent(situation(shared=(groups[0], quiet[1]), shared_keys=waiting, accounts=FEW_KEPT))
    assert found.form == Form.SUMMARY


def test_what_the_vendor_refused_to_show_of_the_inbox_takes_no_group_with_it() -> None:
    found = sent(situation(item(4), shared=(of_group("g", 1),), shared_keys=4, job=job(bare_seq=4), accounts=FEW_KEPT))
    assert ([note.shows for note in found.notes], found.shared) == ([None], ())


def test_a_group_too_is_in_the_one_notification_of_a_phone_that_let_a_reminder_go_by() -> None:
    groups = (of_group("g", 1),)
    found = sent(situation(shared=groups, shared_keys=1, told_count=2, job=job(knock=1), accounts=ONE_KEPT, upto_seq=3))
    assert [(note.collapse_key, note.count) for note in found.notes] == [(summary_id("phone", None), 3)]


# --- tokens that nobody has refreshed for long ------------------------------------------------------------------------


@whatever
def test_a_stale_address_gets_one_push_a_week(s: Situation) -> None:
    """Whatever there is to tell; the others of the chain are fresh, or had none yet."""
    silent = replace(s.device, contact_ms=NOW - s.policy.dormant_ms, online_since_ms=None)
    days = {"v": 1, "w": 8}
    addresses = tuple(replace(a, pushed_ms=NOW - days[a.account] * 24 * HOUR) for a in s.addresses)
    found = plan(replace(s, device=silent, addresses=addresses))
    if isinstance(found, Send):
        assert (found.address.account, len(found.notes)) == ("w", 1)
    elif isinstance(found, Wait) and found.reason is Later.STALE:
        assert found.at_ms == NOW + 6 * 24 * HOUR
    refreshed = tuple(replace(a, registered_ms=NOW) for a in addresses)
    assert plan(replace(s, device=silent, addresses=refreshed)) == plan(
        replace(s, device=replace(silent, contact_ms=NOW), addresses=refreshed)
    )


@pytest.mark.parametrize(
    ("waiting", "upto", "timelines"),
    [
        ([], 4, ["g", "h"]),
        ([0], 4, ["g", "h"]),  # something newer went, which brings the app to it
        ([1], 2, ["g", "h"]),
        ([0, 1], 1, ["g", "h"]),
        ([3], 4, ["g"]),
        ([0, 1, 2], 1, ["h"]),
    ],
)
def test_what_waits_for_its_hour_beside_what_went_is_not_told(
    waiting: list[int], upto: int, timelines: list[str]
) -> None:
    s = situation(item(2), item(4), shared=(of_group("g", 1), of_group("h", 2)), accounts={"v": view(free=9)})
    found = sent(replace(s, policy=dataclasses.replace(s.policy, separate_max=9)))
    assert len(found.notes) == 4
    seq, shared = found.told(waiting)
    assert (seq, [name for name, _ in shared]) == (upto, timelines)


def test_what_a_note_without_content_waits_for_is_not_taken_for_told() -> None:
    """The vendor is not to see the data, so a wake-up is all that is left of it; and of these none goes today."""
    shown = replace(item(1), push=Notification(title="t", channel="chat"))
    unseen = replace(item(2), push=Notification(data={"a": "b"}, channel="chat"))
    account = view(
        capabilities=dataclasses.replace(CAPABILITIES, sealed=True),
        privacy=Privacy.SEALED,
        held={(None, None): Wait(at_ms=NOW + HOUR, reason=Later.QUOTA)},
    )
    chain = (replace(address("v"), keys_sealed=b"k"),)
    found = sent(situation(shown, unseen, addresses=chain, accounts={"v": account}))
    assert ([note.upto_seq for note in found.notes], found.upto_seq) == ([1], 1)


def test_what_is_told_of_a_shared_timeline_does_not_wait_for_the_hour_of_the_inbox() -> None:
    """Nor is what waits there taken for told with it."""
    ad = replace(item(3), push=Notification(title="ad", channel="ads"))
    wait = Wait(at_ms=NOW + HOUR, reason=Later.QUOTA)
    held = {"v": view(held={(None, "ads"): wait})}
    s = situation(ad, shared=(of_group("g", 1),), accounts=held, device=device(pushed_seq=2), upto_seq=3)
    found = sent(s)
    assert [note.timeline for note in found.notes] == ["g"]
    assert (found.from_seq, found.upto_seq, [place for place, _ in found.shared]) == (3, 2, ["g"])
    assert plan(replace(s, shared=())) == replace(wait, account="v")
