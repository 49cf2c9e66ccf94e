"""What an account learns from the answers to its calls."""

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from providers.contract import Outcome, Scope, Verdict
from relay.inbox.push_due import Later
from relay.push import accounts
from relay.push.accounts import Account, Accounts
from relay.push.limits import Bucket
from relay.push.situation import AccountsKnown, Wait


def too_many(retry_after_s: float) -> Outcome:
    return Outcome(verdict=Verdict.RETRY, scope=Scope.ACCOUNT, retry_after_s=retry_after_s)


def account_of(vendor: str) -> Account:
    provider = cast(Any, SimpleNamespace(capabilities=None))
    return Account(app_id="a", name=vendor, provider=provider, bucket=Bucket(9, 9))


def test_a_sort_of_push_that_has_to_wait_for_its_hours_holds_no_other_back() -> None:
    """Marketing at night, and many of it: chats go on."""
    shut = Outcome(verdict=Verdict.RETRY, retry_after_s=3600, shut=True, vendor_code="closed_hours")
    account = account_of("vivo")
    for now_ms in range(0, 3_000, 100):
        account.started(now_ms, calls=1, retry=False)
        account.ended(now_ms, shut)
    assert (account.view(3_000, 0).closed_for_ms, account.view(3_000, 0).ill_for_ms, account.in_flight) == (0, 0, 0)


def test_calls_of_attempts_that_began_before_are_paid_for_before_new_ones_begin() -> None:
    """Of an attempt with several notifications each is a call, and the later ones find the bucket empty."""
    account = account_of("v")
    account.bucket = Bucket(rate_per_s=10, burst=3)
    for _ in range(6):
        account.started(0, calls=1, retry=False)
        account.ended(0, Outcome(verdict=Verdict.ACCEPTED))
    assert [account.view(ms, 0).free > 0 for ms in (0, 300, 400)] == [False, False, True]


def test_nor_does_it_show_that_a_vendor_is_well() -> None:
    account = account_of("vivo")
    for now_ms in range(0, 3_000, 100):
        account.started(now_ms, calls=1, retry=False)
        account.ended(now_ms, Outcome(verdict=Verdict.RETRY))
    for now_ms in range(3_000, 4_000, 100):
        account.started(now_ms, calls=1, retry=False)
        account.ended(now_ms, Outcome(verdict=Verdict.RETRY, retry_after_s=60, shut=True))
    assert account.view(4_000, 0).ill_for_ms > 0


def test_it_forgets_what_is_over_and_then_the_oldest_before_it_holds_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "HELD_MAX", 3)
    account = account_of("vivo")
    for place, at_ms in enumerate((10, 30, 40, 50, 60)):
        account.hold((None, f"c{place}"), Wait(at_ms=at_ms, reason=Later.HOURS), now_ms=20)
    assert [channel for _, channel in account.view(0, 20).held] == ["c2", "c3", "c4"]
    account.mended()
    assert not account.view(0, 20).held


def test_what_has_to_wait_is_said_in_two_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By calls, and by receipts in the store's own."""
    monkeypatch.setattr(accounts, "HELD_MAX", 1_000)
    account, before = account_of("vivo"), sys.getswitchinterval()

    def holds(name: str) -> None:
        for place in range(5_000):
            account.hold((None, f"{name}{place}"), Wait(at_ms=30, reason=Later.QUOTA), now_ms=20)

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(holds, "ab"))
    finally:
        sys.setswitchinterval(before)
    assert len(account.view(0, 20).held) <= 1_000


def test_of_several_answers_that_ask_for_a_pause_the_longest_holds() -> None:
    """Calls that were under way together are answered in any order."""
    account = account_of("v")
    account.started(0, calls=2, retry=False)

    account.ended(1_000, too_many(300))
    account.ended(2_000, too_many(5))

    assert account.view(3_000, 0).closed_for_ms == 298_000


@pytest.mark.parametrize("verdict", [Verdict.REFUSED, Verdict.TOO_LARGE])
def test_what_was_refused_without_asking_says_nothing_of_the_vendor(verdict: Verdict) -> None:
    account = account_of("v")
    for now_ms in range(0, 3_000, 100):
        account.started(now_ms, calls=1, retry=False)
        account.ended(now_ms, Outcome(verdict=Verdict.RETRY))
    for now_ms in range(10_000, 11_000, 100):
        account.started(now_ms, calls=1, retry=False)
        account.ended(now_ms, Outcome(verdict=verdict, local=True))
    assert account.view(11_000, 0).ill_for_ms > 0, "nobody has asked it"
    assert account.view(11_000, 0).closed_for_ms == 0, "so the next call may be the probe"
    for _ in range(3):
        account.started(11_000, calls=1, retry=False)
        account.ended(11_000, Outcome(verdict=verdict))
    assert account.view(11_000, 0).ill_for_ms == 0, "a refusal of its own shows that it is well"


WRONG_CHANNEL = Outcome(verdict=Verdict.MISCONFIGURED, vendor_code="27001")
NO_APNS_KEY = Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.TOKEN, vendor_code="THIRD_PARTY_AUTH_ERROR")
TAKEN = Outcome(verdict=Verdict.ACCEPTED)


def test_it_is_impaired_until_a_push_of_the_sort_that_was_refused_is_taken() -> None:
    account = account_of("v")
    assert account.judged(b"ann", "chat", WRONG_CHANNEL, now_ms=1)
    assert account.judged(b"bob", "news", NO_APNS_KEY, now_ms=2)
    assert not account.judged(b"cat", "news", TAKEN, now_ms=3)
    found = account.impaired(4)
    assert found is not None
    assert found.code == "THIRD_PARTY_AUTH_ERROR", "the newest"
    assert not account.judged(b"bob", None, TAKEN, now_ms=5)
    found = account.impaired(6)
    assert found is not None
    assert found.code == "27001"
    assert not account.judged(b"cat", "chat", TAKEN, now_ms=7)
    assert account.impaired(8) is None


def test_the_word_that_it_is_mended_ends_the_vendor_s_pause() -> None:
    account = account_of("v")
    account.started(0, calls=1, retry=False)
    account.ended(0, too_many(3600))
    account.mended()
    assert account.view(1, 1).closed_for_ms == 0


def test_a_refusal_of_what_was_planned_before_it_was_mended_does_not_park_it() -> None:
    account = account_of("v")
    account.started(0, calls=1, retry=False)
    refused = Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT)
    account.ended(0, refused, late=True)
    assert (account.parked, account.in_flight) == (False, 0)


def test_what_nobody_sends_any_more_impairs_it_for_a_day() -> None:
    account = account_of("v")
    account.judged(b"ann", "chat", WRONG_CHANNEL, now_ms=0)
    assert account.impaired(86_400_000) is not None
    assert account.impaired(86_400_001) is None


def test_what_a_user_s_own_host_refuses_is_no_operator_s_business() -> None:
    account = account_of("gotify")
    account.strangers = True
    assert not account.judged(b"ann", None, NO_APNS_KEY, now_ms=0)
    assert account.impaired(0) is None


def test_a_refusal_of_the_whole_account_parks_it_instead() -> None:
    account = account_of("v")
    refused = Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code="SENDER_ID_MISMATCH")
    assert not account.judged(b"ann", None, refused, now_ms=0)
    assert account.impaired(0) is None


DAY_USED_UP = Outcome(
    verdict=Verdict.RETRY, scope=Scope.ACCOUNT, retry_after_s=3600, alert=True, vendor_code="ntfy_42908"
)
OUR_BUG = Outcome(verdict=Verdict.REFUSED, alert=True, vendor_code="BadPriority")
NO_RECEIPTS = Outcome(verdict=Verdict.ACCEPTED, scope=Scope.ACCOUNT, alert=True, vendor_code="receipts_65037")


@pytest.mark.parametrize("said", [DAY_USED_UP, OUR_BUG, NO_RECEIPTS], ids=lambda one: str(one.verdict))
def test_what_the_adapter_says_an_operator_is_to_hear_of_impairs_it_whatever_becomes_of_the_push(said: Outcome) -> None:
    account = account_of("v")
    assert account.judged(b"ann", "chat", said, now_ms=0)
    found = account.impaired(1)
    assert found is not None
    assert found.code == said.vendor_code
    assert not account.parked
    assert not account.judged(b"bob", "chat", TAKEN, now_ms=2)
    assert account.impaired(3) is None


def test_what_concerns_the_whole_account_is_over_with_any_push_that_is_taken_and_a_channel_s_with_its_own() -> None:
    account = account_of("v")
    account.judged(b"ann", "chat", OUR_BUG, now_ms=0)
    account.judged(b"ann", "chat", DAY_USED_UP, now_ms=1)
    account.judged(b"bob", "news", TAKEN, now_ms=2)
    found = account.impaired(3)
    assert found is not None
    assert found.code == "BadPriority"


def test_of_very_many_sorts_that_are_refused_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "IMPAIRED_MAX", 2)
    account = account_of("v")
    for place in range(3):
        account.judged(b"ann", f"c{place}", WRONG_CHANNEL, now_ms=place)
    for channel in ("c1", "c2"):
        account.judged(b"ann", channel, TAKEN, now_ms=9)
    assert account.impaired(9) is None


# --- whose turn it is -------------------------------------------------------------------------------------------------


def test_what_is_urgent_stands_behind_what_is_urgent_alone() -> None:
    some = Accounts([account_of("v")])
    busy, call = (Wait(at_ms=2_000, reason=Later.RATE, account="v", urgent=urgent) for urgent in (False, True))
    broadcast = [some.turn("a", "v", busy) for _ in range(900)]
    assert max(broadcast) > 100_000
    urgent = [some.turn("a", "v", call) for _ in range(900)]
    assert urgent == broadcast, "nor are many of them looked at all at once"


def test_what_holds_an_account_back_outlives_a_refusal_that_nobody_has_stored() -> None:
    """Of a call beside the queue, say: the next look at the store finds the account not parked, and not mended either."""
    account = account_of("v")
    wait = Wait(at_ms=90_000, reason=Later.QUOTA)
    account.hold((None, "news"), wait, now_ms=0)
    account.mended_times = 0
    for outcome in (too_many(60), Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT)):
        account.started(0, calls=1, retry=False)
        account.ended(0, outcome)
    Accounts([account]).learn(AccountsKnown(parked={}, mended={}, held={}), 0)
    view = account.view(1_000, 1_000)
    assert (view.parked, view.closed_for_ms, dict(view.held)) == (False, 59_000, {(None, "news"): wait})
