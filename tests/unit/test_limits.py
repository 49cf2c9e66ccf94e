"""What holds an account back: its bucket, its circuit, the brake on dead tokens, the budget of retries."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.push import limits
from relay.push.limits import (
    BRAKE_DEAD_MIN,
    CALLS_MIN,
    CLOSE_AFTER,
    LINE_MS_MAX,
    LINE_SLOTS_MAX,
    PAUSE_MS_DEFAULT,
    PAUSE_MS_MAX,
    PAUSE_MS_MIN,
    PROBE_MS,
    WINDOW_MS,
    Brake,
    Brakes,
    Bucket,
    Circuit,
    Line,
    RetryBudget,
    pause_ms,
)


@given(st.floats(0.1, 100), st.integers(1, 50), st.lists(st.integers(0, 3000), min_size=1, max_size=100))
def test_a_bucket_never_gives_more_than_its_burst_and_its_rate(rate: float, burst: int, gaps: list[int]) -> None:
    bucket, now_ms, given_at = Bucket(rate, burst), 5_000, []
    for gap_ms in gaps:
        now_ms += gap_ms
        ahead = bucket.available(now_ms)
        assert 0 <= ahead <= burst
        if bucket.take(now_ms):
            given_at.append(now_ms)
            assert ahead >= 1
    for first in range(len(given_at)):
        for last in range(first, len(given_at)):
            took_ms = given_at[last] - given_at[first]
            assert last - first + 1 <= burst + rate * took_ms / 1000 + 1e-6


@given(st.floats(0.1, 100), st.integers(1, 20))
def test_after_the_wait_that_a_bucket_names_there_is_one_again(rate: float, burst: int) -> None:
    bucket = Bucket(rate, burst)
    while bucket.take(0):
        pass
    assert bucket.available(bucket.wait_ms()) >= 1
    assert Bucket(rate, burst).wait_ms() == 0


def failing(count: int, *, good: int = 0, every_ms: int = 10) -> tuple[Circuit, int]:
    circuit, now_ms = Circuit(), 0
    for n in range(count + good):
        now_ms += every_ms
        circuit.succeeded(now_ms) if n < good else circuit.failed(now_ms)
    return circuit, now_ms


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_circuit_opens_when_half_of_twenty_calls_failed(bad: int, good: int) -> None:
    circuit, _ = failing(bad, good=good)
    reached = any(good + n >= CALLS_MIN and n * 2 >= good + n for n in range(1, bad + 1))
    assert circuit.open == reached


def test_failures_that_lie_too_far_apart_do_not_open_it() -> None:
    circuit, _ = failing(100, every_ms=WINDOW_MS // (CALLS_MIN - 1) + 1)
    assert not circuit.open


def test_an_open_circuit_lets_one_probe_through_every_five_seconds() -> None:
    circuit, now_ms = failing(CALLS_MIN)
    assert circuit.closed_for_ms(now_ms) == PROBE_MS
    assert circuit.closed_for_ms(now_ms + PROBE_MS) == 0
    circuit.probe(now_ms + PROBE_MS)
    assert circuit.closed_for_ms(now_ms + PROBE_MS) == PROBE_MS


def test_three_good_probes_in_a_row_close_it_and_a_bad_one_begins_anew() -> None:
    circuit, now_ms = failing(CALLS_MIN)
    for _ in range(CLOSE_AFTER - 1):
        circuit.succeeded(now_ms)
    circuit.failed(now_ms)
    for _ in range(CLOSE_AFTER - 1):
        circuit.succeeded(now_ms)
        assert circuit.open
    circuit.succeeded(now_ms)
    assert not circuit.open
    circuit.failed(now_ms)
    assert not circuit.open, "what failed before is forgotten"


@given(st.integers(0, 120), st.integers(0, 3000))
def test_the_brake_holds_when_many_and_more_than_a_twentieth_died(dead: int, alive: int) -> None:
    brake = Brake()
    for n in range(dead + alive):
        brake.told(1000, dead=n < dead)
    assert brake.holds(1000) == (dead >= BRAKE_DEAD_MIN and dead * 20 > dead + alive)
    assert not brake.holds(1000 + 600_000)


def test_a_host_that_calls_all_of_its_devices_dead_is_not_believed_though_they_are_few_of_the_account_s() -> None:
    brakes = Brakes()
    for n in range(2000):
        brakes.told(1000, dead=False, host="well.example" if n % 2 else None)
    for _ in range(BRAKE_DEAD_MIN):
        brakes.told(1000, dead=True, host="ill.example")
    held = {host: brakes.holds(1000, host) for host in ("ill.example", "well.example", "unheard-of.example", None)}
    assert held == {"ill.example": True, "well.example": False, "unheard-of.example": False, None: False}
    assert not brakes.holds(1000 + 600_000, "ill.example")


def test_where_an_account_s_devices_die_at_many_hosts_none_of_these_is_believed() -> None:
    brakes = Brakes()
    for n in range(BRAKE_DEAD_MIN):
        brakes.told(1000, dead=True, host=f"h{n}.example")
    assert brakes.holds(1000, "h1.example")
    assert brakes.holds(1000, "another.example")


def test_of_very_many_hosts_those_that_were_quiet_longest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BRAKED_HOSTS_MAX", 2)
    brakes = Brakes()
    for host in ("a", "b", "a", "c"):
        brakes.told(1000, dead=False, host=host)
    assert brakes.remembered == (2, 2)
    for host in ("a", "b"):
        for _ in range(BRAKE_DEAD_MIN - 1):
            brakes.told(1000, dead=True, host=host)
    assert brakes.remembered == (2, 2)


@given(st.integers(0, 500))
def test_retries_are_a_tenth_of_first_attempts_beyond_the_allowance(firsts: int) -> None:
    budget, made = RetryBudget(), 0
    for _ in range(firsts):
        budget.called(0, retry=False)
    while budget.left(5_000):
        budget.called(5_000, retry=True)
        made += 1
    assert made == 50 + firsts // 10
    assert budget.left(14_999) == 0
    assert budget.left(15_000) == 50, "of ten seconds in which nobody called"


def test_who_waits_has_its_turn_at_the_account_s_pace() -> None:
    line = Line(gap_ms=20)
    assert [line.turn(1_000) for _ in range(4)] == [1_000, 1_020, 1_040, 1_060]
    assert line.turn(1_010) == 1_080, "behind the others"
    assert line.turn(9_000) == 9_000, "they have had their turns by then"


def test_who_waits_for_long_sends_nobody_further_back_who_may_go_now() -> None:
    line = Line(gap_ms=20)
    for later_ms in (10_000, 240_000, 80_000_000):  # a retry; what its vendor takes at another hour, or day
        assert line.turn(later_ms) == later_ms
        assert line.turn(later_ms) == later_ms + 20
    assert [line.turn(1_000) for _ in range(3)] == [1_000, 1_020, 1_040]
    assert line.turn(80_000_000) == 80_000_040, "nor is the other end of the line forgotten over it"


def test_nobody_is_sent_back_for_more_than_five_minutes() -> None:
    line = Line(gap_ms=LINE_MS_MAX / 2)
    assert [line.turn(0) for _ in range(4)] == [0, 150_000, 300_000, 0]
    line = Line(gap_ms=20)
    turns = [line.turn(7) for _ in range(3 * LINE_MS_MAX // 20)]
    most = max(turns.count(turn) for turn in {*turns[:500], *turns[-500:]})
    assert max(turns) <= LINE_MS_MAX + 1_000
    assert most <= 3, "all of those minutes, alike"


def test_a_line_keeps_no_turns_of_the_past() -> None:
    line = Line(gap_ms=1_000)
    for at_ms in range(0, 10_000_000, 1_000):
        assert line.turn(at_ms) == at_ms
    assert len(line._given) <= LINE_SLOTS_MAX


@given(st.none() | st.floats(-10, 1e7))
def test_a_pause_keeps_its_bounds(wish_s: float | None) -> None:
    assert PAUSE_MS_MIN <= pause_ms(wish_s) <= PAUSE_MS_MAX
    assert pause_ms(None) == PAUSE_MS_DEFAULT


def test_too_many_halves_the_rate_once_a_second_and_quiet_seconds_give_it_back() -> None:
    bucket = Bucket(100, 100)
    bucket.too_many(0)
    assert bucket.available(0) <= 1, "no burst is left"
    for ms in (200, 900):  # calls that were under way together
        bucket.too_many(ms)
    assert bucket.rate(900) == pytest.approx(50, rel=0.1)
    bucket.too_many(1_000)
    slowest = bucket.rate(1_000)
    assert slowest == pytest.approx(25, rel=0.2)
    assert bucket.rate(11_000) == pytest.approx(slowest + 50)
    assert bucket.rate(60_000) == 100


def used(bucket: Bucket, since_s: int, until_s: int, *, per_20_ms: int = 10_000) -> list[int]:
    """How many it gives in each of these seconds to somebody who would have so many."""
    got = []
    for second in range(since_s, until_s):
        got.append(0)
        for ms in range(second * 1000, second * 1000 + 1000, 20):
            count = min(bucket.available(ms), per_20_ms)
            assert bucket.take(ms, count)
            got[-1] += count
    return got


def test_a_load_out_of_the_blue_grows_to_the_full_rate_over_a_minute() -> None:
    """Vendor sheet fcm §6: ramp new load from 0 to peak over at least 60 s."""
    bucket = Bucket(6_000, 500, start_per_s=500)
    got = used(bucket, 0, 70)
    assert got[0] <= 500 + 600, "the burst, and what it starts with"
    assert all(later - before <= 101 for before, later in pairwise(got[1:])), "a sixtieth more each second"
    assert got[30] == pytest.approx(3_500, rel=0.03)
    assert got[-1] == 6_000


def test_and_falls_back_where_less_is_wanted() -> None:
    bucket = Bucket(6_000, 500, start_per_s=500)
    used(bucket, 0, 70)
    used(bucket, 70, 140, per_20_ms=20)
    assert bucket.rate(140_000) == pytest.approx(1_000, rel=0.2)
    assert bucket.rate(300_000) == 500


def test_what_starts_no_slower_than_it_goes_has_its_full_rate_at_once() -> None:
    assert used(Bucket(400, 10, start_per_s=500), 0, 3) == [402, 400, 400]


def test_too_many_is_made_up_for_before_a_load_grows_on() -> None:
    bucket = Bucket(6_000, 500, start_per_s=500)
    for ms in range(0, 4_000, 1_000):
        bucket.too_many(ms)
    assert bucket.rate(3_000) < 300
    assert bucket.rate(6_000) == 500


@pytest.mark.parametrize("start_per_s", [5.0, 50.0, 500.0])
def test_too_many_never_makes_a_slow_start_faster(start_per_s: float) -> None:
    bucket = Bucket(9_000, 500, start_per_s=start_per_s)
    bucket.too_many(1_000)
    assert bucket.rate(1_000) == start_per_s / 2


def test_however_often_it_is_too_many_a_little_goes_on() -> None:
    bucket = Bucket(100, 100)
    for second in range(1_000):
        bucket.too_many(second * 1_000)
    assert 100 / 64 <= bucket.rate(999_000) < 15
    assert bucket.wait_ms() < 1_000
