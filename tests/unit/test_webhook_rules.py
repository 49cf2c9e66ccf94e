import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.webhooks import rules
from relay.webhooks.event_body import body_of
from relay.webhooks.event_types import EVENT_TYPES, type_errors, wants
from relay.webhooks.own_headers import header_errors
from relay.webhooks.rules import (
    AFTER_ATTEMPT,
    AFTER_SIGNAL,
    ATTEMPTS_MAX,
    EFFECT_OF_CLASS,
    EFFECT_OF_WORD,
    FAILING_MS_MAX,
    PLAN_S,
    SIGNAL_OF,
    Attempt,
    DeliveryState,
    Effect,
    EndpointState,
    Health,
    Signal,
    after_attempt,
    after_signal,
    answered,
    retry_after_ms,
    signal_of,
    unanswered,
    wait_ms,
)

NOW_MS = 1_764_000_000_000
FAILED = Attempt(word="status_500", effect=Effect.RETRY)
A, F, D = EndpointState.ACTIVE, EndpointState.FAILING, EndpointState.DISABLED


def rngs() -> st.SearchStrategy[random.Random]:
    return st.integers(0, 2**32).map(random.Random)


# --- types ---


def test_the_star_covers_all_but_what_is_off_by_default() -> None:
    assert {t for t in EVENT_TYPES if not wants(["*"], t)} == {"delivery.pushed", "delivery.vendor_receipt"}
    assert wants(["*"], "a.type.of.the.future")


def test_a_list_covers_what_it_names() -> None:
    assert wants(["delivery.pushed", "device.online"], "delivery.pushed")
    assert not wants(["delivery.pushed"], "device.online")


@pytest.mark.parametrize("types", [["*"], ["delivery.acked"], sorted(EVENT_TYPES)])
def test_lists_of_known_types_are_fine(types: list[str]) -> None:
    assert type_errors(types) == []


@pytest.mark.parametrize(
    ("types", "pointer"),
    [
        ([], "/types"),
        (["*", "delivery.acked"], "/types"),
        (["delivery.acked", "*"], "/types"),
        (["*", "*"], "/types"),
        (["delivery.acked"] * 1000, "/types"),
        (["delivery.acked", "delivery.eaten"], "/types/1"),
        (["delivery.*"], "/types/0"),
        (["delivery.acked", "delivery.acked"], "/types/1"),
        ([""], "/types/0"),
    ],
)
def test_other_lists_are_refused_at_the_place_of_the_mistake(types: list[str], pointer: str) -> None:
    assert type_errors(types)[0].pointer == pointer


def test_a_type_that_is_none_is_told_with_what_may_be_meant() -> None:
    close, far = type_errors(["delivery.aced", "orders"])
    assert close.detail == "There is no event type of this name; did you mean 'delivery.acked'?"
    assert "they begin with account, api_key, app_version, clock_step, delivery, device" in far.detail


# --- headers ---


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer abc"}, {"X-Team": "push"}, {f"x-{n}": "1" for n in range(10)}]
)
def test_headers_of_ones_own_are_fine(headers: dict[str, str]) -> None:
    assert header_errors(headers) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "a"},
        {"Host": "a"},
        {"content-length": "1"},
        {"authorization": "a\r\nx: y"},
        {"x-a": "\x00"},
        {"x-a": "é"},
        {"x-a": "y" * 1001},
        {"webhook-signature": "v1,x"},
        {"Webhook-Id": "x"},
        {"Proxy-Authorization": "x"},
        {"x a": "1"},
        {"x:": "1"},
        {"": "1"},
        {"x-a": "1", "X-A": "2"},
        {f"x-{n}": "1" for n in range(100)},
    ],
)
def test_other_headers_are_refused(headers: dict[str, str]) -> None:
    assert header_errors(headers)


# --- bodies ---


def body(data: object) -> bytes:
    return body_of(event_type="delivery.acked", created_ms=NOW_MS, sequence=7, data=json.dumps(data), event_id="evt_1")


def test_a_body_says_what_when_and_which() -> None:
    assert json.loads(body({"note": "café"})) == {
        "type": "delivery.acked",
        "timestamp": "2025-11-24T16:00:00.000Z",
        "sequence": 7,
        "data": {"note": "café"},
        "id": "evt_1",
    }
    assert list(json.loads(body({}))) == ["type", "timestamp", "sequence", "data", "id"]


def test_a_body_is_the_same_bytes_each_time() -> None:
    assert body({"b": 1, "a": [2]}) == body({"b": 1, "a": [2]})


def test_an_event_too_large_keeps_its_plain_members_and_says_so() -> None:
    large = body({"user": "ann", "deliveries": [{"message_id": "m" * 100}] * 500})
    assert len(large) <= 20_000
    assert json.loads(large)["data"] == {"user": "ann", "truncated": True}
    assert json.loads(body({"text": "x" * 30_000}))["data"] == {"truncated": True}
    assert json.loads(body(["x" * 30_000]))["data"] == {"truncated": True}


@given(st.dictionaries(st.text(max_size=10), st.one_of(st.text(), st.integers(0, 9), st.lists(st.text())), max_size=9))
def test_no_body_is_over_20_kb(data: dict[str, object]) -> None:
    made = body(data)
    assert len(made) <= 20_000
    json.loads(made)
    assert len(body(data | {"more": "é" * 9990})) <= 20_000


# --- answers ---


@pytest.mark.parametrize("status", range(100, 600))
def test_only_2xx_counts(status: int) -> None:
    attempt = answered(status, truncated=False, retry_after=None, now_ms=NOW_MS)
    assert attempt.word == f"status_{status}"
    assert (attempt.effect is Effect.DELIVERED) == (200 <= status <= 299)
    assert (attempt.effect is Effect.GONE) == (status == 410)
    assert (attempt.effect is Effect.RETRY_SLOWLY) == (status == 429)


@pytest.mark.parametrize("status", [0, 99, 600, 999])
def test_a_status_from_nowhere_is_a_failure(status: int) -> None:
    assert answered(status, truncated=False, retry_after=None, now_ms=NOW_MS).effect is Effect.RETRY


def test_an_answer_that_does_not_end_is_no_answer() -> None:
    assert answered(200, truncated=True, retry_after=None, now_ms=NOW_MS) == unanswered("answer_too_large")
    assert answered(500, truncated=True, retry_after=None, now_ms=NOW_MS).word == "status_500"
    assert answered(410, truncated=True, retry_after=None, now_ms=NOW_MS).effect is Effect.GONE


def test_a_timeout_is_retried_slowly() -> None:
    assert unanswered("timeout").effect is Effect.RETRY_SLOWLY


def test_every_effect_has_its_rows() -> None:
    assert set(AFTER_ATTEMPT) == set(SIGNAL_OF) == set(Effect)
    assert set(EFFECT_OF_CLASS) == {1, 2, 3, 4, 5}
    assert set(EFFECT_OF_WORD.values()) <= set(Effect)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("120", 120_000),
        (" 0 ", 0),
        ("Mon, 24 Nov 2025 16:01:00 GMT", 60_000),
        ("Mon, 24 Nov 2025 15:00:00 GMT", 0),
        ("99999999999999999999", 10**12),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("١٢", None),
        ("9" * 65, None),
        ("Mon, 99 Nov 99999 16:01:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, ms: int | None) -> None:
    assert retry_after_ms(text, now_ms=NOW_MS) == ms


@given(st.text(max_size=70))
def test_no_retry_after_does_harm(text: str) -> None:
    found = retry_after_ms(text, now_ms=NOW_MS)
    assert found is None or found >= 0


# --- the plan ---


def test_the_plan_is_that_of_the_page() -> None:
    assert (0, 5, 5 * 60, 30 * 60, *(h * 3600 for h in (2, 5, 10, 14, 20, 24))) == PLAN_S
    assert sum(PLAN_S) == 75 * 3600 + 35 * 60 + 5
    assert ATTEMPTS_MAX == 10


@given(st.integers(1, ATTEMPTS_MAX - 1), rngs())
def test_each_wait_is_the_plans_give_or_take_a_fifth(attempts: int, rng: random.Random) -> None:
    planned_ms = PLAN_S[attempts] * 1000
    assert 0.8 * planned_ms - 1 <= wait_ms(attempts, FAILED, rng) <= 1.2 * planned_ms + 1


@given(st.integers(1, ATTEMPTS_MAX - 1), rngs())
def test_after_a_timeout_or_429_it_is_at_least_a_minute(attempts: int, rng: random.Random) -> None:
    slow = Attempt(word="timeout", effect=Effect.RETRY_SLOWLY)
    assert 60_000 <= wait_ms(attempts, slow, rng) <= max(72_000, 1.2 * PLAN_S[attempts] * 1000 + 1)


@given(
    st.integers(1, ATTEMPTS_MAX - 1),
    st.integers(0, 10**9),
    st.sampled_from([Effect.RETRY, Effect.RETRY_SLOWLY]),
    st.integers(0, 2**32),
)
def test_retry_after_is_honoured_between_one_and_two_plans(
    attempts: int, wish_ms: int, effect: Effect, seed: int
) -> None:
    plain = wait_ms(attempts, Attempt(word="status_503", effect=effect), random.Random(seed))
    wished = Attempt(word="status_503", effect=effect, retry_after_ms=wish_ms)
    got = wait_ms(attempts, wished, random.Random(seed))
    assert plain <= got <= 2 * plain + 1
    if plain < wish_ms < 2 * plain:
        assert got == wish_ms


def test_ten_failures_are_the_end() -> None:
    rng, attempts, waited_ms = random.Random(7), 0, 0
    for n in range(1, 11):
        after = after_attempt(attempts, FAILED, rng)
        assert after.attempts == n
        attempts, waited_ms = after.attempts, waited_ms + (after.wait_ms or 0)
    assert (after.state, after.wait_ms) == (DeliveryState.ABANDONED, None)
    assert 0.8 * sum(PLAN_S) <= waited_ms / 1000 <= 1.2 * sum(PLAN_S)


@given(st.integers(0, ATTEMPTS_MAX - 1), st.sampled_from(list(Effect)), rngs())
def test_a_delivery_waits_exactly_while_it_has_a_time(attempts: int, effect: Effect, rng: random.Random) -> None:
    after = after_attempt(attempts, Attempt(word="w", effect=effect), rng)
    assert (after.wait_ms is not None) == (after.state is DeliveryState.WAITING)
    assert after.attempts == attempts + (effect is not Effect.NOT_TRIED)
    assert (after.state is DeliveryState.DELIVERED) == (effect is Effect.DELIVERED)
    if effect is Effect.GONE:
        assert after.state is DeliveryState.ABANDONED


# --- endpoints ---


def test_every_state_has_a_row_for_every_signal() -> None:
    assert set(AFTER_SIGNAL) == set(itertools.product(EndpointState, Signal))


@pytest.mark.parametrize(
    ("before", "signal", "after"),
    [
        (Health(A), Signal.SUCCESS, Health(A)),
        (Health(A), Signal.FAILURE, Health(F, NOW_MS)),
        (Health(A), Signal.GONE, Health(D)),
        (Health(F, NOW_MS - 5), Signal.SUCCESS, Health(A)),
        (Health(F, NOW_MS - 5), Signal.FAILURE, Health(F, NOW_MS - 5)),
        (Health(F, NOW_MS - FAILING_MS_MAX + 1), Signal.FAILURE, Health(F, NOW_MS - FAILING_MS_MAX + 1)),
        (Health(F, NOW_MS - FAILING_MS_MAX), Signal.FAILURE, Health(D, NOW_MS - FAILING_MS_MAX)),
        (Health(F, NOW_MS - FAILING_MS_MAX), Signal.SUCCESS, Health(A)),
        (Health(F, NOW_MS - 5), Signal.GONE, Health(D, NOW_MS - 5)),
        (Health(D, 5), Signal.SUCCESS, Health(D, 5)),
        (Health(D, 5), Signal.FAILURE, Health(D, 5)),
        (Health(D, 5), Signal.GONE, Health(D, 5)),
        (Health(D, 5), Signal.ENABLE, Health(A)),
        (Health(F, 5), Signal.ENABLE, Health(A)),
        (Health(A), Signal.DISABLE, Health(D)),
    ],
)
def test_an_endpoint_goes_from_state_to_state(before: Health, signal: Signal, after: Health) -> None:
    assert after_signal(before, signal, now_ms=NOW_MS) == after


@given(st.lists(st.tuples(st.sampled_from([Signal.SUCCESS, Signal.FAILURE]), st.integers(0, 3 * 86_400_000))))
def test_only_120_hours_of_nothing_but_failures_disable(steps: list[tuple[Signal, int]]) -> None:
    health, now_ms, first_failure_ms = Health(A), NOW_MS, None
    for signal, pause_ms in steps:
        now_ms += pause_ms
        health = after_signal(health, signal, now_ms=now_ms)
        first_failure_ms = None if signal is Signal.SUCCESS else first_failure_ms or now_ms
        if health.state is D:
            assert first_failure_ms is not None
            assert now_ms - first_failure_ms >= 120 * 3_600_000
            return
        assert (health.state is F) == (first_failure_ms is not None)
        assert health.failing_since_ms == first_failure_ms
        assert first_failure_ms is None or now_ms - first_failure_ms < 120 * 3_600_000


@pytest.mark.parametrize(
    ("effects", "signal"),
    [
        ([], None),
        ([Effect.NOT_TRIED], None),
        ([Effect.RETRY, Effect.NOT_TRIED], Signal.FAILURE),
        ([Effect.RETRY, Effect.DELIVERED], Signal.SUCCESS),
        ([Effect.DELIVERED, Effect.GONE, Effect.RETRY], Signal.GONE),
    ],
)
def test_results_that_come_together_count_by_the_weightiest(effects: list[Effect], signal: Signal | None) -> None:
    assert signal_of(effects) is signal


def test_words_for_tenants_are_coarse() -> None:
    public = {"timeout", "connect_failed", "dns_failed", "tls_failed", "endpoint_address_denied"}
    assert set(rules.EFFECT_OF_WORD) == public | {"answer_too_large", "key_missing", "relay_error", "relay_ended"}
