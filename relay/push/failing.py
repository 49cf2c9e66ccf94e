"""An address that keeps failing in a way that is dead if it goes on, judged by itself, apart from its account. Pure."""

from msgspec import Struct

from providers.contract import Verdict
from relay.push.rules import Result

FAILURES_MIN = 3  # two, long apart, are no habit


class Failing(Struct, frozen=True):
    """How often in a row an address failed so, and since when (Unix ms)."""

    times: int = 0
    since_ms: int | None = None


def failing(before: Failing, result: Result, *, now_ms: int) -> Failing:
    """The count after one more attempt. A push that was taken clears it; answers that say nothing of the address (a
    vendor that is down, a message that is refused) leave it as it is."""
    outcome = result.outcome
    if outcome is None:
        return before
    if outcome.verdict is Verdict.ACCEPTED or result.partly:
        return Failing()
    if outcome.dead_after_s is None:
        return before
    return Failing(before.times + 1, now_ms if before.since_ms is None else before.since_ms)


def is_dead(now: Failing, result: Result, *, now_ms: int) -> bool:
    """Whether this attempt's answer, after all those before it, means that the address is dead."""
    outcome = result.outcome
    if outcome is None or outcome.dead_after_s is None or now.since_ms is None:
        return False
    return now.times >= FAILURES_MIN and now_ms - now.since_ms >= outcome.dead_after_s * 1000
