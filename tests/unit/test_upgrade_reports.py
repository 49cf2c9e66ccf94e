"""Which app versions look as if they lose messages (protocol 10.4), and what one comparison says of an upgrade."""

from typing import Any

import pytest

from relay.inbox.comparing import Compared, Comparison, Item, Range
from relay.inbox.upgrades import SILENT_MS, SUSPECT_MIN, judge, report
from relay.model import DeviceKey
from relay.store.upgrades import Outcome, Upgrade

NOW_MS = 10_000_000


def outcome(**more: Any) -> Outcome:
    values: dict[str, Any] = {
        "version": "2",
        "verdict": "delta",
        "reason": None,
        "verify_state": "ok",
        "missing_found": 0,
        "caught_up_ms": None,
        "at_ms": 0,
        "silent": False,
    }
    return Outcome(**(values | more))


BAD: dict[str, dict[str, Any]] = {
    "lost its store": {"reason": "store_changed"},
    "lost its cursor": {"reason": "no_cursor"},
    "needed repair": {"missing_found": 1},
    "never acked": {"silent": True},
}
GOOD: dict[str, dict[str, Any]] = {
    "went well": {},
    "numbers were lost here": {"reason": "epoch"},
    "was not compared yet": {"verify_state": None},
    "has hardly begun": {"silent": True, "at_ms": NOW_MS - SILENT_MS + 1},
}


@pytest.mark.parametrize("what", BAD)
def test_more_than_two_in_a_hundred_make_a_version_suspect(what: str) -> None:
    for bad, suspect in ((1, False), (2, True)):
        (one,) = report([outcome()] * (SUSPECT_MIN - bad) + [outcome(**BAD[what])] * bad, NOW_MS)
        assert (one.bad, one.suspect) == (bad, suspect)


@pytest.mark.parametrize("what", GOOD)
def test_what_is_not_the_versions_fault_does_not_count(what: str) -> None:
    (one,) = report([outcome(**GOOD[what])] * SUSPECT_MIN, NOW_MS)
    assert (one.bad, one.suspect) == (0, False)


def test_fewer_than_fifty_say_nothing() -> None:
    (one,) = report([outcome(**BAD["lost its store"])] * (SUSPECT_MIN - 1), NOW_MS)
    assert not one.suspect


def test_versions_are_told_apart_the_most_upgraded_to_first() -> None:
    found = report(
        [outcome(), outcome(version="3", caught_up_ms=4000), outcome(version="3", caught_up_ms=2000)], NOW_MS
    )
    assert [(one.version, one.upgrades, one.caught_up_s) for one in found] == [("3", 2, 3.0), ("2", 1, None)]


UPGRADE = Upgrade("up_1", DeviceKey("shop", "ann", "phone"), "1", "2", 0, None, None, None)
WHOLE = Range(0, 10, 8, 0)
SAME = Compared(WHOLE, same=True, n=8)
LONG = Compared(WHOLE, same=False, n=9)
LISTED = Compared(WHOLE, same=False, n=10, items=(Item(1, "id", "h"),))
ROTTEN = Compared(WHOLE, same=False, n=8, items=(Item(1, "id", "h"),))
MORE_HERE = Compared(WHOLE, same=False, n=7, items=(Item(1, "id", "h"),))  # it ended without a word to who had it


def compared(one: Compared, *, whole: bool = True) -> Comparison:
    return Comparison(base_seq=0, as_of_ms=0, ranges=(one,), whole=whole)


@pytest.mark.parametrize(
    ("before", "found", "after"),
    [
        ((None, None), compared(SAME), ("ok", None)),
        ((None, None), compared(SAME, whole=False), (None, None)),
        ((None, None), compared(LONG), (None, None)),
        ((None, None), compared(LISTED, whole=False), ("repairing", 2)),
        ((None, None), compared(ROTTEN), ("repairing", 1)),
        ((None, None), compared(MORE_HERE), (None, None)),
        (("repairing", 2), compared(LISTED, whole=False), ("repairing", 4)),
        (("repairing", 2), compared(SAME), ("repaired", 2)),
        (("repairing", 0), compared(SAME), ("repaired", 0)),
        (("repairing", 2), compared(LISTED), ("repairing", 2)),
        (("repairing", 2), compared(LONG), ("repairing", 0)),
        (("failed", 2), compared(SAME), ("repaired", 2)),
        (("missing", None), compared(SAME), ("ok", None)),
        (("ok", None), compared(LISTED), ("ok", None)),
    ],
)
def test_only_a_comparison_of_everything_proves_anything(
    before: tuple[str | None, int | None], found: Comparison, after: tuple[str | None, int | None]
) -> None:
    state, missing = before
    known = judge(UPGRADE._replace(verify_state=state, missing_found=missing), found, NOW_MS, mended=False)
    assert (known.verify_state, known.missing_found) == after
    assert known.caught_up_ms == NOW_MS


@pytest.mark.parametrize(
    ("state", "found", "after"),
    [
        ("repairing", compared(LONG), "failed"),
        ("repairing", compared(LISTED), "failed"),
        ("repairing", compared(LISTED, whole=False), "repairing"),
        ("repairing", compared(SAME), "repaired"),
        ("failed", compared(SAME), "repaired"),
        (None, compared(LONG), None),
    ],
)
def test_who_has_fetched_what_was_lacking_and_still_differs_has_failed(
    state: str | None, found: Comparison, after: str | None
) -> None:
    before = UPGRADE._replace(verify_state=state, missing_found=None if state is None else 2)
    assert judge(before, found, NOW_MS, mended=True).verify_state == after
