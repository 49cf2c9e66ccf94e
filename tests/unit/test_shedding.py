"""What is refused first when there is more to do than the relay can, and how it comes back (safety OVL-4)."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Unavailable
from relay.shedding import HOLD_MS, LAGS, PRIORITIES, Shed, Shedding, Signals
from relay.telemetry.memory import memory_max, memory_used

LOOK_MS = 500  # about as often as the loop is measured
WELL = Signals()
LATE, VERY_LATE, STUCK = (Signals(lag_ms=ms) for ms in (150, 600, 2_500))
FULL = Signals(queue=0.6)
TIGHT, TIGHTER, LAST = (Signals(memory=share) for share in (0.85, 0.92, 0.97))


def after(signals: Signals, looks: int = 20) -> Shedding:
    shedding = Shedding()
    for n in range(looks):
        shedding.looked(signals, n * LOOK_MS)
    return shedding


def refused(shedding: Shedding) -> list[Shed]:
    def is_refused(what: Shed) -> bool:
        try:
            shedding.admit(what)
        except Unavailable:
            return True
        return False

    return [what for what in Shed if is_refused(what)]


@pytest.mark.parametrize(
    ("signals", "most"),
    [
        (WELL, None),
        (Signals(queue=0.5, lag_ms=100, memory=0.8), None),
        (LATE, Shed.RESYNCS),
        (VERY_LATE, Shed.BULK),
        (FULL, Shed.BULK),
        (TIGHT, Shed.BULK),
        (STUCK, Shed.SENDS),
        (TIGHTER, Shed.SENDS),
        (LAST, Shed.URGENT),
    ],
)
def test_ovl_4_each_signal_sheds_up_to_a_class_and_no_further(signals: Signals, most: Shed | None) -> None:
    assert refused(after(signals)) == [what for what in Shed if most is not None and what <= most]


@given(st.lists(st.sampled_from([WELL, LATE, VERY_LATE, STUCK, FULL, TIGHT, TIGHTER, LAST]), max_size=60))
def test_ovl_4_what_comes_first_in_the_order_is_refused_first_and_taken_again_last(looks: list[Signals]) -> None:
    shedding = Shedding()
    for n, signals in enumerate(looks):
        before = shedding.level
        shedding.looked(signals, n * LOOK_MS)
        assert shedding.level <= before + 1, "one class more at a time"
        assert refused(shedding) == list(Shed)[: shedding.level]


def test_a_single_pause_of_the_loop_is_no_load() -> None:
    shedding = after(WELL)
    shedding.looked(STUCK, 0)
    for n in range(1, LAGS):
        shedding.looked(WELL, n * LOOK_MS)
        assert refused(shedding) == []


@given(st.integers(0, 3 * HOLD_MS))
def test_ovl_4_a_class_is_refused_for_five_seconds_after_it_last_had_to_be_and_no_longer(waited_ms: int) -> None:
    shedding, began_ms = after(TIGHT), 19 * LOOK_MS
    shedding.looked(WELL, began_ms + waited_ms)
    assert refused(shedding) == ([what for what in Shed if what <= Shed.BULK] if waited_ms < HOLD_MS else [])


def test_ovl_4_load_that_comes_and_goes_does_not_make_it_flap() -> None:
    shedding = after(TIGHT)
    for n in range(20, 100):
        shedding.looked(TIGHT if n % 4 == 0 else WELL, n * LOOK_MS)
        assert shedding.level == Shed.BULK


def test_sends_are_refused_by_their_priority() -> None:
    assert [word for word, what in PRIORITIES.items() if after(FULL).level >= what] == ["low"]
    assert [word for word, what in PRIORITIES.items() if after(TIGHTER).level >= what] == ["low", "normal"]


def test_the_memory_that_there_is_is_the_container_s_if_that_is_less(tmp_path: Path) -> None:
    machine = memory_max(())
    limit = tmp_path / "memory.max"
    for text, most in (("max\n", machine), (f"{machine // 2}\n", machine // 2), (f"{machine * 2}\n", machine)):
        limit.write_text(text)
        assert memory_max((tmp_path / "none", limit)) == most
    assert 0 < memory_used() < machine
    assert memory_used(tmp_path / "none") == 0
