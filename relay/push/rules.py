"""What an attempt's verdict means for its job, as a table."""

from enum import StrEnum

from msgspec import Struct

from providers.contract import Outcome, Scope, Verdict
from relay.push.notes import Form
from relay.push.situation import Sort


class Then(StrEnum):
    """What happens to the job after an attempt."""

    TOLD = "told"  # pushed_seq rises; entries stay owed until acked
    AGAIN = "again"  # after a while
    NEXT_ADDRESS = "next_address"  # this one is dead
    ELSEWHERE = "elsewhere"  # the vendor will not have it; another of the device's addresses may be another vendor's
    BARE = "bare"  # once more, without content
    GIVE_UP = "give_up"  # this channel can't carry it; the message waits for sync
    PARK = "park"  # an operator must act
    MOOT = "moot"
    FREE = "free"  # cut off by a stop of the relay, or begun too late: due at once, not counted as a try


UNKNOWN_TRIES = 2  # more, of what the vendor answered by a code that it does not document
NOT_NEEDED = "not_needed"  # the pre-send check found nothing to do
CUT_OFF = "cut_off"  # the relay stopped before the vendor answered, or the claim was over before it was asked

MISCONFIGURED_MS = 3_600_000  # until a push is tried again whose target or channel is set up wrongly
CALL_S = 20.0  # of one call at most
CALLS_SHARE = 5 / 6  # of a claim, for all calls of its attempt (protocol 7.3); the rest is for SETTLE
NO_ANSWER = Outcome(verdict=Verdict.RETRY, maybe_sent=True, vendor_code="no_answer")  # within CALL_S
BROKE = Outcome(verdict=Verdict.RETRY, maybe_sent=True, vendor_code="relay_error")  # the adapter raised

AFTER: dict[Verdict, Then] = {
    Verdict.ACCEPTED: Then.TOLD,
    Verdict.RETRY: Then.AGAIN,
    Verdict.TOKEN_DEAD: Then.NEXT_ADDRESS,
    Verdict.REFUSED: Then.ELSEWHERE,
    Verdict.TOO_LARGE: Then.BARE,
    Verdict.MISCONFIGURED: Then.PARK,
}


class Result(Struct, frozen=True):
    """An attempt's end: the vendor's outcome; None if nothing was sent, or (`cut_off`) nobody waited for the answer or could.

    `broke`: there is no answer, as the adapter raised; its outcome stands for that. `partly`: of its notifications some
    were accepted before that. `losses`: what of them the adapter says that its vendor has not. `impaired`: the vendor's codes
    for what an operator must mend, of less than the account.
    `spent`: the sorts of push of which the vendor takes no more, and until when. `waiting`: the places of the notifications
    that wait for their hour, or for the next claim; `rest`: what the vendor said to the first of them, after others that it
    took, if they are to be tried again. `uncalled`: for how many of the notifications no call was begun.
    `host`: where the device is reached, if it has brought that itself.
    """

    outcome: Outcome | None
    cut_off: bool = False
    broke: bool = False
    partly: bool = False
    losses: tuple[str, ...] = ()
    impaired: tuple[str, ...] = ()
    spent: tuple[tuple[Sort, int], ...] = ()
    waiting: tuple[int, ...] = ()
    rest: Outcome | None = None
    uncalled: int = 0
    host: str | None = None

    @property
    def word(self) -> str:
        if self.cut_off:
            return CUT_OFF
        return NOT_NEEDED if self.outcome is None else str(self.outcome.verdict)


def after(result: Result, form: str) -> Then:
    """The table, with its refinements: a bare wake-up that is refused too is given up, and so is a knock (the next one
    follows); a misconfiguration that concerns one target only (say, the APNs key behind an FCM project) parks nobody."""
    if result.outcome is None:
        return Then.FREE if result.cut_off else Then.MOOT
    then = AFTER[result.outcome.verdict]
    if then is Then.ELSEWHERE and result.partly:  # all of it would show twice
        then = Then.BARE
    if then in {Then.BARE, Then.ELSEWHERE} and form in {Form.WAKE, Form.KNOCK}:
        return Then.GIVE_UP
    if then is Then.PARK and result.outcome.scope is not Scope.ACCOUNT:
        return Then.AGAIN
    return then


def of_a_sort(outcome: Outcome) -> bool:
    """Whether it says no more than that this sort of push has to wait: of the account's channel, or of this device's."""
    if outcome.verdict is Verdict.MISCONFIGURED:
        return outcome.scope is Scope.MESSAGE  # the channel's id or category is wrong; those of others may be right
    return outcome.verdict is Verdict.RETRY and (outcome.spent or outcome.shut) and outcome.scope is not Scope.ACCOUNT


def known(outcome: Outcome, *, tries: int) -> Outcome:
    """The outcome, after so many failed tries: a code that nobody knows is taken for a mistake in the set-up at last.

    Of this device's alone, as nobody knows whom else it concerns.
    """
    if not outcome.unknown or outcome.verdict is not Verdict.RETRY or tries < UNKNOWN_TRIES:
        return outcome
    return Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.TOKEN, vendor_code=outcome.vendor_code)


SEVERITY = (
    Verdict.MISCONFIGURED,
    Verdict.TOKEN_DEAD,
    Verdict.RETRY,
    Verdict.TOO_LARGE,
    Verdict.REFUSED,
    Verdict.ACCEPTED,
)


def worst(outcomes: list[Outcome]) -> Outcome:
    """The outcome of an attempt that made several calls: the one that decides what happens next."""
    return min(outcomes, key=lambda one: SEVERITY.index(one.verdict))
