"""The guarded wall clock (protocol 6.7, safety FLT-26): a jump is believed only after it has lasted."""

from hypothesis import given
from hypothesis import strategies as st

from relay.clock import STEP_LASTS_MS, STEP_MS_MAX, GuardedWall, StoreClock, rfc3339

START_MS = 1_764_000_000_000
DAY_MS = 86_400_000
pauses = st.integers(1, 120_000)


def readings(wall: GuardedWall, steps: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(true, shown by the wall, read) after each pause, the wall being off by so much."""
    true_ms, found = 0, []
    wall.read(wall_ms=START_MS, monotonic_ms=0)
    for pause_ms, off_ms in steps:
        true_ms += pause_ms
        shown_ms = START_MS + true_ms + off_ms
        found.append((START_MS + true_ms, shown_ms, wall.read(wall_ms=shown_ms, monotonic_ms=true_ms)))
    return found


@given(st.lists(st.tuples(pauses, st.integers(-STEP_MS_MAX // 2, STEP_MS_MAX // 2)), max_size=30))
def test_small_corrections_are_followed_at_once(steps: list[tuple[int, int]]) -> None:
    assert all(read == shown for _, shown, read in readings(GuardedWall(), steps))


@given(st.lists(pauses, min_size=1, max_size=60), st.sampled_from([-30 * DAY_MS, -61_000, 61_000, 30 * DAY_MS]))
def test_a_jump_is_not_believed_before_it_has_lasted_15_minutes(gaps: list[int], off_ms: int) -> None:
    wall, lasted_ms = GuardedWall(), -gaps[0]
    for gap_ms, (true_ms, shown_ms, read) in zip(gaps, readings(wall, [(gap, off_ms) for gap in gaps]), strict=True):
        lasted_ms += gap_ms
        assert read == (true_ms if lasted_ms < STEP_LASTS_MS else shown_ms)
    assert wall.stepped == (lasted_ms < STEP_LASTS_MS)


@given(st.lists(st.tuples(pauses, st.sampled_from([-30 * DAY_MS, 0, DAY_MS, 30 * DAY_MS])), max_size=80))
def test_no_jump_is_believed_that_has_not_itself_lasted(steps: list[tuple[int, int]]) -> None:
    true_ms, since_ms, before, trusted = 0, 0, 0, 0
    for (pause_ms, off_ms), (at_ms, _, read) in zip(steps, readings(GuardedWall(), steps), strict=True):
        true_ms += pause_ms
        if off_ms != before:
            since_ms, before = true_ms, off_ms
        if read - at_ms != trusted:
            trusted = read - at_ms
            assert trusted == off_ms
            assert true_ms - since_ms >= STEP_LASTS_MS


def test_a_month_ahead_for_ten_minutes_and_back_moves_nothing() -> None:
    """F40: no lease, expiry or knock comes before its time."""
    steps = [(60_000, 30 * DAY_MS)] * 10 + [(60_000, 0)] * 20
    assert all(read == true for true, _, read in readings(GuardedWall(), steps))


def test_a_jump_from_a_jump_begins_to_last_anew() -> None:
    steps = [(60_000, 30 * DAY_MS)] * 10 + [(60_000, DAY_MS)] * 10
    assert all(read == true for true, _, read in readings(GuardedWall(), steps))


def test_times_are_printed_in_utc_with_milliseconds() -> None:
    assert rfc3339(1_777_799_564_018) == "2026-05-03T09:12:44.018Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"


class TestStoreClock:
    """The clock of a store that several relays share."""

    class Own:
        def __init__(self) -> None:
            self.wall_ms, self.mono_ms = 1_000_000, 5_000

        def now_ms(self) -> int:
            return self.wall_ms

        def monotonic_ms(self) -> int:
            return self.mono_ms

        async def sleep(self, seconds: float) -> None:
            raise AssertionError

    def test_it_is_our_own_until_it_was_read_once(self) -> None:
        own = self.Own()
        assert StoreClock(own).now_ms() == own.wall_ms

    def test_it_goes_on_at_our_pace_whatever_our_wall_clock_says(self) -> None:
        own = self.Own()
        clock = StoreClock(own)
        clock.follow(9_000_000, asked_ms=own.mono_ms)
        own.mono_ms += 300
        own.wall_ms = 0
        assert clock.now_ms() == 9_000_300

    def test_a_reading_counts_for_the_middle_of_its_round_trip(self) -> None:
        own = self.Own()
        clock = StoreClock(own)
        asked_ms, own.mono_ms = own.mono_ms, own.mono_ms + 100
        clock.follow(9_000_000, asked_ms=asked_ms)
        assert clock.now_ms() == 9_000_050

    def test_a_slow_reading_changes_nothing(self) -> None:
        own = self.Own()
        clock = StoreClock(own)
        clock.follow(9_000_000, asked_ms=own.mono_ms)
        asked_ms, own.mono_ms = own.mono_ms, own.mono_ms + 1_001
        clock.follow(9_030_000, asked_ms=asked_ms)
        assert clock.now_ms() == 9_001_001

    def test_a_step_of_the_stores_clock_is_believed_after_15_minutes(self) -> None:
        """A failover to a server whose clock is wrong expires nothing."""
        own = self.Own()
        clock = StoreClock(own)
        clock.follow(9_000_000, asked_ms=own.mono_ms)
        assert clock.now_ms() == 9_000_000
        for _ in range(15):
            clock.follow(90_000_000 + own.mono_ms, asked_ms=own.mono_ms)
            assert clock.now_ms() == 9_000_000 + own.mono_ms - 5_000
            own.mono_ms += 60_000
        clock.follow(90_000_000 + own.mono_ms, asked_ms=own.mono_ms)
        assert clock.now_ms() == 90_000_000 + own.mono_ms


def test_how_far_it_jumped_is_known_for_as_long_as_it_is_not_believed() -> None:
    wall = GuardedWall()
    assert [wall.read(wall_ms=0, monotonic_ms=0), wall.step_ms] == [0, None]
    assert [wall.read(wall_ms=DAY_MS + 1_000, monotonic_ms=1_000), wall.step_ms] == [1_000, DAY_MS]
    assert [wall.read(wall_ms=2_000, monotonic_ms=2_000), wall.step_ms] == [2_000, None]
