"""What vivo answers, and when it takes what is operational. Pure, and total: no answer makes it raise.

Source: vendor sheet `vivo` §4 (answer, invalid users), §5 (codes, hours), §6 (classes).
"""

from collections.abc import Sequence
from dataclasses import replace

from providers.contract import Outcome, Scope, Verdict
from providers.http import THROTTLED_S, Response, by_status, code_from, number_from

__all__ = ["SPENT_S", "TASK_ID", "WORDLESS", "opens_in_s", "outcome_of", "users_of"]

SPENT_S = 3600.0
TASK_ID = "x-relay-task-id"  # added to the answer for a list, which need not say by what receipts will name it
BEIJING_S = 8 * 3600  # ahead of UTC, all year
DAY_S = 86_400
OPERATIONAL_S = (7 * 3600, 23 * 3600)  # of Beijing's day: the operational class goes out at no other time

RETRY, REFUSED, MISCONFIGURED = Verdict.RETRY, Verdict.REFUSED, Verdict.MISCONFIGURED
CLOSED, SYSTEM_OVER = 10071, 10073
WORDLESS = (10085, 10104)
USED_UP = Outcome(verdict=RETRY, scope=Scope.ACCOUNT, retry_after_s=SPENT_S, spent=True)
# vivo's codes to ours (sheet §5).
BY_CODE: dict[int, Outcome] = {
    10000: Outcome(verdict=Verdict.REAUTH, scope=Scope.ACCOUNT),
    **dict.fromkeys((10070, 10254), USED_UP),
    CLOSED: Outcome(verdict=RETRY, shut=True),  # not at this hour: `outcome_of` says until when
    **dict.fromkeys((10040, 10072, 10093), Outcome(verdict=RETRY, scope=Scope.ACCOUNT, retry_after_s=THROTTLED_S)),
    SYSTEM_OVER: replace(USED_UP, scope=Scope.MESSAGE),  # the system class alone: `outcome_of` names its channels
    10102: Outcome(verdict=RETRY),
    10252: Outcome(verdict=RETRY, batch_spent=True),  # no more group bodies today: single pushes still go
    # A text of digits, letters and signs alone, or one that looks like a test.
    **dict.fromkeys(WORDLESS, Outcome(verdict=REFUSED)),
    **dict.fromkeys((10045, 10050, 10054, *range(10055, 10068)), Outcome(verdict=REFUSED)),  # unconfirmed
    **dict.fromkeys((10101, 10103), Outcome(verdict=REFUSED)),  # unconfirmed
    **dict.fromkeys((10089, 10094, *range(10200, 10206)), Outcome(verdict=MISCONFIGURED, scope=Scope.ACCOUNT)),
    **dict.fromkeys((10096, 10097, 10303), Outcome(verdict=MISCONFIGURED)),  # this class, or this call
    10302: Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN),
}
# The status of an invalid user (sheet §4).
BY_USER_STATUS: dict[int, Outcome] = {
    1: Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN),  # not of this app
    2: Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN),  # uninstalled, unsubscribed, or its data cleared
    4: Outcome(verdict=MISCONFIGURED, scope=Scope.TOKEN),  # no test device, though we are in test mode
}
# 3 has been seen; nobody says what it means. The token is kept, and has no more tries than after an unknown code.
USER_UNEXPLAINED = Outcome(verdict=RETRY, scope=Scope.TOKEN, unknown=True)


def outcome_of(response: Response, *, system: Sequence[str | None], now_s: float) -> Outcome:
    """What the answer's code says of the call. `system`: the channels whose pushes are of the system class."""
    answer = response.json()
    code = number_from(answer.get("result"))
    if response.status != 200 or code is None:
        return by_status(response, now_s=now_s)
    if code == 0:
        task_id = answer.get("taskId", response.header(TASK_ID))
        return Outcome(verdict=Verdict.ACCEPTED, vendor_id=code_from(task_id))
    outcome = replace(BY_CODE.get(code, Outcome(verdict=RETRY, unknown=True)), vendor_code=str(code))
    if code == CLOSED:
        return replace(outcome, retry_after_s=min(max(opens_in_s(now_s), THROTTLED_S), SPENT_S))
    return replace(outcome, channels=tuple(system)) if code == SYSTEM_OVER else outcome


def users_of(response: Response) -> dict[str, Outcome]:
    """What it says of users that it calls invalid, by registration id: a single push has an `invalidUser`, one to a list has
    `invalidUsers`.

    They come beside a `result` of any number (sheet §4); beside none, it is not vivo that answers.
    """
    answer = response.json()
    if response.status != 200 or number_from(answer.get("result")) is None:
        return {}
    many = answer.get("invalidUsers")
    listed = [answer.get("invalidUser"), *(many if isinstance(many, list) else [])]
    found = {}
    for user in listed:
        token = user.get("userid") if isinstance(user, dict) else None
        if isinstance(token, str) and token:
            status = number_from(user.get("status"))
            outcome = USER_UNEXPLAINED if status is None else BY_USER_STATUS.get(status, USER_UNEXPLAINED)
            found[token] = replace(outcome, vendor_code=f"invalid_user_{status}")
    return found


def opens_in_s(now_s: float) -> float:
    """How long until operational pushes may go; 0: now."""
    second = (now_s + BEIJING_S) % DAY_S
    if OPERATIONAL_S[0] <= second < OPERATIONAL_S[1]:
        return 0.0
    return (OPERATIONAL_S[0] - second) % DAY_S
