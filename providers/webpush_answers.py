"""What the push services of browsers answer to a push. Pure, and total: no answer makes it raise.

Source: vendor sheet `webpush` §5 (the table that all share), §6 (what Mozilla, Google, Microsoft and Apple have of their own).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from providers.contract import Outcome, Scope, Verdict
from providers.http import THROTTLED_S, Response, by_status, code_from, retry_after_s

__all__ = ["KEY_MISMATCH", "SIGNATURE_REFUSED", "outcome_of"]

ID_CHARS_MAX = 512  # Mozilla puts what it needs to know of a message into its URL


class Meaning(NamedTuple):
    verdict: Verdict
    statuses: frozenset[int]  # with which it is believed


def _at(verdict: Verdict, *statuses: int) -> Meaning:
    return Meaning(verdict, frozenset(statuses))


# Apple's `reason` (sheet §6.4).
BY_REASON: dict[str, Meaning] = {
    "BadTtl": _at(Verdict.REFUSED, 400),
    "BadUrgency": _at(Verdict.REFUSED, 400),
    "BadWebPushTopic": _at(Verdict.REFUSED, 400),
    "BadWebPushRequest": _at(Verdict.REFUSED, 400),
    "VapidPkHashMismatch": _at(Verdict.TOKEN_DEAD, 400, 403),  # the subscription was made with another key
    "BadAuthorizationHeader": _at(Verdict.REAUTH, 400, 401, 403),
    "BadJwtToken": _at(Verdict.REAUTH, 400, 401, 403),
    "BadVapidPublicKey": _at(Verdict.REAUTH, 400, 401, 403),
    "IdleTimeout": _at(Verdict.RETRY, 400, 408),
    "InternalServerError": _at(Verdict.RETRY, 400),
    "ServiceUnavailable": _at(Verdict.RETRY, 400),
    "Shutdown": _at(Verdict.RETRY, 400),
    "PayloadTooLarge": _at(Verdict.TOO_LARGE, 400, 413),
    "TooManyRequests": _at(Verdict.RETRY, 429),
    "BadPath": _at(Verdict.REFUSED, 400, 404),  # a mistake of ours: the subscription is fine
    "MethodNotAllowed": _at(Verdict.REFUSED, 400, 405),
}
# Mozilla's `errno` (sheet §6.1).
BY_ERRNO: dict[int, Meaning] = {
    101: _at(Verdict.REFUSED, 400),
    102: _at(Verdict.TOKEN_DEAD, 404),
    103: _at(Verdict.TOKEN_DEAD, 410),
    104: _at(Verdict.TOO_LARGE, 413),
    105: _at(Verdict.TOKEN_DEAD, 410),
    106: _at(Verdict.TOKEN_DEAD, 410),
    108: _at(Verdict.REFUSED, 400),
    109: _at(Verdict.REAUTH, 401),
    110: _at(Verdict.REFUSED, 400),
    111: _at(Verdict.REFUSED, 400),
    112: _at(Verdict.REFUSED, 400),
    113: _at(Verdict.REFUSED, 400),
    114: _at(Verdict.REFUSED, 400),
}

SIGNATURE_REFUSED = frozenset({"status_403", "errno_109"})  # our codes; it may be another key (sheet §5; Mozilla: §2)
KEY_MISMATCH = frozenset({"VapidPkHashMismatch", "vapid_mismatch"})  # our codes for what Apple and Google say of it

_GOOGLE_MISMATCH = (b"vapid credentials", b"do not correspond")  # both are in its sentence
_GOOGLE_UNSIGNED = re.compile(rb"\bUnauthorizedRegistration\b", re.IGNORECASE)
_GOOGLE_TTL = re.compile(rb"\bInvalidTtlParameter\b", re.IGNORECASE)
_BLOCKED = re.compile(r"\bdomain\s*blocked\b", re.IGNORECASE)


def outcome_of(response: Response, *, now_s: float) -> Outcome:
    """Each service says why in its own place; where none does, the table of sheet §5 counts."""
    if response.status >= 500 or response.status < 200:
        return _this_device(by_status(response, now_s=now_s))
    if response.status < 300:
        return _taken(response)
    answer = response.json()
    code, meaning = _said(response, answer)
    if meaning is None or response.status not in meaning.statuses:
        return _by_status(response, code=code, now_s=now_s)
    bug = meaning.verdict is Verdict.REFUSED and code in BY_REASON  # so the sheet calls it (§6.4)
    return replace(_outcome(meaning.verdict, response, code=code, now_s=now_s), alert=bug)


def _taken(response: Response) -> Outcome:
    """Any 2xx. Microsoft says in a header that it was not quite so (sheet §6.3)."""
    states = {(response.header(name) or "").lower() for name in ("x-wns-status", "x-wns-notificationstatus")}
    if "channelthrottled" in states:
        return Outcome(verdict=Verdict.RETRY, scope=Scope.TOKEN, vendor_code="channelthrottled")
    if "dropped" in states:
        return Outcome(verdict=Verdict.REFUSED, alert=True, vendor_code="dropped")
    names = (response.header(name) for name in ("location", "apns-id", "x-wns-msg-id"))
    vendor_id = next((name for name in names if name and len(name) <= ID_CHARS_MAX and name.isprintable()), None)
    return Outcome(verdict=Verdict.ACCEPTED, vendor_id=vendor_id)


def _said(response: Response, answer: Mapping[str, Any]) -> tuple[str | None, Meaning | None]:
    """The service's own code for a refusal, and what it means if we know it."""
    status = response.status
    errno = answer.get("errno")
    if isinstance(errno, int) and not isinstance(errno, bool) and 0 <= errno < 1000:
        return f"errno_{errno}", BY_ERRNO.get(errno)
    reason = code_from(answer.get("reason"))
    if reason is not None:
        return reason, BY_REASON.get(reason)
    if status == 410 and _BLOCKED.search(response.header("x-wns-error-description") or ""):
        return "domain_blocked", _at(Verdict.MISCONFIGURED, 410)  # we are: the subscriptions are fine (sheet §6.3)
    if all(part in response.body.lower() for part in _GOOGLE_MISMATCH):
        return "vapid_mismatch", _at(Verdict.TOKEN_DEAD, 403)
    if _GOOGLE_UNSIGNED.search(response.body):
        return "UnauthorizedRegistration", _at(Verdict.REAUTH, 400)
    if _GOOGLE_TTL.search(response.body):
        return "InvalidTtlParameter", _at(Verdict.REFUSED, 400)
    return None, None


def _by_status(response: Response, *, code: str | None, now_s: float) -> Outcome:
    """The table of sheet §5 for 3xx and 4xx: here 404 and 410 are the protocol's own words (RFC 8030 §7.3)."""
    match response.status:
        case 404 | 410:
            verdict = Verdict.TOKEN_DEAD
        case 401 | 403:
            verdict = Verdict.REAUTH
        case 406 | 408 | 425 | 429:
            verdict = Verdict.RETRY
        case 413:
            verdict = Verdict.TOO_LARGE
        case _:
            verdict = Verdict.REFUSED
    outcome = _outcome(verdict, response, code=code or f"status_{response.status}", now_s=now_s)
    return replace(outcome, alert=response.status < 400)  # never followed, and no service of a browser does so


def _outcome(verdict: Verdict, response: Response, *, code: str | None, now_s: float) -> Outcome:
    if verdict is not Verdict.RETRY:
        scope = Scope.MESSAGE if verdict in {Verdict.REFUSED, Verdict.TOO_LARGE} else Scope.TOKEN
        return Outcome(verdict=verdict, scope=scope, vendor_code=code)
    wait_s = retry_after_s(response, now_s=now_s)
    if wait_s is None and response.status in {406, 429}:  # 406: Microsoft's way of saying it
        wait_s = THROTTLED_S
    return Outcome(verdict=verdict, scope=Scope.TOKEN, retry_after_s=wait_s, vendor_code=code)


def _this_device(outcome: Outcome) -> Outcome:
    """Other devices have other hosts, which may be well."""
    return Outcome(
        verdict=outcome.verdict,
        scope=Scope.TOKEN,
        retry_after_s=outcome.retry_after_s,
        maybe_sent=outcome.maybe_sent,
        vendor_code=outcome.vendor_code,
    )
