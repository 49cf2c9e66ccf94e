"""How much may be on its way without being acked (protocol 9.2, I29)."""

from hypothesis import given
from hypothesis import strategies as st

from relay.realtime.window import STALLED_MS, Window

_batch = st.tuples(st.sampled_from(["inbox", "g"]), st.integers(1, 5), st.integers(1, 400))
_steps = st.lists(st.one_of(_batch, st.tuples(st.sampled_from(["inbox", "g"]), st.integers(0, 40))), max_size=40)


@given(_steps)
def test_what_is_on_its_way_is_never_more_than_the_window_beyond_the_batch_that_filled_it(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    window = Window(entries=8, bytes_=1000)
    heads = {"inbox": 0, "g": 0}
    flying: list[tuple[str, int, int, int]] = []
    for step in steps:
        if len(step) == 2:
            name, seq = step
            window.acked(name, seq)
            flying = [one for one in flying if one[0] != name or one[1] > seq]
        elif (room := window.room) is not None:
            name, entries, size = step
            entries, size = min(entries, room[0]), min(size, room[1])
            heads[name] += entries
            window.sent(name, heads[name], entries=entries, size=size)
            flying.append((name, heads[name], entries, size))
        entries, size = sum(one[2] for one in flying), sum(one[3] for one in flying)
        assert entries <= 8
        assert size <= 1000
        assert (window.room is None) == bool(entries and (entries >= 8 or size >= 1000))


def test_one_entry_of_any_size_finds_room_in_an_empty_window() -> None:
    window = Window(entries=2, bytes_=10)
    window.sent("inbox", 1, entries=1, size=65_536)
    assert window.room is None
    window.acked("inbox", 1)
    assert window.room == (2, 10)


def test_who_acks_nothing_for_a_minute_of_a_full_window_is_stalled() -> None:
    window = Window(entries=1, bytes_=10)
    assert not window.stalled(0)
    window.sent("inbox", 1, entries=1, size=1)
    assert not window.stalled(1000)
    assert not window.stalled(1000 + STALLED_MS - 1)
    assert window.stalled(1000 + STALLED_MS)
    window.acked("inbox", 1)
    window.sent("inbox", 2, entries=1, size=1)
    assert not window.stalled(1000 + STALLED_MS), "an ack came meanwhile"


def test_who_acks_in_small_steps_is_not_stalled() -> None:
    """F22: one by one of what came at once; the same number again is no step."""
    window = Window(entries=3, bytes_=10)
    window.acked("inbox", 7)
    window.sent("inbox", 10, entries=3, size=3)
    assert not window.stalled(0)
    window.acked("inbox", 8)
    assert not window.stalled(STALLED_MS)
    window.acked("inbox", 8)
    assert window.room is None
    assert window.stalled(2 * STALLED_MS)
