"""The client's side of comparing caches (protocol 8.7): which questions it asks, and what it takes from the answers."""

from relay.client.compare import Comparison
from relay.client.fingerprints import Extent, Row
from relay.client.wire import ComparedRange, Verification

AS_OF = "2026-01-01T00:00:00Z"


def test_to_prove_an_upgrade_what_has_expired_is_for_the_relays_clock_to_say() -> None:
    """By a clock that is wrong the phone has nothing left, and would seem to have lost it all in the upgrade."""
    rows = [Row(1, "m1", "h1"), Row(2, "m2", "h2")]
    comparison = Comparison(
        extent=Extent(0, 2, "cursor"), rows_of=lambda as_of: rows if as_of else [], purpose="upgrade", upgrade="up_1"
    )
    first = comparison.request()
    assert first is not None
    assert first["ranges"] == []
    comparison.answered(Verification(AS_OF, floor=0, ranges=[]))
    second = comparison.request()
    assert second is not None
    assert (second["as_of"], [one["n"] for one in second["ranges"]]) == (AS_OF, [1, 1])
    same = [ComparedRange(one["from"], one["to"], "same") for one in second["ranges"]]
    comparison.answered(Verification(AS_OF, floor=0, ranges=same, state="ok"))
    assert comparison.request() is None
    assert (comparison.state, comparison.to_fetch(), comparison.extra) == ("ok", [], [])
