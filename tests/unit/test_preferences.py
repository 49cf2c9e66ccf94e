"""When a user wants to be told, by the clock on the wall, also where that clock jumps; and of which conversations."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.inbox.preferences import (
    NOTHING_SAID,
    Conversation,
    Level,
    Preferences,
    Quiet,
    clock_text,
    from_store,
    minutes,
    quiet_until,
    stored,
    wanted,
    zone_of,
)

BERLIN = "Europe/Berlin"
NIGHT = Quiet(minutes("22:00"), minutes("07:00"))


def ms(text: str, zone: str = BERLIN, *, fold: int = 0) -> int:
    at = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return int(at.timestamp() * 1000)


def until(text: str, *quiet: Quiet, zone: str | None = BERLIN, device: str | None = None, fold: int = 0) -> str | None:
    """The end of the quiet hours, on the same wall, of somebody who looks at it at `text`."""
    wall = ZoneInfo(zone or device or "UTC")
    end_ms = quiet_until(Preferences(zone=zone, quiet=quiet), device, ms(text, str(wall), fold=fold))
    if end_ms is None:
        return None
    return datetime.fromtimestamp(end_ms / 1000, wall).isoformat(timespec="minutes")


@pytest.mark.parametrize(
    ("at", "end"),
    [
        ("2026-05-03T21:59", None),
        ("2026-05-03T22:00", "2026-05-04T07:00+02:00"),
        ("2026-05-04T06:59", "2026-05-04T07:00+02:00"),
        ("2026-05-04T07:00", None),
    ],
)
def test_quiet_hours_go_over_midnight(at: str, end: str | None) -> None:
    assert until(at, NIGHT) == end


@pytest.mark.parametrize(
    ("at", "end"),
    [
        ("2026-05-03T12:59", None),
        ("2026-05-03T13:00", "2026-05-03T14:30+02:00"),
        ("2026-05-03T14:30", None),
    ],
)
def test_quiet_hours_within_a_day(at: str, end: str | None) -> None:
    assert until(at, Quiet(minutes("13:00"), minutes("14:30"))) == end


def test_days_are_those_of_the_start() -> None:
    friday = Quiet(NIGHT.start_min, NIGHT.end_min, days=(4,))
    assert until("2026-05-08T23:00", friday) == "2026-05-09T07:00+02:00"
    assert until("2026-05-09T06:00", friday) == "2026-05-09T07:00+02:00"
    assert until("2026-05-09T23:00", friday) is None
    assert until("2026-05-08T06:00", friday) is None


def test_hours_that_follow_each_other_are_one_silence() -> None:
    assert until("2026-05-03T23:00", NIGHT, Quiet(minutes("07:00"), minutes("09:00"))) == "2026-05-04T09:00+02:00"


def test_the_night_that_the_clock_is_put_forward_is_an_hour_shorter() -> None:
    end_ms = quiet_until(Preferences(zone=BERLIN, quiet=(NIGHT,)), None, ms("2026-03-28T22:00"))
    assert end_ms == ms("2026-03-28T22:00") + 8 * 3_600_000


def test_the_night_that_the_clock_is_put_back_is_an_hour_longer() -> None:
    end_ms = quiet_until(Preferences(zone=BERLIN, quiet=(NIGHT,)), None, ms("2026-10-24T22:00"))
    assert end_ms == ms("2026-10-24T22:00") + 10 * 3_600_000


def test_a_time_that_the_clock_jumps_over_is_when_it_jumps() -> None:
    assert until("2026-03-29T01:00", Quiet(minutes("00:00"), minutes("02:30"))) == "2026-03-29T03:00+02:00"


@pytest.mark.parametrize(("fold", "end"), [(0, "2026-10-25T02:30+02:00"), (1, "2026-10-25T02:30+01:00")])
def test_a_time_that_the_clock_shows_twice_ends_the_silence_each_time(fold: int, end: str) -> None:
    assert until("2026-10-25T02:10", Quiet(minutes("00:00"), minutes("02:30")), fold=fold) == end


def test_without_a_zone_of_the_user_each_devices_own_counts() -> None:
    assert until("2026-05-03T23:00", NIGHT, zone=None, device="Asia/Tokyo") == "2026-05-04T07:00+09:00"


@pytest.mark.parametrize("nonsense", [None, "", "Mars/Olympus", "../../etc/passwd", "\x00", "a" * 300])
def test_a_device_that_knows_no_zone_is_taken_to_be_in_utc(nonsense: str | None) -> None:
    assert zone_of(None, nonsense) is UTC


ZONES = st.sampled_from(
    [BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC", "Africa/Casablanca"]
)
DAY_MIN = 24 * 60
MINUTES = st.integers(0, DAY_MIN - 1)
QUIETS = st.builds(
    lambda start, length, days: Quiet(start, (start + length) % DAY_MIN, tuple(sorted(days))),
    MINUTES,
    st.integers(1, DAY_MIN - 1),
    st.sets(st.integers(0, 6), max_size=6),
)
INSTANTS = st.integers(1_767_225_600, 1_798_761_600).map(lambda s: s * 1000)  # the year 2026


@given(st.lists(QUIETS, min_size=1, max_size=3), ZONES, INSTANTS)
def test_it_is_quiet_until_the_end_and_not_at_it(quiet: list[Quiet], zone: str, now_ms: int) -> None:
    preferences = Preferences(zone=zone, quiet=tuple(quiet))
    end_ms = quiet_until(preferences, None, now_ms)
    if end_ms is None:
        return
    assert end_ms > now_ms
    middle_ms = (now_ms + end_ms) // 2
    assert quiet_until(preferences, None, middle_ms) is not None
    if end_ms - now_ms < 6 * 86_400_000:  # else it never ends
        assert quiet_until(preferences, None, end_ms) is None


@given(QUIETS, ZONES, INSTANTS)
def test_what_is_quiet_can_be_read_off_the_wall(quiet: Quiet, zone: str, now_ms: int) -> None:
    wall = datetime.fromtimestamp(now_ms / 1000, ZoneInfo(zone))
    minute, today = wall.hour * 60 + wall.minute, wall.date()
    within = []
    for begun in (today, today - timedelta(days=1)):
        ends = quiet.end_min if quiet.end_min > quiet.start_min else quiet.end_min + DAY_MIN
        at = minute + DAY_MIN * (today - begun).days
        within.append(quiet.start_min <= at < ends and (not quiet.days or begun.weekday() in quiet.days))
    assert (quiet_until(Preferences(zone=zone, quiet=(quiet,)), None, now_ms) is not None) == any(within)


# --- levels and mutes -------------------------------------------------------------------------------------------------


def test_nothing_said_is_everything() -> None:
    assert wanted(NOTHING_SAID, "c", mention=False, accepted_ms=0)


@pytest.mark.parametrize(
    ("level", "message", "mention"),
    [(Level.ALL, True, True), (Level.MENTIONS, False, True), (Level.NONE, False, False)],
)
def test_levels_hold_for_all_conversations_but_those_with_their_own(level: Level, message: bool, mention: bool) -> None:
    for one in (
        Preferences(level=level),
        Preferences(level=Level.ALL, conversations={"c": Conversation(level=level)}),
        Preferences(level=Level.NONE, conversations={"c": Conversation(level=level)}),
    ):
        assert wanted(one, "c", mention=False, accepted_ms=0) == message
        assert wanted(one, "c", mention=True, accepted_ms=0) == mention
    assert wanted(Preferences(level=level), None, mention=False, accepted_ms=0) == message


def test_what_came_while_it_was_muted_is_not_told_afterwards() -> None:
    muted = Preferences(conversations={"c": Conversation(muted_until_ms=100)})
    assert not wanted(muted, "c", mention=False, accepted_ms=99)
    assert wanted(muted, "c", mention=False, accepted_ms=100)
    assert wanted(muted, "d", mention=False, accepted_ms=99)


def test_mentions_have_a_switch_of_their_own() -> None:
    for silent in (False, True):
        muted = Preferences(conversations={"c": Conversation(muted_until_ms=100, mute_mentions=silent)})
        assert wanted(muted, "c", mention=True, accepted_ms=0) != silent


@given(st.lists(QUIETS, max_size=3), st.sampled_from(Level), st.integers(0, 2**40))
def test_what_is_stored_is_what_was_said(quiet: list[Quiet], level: Level, until_ms: int) -> None:
    said = Preferences(
        zone=BERLIN, quiet=tuple(quiet), level=level, conversations={"c": Conversation(muted_until_ms=until_ms)}
    )
    assert from_store(stored(said)) == said
    assert from_store(None) == NOTHING_SAID


@given(MINUTES)
def test_times_of_day_are_printed_as_they_are_read(minute: int) -> None:
    assert minutes(clock_text(minute)) == minute


@pytest.mark.parametrize("text", ["", "7:00", "24:00", "12:60", "1200", "12:0a", "-1:00", "12:00:00"])
def test_what_is_no_time_of_day_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        minutes(text)
