"""When an address that keeps failing is dead: the count of one attempt after the other."""

import pytest

from providers.contract import Outcome, Scope, Verdict
from relay.push.failing import FAILURES_MIN, Failing, failing, is_dead
from relay.push.rules import Result

DAY_MS = 86_400_000
BLOCKED = Result(
    Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.TOKEN, dead_after_s=86_400.0, vendor_code="status_403")
)


def of(verdict: Verdict) -> Result:
    return Result(Outcome(verdict=verdict))


def after(*attempts: tuple[int, Result]) -> Failing:
    now = Failing()
    for at_ms, result in attempts:
        now = failing(now, result, now_ms=at_ms)
    return now


@pytest.mark.parametrize(
    ("attempts", "dead"),
    [
        pytest.param([(0, BLOCKED), (1, BLOCKED), (DAY_MS, BLOCKED)], True, id="for its time"),
        pytest.param([(0, BLOCKED), (1, BLOCKED), (DAY_MS - 1, BLOCKED)], False, id="not for so long yet"),
        pytest.param([(0, BLOCKED), (DAY_MS * 9, BLOCKED)], False, id="two, however far apart"),
        pytest.param([(0, BLOCKED), (1, of(Verdict.ACCEPTED)), (2, BLOCKED), (3, BLOCKED), (DAY_MS, BLOCKED)], False),
        pytest.param([(0, BLOCKED), (1, of(Verdict.RETRY)), (2, BLOCKED), (DAY_MS, BLOCKED)], True, id="vendor away"),
        pytest.param([(0, BLOCKED), (1, of(Verdict.REFUSED)), (2, BLOCKED), (DAY_MS, BLOCKED)], True, id="bad message"),
        pytest.param([(0, BLOCKED), (1, Result(None)), (2, BLOCKED), (DAY_MS, BLOCKED)], True, id="nothing sent"),
        pytest.param([(0, of(Verdict.RETRY)), (1, of(Verdict.RETRY)), (DAY_MS, of(Verdict.RETRY))], False, id="others"),
    ],
)
def test_an_address_is_dead_that_gets_nothing_but_such_answers_for_their_time(
    attempts: list[tuple[int, Result]], *, dead: bool
) -> None:
    at_ms, last = attempts[-1]
    assert is_dead(after(*attempts), last, now_ms=at_ms) is dead


def test_an_attempt_of_which_a_part_was_taken_shows_that_the_address_works() -> None:
    assert BLOCKED.outcome is not None
    partly = Result(BLOCKED.outcome, partly=True)
    assert after((0, BLOCKED), (1, partly)) == Failing()


def test_what_says_nothing_of_the_address_is_no_death_however_long_it_failed_before() -> None:
    before = after(*((n, BLOCKED) for n in range(FAILURES_MIN)))
    assert not is_dead(before, of(Verdict.RETRY), now_ms=DAY_MS * 9)
